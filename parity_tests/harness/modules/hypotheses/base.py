"""How a suspected fault is confirmed: it must give the very numbers that were found, and no other way counts."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np


class Hypothesis(NamedTuple):
    cause: str
    """The fault in one short sentence."""
    numbers: np.ndarray
    """What would stand where the numbers were found."""
    owed: float = 0.0
    """How near they can come at best, where the fault itself rounds."""


def confirmed(hypotheses: Iterable[Hypothesis], found: np.ndarray, plain: np.ndarray, owed: float) -> str | None:
    """The first cause whose numbers are the ones found, to `owed`, and ten times nearer than the plain formula's."""
    apart = distance(found, plain)
    for hypothesis in hypotheses:
        size = distance(found, hypothesis.numbers)
        if size <= max(owed, hypothesis.owed) and size * 10 <= apart:
            return hypothesis.cause
    return None


def distance(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference as a share of the largest magnitude expected; infinite where shapes differ or a number is
    none."""
    if found.shape != expected.shape:
        return np.inf
    if not expected.size:
        return 0.0
    found, expected = found.astype(np.float64), expected.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        difference, scale = np.abs(found - expected).max(), np.abs(expected).max()
    if difference == 0:
        return 0.0
    return float(difference / scale) if scale and np.isfinite(difference) else np.inf


def fitted(predict: Callable[[float], np.ndarray], target: np.ndarray, guess: float) -> float:
    """The number whose prediction comes nearest to the target, by Gauss and Newton's steps, halved while they lead
    away. One number is fitted to a whole tensor, so that a fault without it can't pass for one with it."""

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
            while not error(nearer := predict(value + step)) < error(numbers):
                step /= 2
                if not abs(step) > 1e-16 * abs(value):  # nor where it is not a number
                    return value
            value, numbers = value + step, nearer
    return value


def in_single(numbers: np.ndarray) -> bool:
    """Whether the numbers have passed through float32: none needs more than its 24 bits."""
    return bool(numbers.size and (numbers == numbers.astype(np.float32)).all())


def in_bfloat16(numbers: np.ndarray) -> bool:
    """Whether the numbers have passed through bfloat16: none needs more than its 8 bits."""
    return in_single(numbers) and not (numbers.astype(np.float32).view(np.uint32) & 0xFFFF).any()
