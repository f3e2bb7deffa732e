"""How far two sets of named arrays are apart."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np


class Gap(NamedTuple):
    """The largest difference in units of its own array's largest magnitude, and the array it sits in."""

    size: float
    name: str


def gap(found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> Gap:
    """The worst gap between arrays of the same names. Raises ValueError where names, shapes or dtypes differ."""
    if list(found) != list(expected):
        raise ValueError(f"The names differ: {sorted(set(found) ^ set(expected))} or their order.")
    return max(
        (_one(name, np.asarray(found[name]), np.asarray(expected[name])) for name in expected), default=Gap(0, "")
    )


def _one(name: str, found: np.ndarray, expected: np.ndarray) -> Gap:
    if found.shape != expected.shape or found.dtype != expected.dtype:
        raise ValueError(
            f"{name} is {found.dtype}{list(found.shape)} here and {expected.dtype}{list(expected.shape)} there."
        )
    if not expected.size:
        return Gap(0.0, name)
    difference = np.abs(found.astype(np.float64) - expected.astype(np.float64)).max()
    scale = np.abs(expected).max()
    if difference == 0:
        return Gap(0.0, name)
    return Gap(float("inf") if scale == 0 or not np.isfinite(difference) else float(difference / scale), name)


def ulps(found: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """The differences in units of the last place of the expected floats."""
    return np.abs(found - expected) / np.spacing(np.abs(expected))
