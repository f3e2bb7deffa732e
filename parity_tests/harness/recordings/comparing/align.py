"""Bring two recorded tensors to the same entries in the same order."""

import contextlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from parity_tests.harness.modules import rounding
from parity_tests.harness.modules.rounding import Worst
from parity_tests.harness.recordings.arrays import totals
from parity_tests.harness.recordings.recording import WHOLE, Recording, Tensor

ToRight = Callable[[np.ndarray], np.ndarray]


class Aligned(NamedTuple):
    """The entries of a tensor that both recordings hold."""

    left: np.ndarray
    right: np.ndarray
    floors: tuple[np.ndarray, np.ndarray]
    """How far rounding moves each entry in either recording."""
    places: np.ndarray | None = None
    """The entries' indices in the right recording's flattened tensor; None if it is whole."""
    shape: tuple[int, ...] = ()
    """Of that tensor."""

    def worst(self, dtype: str, least: np.ndarray | float = 0.0) -> Worst:
        """Return the entry with the largest difference, in rounding errors: of either recording, as far as one's are
        at most four times the other's, or `least`."""
        if self.left.shape != self.right.shape:
            return Worst(np.inf, "")
        floor = rounding.combined([{"": floor} for floor in self.floors])[""]
        return rounding.worst({"": self.left}, {"": self.right}, {"": np.maximum(floor, least)}, dtype)


def as_it_is(array: np.ndarray) -> np.ndarray:
    return array


def aligned(left: Tensor, right: Tensor, to_right: ToRight = as_it_is, first: int | None = None) -> Aligned:
    """Return the entries that both tensors hold.

    Args:
        left: A tensor, whole or sampled.
        right: The other one.
        to_right: Converts the whole left tensor to the right one's layout.
        first: The first row of the right tensor that the left one is; None if it is all of it.

    Returns:
        The entries: as whole tensors where both are, else flattened; arrays of different shapes if the tensors are.
    """
    try:
        if left.places is None and right.places is None:
            moved = to_right(left.values)
            rows: Any = ... if first is None else slice(first, first + len(moved))
            return Aligned(moved, right.values[rows], (to_right(left.floor), right.floor[rows]))
        size = int(np.prod(left.shape, dtype=np.int64))
        ids = to_right(np.arange(size).reshape(left.shape))
    except (ValueError, IndexError):
        return _different(left.shape, right.shape)
    shape = right.shape if first is None else (len(ids), *right.shape[1:])
    if ids.shape != shape:
        return _different(ids.shape, shape)
    begin = 0 if first is None else first * int(np.prod(right.shape[1:], dtype=np.int64))
    of_right = np.arange(begin, begin + size) if right.places is None else right.places
    inside = np.flatnonzero((of_right >= begin) & (of_right < begin + size))
    wanted = ids.reshape(-1)[of_right[inside] - begin]
    if left.places is None:
        at, both = wanted, np.ones(len(wanted), bool)
    else:
        at = np.minimum(np.searchsorted(left.places, wanted), max(0, len(left.places) - 1))
        both = left.places[at] == wanted
    in_left, in_right = at[both], inside[both]
    if right.places is None:
        in_right = of_right[in_right]
    values, others = left.values.reshape(-1)[in_left], right.values.reshape(-1)[in_right]
    floors = left.floor.reshape(-1)[in_left], right.floor.reshape(-1)[in_right]
    return Aligned(values, others, floors, of_right[inside[both]], right.shape)


def aligned_sums(left: Recording, right: Recording, names: tuple[str, str], to_right: ToRight = as_it_is) -> Aligned:
    """Return what `totals` returned of two tensors; without the weighted sums if the conversion of one to the other
    does more than to change the order of axes, as where an axis is split.

    Args:
        left: A recording that holds the first.
        right: One that holds the second.
        names: The names of the tensors.
        to_right: Converts the left tensor to the right one's layout.
    """
    tensors = [one.tensor(f"{WHOLE}{name}") for one, name in zip((left, right), names, strict=True)]
    shapes = [tuple(one.about["shapes"][name]) for one, name in zip((left, right), names, strict=True)]
    probe = np.random.default_rng(0).normal(size=shapes[0])
    with contextlib.suppress(ValueError, IndexError):
        moved = to_right(probe)
        if moved.shape == shapes[1] and np.allclose(totals(probe, 0), totals(moved, 0), atol=1e-9 * probe.size):
            return aligned(tensors[0], tensors[1])
    mine, other = (one._replace(values=one.values[:-2], floor=one.floor[:-2]) for one in tensors)
    return aligned(mine, other)


def least_of_sums(sums: np.ndarray, dtype: str) -> np.ndarray:
    """Return the smallest rounding error of what `totals` returns: that of as many roundings as there are entries."""
    return np.array([1, 1, 0, 0, 0, 1, 1])[: len(sums)] * sums[2] * rounding.unit(dtype)


def least_of_gradient(values: np.ndarray, dtype: str, sums: np.ndarray | None = None) -> float:
    """Return the smallest rounding error of a gradient, see `rounding.least_of_gradients`; `sums`: what `totals`
    returned of it, if these are some of its entries."""
    if dtype != "float64":
        return 0.0
    return rounding.unit(dtype) * (rounding.largest(values) if sums is None else float(sums[3]))


def difference(pair: Aligned, labels: tuple[str, str]) -> str:
    """Describe the largest difference: its size, its index and both values."""
    left, right = pair.left, pair.right
    if left.shape != right.shape:
        return f"its shape is {list(left.shape)} in {labels[0]} and {list(right.shape)} in {labels[1]}"
    with np.errstate(all="ignore"):
        apart = np.asarray(np.abs(left.astype(np.complex128) - right.astype(np.complex128)))
    apart[(left == right) | (np.isnan(left) & np.isnan(right))] = 0
    at = tuple(int(i) for i in np.unravel_index(int(np.nan_to_num(apart, nan=np.inf).argmax()), left.shape))
    size = abs(complex(right[at]))
    shown = at if pair.places is None else tuple(map(int, np.unravel_index(pair.places[at], pair.shape)))
    share = f"by {apart[at] / size:.1e} of itself, " if size and np.isfinite(apart[at]) else ""
    place = f"at {list(shown)} " if shown else ""
    return f"{share}{place}{left[at]:.6g} in {labels[0]} and {right[at]:.6g} in {labels[1]}"


def _different(left: tuple[int, ...], right: tuple[int, ...]) -> Aligned:
    """Return stand-ins for tensors of different shapes."""
    zeros = [np.broadcast_to(0.0, shape) for shape in (left, right if right != left else (*right, 0))]
    return Aligned(zeros[0], zeros[1], (zeros[0], zeros[1]))
