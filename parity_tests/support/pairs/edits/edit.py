"""What an edit is: a kind, a framework, a change of a network's description, and where the difference must be found."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

from parity_tests.support.pairs.block import Block
from parity_tests.support.pairs.network import Net
from parity_tests.support.pairs.parts import Part, State, Weight

Kind = Literal["value", "weight", "state", "order", "backward"]
Framework = Literal["either", "JAX", "PyTorch"]
BEFORE, AFTER = "<", ">"
"""The last part before a block, and the first part after it or the output."""


@dataclass(frozen=True)
class Edit:
    """A change of one framework's side."""

    name: str
    kind: Kind
    changed: Callable[[Net], Iterator[tuple[Net, tuple[str, ...] | None]]]
    """Yields the networks that it can make of one, each with the torch names of the layers of which one must be
    named; None where the place is undefined."""
    framework: Framework = "either"
    train: bool | None = None
    """Whether it shows only in training mode (True) or only in evaluation (False)."""
    losses: bool = False
    """Whether it shows only in gradients."""
    known: bool = False
    """Whether the harness has a written cause for it."""


def of_block(
    kind: type[Block],
    place: tuple[str, ...] | None = (BEFORE, AFTER),
    when: Callable[[Any], bool] = lambda block: True,
    /,
    **values: Any,
) -> Callable[[Net], Iterator[tuple[Net, tuple[str, ...] | None]]]:
    """Make the change of a block's fields; a value may be a function of the block."""

    def changed(net: Net) -> Iterator[tuple[Net, tuple[str, ...] | None]]:
        for i, block in enumerate(net.blocks):
            if type(block) is kind and when(block):
                new = {name: value(block) if callable(value) else value for name, value in values.items()}
                if replace(block, **new) != block:
                    blocks = (*net.blocks[:i], replace(block, **new), *net.blocks[i + 1 :])
                    yield replace(net, blocks=blocks), places(net, i, place)

    return changed


def of_part(
    kind: type[Part], when: Callable[[Any], bool] = lambda part: True, /, **values: Any
) -> Callable[[Net], Iterator[tuple[Net, tuple[str, ...] | None]]]:
    """Make the change of a part's fields, in whatever block it is."""

    def changed(net: Net) -> Iterator[tuple[Net, tuple[str, ...] | None]]:
        for i, block in enumerate(net.blocks):
            for name, part in block.layers().items():
                if type(part) is kind and when(part):
                    new = {field: value(part) if callable(value) else value for field, value in values.items()}
                    if replace(part, **new) != part:
                        altered = replace(block, altered=((name, tuple(new.items())),))
                        blocks = (*net.blocks[:i], altered, *net.blocks[i + 1 :])
                        yield (
                            replace(net, blocks=blocks),
                            places(net, i, (name,) if part.tensors() else (BEFORE, AFTER)),
                        )

    return changed


def swapped_blocks(net: Net) -> Iterator[tuple[Net, tuple[str, ...] | None]]:
    """Swap two neighbours that read and write the same shape."""
    value = net.start
    for i, (first, second) in enumerate(zip(net.blocks[:-1], net.blocks[1:-1], strict=False)):
        if first.after(value) == value and second.fits(value) and second.after(value) == value:
            blocks = (*net.blocks[:i], second, first, *net.blocks[i + 2 :])
            either = (*_named(first), *_named(second))
            yield replace(net, blocks=blocks), (either or None) if net.flavour != "function" else None
        value = first.after(value)


def places(net: Net, i: int, place: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """Return the torch names of the places around block `i`; None for a function, of which no layer is recorded."""
    if place is None or net.flavour == "function":
        return None
    names: list[str] = []
    for part in place:
        if part == BEFORE:
            before = [name for block in net.blocks[:i] for name in _named(block)]
            names.append(before[-1] if before else "the input")
        elif part == AFTER:
            after = [name for block in net.blocks[i + 1 :] for name in _named(block)]
            names.append(after[0] if after else "the output")
        else:
            names.append(f"{net.blocks[i].name}.{part}")
    return tuple(names)


def _named(block: Block) -> list[str]:
    called = ((name, part) for name, part in block.layers().items() if not isinstance(part, Weight | State))
    return [f"{block.name}.{name}" for name, part in called if part.tensors()]
