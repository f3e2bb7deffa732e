"""Known faults in what an optimizer does with a gradient, and in running statistics.

What each run does is identified from its own numbers, by least squares over its arrays; two runs whose rules are known
and differ in one part differ by this part.
"""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from parity_tests.harness.causes import Cause
from parity_tests.harness.causes import joined as together
from parity_tests.harness.loops import judging
from parity_tests.harness.loops.causes.forward import CLIP, clipping, penalty
from parity_tests.harness.loops.causes.parting import Causes, Parting, factor, figure, joined, several, sided
from parity_tests.harness.loops.naming import Record
from parity_tests.harness.loops.records import SIDES, Arrays

_MASK = "decay the same tensors in both: give optax's weight decay a mask that is true of {torch} alone"
_FIRST, _SECOND, _MOMENTUM = "first moment", "second moment", "momentum"
_LARGEST = "largest second moment"
_NONE, _PLAIN, _CORRECTED = "no second moments", "the largest second moments", "the largest corrected second moments"
_EPS = [10.0**-e for e in (8, 7, 6, 5, 4, 3, 9, 10, 12, 15, 16)] + [0.0]
_NEAR = {"float64": 1e-9, "float32": 3e-4}
"""How near a fit must come to the largest number of what it is fitted to."""
_SAME = {"float64": 1e-6, "float32": 5e-3}
"""How far two factors that were fitted may be apart."""


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


def of_optimizer(p: Parting) -> Causes:
    """Name in which part the optimizers of both runs differ."""
    yield from _how_often(p)
    yield from _left_out(p)
    yield from _of_largest(p)
    yield from _used(p)
    left, right = _rule(p, 0), _rule(p, 1)
    if left is not None and right is not None:
        yield from _differences(p, left, right)


def of_parameters(p: Parting) -> Causes:
    """Name what the steps of two runs differ by, where their optimizers' state isn't known."""
    if (found := penalty(p, "parameters")) is not None:
        side, size, where = found
        yield Cause(
            f"a step takes {figure(size)} times the weights of {where} off in {SIDES[1 - side]} only: decoupled weight "
            "decay",
            "weight-decay",
            "decay the same tensors in both (the mask of optax, the groups of torch)",
        )
        return
    before = p.state("parameters")[0]
    left, right = p.both("parameters")
    if not before:
        return
    steps = [{n: arrays[n] - before[n] for n in left if n in before} for arrays in (left, right)]
    ratio = factor(joined(steps[1]), joined(steps[0]))
    if p.explains({n: before[n] + ratio * steps[0][n] for n in steps[0]}, right, left):
        if p.agrees("learning rate"):
            t = p.step + 1
            correction = _correction(ratio, t)
            text = f"the step of {SIDES[1]} is {figure(ratio)} times as long at the same learning rate{correction}"
            yield Cause(text, "bias-correction" if correction else "step-scaled")
        else:
            text = f"the step is {figure(ratio)} times as long in {SIDES[1]}: the learning rate"
            yield Cause(text, "learning-rate", f"multiply JAX's learning rate by {figure(ratio)}", 1.0, ratio)


def of_statistics(p: Parting) -> Causes:
    """Name how running statistics are updated otherwise: momentum, the unbiased variance, not at all."""
    before = p.state("running statistics")[0]
    left, right = p.both("running statistics")
    if not before or not all(np.isfinite(a).all() for a in (*left.values(), *right.values())):
        return
    moved = [{n: arrays[n] - before[n] for n in left if n in before} for arrays in (left, right)]
    for side in (0, 1):
        if not joined(moved[side]).any():
            yield Cause(
                f"the running statistics are not updated in {SIDES[side]}: evaluation mode, or a new state that is "
                "dropped",
                "statistics-not-updated",
                "update the running statistics in both",
                *sided(side, False, True),
            )
            return
    ratio = factor(joined(moved[1]), joined(moved[0]))
    if p.explains({n: before[n] + ratio * moved[0][n] for n in moved[0]}, right, left):
        yield Cause(
            f"the momentum of the running statistics: they move {figure(ratio)} times as far in {SIDES[1]} (0.1 in "
            "PyTorch is 0.9 in Flax)",
            "batch-norm-momentum",
            f"multiply 1 - momentum of the Flax layer by {figure(ratio)}",
        )
        return
    variances = [n for n, a in before.items() if n.rpartition(".")[2] in ("running_var", "var")]
    means = [n for n in before if n not in variances]
    ratio = factor(*(joined({n: m[n] for n in means}) for m in reversed(moved))) if means else 1.0
    if not p.explains({n: before[n] + ratio * moved[0][n] for n in means}, {n: right[n] for n in means}, left):
        return
    for side, (a, b) in enumerate(((moved[0], moved[1]), (moved[1], moved[0]))):
        scale = ratio if not side else 1 / ratio
        x, base, y = (joined({n: arrays[n] for n in variances}) for arrays in (a, before, b))
        # a = k (v - base) and b = s k (c v - base), where c = n / (n - 1): b - s a = s (c - 1) (a + k base)
        known, *_ = np.linalg.lstsq(np.stack([x, base], 1), y / scale - x, rcond=None)
        if known[0] <= 0:
            continue
        count, rate = 1 + 1 / known[0], known[1] / known[0]
        made = {n: before[n] + scale * (a[n] + known[0] * a[n] + known[1] * before[n]) for n in variances}
        observed, other = ((right, left), (left, right))[side]
        if (
            abs(count - round(count)) < (1e-3 if p.precision == "float64" else 3e-3) * count
            and 0 < rate < 1
            and p.explains(made, observed, other)
        ):
            other_momentum = "" if abs(ratio - 1) < 1e-6 else f", and the momentum differs: {figure(ratio)} times"
            yield Cause(
                f"the running variance is the unbiased one in {SIDES[1 - side]}, n / (n - 1) times with n = "
                f"{round(count)}, and not in {SIDES[side]}{other_momentum}",
                "biased-variance",
                "let the running variance be the {torch} one in JAX",
                *sided(side, "biased", "unbiased"),
            )
            return


def _how_often(p: Parting) -> Causes:
    """Name an update in some steps only, as gradients are accumulated."""
    both = [[digest.changed for digest in run.digests] for run in p.runs]
    if None in both[0] + both[1] or both[0][p.step] == both[1][p.step]:
        return
    periods = [_period(found) for found in both]
    if None not in periods and periods[0] != periods[1]:
        words = [f"{'at each step' if k == 1 else f'once in {k} steps'} in {SIDES[i]}" for i, k in enumerate(periods)]
        text = f"the parameters are updated {' and '.join(words)}: accumulation of gradients"
        yield Cause(text, "accumulation", "update the parameters once in {torch} steps in JAX", *periods)
        return
    side = both[0][p.step]
    yield Cause(
        f"step {p.step} updates the parameters in {SIDES[not side]} only: an update that is skipped, or an incomplete "
        "accumulation",
        "update-skipped",
        "update the parameters in the same steps",
        *(found[p.step] for found in both),
    )


def _period(found: Sequence[bool | None]) -> int | None:
    for k in range(1, len(found) // 2 + 1):
        if found[1:] == [(t + 1) % k == 0 for t in range(1, len(found))]:
            return k
    return None


def _left_out(p: Parting) -> Causes:
    """Name arrays that one run alone never moves, though it has their gradients: no group of its optimizer has them."""
    before, after, gradients = p.state("parameters"), p.both("parameters"), p.both("gradients")[0]
    names = [n for n in after[0] if n in before[0] and n in before[1] and n in gradients and gradients[n].any()]
    still = [[n for n in names if np.array_equal(after[i][n], before[i][n])] for i in (0, 1)]
    for side in (0, 1):
        moves = {n: judging.peak(after[1 - side][n] - before[1 - side][n]) for n in still[side]}
        least = judging.OF_STEP["float32"]  # of a number, below which a move may be rounded to nothing
        out = [n for n, size in moves.items() if size > least * judging.peak(before[side][n])]
        if out and len(still[side]) < len(names):
            text = (
                f"no step moves {several(out)} in {SIDES[side]}: its optimizer has no group with them, or a rate of 0"
            )
            yield Cause(
                text, "group-left-out", "let the optimizers of both train the same tensors", *sided(side, [], out)
            )
            return


def _of_largest(p: Parting) -> Causes:
    """Name an amsgrad in one run only, or of other second moments."""
    found: list[str | None] = []
    for side in (0, 1):
        records = p.runs[side].get(p.step) or {}, p.runs[side].get(p.step - 1) or {}  # its own: carried states lack it
        state, old = (record.get("optimizer state", {}) for record in records)
        largest, square = _of(_LARGEST, state), _of(_SECOND, state)
        beta2 = _beta2(p, side)
        if not largest:
            found.append(_NONE)
        else:
            found.append(None if beta2 is None else _kind(_of(_LARGEST, old), largest, square, beta2, p.step + 1))
    if found[0] == found[1] or None in found:
        return
    if p.parted.quantity == "optimizer state" and _NONE in found:
        return
    shown = [f"{kind} in {SIDES[i]}" for i, kind in enumerate(found)]
    why = ", as optax has it and torch hasn't" if set(found) == {_CORRECTED, _PLAIN} else ""
    yield Cause(f"amsgrad takes {' and '.join(shown)}{why}", "amsgrad", "let JAX's amsgrad take {torch}", *found)


def _beta2(p: Parting, side: int) -> float | None:
    """Return the beta2 of a run from a step that has one before it."""
    rule = _rule(p, side)
    return None if rule is None else rule.beta2


def _kind(old: Arrays, largest: Arrays, square: Arrays, beta2: float, t: int) -> str | None:
    """Say which second moments these are the largest of."""
    for kind, correction in ((_PLAIN, 1.0), (_CORRECTED, 1 - beta2**t)):
        made = {n: np.maximum(old.get(n, np.zeros_like(a)), square[n] / correction) for n, a in largest.items()}
        if all(judging.difference(made[n], a, judging.peak(a) or 1.0) < 1e-4 for n, a in largest.items()):
            return kind
    return None


def _used(p: Parting) -> Causes:
    """Name clipping and factors between the gradient and what the moments show of it."""
    before, (left, right) = p.state("optimizer state"), p.both("optimizer state")
    slot = next((s for s in (_FIRST, _MOMENTUM) if _of(s, left)), None)
    if slot is None:
        return
    first = [_of(slot, arrays) for arrays in (left, right)]
    earlier = _of(slot, before[0])
    empty = not earlier or not joined(earlier).any()
    betas = [_constant(p, side, slot) for side in (0, 1)]
    if empty:
        ratio = factor(joined(first[1]), joined(first[0]))
        squares = [_of(_SECOND, arrays) for arrays in (left, right)]
        if p.explains({n: ratio * a for n, a in first[0].items()}, first[1], first[0]) and abs(ratio - 1) > p.tolerance:
            if squares[0] and not p.explains({n: ratio**2 * a for n, a in squares[0].items()}, squares[1], squares[0]):
                return
            if betas[0] is not None and betas[1] is not None and abs(betas[0] - betas[1]) > 1e-6:
                return
            yield _of_factor(p, ratio)
            return
    gradients = p.both("gradients")
    differ = betas[0] is not None and betas[1] is not None and abs(betas[0] - betas[1]) > _SAME[p.precision]
    if not gradients[0] or differ:
        return
    for side in (0, 1):
        beta = next((b for b in (betas[1 - side], betas[side], 0.9) if b is not None), 0.9)
        share = 1 - beta if slot == _FIRST else 1.0
        if all(n in gradients[side] for n in first[side]):
            raw = {n: gradients[side][n] for n in first[side]}
            used = {n: (a - beta * earlier.get(n, 0.0)) / share for n, a in first[side].items()}
            if (rule := clipping(p, raw, used)) is not None:
                other = {n: (a - beta * earlier.get(n, 0.0)) / share for n, a in first[1 - side].items()}
                theirs = clipping(p, raw, other)
                if theirs == rule:
                    return
                rest = " only" if theirs is None else f", and {theirs} in {SIDES[1 - side]}"
                yield Cause(f"the gradients are clipped {rule} in {SIDES[side]}{rest}", "clipping", CLIP)
                return


def _of_factor(p: Parting, ratio: float) -> Cause:
    gradients = p.both("gradients")[0]
    if gradients:
        norm = float(np.sqrt((joined(gradients) ** 2).sum()))
        limit = norm * min(ratio, 1 / ratio)
        if abs(float(f"{limit:.2g}") - limit) <= 1e-6 * limit:
            side = int(ratio < 1)
            text = f"the gradients are clipped to a norm of {limit:.4g} (from {norm:.4g}) in {SIDES[side]} only"
            return Cause(text, "clipping", CLIP, *sided(side, limit, None))
    k = round(max(ratio, 1 / ratio))
    exact = k > 1 and abs(max(ratio, 1 / ratio) - k) < 1e-6 * k
    text = (
        f"the optimizer gets {k if exact else figure(max(ratio, 1 / ratio))} times the gradient in "
        f"{SIDES[int(ratio > 1)]}"
    )
    text += ": a sum of batches or micro-batches for their mean, or another scale of the loss" if exact else ""
    return Cause(text, "gradient-scaled", f"multiply the gradient in JAX by {figure(ratio)}", 1.0, ratio)


def _constant(p: Parting, side: int, slot: str) -> float | None:
    """Return beta1 or the momentum of a run, from a step that has one before it."""
    for step in range(max(p.step, 1), len(p.runs[side])):
        before, after = p.runs[side].get(step - 1), p.runs[side].get(step)
        fit = None if before is None or after is None else _moment(p, slot, before, after)
        if fit is not None:
            return fit[0]
    return None


def _moment(p: Parting, slot: str, before: Record, after: Record) -> tuple[float, float, dict[str, float]] | None:
    """Fit a first moment: the share of the one before, that of the gradient, and that of each array's weights."""
    old, new = (_wide(_of(slot, record.get("optimizer state", {}))) for record in (before, after))
    gradient, weights = _wide(after.get("gradients", {})), _wide(before.get("parameters", {}))
    names = [n for n in new if n in old and n in gradient and n in weights]
    if not names or not any(old[n].any() for n in names):
        return None
    fit = _fitted({n: new[n] for n in names}, [old, gradient], weights, _NEAR[p.precision])
    return None if fit is None else (fit[0][0], fit[0][1], fit[1])


def _rule(p: Parting, side: int) -> Rule | None:
    """Identify the optimizer of a run at the step in which the runs part, or at the next one that has one before it."""
    run = p.runs[side]
    at = max(p.step, 1)
    before, after = run.get(at - 1), run.get(at)
    if before is None or after is None:
        return None
    weights, moved = _wide(before.get("parameters", {})), _wide(after.get("parameters", {}))
    gradient = _wide(after.get("gradients", {}))
    state = _wide(after.get("optimizer state", {}))
    old = _wide(before.get("optimizer state", {}))
    names = [n for n in weights if n in moved and n in gradient]
    if not names:
        return None
    steps = {n: moved[n] - weights[n] for n in names}
    if _of(_FIRST, state):
        return _adam(p, before, after, weights, gradient, steps, _of(_SECOND, old), _of(_SECOND, state), at, moved)
    if buffers := _of(_MOMENTUM, state):
        fit = _moment(p, _MOMENTUM, before, after)
        if fit is None:
            return None
        momentum, share, coupled = fit
        used = {n: gradient[n] + coupled.get(n, 0.0) / share * weights[n] for n in names}
        made = _fitted(steps, [buffers, used], weights, _NEAR[p.precision])
        if made is None:
            rates, owns = _each(steps, buffers, weights, _NEAR[p.precision])
            known = {"rates": rates, "decoupled": _shared(owns, rates), "nesterov": False} if rates else {}
            return Rule(momentum=momentum, dampening=1 - share, coupled=_tidy(coupled, share), **known)
        (of_buffer, of_gradient), own = made
        rate = -of_buffer - of_gradient
        nesterov = abs(of_gradient) > 1e-6 * abs(rate)
        if nesterov:
            rate = -of_gradient
        return Rule(
            momentum=momentum,
            dampening=1 - share,
            coupled=_tidy(coupled, share),
            decoupled=_tidy(own, -rate),
            nesterov=nesterov,
            rate=rate,
        )
    made = _fitted(steps, [gradient], weights, _NEAR[p.precision])
    if made is None:
        rates, owns = _each(steps, gradient, weights, _NEAR[p.precision])
        return Rule(coupled=_shared(owns, rates), rates=rates) if rates else None
    rate = -made[0][0]
    return Rule(coupled=_tidy(made[1], -rate), rate=rate)


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
    fit = _moment(p, _FIRST, before, after)
    if fit is None:
        return None
    beta1, share, coupled = fit
    scale = share / (1 - beta1)
    used = {n: scale * gradient[n] + coupled.get(n, 0.0) / (1 - beta1) * weights[n] for n in square if n in gradient}
    second = _fitted(square, [old, {n: a**2 for n, a in used.items()}], None, _NEAR[p.precision])
    beta2 = None if second is None else second[0][0]
    largest, amsgrad = _of(_LARGEST, _wide(after["optimizer state"])), ""
    if largest and beta2 is not None:
        amsgrad = _kind(_of(_LARGEST, _wide(before["optimizer state"])), largest, square, beta2, at + 1) or ""
    rule = Rule(amsgrad=amsgrad, beta1=beta1, beta2=beta2, gradient=scale, coupled=_tidy(coupled, share))
    if beta2 is None:
        return rule
    first = _of(_FIRST, _wide(after["optimizer state"]))
    updates = sum(bool(digest.changed) for digest in p.runs[0].digests[: at + 1])
    known = next(iter(after.get("learning rate", {}).values()), None)
    fits: list[Rule] = []
    near: list[tuple[float, Rule]] = []
    for corrected, t in itertools.product((True, False), {at + 1, updates}):
        c1, c2 = (1 - beta1**t, 1 - beta2**t) if corrected else (1.0, 1.0)
        means = {n: first[n] / c1 for n in steps if n in first and n in square}
        squares = {n: square[n] / c2 for n in means}
        if largest:
            squares = {n: largest[n] / (1.0 if amsgrad == _CORRECTED else c2) for n in means if n in largest}
        for place, eps in (*_places(), *_solved(steps, means, squares, known)):
            made = _fitted(
                {n: steps[n] for n in means},
                [{n: means[n] / _root(squares[n], place, eps, c2) for n in means}],
                weights,
                _NEAR[p.precision],
            )
            if made is None:
                rates, owns = _each(steps, {n: means[n] / _root(squares[n], place, eps, c2) for n in squares}, weights,
                                    _NEAR[p.precision])  # fmt: skip
                if rates:
                    rest = _shared(owns, rates)
                    fits.append(rule._replace(eps=(place, eps), corrected=corrected, rates=rates, decoupled=rest))
                continue
            rate = -made[0][0]
            rest = _tidy(made[1], -rate)
            fits.append(rule._replace(eps=(place, eps), corrected=corrected, rate=rate, decoupled=rest))
            if known is None or abs(rate - float(known)) <= 1e-5 * abs(rate):  # without the correction, a step is one
                if p.precision == "float64":  # of another rate with it
                    return fits[-1]
                columns = {n: means[n] / _root(squares[n], place, eps, c2) for n in means}
                near.append((_residual(steps, columns, rate, made[1], weights), fits[-1]))
    if near:  # rounding hides a small eps: the usual one is taken unless another is nearer by far
        best = min(residual for residual, _ in near)
        return next(rule for residual, rule in near if residual <= 2 * best)
    return fits[0] if fits else rule


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


def _rounded_rate(p: Parting, rules: Sequence[Rule | None]) -> Causes:
    """Name a learning rate that one run rounds to float32, as a schedule of optax does whose count is int32."""
    at = max(p.step, 1)
    rate = next(iter(p.runs[1].figure("learning rate", at).values()), None) if len(p.runs[1]) > at else None
    if rate is None or p.dtype != "float64" or rate.ndim:
        return
    error = float(np.float32(rate)) - float(rate)
    near = [
        None if rule is None or rule.rate is None or not error else (rule.rate - float(rate)) / error for rule in rules
    ]
    for side in (0, 1):
        mine, other = near[side], near[1 - side]
        if mine is not None and other is not None and abs(mine - 1) < 0.05 and abs(other) < 0.05:
            text = f"the learning rate is rounded to float32 in {SIDES[side]}, where the step uses it"
            remedy = "compute JAX's learning rate in {torch}: optax counts steps in int32"
            yield Cause(text, "learning-rate-precision", remedy, *sided(side, "float32", "float64"))
            return


def _places() -> Iterator[tuple[str, float]]:
    for eps in _EPS:
        for place in ("outside the root", "inside the root", "before the correction"):
            yield place, eps


def _differences(p: Parting, left: Rule, right: Rule) -> Causes:
    """Name the parts in which two rules differ, in the order in which a step uses them."""
    found: list[Cause] = []

    def numbers(name: str, kind: str, a: float | None, b: float | None) -> None:
        if a is not None and b is not None and abs(a - b) > _SAME[p.precision] * max(abs(a), abs(b), 1e-3):
            values = float(_rounded(a)), float(_rounded(b))
            text = f"{name} is {_rounded(a)} in {SIDES[0]} and {_rounded(b)} in {SIDES[1]}"
            found.append(Cause(text, kind, f"set {name} to {{torch}} in JAX", *values))

    numbers("the factor of the gradient in the optimizer", "gradient-scaled", left.gradient, right.gradient)
    known = left.decoupled is not None and right.decoupled is not None
    moved = known and left.coupled and right.decoupled and not left.decoupled and not right.coupled
    other = known and right.coupled and left.decoupled and not right.decoupled and not left.coupled
    if moved or other:
        side = int(bool(moved))
        text = (
            f"the weight decay is decoupled (AdamW) in {SIDES[side]} and added to the gradient (L2) in "
            f"{SIDES[1 - side]}"
        )
        remedy = "let JAX's weight decay be {torch}: optax.adamw decouples it, optax.add_decayed_weights adds it"
        found.append(Cause(text, "weight-decay-coupling", remedy, *sided(side, "decoupled", "added to the gradient")))
    else:
        for a, b, how in (
            (left.coupled, right.coupled, "added to the gradient"),
            (left.decoupled, right.decoupled, "decoupled"),
        ):
            if a is not None and b is not None:
                found += _decays(dict(a), dict(b), how, p)
    numbers("beta1", "betas", left.beta1, right.beta1)
    numbers("beta2", "betas", left.beta2, right.beta2)
    numbers("the momentum", "momentum", left.momentum, right.momentum)
    numbers("the dampening", "dampening", left.dampening, right.dampening)
    if left.nesterov is not None and right.nesterov is not None and left.nesterov != right.nesterov:
        text = f"Nesterov's momentum in {SIDES[int(right.nesterov)]} only"
        found.append(Cause(text, "nesterov", "pass nesterov={torch} to optax", left.nesterov, right.nesterov))
    if left.corrected is not None and right.corrected is not None and left.corrected != right.corrected:
        text, remedy = f"Adam's bias correction is missing in {SIDES[int(left.corrected)]}", "correct the bias in both"
        found.append(Cause(text, "bias-correction", remedy, left.corrected, right.corrected))
    if left.eps is not None and right.eps is not None and left.eps != right.eps:
        shown = [f"{eps:g} {place}" for place, eps in (left.eps, right.eps)]
        text = f"the optimizer's eps is {shown[0]} in {SIDES[0]} and {shown[1]} in {SIDES[1]}"
        found.append(Cause(text, "optimizer-eps", "pass optax an eps of {torch}", *shown))
    if not found:
        found += _rounded_rate(p, (left, right))
    if not found:
        found += _rates(p, left, right)
    if found:
        yield together(found)


def _rates(p: Parting, left: Rule, right: Rule) -> list[Cause]:
    """Name the learning rates that two rules use, of all arrays or of groups of them."""
    names = [n for n, _ in left.rates or right.rates]
    both = [dict(rule.rates) or dict.fromkeys(names, rule.rate) for rule in (left, right)]
    if not names:
        both = [{"": rule.rate} for rule in (left, right)]
    if any(rate is None for rates in both for rate in rates.values()):
        return []
    return _by_group(p, "the learning rate that the step uses", "learning-rate", *both)  # type: ignore[arg-type]


def _by_group(p: Parting, what: str, kind: str, left: dict[str, float], right: dict[str, float]) -> list[Cause]:
    """Name a setting that differs in a group of arrays, or is exchanged between two groups."""
    near = 10 * _SAME[p.precision]

    def same(a: float, b: float) -> bool:
        return abs(a - b) <= near * max(abs(a), abs(b))

    wrong = [n for n in left if n in right and not same(left[n], right[n])]
    if not wrong:
        return []
    groups: dict[tuple[str, str], list[str]] = {}
    for n in wrong:
        groups.setdefault((f"{left[n]:.3g}", f"{right[n]:.3g}"), []).append(n)
    shown = [f"{a} in {SIDES[0]} and {b} in {SIDES[1]}" + (f" of {several(ns)}" if ns != [""] else "")
             for (a, b), ns in groups.items()]  # fmt: skip
    pairs = list(groups)
    text = f"{what} is {', '.join(shown)}"
    if len(pairs) == 2 and pairs[0] == pairs[1][::-1]:
        text += ": the two groups are exchanged"
    if wrong == [""]:
        return [Cause(text, kind, "let JAX's step use {torch}", left[""], right[""])]
    return [Cause(text, "group-rates", "give each group in JAX the settings of its group in PyTorch", left, right)]


def _decays(left: dict[str, float], right: dict[str, float], how: str, p: Parting) -> list[Cause]:
    if left == right == {}:
        return []
    sizes = [float(np.median(list(d.values()))) if d else 0.0 for d in (left, right)]
    every = [n for n in p.state("parameters")[0] if p.state("parameters")[0][n].any()]
    only = [[n for n in left if n not in right], [n for n in right if n not in left]]
    if left and right and (only[0] or only[1]):
        parts = [f"of {several(names)} in {SIDES[i]} only" for i, names in enumerate(only) if names]
        text = f"the weight decay of {_rounded(sizes[0] or sizes[1])}, {how}, is {', and '.join(parts)}"
        return [Cause(text, "weight-decay-tensors", _MASK, list(left), list(right))]
    if only[0] or only[1]:
        side = int(bool(only[1]))
        rest = [n for n in every if n not in only[side]]
        which = "all tensors" if not rest else f"{several(only[side])}, not of {several(rest)}"
        text = f"the weight decay, {how}, is in {SIDES[side]} only: {_rounded(sizes[side])} of {which}"
        kind = "weight-decay-tensors" if rest else "weight-decay"
        values = (list(left), list(right)) if rest else tuple(float(_rounded(size)) for size in sizes)
        return [Cause(text, kind, _MASK if rest else "decay the weights by {torch} in JAX", *values)]
    if any(np.ptp(list(d.values())) > 0.1 * size for d, size in zip((left, right), sizes, strict=True) if d):
        return _by_group(p, f"the weight decay, {how},", "weight-decay", left, right)
    if abs(sizes[0] - sizes[1]) > 10 * _SAME[p.precision] * max(sizes):
        text = f"the weight decay, {how}, is {_rounded(sizes[0])} in {SIDES[0]} and {_rounded(sizes[1])} in {SIDES[1]}"
        values = tuple(float(_rounded(size)) for size in sizes)
        return [Cause(text, "weight-decay", "decay the weights by {torch} in JAX", *values)]
    return []


def _fitted(
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
    return [float(f) for f in factors], owns


def _each(
    target: Arrays, column: Arrays, own: Arrays, near: float
) -> tuple[tuple[tuple[str, float], ...], dict[str, float]]:
    """Fit the learning rate of each array for itself, and the share of its own; nothing where one has no fit."""
    rates, owns = {}, {}
    for n in target:
        if n not in column or not target[n].any():
            continue
        made = _fitted({n: target[n]}, [{n: column[n]}], own, near)
        if made is None:
            return (), {}
        rates[n] = -made[0][0]
        owns |= made[1]
    return tuple(rates.items()), owns


def _shared(owns: dict[str, float], rates: tuple[tuple[str, float], ...]) -> tuple[tuple[str, float], ...]:
    """Return the factors of each array over its learning rate, without those that are rounding."""
    found = {n: -owns[n] / rate for n, rate in rates if n in owns and rate}
    largest = max(map(abs, found.values()), default=0.0)
    return tuple((n, c) for n, c in found.items() if abs(c) > 1e-3 * largest)


def _tidy(factors: dict[str, float], share: float) -> tuple[tuple[str, float], ...]:
    """Return the factors of each array over a share, without those that are rounding."""
    found = {n: c / share for n, c in factors.items()} if share else {}
    largest = max(map(abs, found.values()), default=0.0)
    return tuple((n, c) for n, c in found.items() if abs(c) > 1e-3 * largest)


def _of(slot: str, arrays: Any) -> Arrays:
    return {n.removeprefix(f"{slot} of "): _float(a) for n, a in arrays.items() if n.startswith(f"{slot} of ")}


def _wide(arrays: Any) -> Arrays:
    return {n: _float(a) for n, a in arrays.items()}


def _float(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float64)


def _rounded(value: float) -> str:
    return f"{value if abs(value) > 1e-7 else 0.0:.4g}"


def _correction(ratio: float, t: int) -> str:
    for b1, b2 in ((0.9, 0.999), (0.9, 0.95), (0.9, 0.99)):
        c = np.sqrt(1 - b2**t) / (1 - b1**t)
        if abs(c - 1) > 1e-2 and min(abs(ratio / c - 1), abs(ratio * c - 1)) < 1e-4:
            return f": Adam's bias correction is missing in {SIDES[int(abs(ratio / c - 1) >= 1e-4)]}"
    return ""
