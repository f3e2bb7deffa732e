"""Link arrays of a JAX model with those that stand for them in a comparison: their parts, or one for several."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from parity_tests.harness.modules.joining.joints import TIED, Joint, Shape
from parity_tests.harness.modules.transforms import Transform

Arrays = Mapping[str, Any]


class Link(NamedTuple):
    """Some arrays of the JAX model and the arrays that stand for them in a comparison."""

    paths: tuple[str, ...]
    shapes: tuple[Shape, ...]
    parts: tuple[str, ...]
    """The paths of those that stand for them."""
    part_shapes: tuple[Shape, ...]
    parted: Callable[[Sequence[Any]], Sequence[Any]]
    """Makes the parts of the model's arrays."""
    joined: Callable[[Sequence[Any]], Sequence[Any]]
    """Makes the model's arrays of the parts, in a way that has a gradient."""
    difference: str | None = None
    """Why an optimizer's steps of the two aren't the same; None where the numbers only lie elsewhere."""

    def below(self, prefix: str) -> "Link":
        """Return the link of the same arrays within a part of the model."""
        paths, parts = (tuple(f"{prefix}/{path}" for path in each) for each in (self.paths, self.parts))
        return self._replace(paths=paths, parts=parts)


def in_parts(path: str, shape: Shape, shapes: Sequence[Shape], joint: Joint, parts: Sequence[str] = ()) -> Link:
    """Link an array of the JAX model that is made of several of these shapes."""
    whole = joint.joined([np.ones(one) for one in shapes]).shape
    return Link(
        (path,),
        (shape,),
        tuple(parts) or tuple(f"{path}[{i}]" for i in range(len(shapes))),
        tuple(shapes),
        lambda arrays: joint.parted(arrays[0].reshape(whole), shapes),
        lambda parts: [joint.joined(parts).reshape(shape)],
        joint.difference,
    )


def as_one(paths: Sequence[str], shapes: Sequence[Shape], part: str, shape: Shape, joint: Joint) -> Link:
    """Link several arrays of the JAX model that one array of this shape stands for, of which the last axis may be
    several in them."""
    last = len(shape) - 1

    def flat(array: Any) -> Any:
        return array.reshape(*array.shape[:last], -1) if array.ndim > len(shape) else array

    return Link(
        tuple(paths),
        tuple(shapes),
        (part,),
        (shape,),
        lambda arrays: [joint.joined([flat(array) for array in arrays]).reshape(shape)],
        lambda parts: joint.parted(parts[0], shapes),
        joint.difference,
    )


def tied_to_first(paths: Sequence[str], shapes: Sequence[Shape], transforms: Sequence[Transform]) -> Link:
    """Link several arrays of the JAX model that hold the same numbers, each in the layout of its transform."""

    def joined(parts: Sequence[Any]) -> list[Any]:
        in_torch = transforms[0].to_torch(parts[0])
        return [parts[0], *(transform.to_jax(in_torch) for transform in transforms[1:])]

    part = f"{paths[0]} = {' = '.join(paths[1:])}"
    first = tuple(shapes[:1])
    return Link(tuple(paths), tuple(shapes), (part,), first, lambda a: [a[0]], joined, TIED)


def expanded(shapes: Mapping[str, Shape], links: Sequence[Link]) -> dict[str, Shape]:
    """Return the shapes of the arrays with those that stand for others in their place."""
    shapes = dict(shapes)
    for link in links:
        for path in link.paths:
            shapes.pop(path)
        shapes |= dict(zip(link.parts, link.part_shapes, strict=True))
    return shapes


def parted(arrays: Arrays, links: Sequence[Link]) -> dict[str, Any]:
    """Return the arrays with the parts in place of those that are linked, wherever a path ends in theirs, as an
    optimizer's `0/mu/dense/kernel` does; those that aren't all there are left."""
    return _replaced(arrays, [(link.paths, link.parts, link.parted) for link in links])


def joined(arrays: Arrays, links: Sequence[Link]) -> dict[str, Any]:
    """Return the model's own arrays, of which the parts are among the given ones; the reverse of `parted`."""
    return _replaced(arrays, [(link.parts, link.paths, link.joined) for link in reversed(links)])


def _replaced(
    arrays: Arrays, steps: Sequence[tuple[Sequence[str], Sequence[str], Callable[[Sequence[Any]], Sequence[Any]]]]
) -> dict[str, Any]:
    result = dict(arrays)
    for old, new, convert in steps:
        first = old[0]
        for path in [path for path in result if path == first or path.endswith(f"/{first}")]:
            before = path.removesuffix(first)
            if all(before + other in result for other in old):
                given = [result.pop(before + other) for other in old]
                result |= {before + other: array for other, array in zip(new, convert(given), strict=True)}
    return result
