"""Confirm a suspected fault: it must reproduce the numbers that were observed."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np


class Hypothesis(NamedTuple):
    """A possible fault and the numbers it would give."""

    cause: str
    """The fault in one short sentence."""
    numbers: np.ndarray
    """The numbers that the fault would give."""
    tolerance: float = 0.0
    """The smallest distance that can be expected, where the fault itself rounds."""


def confirmed(hypotheses: Iterable[Hypothesis], actual: np.ndarray, plain: np.ndarray, tolerance: float) -> str | None:
    """Return the first cause whose numbers match the observed ones within the tolerance and are at least ten times
    closer to them than those of the plain formula."""
    plain_distance = distance(actual, plain)
    for hypothesis in hypotheses:
        size = distance(actual, hypothesis.numbers)
        if size <= max(tolerance, hypothesis.tolerance) and size * 10 <= plain_distance:
            return hypothesis.cause
    return None


def distance(actual: np.ndarray, expected: np.ndarray) -> float:
    """Return the largest difference of an entry, as a share of itself and the tensor's usual size.

    The usual size is the median of what is not zero, so that a mask of -1e9 does not hide the other entries. NaN and
    infinities that are the same on both sides are equal; the distance is infinite if others differ, or the shapes do.
    """
    if actual.shape != expected.shape:
        return np.inf
    if not expected.size:
        return 0.0
    wide = np.complex128 if "c" in (actual.dtype.kind, expected.dtype.kind) else np.float64
    actual, expected = actual.astype(wide), expected.astype(wide)
    with np.errstate(all="ignore"):
        same = (actual == expected) | (np.isnan(actual) & np.isnan(expected))
        difference = np.where(same, 0.0, np.abs(actual - expected))
        if not difference.any():
            return 0.0
        size = np.abs(expected)
        shown = size[np.isfinite(size) & (size > 0)]
        scale = size + (np.median(shown) if shown.size else 0.0)
        shares = np.where(difference == 0, 0.0, difference / scale)
    worst = shares.max()
    return float(worst) if np.isfinite(worst) else np.inf


def near(actual: np.ndarray, expected: np.ndarray, tolerance: float) -> bool:
    """Return whether the distance is at most the tolerance; one entry rules most candidates out."""
    if actual.shape != expected.shape:
        return False
    if actual.size and actual.dtype.kind == expected.dtype.kind == "f":
        at = int(np.abs(actual).argmax())
        size = abs(float(expected.flat[at])) + float(np.abs(expected).max())  # at least what `distance` divides by
        if abs(float(actual.flat[at]) - float(expected.flat[at])) > tolerance * size:
            return False
    return distance(actual, expected) <= tolerance


def fitted(predict: Callable[[float], np.ndarray], target: np.ndarray, guess: float) -> float:
    """Fit one number so that its prediction is closest to the target, by damped Gauss-Newton steps.

    A single number is fitted to a whole tensor, so a fault of another kind can't be mistaken for this one.
    """

    def error(numbers: np.ndarray) -> float:
        return float(((numbers - target) ** 2).sum())

    with np.errstate(all="ignore"):
        value, numbers = guess, predict(guess)
        if numbers.shape != target.shape:
            return guess
        for _ in range(40):
            h = 1e-3 * (abs(value) or 1.0)
            slope = (predict(value + h) - numbers) / h
            step = float((slope * (target - numbers)).sum() / (slope * slope).sum())
            if not np.isfinite(step):
                return value
            while not error(nearer := predict(value + step)) < error(numbers):
                step /= 2
                if not abs(step) > 1e-16 * abs(value):  # nor if the step is NaN
                    return value
            value, numbers = value + step, nearer
    return value


def in_single(numbers: np.ndarray) -> bool:
    """Return whether float32 represents every number exactly."""
    return bool(numbers.size and (numbers == numbers.astype(np.float32)).all())


def in_bfloat16(numbers: np.ndarray) -> bool:
    """Return whether bfloat16 represents every number exactly."""
    return in_single(numbers) and not (numbers.astype(np.float32).view(np.uint32) & 0xFFFF).any()
