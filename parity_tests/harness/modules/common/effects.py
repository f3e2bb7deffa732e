"""What moving a tensor does to the outputs of a model."""

from collections.abc import Iterator

import numpy as np

from parity_tests.harness.modules.rounding import Arrays, peak

_ROUNDINGS = 1e4  # below so many roundings of the outputs a movement is rounding


def matters(slope: np.ndarray, value: np.ndarray, size: float, dtype: str) -> bool:
    """Return whether a movement of its own size moves the outputs by more than rounding."""
    far = reach(slope, value)
    return bool(np.isfinite(far) and far > _ROUNDINGS * np.finfo(dtype).eps * size)


def reach(slope: np.ndarray, value: np.ndarray) -> float:
    """Return how far a movement of a tensor's own size moves what the slope is of."""
    return peak(slope) * max(peak(value), 0.01)


def changes(value: np.ndarray) -> Iterator[np.ndarray]:
    """Yield other values of a tensor or an input, which a model is likely to accept."""
    if value.dtype.kind in "fc":
        scale = float(np.abs(value[np.isfinite(value)]).max(initial=0.0)) or 1.0
        yield (value + 0.1 * scale * np.random.default_rng(0).uniform(0.5, 1.0, value.shape)).astype(value.dtype)
        return
    if value.ndim:
        yield np.roll(value, 1, -1)
        yield np.roll(value, 1, 0)
    first = value.copy()
    if value.dtype.kind == "b":
        first.flat[0] = not first.flat[0]
        yield first
        return
    for other in (0, 1):
        first = value.copy()
        first.flat[-1] = other
        yield first


def differ(moved: Arrays, base: Arrays, dtype: str) -> bool:
    """Return whether outputs were moved by more than rounding."""
    for name, array in base.items():
        other = moved[name]
        if other.shape != array.shape or not np.array_equal(np.isfinite(other), np.isfinite(array)):
            return True
        finite = np.isfinite(array)
        difference = np.abs(other[finite].astype(complex) - array[finite].astype(complex))
        scale = np.abs(array[finite]).max(initial=0.0)
        if array.dtype.kind in "biu":
            if difference.any():
                return True
        elif (difference > _ROUNDINGS * np.finfo(dtype).eps * np.maximum(np.abs(array[finite]), 1e-3 * scale)).any():
            return True
    return False
