"""Differences of two sets of named arrays."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

Arrays = Mapping[str, np.ndarray]


class Gap(NamedTuple):
    """The worst difference and its position."""

    size: float
    name: str
    index: tuple[int, ...] = ()

    def __str__(self) -> str:
        return f"{self.name}[{', '.join(map(str, self.index))}]" if self.index else self.name


def gap(actual: Arrays, expected: Arrays) -> Gap:
    """Find the worst difference as a share of the largest magnitude of its array.

    Args:
        actual: The arrays to compare.
        expected: Arrays of the same names, in the same order.

    Returns:
        The difference and its position.

    Raises:
        ValueError: If names, shapes or dtypes differ.
    """
    return _worst(actual, expected, lambda difference, expected: difference / np.abs(expected).max(initial=0))


def shares(actual: Arrays, expected: Arrays) -> Gap:
    """Find the worst difference as a share of the number itself; otherwise as `gap`."""
    return _worst(actual, expected, lambda difference, expected: difference / np.abs(expected))


def count(actual: Arrays, expected: Arrays) -> Gap:
    """Count the numbers of the worst array that differ at all, and find the first of them; otherwise as `gap`."""
    totals = []
    for name, a, b in named_pairs(actual, expected):
        differs = (a != b).ravel()
        index = np.unravel_index(int(differs.argmax()), a.shape) if differs.any() else ()
        totals.append(Gap(float(differs.sum()), name, tuple(map(int, index))))
    return max(totals, key=lambda g: g.size, default=Gap(0.0, ""))


def worst(measure: Callable[[Arrays, Arrays], Gap], actual: Arrays, expected: Arrays) -> Gap:
    """Measure a difference that is infinite where names, shapes or dtypes differ."""
    try:
        return measure(actual, expected)
    except ValueError as error:
        return Gap(float("inf"), str(error))


def ulps(actual: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Differences in units in the last place of the expected floats."""
    return np.abs(actual - expected) / np.spacing(np.abs(expected))


def _worst(actual: Arrays, expected: Arrays, relative: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Gap:
    worst = [_one(name, a, b, relative) for name, a, b in named_pairs(actual, expected)]
    return max(worst, key=lambda g: g.size, default=Gap(0.0, ""))


def _one(
    name: str, actual: np.ndarray, expected: np.ndarray, relative: Callable[[np.ndarray, np.ndarray], np.ndarray]
) -> Gap:
    with np.errstate(all="ignore"):
        difference = np.abs(actual.astype(np.float64) - expected.astype(np.float64))
        size = np.where(difference == 0, 0.0, relative(difference, expected))
    size = np.where(np.isfinite(size), size, np.inf)  # a scale of zero, or NaN or infinity in either array
    if not size.any():
        return Gap(0.0, name)
    at = np.unravel_index(int(size.argmax()), size.shape)
    return Gap(float(size[at]), name, tuple(map(int, at)))


def named_pairs(actual: Arrays, expected: Arrays) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Pair the arrays by name. Raises ValueError if names, their order, shapes or dtypes differ."""
    if list(actual) != list(expected):
        raise ValueError(f"The names differ: {sorted(set(actual) ^ set(expected))} or their order.")
    pairs = [(name, np.asarray(actual[name]), np.asarray(expected[name])) for name in expected]
    for name, a, b in pairs:
        if a.shape != b.shape or a.dtype != b.dtype:
            raise ValueError(f"{name} is {a.dtype}{list(a.shape)} here and {b.dtype}{list(b.shape)} there.")
    return pairs
