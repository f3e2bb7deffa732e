"""The masks that the dropout of both frameworks takes during a comparison, call by call."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np


class Masks:
    """The masks of one comparison: those of the k-th call are made of the same uniform numbers in both frameworks."""

    active: "Masks | None" = None
    """Those of the comparison that is running, if it shares any."""

    def __init__(self, key: int | None = None) -> None:
        self.key = key
        """Of masks that a framework draws alone, for a recording; None if both are here."""
        self.alone: list[tuple[int, ...]] = []
        """The shapes of such masks in the last call, or in its trace."""
        self.shapes: list[tuple[int, ...]] = []
        """Of the masks in torch's last call."""
        self.calls = {"jax": 0, "torch": 0}
        self.unlike: list[tuple[tuple[int, ...], tuple[int, ...] | None]] = []
        """The shapes of the masks in JAX's last call that torch's call of the same number doesn't drop, and torch's."""
        self.looking = False

    @contextlib.contextmanager
    def look(self) -> Iterator[None]:
        """Within it JAX traces what is no call of the model: it takes no mask, and no layer is recorded."""
        calls, before, self.looking = self.calls["jax"], self.looking, True
        try:
            yield
        finally:
            self.calls["jax"], self.looking = calls, before

    def below(self, k: int, shape: tuple[int, ...]) -> np.ndarray:
        if self.key is not None:
            self.alone[k:] = [shape]
            return uniform(self.key, k, shape)
        return np.random.default_rng([k, *shape]).random(shape)


def begin(framework: Literal["jax", "torch"]) -> None:
    """Begin a call of a model: its first dropout takes the first mask."""
    if Masks.active is not None:
        Masks.active.calls[framework] = 0
        Masks.active.alone.clear()
        (Masks.active.shapes if framework == "torch" else Masks.active.unlike).clear()


def looking() -> bool:
    """Return whether JAX traces what is no call of the model."""
    return Masks.active is not None and Masks.active.looking


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
