"""The masks that dropout takes, call by call: the same in both frameworks, though each may draw them alone."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

Framework = Literal["jax", "torch"]


class Masks:
    """Masks of which the k-th of a call is made of the same uniform numbers in both frameworks.

    Args:
        key: Of the numbers.
    """

    active: "Masks | None" = None
    """Those that are taken now, if any are shared."""

    def __init__(self, key: int = 0) -> None:
        self._key = key
        self.shapes: dict[Framework, list[tuple[int, ...]]] = {"jax": [], "torch": []}
        """Of the masks in the last call, or in its trace."""

    def next(self, framework: Framework, shape: Sequence[int]) -> np.ndarray:
        """Draw the numbers of the next mask."""
        drawn = self.shapes[framework]
        drawn.append(tuple(shape))
        return uniform(self._key, len(drawn) - 1, drawn[-1])


def begin(framework: Framework) -> None:
    """Begin a call of a model: its first dropout takes the first mask."""
    if Masks.active is not None:
        Masks.active.shapes[framework].clear()


def uniform(key: int, k: int, shape: tuple[int, ...]) -> np.ndarray:
    """Draw numbers from 0 to 1 by a key, the number of the mask and its shape; the same ones for `[batch, channels,
    height, width]` as for `[batch, height, width, channels]`, and for any other turn of the axes after the first.

    The numbers are those of the turn that comes first in order. Where several turns have that shape, as of an image as
    high and wide as it has channels, an entry is the sum over these, which is uniform too.
    """
    batch, axes = shape[:1], shape[1:]
    n = len(axes)
    turns = [turn(axes, i) for i in range(max(1, n))]
    least = min(turns)
    drawn = np.random.default_rng([key, k, *batch, *least]).bit_generator.random_raw(int(np.prod(shape)))
    whole = np.asarray(drawn, np.uint64).reshape((*batch, *least))
    total = np.zeros(shape, np.uint64)
    for i, other in enumerate(turns):
        if other == least:
            total += whole.transpose(*range(len(batch)), *(1 + (j - i) % n for j in range(n)))
    return (total >> np.uint64(11)) * 2.0**-53


def turn(axes: tuple[int, ...], i: int) -> tuple[int, ...]:
    """Return the axes from the i-th on, and then those before it."""
    return axes[i:] + axes[:i]


def first_apart(one: Sequence[Sequence[int]], other: Sequence[Sequence[int]]) -> int | None:
    """Return which mask of two calls is the first whose shape is another one, but for a turn of the axes after the
    first; None if there is none."""
    for k in range(max(len(one), len(other))):
        if k >= min(len(one), len(other)):
            return k
        mine, theirs = tuple(one[k]), tuple(other[k])
        turns = [turn(mine[1:], i) for i in range(max(1, len(mine) - 1))]
        if mine[:1] != theirs[:1] or theirs[1:] not in turns:
            return k
    return None
