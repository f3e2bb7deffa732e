"""Fit what an optimizer does to its arrays, by least squares."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from parity_tests.harness.loops import judging
from parity_tests.harness.loops.causes.parting import factor
from parity_tests.harness.loops.records import Arrays

FIRST, SECOND, MOMENTUM = "first moment", "second moment", "momentum"
LARGEST, SQUARES = "largest second moment", "summed squares"
STATES = (FIRST, SECOND, MOMENTUM, SQUARES)
NEAR = {"float64": 1e-9, "float32": 3e-4}
"""How near a fit must come to the largest number of what it is fitted to."""
SHARED = 1e-3
"""How far the factor of one number may be from that of other arrays, which proves it."""
SAME = {"float64": 1e-6, "float32": 5e-3}
"""How far two factors that were fitted may be apart."""


def fitted(
    target: Arrays, columns: Sequence[Arrays], own: Arrays | None, near: float
) -> tuple[list[float], dict[str, float]] | None:
    """Fit a sum of columns, with the same factors for all arrays, and each array's `own` with a factor for itself.

    The arrays' own parts are projected out first. None where the fit doesn't reproduce the target.
    """
    names = [n for n in target if all(n in column for column in columns)]
    if not names:
        return None

    def rest(n: str, array: np.ndarray) -> np.ndarray:
        flat = array.ravel()
        if own is None or n not in own:
            return flat
        base = own[n].ravel()
        size = float(base @ base)
        return flat - base * (float(base @ flat) / size) if size else flat

    x = np.stack([np.concatenate([rest(n, column[n]) for n in names]) for column in columns], 1)
    y = np.concatenate([rest(n, target[n]) for n in names])
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        return None
    scale = np.abs(x).max(0)
    scale[scale == 0] = 1.0
    factors = np.linalg.lstsq(x / scale, y, rcond=None)[0] / scale
    owns: dict[str, float] = {}
    largest = max(judging.peak(target[n]) for n in names)
    for n in names:
        left = target[n] - sum(f * column[n] for f, column in zip(factors, columns, strict=True))
        if own is not None and n in own and (c := factor(left.ravel(), own[n].ravel())) == c:
            made = left - c * own[n]
            if judging.peak(left) > near * largest and judging.peak(made) < 1e-2 * judging.peak(left):
                owns[n], left = c, made
        if judging.peak(left) > near * largest:
            return None
    alone = [n for n in owns if target[n].size == 1]  # of which any factor makes anything
    if any(all(abs(owns[n] - c) > SHARED * abs(c) for m, c in owns.items() if m not in alone) for n in alone):
        return None
    return [float(f) for f in factors], owns


def each_fitted(
    target: Arrays, column: Arrays, own: Arrays, near: float
) -> tuple[tuple[tuple[str, float], ...], dict[str, float]]:
    """Fit the learning rate of each array for itself, and the share of its own; nothing where one has no fit."""
    rates, owns = {}, {}
    for n in target:
        if n not in column or not target[n].any():
            continue
        made = fitted({n: target[n]}, [{n: column[n]}], own if target[n].size > 1 else None, near)
        if made is None:
            return (), {}
        rates[n] = -made[0][0]
        owns |= made[1]
    return tuple(rates.items()), owns


def shared(owns: dict[str, float], rates: tuple[tuple[str, float], ...]) -> tuple[tuple[str, float], ...]:
    """Return the factors of each array over its learning rate, without those that are rounding."""
    found = {n: -owns[n] / rate for n, rate in rates if n in owns and rate}
    largest = max(map(abs, found.values()), default=0.0)
    return tuple((n, c) for n, c in found.items() if abs(c) > 1e-3 * largest)


def tidy(factors: dict[str, float], share: float) -> tuple[tuple[str, float], ...]:
    """Return the factors of each array over a share, without those that are rounding."""
    found = {n: c / share for n, c in factors.items()} if share else {}
    largest = max(map(abs, found.values()), default=0.0)
    return tuple((n, c) for n, c in found.items() if abs(c) > 1e-3 * largest)


def slots_of(slot: str, arrays: Any) -> Arrays:
    return {n.removeprefix(f"{slot} of "): _float(a) for n, a in arrays.items() if n.startswith(f"{slot} of ")}


def wide(arrays: Any) -> Arrays:
    return {n: _float(a) for n, a in arrays.items()}


def _float(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float64)
