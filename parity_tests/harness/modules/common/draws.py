"""Numbers in place of those that hide what stands behind them, as initial weights often do."""

import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

_FEW = 4
_SIZES = (0.01, 10.0)


def hides(array: np.ndarray) -> bool:
    """Return whether a tensor has so few distinct values that it hides what stands behind it."""
    if array.dtype.kind not in "fc" or not array.size:
        return False
    some = np.unique(array.ravel()[:: max(1, array.size // 1000)])
    if len(some) > _FEW or not np.isfinite(some).all():
        return False
    return len(some) == 1 == array.size or (2 * len(some) <= array.size and bool(np.isin(array, some).all()))


def alike(arrays: Mapping[str, np.ndarray]) -> tuple[str, ...]:
    """Say which arrays hold the numbers of an earlier one, as layers that were copied do: no output shows the order of
    such layers. Arrays of few distinct values are left out."""
    first: dict[tuple[Any, ...], str] = {}
    found = []
    for name, array in arrays.items():
        if array.dtype.kind not in "fc" or hides(array):
            continue
        known = first.setdefault((array.shape, array.tobytes()), name)
        if known != name:
            found.append(f"{name} (the same numbers as {known})")
    return tuple(found)


def draw(name: str, array: np.ndarray, positive: bool) -> np.ndarray:
    """Draw numbers of a fitting size for a tensor, by its name; `positive`: none below 0."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    sign = 1.0 if (np.real(array) > 0).all() else -1.0 if (np.real(array) < 0).all() else 0.0
    if sign:  # a scale, a variance, a temperature
        size = float(np.abs(array).mean())
        size = size if _SIZES[0] <= size <= _SIZES[1] else 1.0
        numbers = sign * size * rng.uniform(0.5, 1.5, array.shape)
    elif array.ndim > 1:  # a kernel
        numbers = rng.normal(size=array.shape) / np.sqrt(max(1, array.size // len(array)))
    else:
        numbers = rng.uniform(-0.5, 0.5, array.shape)
        if array.ndim and len(set(np.sign(numbers))) == 1 < len(numbers):
            numbers[0] *= -1  # else it would be taken for a scale, whose sign is left
    if array.dtype.kind == "c":
        numbers = numbers + 1j * rng.uniform(-0.5, 0.5, array.shape)
    numbers = np.abs(numbers) if positive else numbers
    return numbers.astype(np.complex64 if array.dtype.kind == "c" else np.float32).astype(array.dtype)
