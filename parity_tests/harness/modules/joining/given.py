"""Read a mapping that the caller gives: pairs or rules, some with several arrays in place of one."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from torch import nn

from jaxvae.shared.errors import InputError
from parity_tests.harness.modules.common.names import canonical
from parity_tests.harness.modules.joining.joints import NORMED, TIED, Joint, Shape
from parity_tests.harness.modules.joining.links import Link, as_one, expanded, in_parts, tied_to_first
from parity_tests.harness.modules.torch_state import Entry, entries, entry
from parity_tests.harness.modules.transforms import Transform, layout


class Given(NamedTuple):
    """A mapping, with the arrays that stand for those with a joint."""

    chosen: dict[str, Any]
    """The name, or the name and the transform, of each array."""
    links: tuple[Link, ...]
    shapes: dict[str, Shape]
    """Of all arrays, those in links replaced."""
    shared: dict[str, str]
    """Tensors that hold the numbers of another one."""


def read(mapping: Any, shapes: Mapping[str, Shape], module: nn.Module) -> Given:
    """Read pairs or rules.

    Args:
        mapping: `{path: name}` or `[(regex, replacement)]`, see `mapping.arrange`.
        shapes: The shapes of the JAX arrays, by path.
        module: The torch module.

    Raises:
        InputError: If a rule is invalid, or a joint's arrays don't fit.
    """
    pairs = _listed(mapping) if isinstance(mapping, Mapping) else _ruled(shapes, mapping, entries(module))
    chosen: dict[str, Any] = {}
    links: list[Link] = []
    same: dict[str, str] = {}
    every = entries(module)
    for paths, names, how in pairs:
        if not isinstance(how, Joint):
            chosen[paths[0]] = (names[0], how) if how is not None else names[0]
            continue
        for path in paths:
            if path not in shapes:
                raise InputError(f"mapping: the JAX model has no array {path!r}: correct the pair.")
        held = [_held(module, name, paths[0], every) for name in names]
        if (len(paths) > 1) == (len(names) > 1):
            raise InputError(
                f"mapping: {', '.join(map(repr, paths))}: a joint is of one array and several tensors, or the reverse, "
                f"found {len(paths)} and {len(names)}: correct the pair."
            )
        if len(names) > 1:
            if how.difference == TIED:
                if len({tuple(one.value.shape) for one in held}) > 1:
                    raise InputError(
                        f"mapping: {', '.join(map(repr, names))} can't be one tensor, since their shapes differ: "
                        "correct the pair."
                    )
                chosen[paths[0]] = names[0]
                same.update(dict.fromkeys(names[1:], names[0]))
                continue
            link, transforms = _in_parts(paths[0], shapes[paths[0]], names, held, how)
        elif how.difference in (None, NORMED):
            link, transforms = _as_one(paths, [shapes[path] for path in paths], held[0], how)
        elif how.difference == TIED:
            own = [shapes[path] for path in paths]
            turns = [_layout(held[0], shape) for shape in own]
            link, transforms = tied_to_first(paths, own, turns), turns[:1]
        else:
            raise InputError(
                f"mapping: {', '.join(map(repr, paths))}: this joint takes one JAX array and several tensors: "
                "correct the pair."
            )
        links.append(link)
        chosen |= {part: (n, t) for part, n, t in zip(link.parts, names, transforms, strict=True)}
    return Given(chosen, tuple(links), expanded(shapes, links), same)


def _held(module: nn.Module, name: str, path: str, every: Mapping[str, Entry]) -> Entry:
    try:
        return entry(module, name, every)
    except KeyError:
        raise InputError(
            f"mapping: {path!r} is paired with {name!r}, which the torch module doesn't have: correct the pair."
        ) from None


def _layout(held: Entry, shape: Shape = ()) -> Transform:
    return layout(held.layer, held.leaf, tuple(held.value.shape), shape)


def _in_parts(
    path: str, shape: Shape, names: Sequence[str], held: Sequence[Entry], joint: Joint
) -> tuple[Link, list[Transform]]:
    transforms = [_layout(one) for one in held]
    given = [
        transform.to_jax(np.empty(tuple(one.value.shape))).shape
        for one, transform in zip(held, transforms, strict=True)
    ]
    try:
        made = np.shape(joint.joined([np.ones(one) for one in given]))
        link = in_parts(path, shape, given, joint)
        link.joined([np.ones(one) for one in given])
        fits = made == shape or (len(made) < len(shape) and made[:-1] == shape[: len(made) - 1])  # by heads
    except (ValueError, IndexError):
        fits = False
    if not fits:
        raise InputError(
            f"mapping: {path!r} is {list(shape)}, which this joint doesn't make of {', '.join(map(repr, names))}, in "
            f"JAX's layout {', '.join(map(str, given))}: correct the pair."
        )
    return link, transforms


def _as_one(paths: Sequence[str], own: Sequence[Shape], held: Entry, joint: Joint) -> tuple[Link, list[Transform]]:
    transform = _layout(held)
    shape = transform.to_jax(np.empty(tuple(held.value.shape))).shape
    link = as_one(paths, own, f"{{{', '.join(paths)}}}", shape, joint)
    try:
        fits = np.shape(link.parted([np.ones(one) for one in own])[0]) == shape
        link.joined([np.ones(shape)])
    except (ValueError, IndexError):
        fits = False
    if not fits:
        raise InputError(
            f"mapping: {', '.join(map(repr, paths))} are {', '.join(map(str, own))}, of which this joint doesn't make "
            f"{list(shape)}, as the torch tensor is in JAX's layout: correct the pair."
        )
    return link, [transform]


Item = tuple[tuple[str, ...], tuple[str, ...], Transform | Joint | None]
"""The paths and the names of a pair, one of them several where it ends in a joint."""


def _listed(mapping: Mapping[Any, Any]) -> Iterator[Item]:
    for path, target in mapping.items():
        names, how = (target, None) if isinstance(target, str) else target
        paths = (path,) if isinstance(path, str) else tuple(path)
        yield tuple(map(canonical, paths)), (names,) if isinstance(names, str) else tuple(names), how


def _ruled(shapes: Mapping[str, Shape], rules: Sequence[tuple], every: Mapping[str, Entry]) -> list[Item]:
    found = list(_matched(shapes, rules, every))
    joined = {path for paths, _, _ in found for path in paths[1:]}  # which a rule of one array may match too
    return [item for item in found if item[0][0] not in joined]


def _matched(shapes: Mapping[str, Shape], rules: Sequence[tuple], every: Mapping[str, Entry]) -> Iterator[Item]:
    for path in shapes:
        for pattern, replacement, *how in rules:
            first, *others = (pattern,) if isinstance(pattern, str) else pattern
            several = [replacement] if isinstance(replacement, str) else replacement
            try:
                match = re.fullmatch(first, path)
                names = match and [match.expand(one) for one in several]
                paths = match and (path, *(match.expand(one) for one in others))
            except (re.error, IndexError) as error:  # IndexError: the replacement names an unknown group
                raise InputError(
                    f"mapping: the rule {(pattern, replacement)!r} is not a valid regex and replacement: {error}: "
                    "correct it."
                ) from None
            if names and paths:
                names = [name for one in names for name in (_numbered(one, every) if how and "*" in one else [one])]
                yield paths, tuple(names), how[0] if how else None
                break


def _numbered(name: str, every: Mapping[str, Entry]) -> list[str]:
    """Return the tensors whose names have a number where `name` has a star, in the order of the numbers."""
    pattern = re.escape(name).replace(r"\*", r"(\d+)")
    found = [(tuple(map(int, match.groups())), other) for other in every if (match := re.fullmatch(pattern, other))]
    return [other for _, other in sorted(found)] or [name]
