"""How far each framework is from its own float64, tensor by tensor, and whether both are as far."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from parity_tests.harness.findings import Distance
from parity_tests.harness.modules.precision.networks import Numbers

_LEAST = 2.0**-26
"""The smallest distance that counts, as a share of a tensor's size: what float32 rounds."""
_NOTHING = "in both frameworks it is nothing but rounding, so that nothing of it was compared"
_ZERO = 1e-10
"""A tensor so much smaller than the largest of its level is nothing but rounding in float64."""


class Entry(NamedTuple):
    """The entry of a tensor that differs most between the two, for its rounding."""

    size: float
    index: tuple[int, ...]


class Apart(NamedTuple):
    """The distances of one tensor."""

    level: str
    name: str
    in_jax: float
    """From float64, the root of the mean square over entries and samples, as a share of an entry's usual size."""
    in_torch: float
    entry: Entry
    count: int
    """How many numbers it is the mean of."""
    zero: bool
    """Whether it is zero but for rounding in float64, so that no distance says anything."""
    infinite: bool
    """Whether one of them has an entry that is not finite where it is in float64 and in the other."""

    @property
    def ratio(self) -> float:
        """How many times the one is as far as the other."""
        return times(self.in_jax, self.in_torch)

    def distance(self, notes: Mapping[str, str]) -> Distance:
        note = notes.get(self.name, _NOTHING if min(self.in_jax, self.in_torch) > 0.5 else "")
        return Distance(self.level, self.name, self.in_jax, self.in_torch, note)


def times(one: float, other: float) -> float:
    """Return how many times the larger distance is the smaller one."""
    return max(one, other, _LEAST) / max(min(one, other), _LEAST)


class Sums:
    """Adds up the squares of the distances of every tensor over samples."""

    def __init__(self) -> None:
        self._sums: dict[tuple[str, str], list[np.ndarray]] = {}
        self._infinite: dict[tuple[str, str], bool] = {}
        self._largest: dict[str, float] = {}
        self.samples = 0

    def add(self, low: tuple[Numbers, Numbers], exact: tuple[Numbers, Numbers]) -> None:
        """Add a sample: the numbers of JAX and of torch as they are run and in float64."""
        self.samples += 1
        for level, arrays in exact[1].items():
            for name, expected in arrays.items():
                self._add(level, name, [two[level][name] for two in low], [two[level][name] for two in exact])
                self._largest[level] = max(self._largest.get(level, 0.0), size(expected))

    def _add(self, level: str, name: str, low: list[np.ndarray], exact: list[np.ndarray]) -> None:
        finite = np.isfinite(exact[0]) & np.isfinite(exact[1])
        known = [np.isfinite(array) for array in low]
        usual = finite & known[0] & known[1]
        sizes = np.maximum(np.abs(exact[1]), _usual(exact[1][finite]))
        with np.errstate(all="ignore"):
            errors = [np.where(usual, np.abs(ours - own) / sizes, 0.0) for ours, own in zip(low, exact, strict=True)]
            apart = np.where(usual, np.abs(low[0] - low[1]) / sizes, 0.0)
        squares = [np.square(np.nan_to_num(array)) for array in (*errors, apart)]
        place = level, name
        before = self._sums.get(place)
        largest = np.maximum(before[3], np.abs(exact[1])) if before else np.abs(exact[1])
        counted = usual.astype(float) + (before[4] if before else 0.0)
        added = squares if before is None else [a + b for a, b in zip(before, squares, strict=False)]
        self._sums[place] = [*added, largest, counted]
        self._infinite[place] = self._infinite.get(place, False) or bool((finite & (known[0] ^ known[1])).any())

    def apart(self) -> list[Apart]:
        """Return the distances of every tensor that holds floats."""
        result = []
        for (level, name), (jax_sums, torch_sums, apart, largest, counted) in self._sums.items():
            count = int(counted.sum())
            in_jax, in_torch = (math.sqrt(float(sums.sum()) / max(count, 1)) for sums in (jax_sums, torch_sums))
            typical = math.hypot(in_jax, in_torch)
            each = np.sqrt(apart / np.maximum(counted, 1)) / max(typical, _LEAST)
            at = np.unravel_index(int(each.argmax()), each.shape) if each.size else ()
            worst = Entry(float(each[at]) if each.size else 0.0, tuple(map(int, at)))
            zero = float(np.max(largest, initial=0.0)) <= _ZERO * self._largest[level]
            infinite = bool(self._infinite[level, name])
            result.append(Apart(level, name, in_jax, in_torch, worst, count, zero, infinite))
        return result


def size(array: np.ndarray) -> float:
    return float(np.abs(array[np.isfinite(array)]).max(initial=0.0))


def _usual(array: np.ndarray) -> float:
    """Return the median size of the entries that are not zero; 1 where there is none."""
    sizes = np.abs(array[array != 0])
    return float(np.median(sizes)) if sizes.size else 1.0
