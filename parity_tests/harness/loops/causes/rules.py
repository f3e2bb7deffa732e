"""Identify the optimizer of a run from its own numbers."""

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from parity_tests.harness.loops import judging
from parity_tests.harness.loops.causes.fitting import (
    FIRST,
    LARGEST,
    MOMENTUM,
    NEAR,
    SECOND,
    each_fitted,
    fitted,
    shared,
    slots_of,
    tidy,
    wide,
)
from parity_tests.harness.loops.causes.parting import Parting
from parity_tests.harness.loops.naming import Record
from parity_tests.harness.loops.records import Arrays

NONE, PLAIN, CORRECTED = "no second moments", "the largest second moments", "the largest corrected second moments"
_EPS = [10.0**-e for e in (8, 7, 6, 5, 4, 3, 9, 10, 12, 15, 16)] + [0.0]


class Rule(NamedTuple):
    """An optimizer as its numbers show it; None is what they don't show."""

    beta1: float | None = None
    beta2: float | None = None
    momentum: float | None = None
    dampening: float | None = None
    gradient: float = 1.0
    """The factor of the gradient that it used."""
    coupled: tuple[tuple[str, float], ...] = ()
    """How much of each array's weights is added to its gradient."""
    decoupled: tuple[tuple[str, float], ...] | None = None
    """The share of each array's weights that a step takes off, over the learning rate."""
    eps: tuple[str, float] | None = None
    corrected: bool | None = None
    nesterov: bool | None = None
    rate: float | None = None
    rates: tuple[tuple[str, float], ...] = ()
    """Of each array, where they aren't the same."""
    amsgrad: str = ""
    """Which second moments it takes the largest of."""


def rule_of(p: Parting, side: int) -> Rule | None:
    """Identify the optimizer of a run at the step in which the runs part, or at the next one that has one before it."""
    run = p.runs[side]
    at = max(p.step, 1)
    before, after = run.get(at - 1), run.get(at)
    if before is None or after is None:
        return None
    weights, moved = wide(before.get("parameters", {})), wide(after.get("parameters", {}))
    gradient = wide(after.get("gradients", {}))
    state = wide(after.get("optimizer state", {}))
    old = wide(before.get("optimizer state", {}))
    names = [n for n in weights if n in moved and n in gradient]
    if not names:
        return None
    steps = {n: moved[n] - weights[n] for n in names}
    if slots_of(FIRST, state):
        return _adam(
            p, before, after, weights, gradient, steps, slots_of(SECOND, old), slots_of(SECOND, state), at, moved
        )
    if buffers := slots_of(MOMENTUM, state):
        fit = moment_of(p, MOMENTUM, before, after)
        if fit is None:
            return None
        momentum, share, coupled = fit
        used = {n: gradient[n] + coupled.get(n, 0.0) / share * weights[n] for n in names}
        made = fitted(steps, [buffers, used], weights, NEAR[p.precision])
        if made is None:
            rates, owns = each_fitted(steps, buffers, weights, NEAR[p.precision])
            known = {"rates": rates, "decoupled": shared(owns, rates), "nesterov": False} if rates else {}
            return Rule(momentum=momentum, dampening=1 - share, coupled=tidy(coupled, share), **known)
        (of_buffer, of_gradient), own = made
        rate = -of_buffer - of_gradient
        nesterov = abs(of_gradient) > 1e-6 * abs(rate)
        if nesterov:
            rate = -of_gradient
        return Rule(
            momentum=momentum,
            dampening=1 - share,
            coupled=tidy(coupled, share),
            decoupled=tidy(own, -rate),
            nesterov=nesterov,
            rate=rate,
        )
    made = fitted(steps, [gradient], weights, NEAR[p.precision])
    if made is None:
        rates, owns = each_fitted(steps, gradient, weights, NEAR[p.precision])
        return Rule(coupled=shared(owns, rates), rates=rates) if rates else None
    rate = -made[0][0]
    return Rule(coupled=tidy(made[1], -rate), rate=rate)


def _adam(
    p: Parting,
    before: Record,
    after: Record,
    weights: Arrays,
    gradient: Arrays,
    steps: Arrays,
    old: Arrays,
    square: Arrays,
    at: int,
    moved: Arrays,
) -> Rule | None:
    fit = moment_of(p, FIRST, before, after)
    if fit is None:
        return None
    beta1, share, coupled = fit
    scale = share / (1 - beta1)
    used = {n: scale * gradient[n] + coupled.get(n, 0.0) / (1 - beta1) * weights[n] for n in square if n in gradient}
    second = fitted(square, [old, {n: a**2 for n, a in used.items()}], None, NEAR[p.precision])
    beta2 = None if second is None else second[0][0]
    largest, amsgrad = slots_of(LARGEST, wide(after["optimizer state"])), ""
    if largest and beta2 is not None:
        amsgrad = largest_of(slots_of(LARGEST, wide(before["optimizer state"])), largest, square, beta2, at + 1) or ""
    rule = Rule(amsgrad=amsgrad, beta1=beta1, beta2=beta2, gradient=scale, coupled=tidy(coupled, share))
    if beta2 is None:
        return rule
    first = slots_of(FIRST, wide(after["optimizer state"]))
    updates = sum(bool(digest.changed) for digest in p.runs[0].digests[: at + 1])
    known = next(iter(after.get("learning rate", {}).values()), None)
    fits: list[Rule] = []
    near: list[tuple[float, Rule]] = []
    for ahead, corrected, t in itertools.product((False, True), (True, False), {at + 1, updates}):
        if ahead and fits:
            break
        c1, c2 = (1 - beta1**t, 1 - beta2**t) if corrected else (1.0, 1.0)
        means = {n: first[n] / c1 for n in steps if n in first and n in square}
        if ahead:  # as optax has Nesterov's momentum
            next_c1 = 1 - beta1 ** (t + 1) if corrected else 1.0
            means = {n: beta1 * first[n] / next_c1 + (1 - beta1) * used[n] / c1 for n in means if n in used}
        squares = {n: square[n] / c2 for n in means}
        if largest:
            squares = {n: largest[n] / (1.0 if amsgrad == CORRECTED else c2) for n in means if n in largest}
        for place, eps in (*_places(), *_solved(steps, means, squares, known)):
            made = fitted(
                {n: steps[n] for n in means},
                [{n: means[n] / _root(squares[n], place, eps, c2) for n in means}],
                weights,
                NEAR[p.precision],
            )
            if made is None:
                columns = {n: means[n] / _root(squares[n], place, eps, c2) for n in squares}
                rates, owns = each_fitted(steps, columns, weights, NEAR[p.precision])
                if rates:
                    rest = shared(owns, rates)
                    fits.append(
                        rule._replace(
                            eps=(place, eps), corrected=corrected, rates=rates, decoupled=rest, nesterov=ahead
                        )
                    )
                continue
            rate = -made[0][0]
            rest = tidy(made[1], -rate)
            fits.append(rule._replace(eps=(place, eps), corrected=corrected, rate=rate, decoupled=rest, nesterov=ahead))
            if known is None or abs(rate - float(known)) <= 1e-5 * abs(rate):  # without the correction, a step is one
                if p.precision == "float64":  # of another rate with it
                    return fits[-1]
                columns = {n: means[n] / _root(squares[n], place, eps, c2) for n in means}
                near.append((_residual(steps, columns, rate, made[1], weights), fits[-1]))
    if near:  # rounding hides a small eps: the usual one is taken unless another is nearer by far
        best = min(residual for residual, _ in near)
        return next(rule for residual, rule in near if residual <= 2 * best)
    return fits[0] if fits else rule


def beta_of(p: Parting, side: int, slot: str) -> float | None:
    """Return beta1 or the momentum of a run, from a step that has one before it."""
    for step in range(max(p.step, 1), len(p.runs[side])):
        before, after = p.runs[side].get(step - 1), p.runs[side].get(step)
        fit = None if before is None or after is None else moment_of(p, slot, before, after)
        if fit is not None:
            return fit[0]
    return None


def moment_of(p: Parting, slot: str, before: Record, after: Record) -> tuple[float, float, dict[str, float]] | None:
    """Fit a first moment: the share of the one before, that of the gradient, and that of each array's weights."""
    old, new = (wide(slots_of(slot, record.get("optimizer state", {}))) for record in (before, after))
    gradient, weights = wide(after.get("gradients", {})), wide(before.get("parameters", {}))
    names = [n for n in new if n in old and n in gradient and n in weights]
    if not names or not any(old[n].any() for n in names):
        return None
    fit = fitted({n: new[n] for n in names}, [old, gradient], weights, NEAR[p.precision])
    return None if fit is None else (fit[0][0], fit[0][1], fit[1])


def largest_of(old: Arrays, largest: Arrays, square: Arrays, beta2: float, t: int) -> str | None:
    """Say which second moments these are the largest of."""
    for kind, correction in ((PLAIN, 1.0), (CORRECTED, 1 - beta2**t)):
        made = {n: np.maximum(old.get(n, np.zeros_like(a)), square[n] / correction) for n, a in largest.items()}
        if all(judging.difference(made[n], a, judging.peak(a) or 1.0) < 1e-4 for n, a in largest.items()):
            return kind
    return None


def _residual(steps: Arrays, columns: Arrays, rate: float, owns: dict[str, float], weights: Arrays) -> float:
    """Return the mean square of what a fit leaves of the steps, each as a share of its own array."""
    left = [
        np.square((steps[n] + rate * column - owns.get(n, 0.0) * weights[n]) / (judging.peak(steps[n]) or 1.0)).mean()
        for n, column in columns.items()
    ]
    return float(np.mean(left))


def _root(square: np.ndarray, place: str, eps: float, correction: float) -> np.ndarray:
    """Return what Adam divides by; infinite where that is zero."""
    if place == "inside the root":
        root = np.sqrt(square + eps)
    else:
        root = np.sqrt(square) + (eps / np.sqrt(correction) if place == "before the correction" else eps)
    return np.where(root == 0, np.inf, root)


def _solved(steps: Arrays, means: Arrays, squares: Arrays, rate: np.ndarray | None) -> Iterator[tuple[str, float]]:
    """Yield the eps that the step of an array without weight decay has, to three digits, at the known learning rate."""
    if rate is None:
        return
    for n in means:
        with np.errstate(all="ignore"):
            root = np.abs(float(rate) * means[n] / steps[n])
            for place, values in (
                ("outside the root", root - np.sqrt(squares[n])),
                ("inside the root", root**2 - squares[n]),
            ):
                weights = np.where(np.isfinite(root) & (root > 0), 1 / np.square(root), 0.0)
                rough = float((weights * np.nan_to_num(values)).sum() / weights.sum()) if weights.any() else 0.0
                if rough > 0 and place == "outside the root":  # of float32, by the entries that it changes most
                    yield place, float(f"{rough:.1g}")
                eps = float(np.median(values))
                if np.isfinite(eps) and eps > 0 and np.abs(values - eps).max() < 1e-2 * eps:
                    yield place, float(f"{eps:.3g}")


def _places() -> Iterator[tuple[str, float]]:
    for eps in _EPS:
        for place in ("outside the root", "inside the root", "before the correction"):
            yield place, eps
