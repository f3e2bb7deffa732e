"""How far two sets of named arrays are apart."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

Arrays = Mapping[str, np.ndarray]


class Gap(NamedTuple):
    """The worst difference, and where it sits."""

    size: float
    name: str
    index: tuple[int, ...] = ()

    def __str__(self) -> str:
        return f"{self.name}[{', '.join(map(str, self.index))}]" if self.index else self.name


def gap(found: Arrays, expected: Arrays) -> Gap:
    """The worst difference in units of its own array's largest magnitude. Raises ValueError where names, shapes or
    dtypes differ."""
    return _worst(found, expected, lambda difference, expected: difference / np.abs(expected).max())


def shares(found: Arrays, expected: Arrays) -> Gap:
    """The worst difference as a share of the number itself. Raises ValueError as `gap` does."""
    return _worst(found, expected, lambda difference, expected: difference / np.abs(expected))


def count(found: Arrays, expected: Arrays) -> Gap:
    """How many numbers of the worst array differ, by however little, and the first of them. Raises ValueError as `gap`
    does."""
    totals = []
    for name, a, b in _pairs(found, expected):
        differs = (a != b).ravel()
        index = np.unravel_index(int(differs.argmax()), a.shape) if differs.any() else ()
        totals.append(Gap(float(differs.sum()), name, tuple(map(int, index))))
    return max(totals, key=lambda g: g.size, default=Gap(0.0, ""))


def worst(measure: Callable[[Arrays, Arrays], Gap], found: Arrays, expected: Arrays) -> Gap:
    """`measure` of both; arrays of other names, shapes or dtypes are infinitely far apart."""
    try:
        return measure(found, expected)
    except ValueError as error:
        return Gap(float("inf"), str(error))


def ulps(found: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """The differences in units of the last place of the expected floats."""
    return np.abs(found - expected) / np.spacing(np.abs(expected))


def _worst(found: Arrays, expected: Arrays, relative: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Gap:
    worst = [_one(name, a, b, relative) for name, a, b in _pairs(found, expected)]
    return max(worst, key=lambda g: g.size, default=Gap(0.0, ""))


def _one(
    name: str, found: np.ndarray, expected: np.ndarray, relative: Callable[[np.ndarray, np.ndarray], np.ndarray]
) -> Gap:
    with np.errstate(all="ignore"):
        difference = np.abs(found.astype(np.float64) - expected.astype(np.float64))
        size = np.where(difference == 0, 0.0, relative(difference, expected))
    size = np.where(np.isfinite(size), size, np.inf)  # by a scale of zero, or not a number on either side
    if not size.any():
        return Gap(0.0, name)
    at = np.unravel_index(int(size.argmax()), size.shape)
    return Gap(float(size[at]), name, tuple(map(int, at)))


def _pairs(found: Arrays, expected: Arrays) -> list[tuple[str, np.ndarray, np.ndarray]]:
    if list(found) != list(expected):
        raise ValueError(f"The names differ: {sorted(set(found) ^ set(expected))} or their order.")
    pairs = [(name, np.asarray(found[name]), np.asarray(expected[name])) for name in expected]
    for name, a, b in pairs:
        if a.shape != b.shape or a.dtype != b.dtype:
            raise ValueError(f"{name} is {a.dtype}{list(a.shape)} here and {b.dtype}{list(b.shape)} there.")
    return pairs
