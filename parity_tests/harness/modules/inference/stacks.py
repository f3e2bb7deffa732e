"""Pair layers that JAX holds as one stack, as under `scan` and `vmap`, with torch's list of layers."""

from collections.abc import Callable, Mapping, MutableSequence

from torch import nn

from jaxvae.shared.errors import InputError
from parity_tests.harness.modules.inference.fusions import Orders, turn
from parity_tests.harness.modules.inference.pieces import Arrangement
from parity_tests.harness.modules.joining.joints import Shape, stacked
from parity_tests.harness.modules.joining.links import in_parts
from parity_tests.harness.modules.torch_state import entries

Resolve = Callable[[Mapping[str, Shape], nn.Module, str, str], Arrangement]
"""Arranges the arrays of a part of the JAX model with a torch module; the last two are the names of the parts."""


def stacks(
    shapes: Mapping[str, Shape],
    module: nn.Module,
    resolve: Resolve,
    refused: MutableSequence[str],
    orders: Orders = None,
) -> Arrangement:
    """Pair the stacks of a JAX model with the lists of alike layers of a torch module.

    Args:
        shapes: The shapes of the JAX arrays, by path.
        module: The torch module.
        resolve: Arranges one layer of a stack with the first of its list.
        refused: Is given why a stack is not the list of its name.
        orders: Returns the layers of both models in the order of their calls.

    Returns:
        The arrangement of all layers; empty if there is no stack.

    Raises:
        InputError: If a stack could be several lists.
    """
    lists = {name: layers for name, layers in module.named_modules() if _alike(layers)}
    found, prefixes = Arrangement(), _prefixes(shapes)
    for prefix in prefixes:
        if any(_within(path, prefix) for path in found.paths):
            continue  # a part of a stack that is paired as a whole
        held = _below(shapes, prefix)
        fitting = {}
        for axis, size in _axes(held).items():
            one = _layer(held, axis)
            for name, layers in lists.items():
                if len(list(layers.children())) != size:
                    continue
                first = next(iter(layers.children()))
                try:
                    fitting[name, axis] = resolve(one, first, prefix, f"{name}.0".lstrip("."))
                except InputError as error:
                    if name.split(".") == prefix.split("/"):
                        why = str(error).removeprefix("mapping: ")
                        refused.append(f"in one of the {size} layers of {prefix!r}, {why}")
        same = [(name, axis) for name, axis in fitting if name.split(".") == prefix.split("/")] or list(fitting)
        if len(same) > 1 and len({axis for _, axis in same}) == 1 and orders:
            rivals = [other for other in prefixes if _like(_below(shapes, other), held, same[0][1])]
            rivals.sort(key=lambda other: turn(orders()[0], other))
            same.sort(key=lambda one: turn(orders()[1], one[0]))
            same = [same[rivals.index(prefix)]] if len(rivals) == len(same) else same
        if len(same) > 1:
            rivals = ", ".join(f"{name!r} along axis {axis}" for name, axis in same)
            raise InputError(
                f"mapping: the stack {prefix!r} of the JAX model could be any of {rivals} in the torch module: give "
                "pairs for its arrays, with the joint stacked(axis)."
            )
        if not same:
            continue
        ((name, axis),) = same
        path = name.replace(".", "/")
        for leaf, shape in held.items():
            parts = [f"{path}/{i}/{leaf}".lstrip("/") for i in range(shape[axis])]
            whole = f"{prefix}/{leaf}".lstrip("/")
            link = in_parts(whole, shape, [_of_one(shape, axis)] * len(parts), stacked(axis), parts)
            found += Arrangement(links=(link,))
        found += Arrangement(stacks={prefix.replace("/", "."): name})
        for i in range(len(list(lists[name].children()))):
            found += fitting[name, axis].below(f"{path}/{i}".lstrip("/"), f"{name}.{i}".lstrip("."))
    return found


def _prefixes(shapes: Mapping[str, Shape]) -> list[str]:
    """Return the parts of the model all of whose arrays have an axis of one size: the outer ones first, and last of all
    the model itself, which may hold one stack and no more."""
    words = [path.split("/") for path in shapes]
    every = dict.fromkeys("/".join(each[:i]) for each in words for i in range(len(each)))
    return [
        prefix
        for prefix in sorted(every, key=lambda prefix: (not prefix, prefix.count("/")))
        if _axes({path: shape for path, shape in shapes.items() if _within(path, prefix)})
    ]


def _axes(held: Mapping[str, Shape]) -> dict[int, int]:
    """Return the axes along which arrays may be a stack, with the number of layers."""
    found, known = {}, []
    for axis in (0, 1, -1):
        sizes = {shape[axis : axis + 1 or None] for shape in held.values()}
        places = [axis % len(shape) for shape in held.values() if shape]
        if len(sizes) == 1 and sizes != {()} and places not in known:
            known.append(places)
            found[axis] = next(iter(sizes))[0]
    return found


def _of_one(shape: Shape, axis: int) -> Shape:
    axis %= len(shape)
    return (*shape[:axis], *shape[axis + 1 :])


def _layer(held: Mapping[str, Shape], axis: int) -> dict[str, Shape]:
    return {leaf: _of_one(shape, axis) for leaf, shape in held.items()}


def _like(other: Mapping[str, Shape], held: Mapping[str, Shape], axis: int) -> bool:
    """Return whether another stack is of as many layers of the same shapes as one along this axis."""
    size, layer = _axes(held)[axis], _layer(held, axis)
    return any(size == n and _layer(other, along) == layer for along, n in _axes(other).items())


def _below(shapes: Mapping[str, Shape], prefix: str) -> dict[str, Shape]:
    return {path.removeprefix(f"{prefix}/"): shape for path, shape in shapes.items() if _within(path, prefix)}


def _within(path: str, prefix: str) -> bool:
    return not prefix or path.startswith(f"{prefix}/")


def _alike(layers: nn.Module) -> bool:
    """Return whether a module is a list of layers that hold tensors of the same names and shapes."""
    children = dict(layers.named_children())
    if not children or any(name != str(i) for i, name in enumerate(children)):
        return False
    first, *others = (
        {name: tuple(held.tensor.shape) for name, held in entries(child).items()} for child in children.values()
    )
    return bool(first) and all(other == first for other in others)
