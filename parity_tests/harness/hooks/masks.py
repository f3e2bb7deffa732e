"""The masks that the dropout of both frameworks takes during a comparison, call by call."""

import contextlib
from collections.abc import Iterator, Sequence
from math import prod
from typing import Literal, NamedTuple

import numpy as np

Shape = tuple[int, ...]
_FEW = 8  # masks that are looked for in what differs


class Drawn(NamedTuple):
    """A mask in torch's last call."""

    shape: Shape
    rate: float


class Masks:
    """The masks of one comparison: those of the k-th call are made of the same uniform numbers in both frameworks."""

    active: "Masks | None" = None
    """Those of the comparison that is running, if it shares any."""

    def __init__(self, key: int | None = None) -> None:
        self.key = key
        """Of masks that a framework draws alone, for a recording; None if both are here."""
        self.alone: list[Shape] = []
        """The shapes of such masks in the last call, or in its trace."""
        self.drawn: list[Drawn] = []
        self.states: dict[int, int] = {}
        """The numbers of the masks in torch's last call, by the state of torch's generator."""
        self.calls = {"jax": 0, "torch": 0}
        self.unlike: list[tuple[Shape, Shape | None]] = []
        """The shapes of the masks in JAX's last call that torch's call of the same number doesn't drop, and torch's."""
        self.others: list[tuple[Shape, Shape | None]] = []
        """Those since the last one that torch does drop: each may be a draw for another purpose."""
        self.shapes: list[Shape] = []
        """Those of all of JAX's draws in its last call, in order."""
        self.rates: list[tuple[float, float]] = []
        """The rates of the masks in JAX's last call that differ from torch's, and torch's."""
        self.keys: dict[tuple[bytes, Shape], int] = {}
        """The number of the first mask in JAX's last call that was drawn from a key."""
        self.reused = False
        """Whether two masks in JAX's last call were drawn from one key."""
        self.taken = False
        """Whether uniform numbers in JAX's last call were taken as an array before anything made a mask of them."""
        self.looking = False
        self.recording = 0
        """How often the calls of layers are being recorded, in which nothing is compiled."""
        self.draws = 0
        """The number of JAX's draws, also of those that take no mask."""
        self.arrays = False
        """Whether JAX's uniform numbers are arrays, none of which takes a mask: a model may have failed otherwise."""

    def begin(self, framework: Literal["jax", "torch"]) -> None:
        """Begin a call of a model: its first dropout takes the first mask."""
        self.calls[framework] = 0
        self.alone.clear()
        if framework == "torch":
            self.drawn.clear()
            self.states.clear()
        else:
            self.unlike, self.others, self.rates, self.keys = [], [], [], {}
            self.reused = self.taken = False
            self.shapes = []

    @contextlib.contextmanager
    def look(self) -> Iterator[None]:
        """Within it JAX traces what is no call of the model: it takes no mask, and no layer is recorded."""
        calls, keys, others, shapes = self.calls["jax"], {**self.keys}, [*self.others], [*self.shapes]
        before, self.looking = self.looking, True
        try:
            yield
        finally:
            self.calls["jax"], self.keys, self.others, self.looking = calls, keys, others, before
            self.shapes = shapes

    def first(self, key: bytes | None, shape: Shape, k: int) -> int:
        """Return the number of the first mask of this shape that was drawn from a key, that of call k if none was."""
        if key is None:
            return k
        first = self.keys.setdefault((key, shape), k)
        self.reused |= first != k
        return first

    def in_torch(self, shape: Shape, rate: float, state: int, again: bool = False) -> np.ndarray:
        """Return the numbers of torch's next mask.

        Args:
            shape: The mask's shape.
            rate: The share of the numbers that it drops.
            state: A digest of the state of torch's generator.
            again: Whether it may be a mask that was drawn from this state before, and is then the same one.
        """
        k = self.states.get(state, self.calls["torch"]) if again else self.calls["torch"]
        if k == self.calls["torch"]:
            self.calls["torch"] += 1
            self.drawn.append(Drawn(shape, rate))
            self.alone[k:] = [] if self.key is None else [shape]
            self.states[state] = k
        if self.key is None:
            return self.below(k, shape, rate)
        return uniform(self.key, k, shape)

    def in_jax(self, key: bytes | None, shape: Shape) -> np.ndarray:
        """Return the numbers of JAX's next mask, for a recording."""
        k = self.calls["jax"]
        self.calls["jax"] += 1
        self.alone[k:] = [shape]
        assert self.key is not None
        return uniform(self.key, self.first(key, shape, k), shape)

    def below(self, k: int, shape: Shape, rate: float) -> np.ndarray:
        """Return the uniform numbers of a mask, in torch's order of axes.

        Axes of one size may change places: nothing in a shape tells which of them is which in the other framework.
        Another rate has other numbers, since the same ones would often drop the same units.
        """
        rng = np.random.default_rng([k, round(rate * 1e6), *shape])
        sizes = [size for size in {*shape} if size > 1 and shape.count(size) > 1]
        if not sizes:
            return rng.random(shape)
        places = np.indices(shape)
        for size in sizes:
            axes = [i for i, other in enumerate(shape) if other == size]
            places[axes] = np.sort(places[axes], axis=0)
        return rng.random(prod(shape))[np.ravel_multi_index(tuple(places), shape)]

    def factors(self, shape: Shape) -> dict[str, np.ndarray]:
        """Return what the masks of a shape in torch's last call multiply by, by their numbers from 1 on."""
        if self.key is not None:
            return {}
        own = [(k, one.rate) for k, one in enumerate(self.drawn) if one.shape == shape and one.rate < 1][:_FEW]
        return {f"mask {k + 1}": (self.below(k, shape, rate) < 1 - rate) / (1 - rate) for k, rate in own}

    def partner(self, shape: Shape, several: int = 1, trial: bool = False) -> int | None:
        """Return the number of torch's mask that JAX's next one, or the first of several, is compared with.

        A draw of another size takes none. It may be for another purpose, so that the next one takes torch's mask; or it
        is a mask of another shape, so that the next one takes the mask after that.
        """
        k = self.calls["jax"]
        for i in range(k, k + len(self.others) + 1):
            drawn = self.drawn[i : i + several]
            if len(drawn) == several and all(prod(one.shape) == prod(shape) for one in drawn):
                self.unlike += self.others[: i - k]
                self.others.clear()
                self.shapes += [shape] * several
                self.calls["jax"] = i + several
                return i
        if not trial:
            self.shapes.append(shape)
            self.others.append((shape, self.drawn[k].shape if k < len(self.drawn) else None))
        return None

    def numbers(self, k: int, shape: Shape, rate: float) -> np.ndarray:
        """Return the numbers of torch's mask k in the shape of JAX's, which has the axes in another order or others."""
        drawn = self.drawn[k].shape
        numbers = self.below(k, drawn, rate)
        if sorted(drawn) != sorted(shape):
            return numbers.reshape(shape)
        left, order = [*range(len(drawn))], []
        for size in shape:
            order.append(next(i for i in left if drawn[i] == size))
            left.remove(order[-1])
        return numbers.transpose(order)


def begin(framework: Literal["jax", "torch"]) -> None:
    """Begin a call of a model."""
    if Masks.active is not None:
        Masks.active.begin(framework)


def as_arrays() -> None:
    """Let JAX's uniform numbers be arrays from now on."""
    if Masks.active is not None:
        Masks.active.arrays = True


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
