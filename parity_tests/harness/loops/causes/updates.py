"""Known faults in what an optimizer does with a gradient.

What each run does is identified from its own numbers, by least squares over its arrays; two runs whose rules are known
and differ in one part differ by this part.
"""

from collections.abc import Sequence

import numpy as np

from parity_tests.harness.causes import Cause
from parity_tests.harness.loops import judging
from parity_tests.harness.loops.causes.fitting import FIRST, LARGEST, MOMENTUM, SAME, SECOND, SQUARES, STATES, slots_of
from parity_tests.harness.loops.causes.forward import CLIP, clipped_to, clipping, penalty
from parity_tests.harness.loops.causes.parting import Causes, Parting, factor, figure, joined, several, sided
from parity_tests.harness.loops.causes.rules import CORRECTED, NONE, PLAIN, beta_of, largest_of, rule_of
from parity_tests.harness.loops.causes.settings import differences
from parity_tests.harness.loops.records import SIDES, Arrays


def of_optimizer(p: Parting) -> Causes:
    """Name in which part the optimizers of both runs differ."""
    yield from _how_often(p)
    yield from _left_out(p)
    yield from _of_kind(p)
    yield from _of_largest(p)
    yield from _used(p)
    left, right = rule_of(p, 0), rule_of(p, 1)
    if left is not None and right is not None:
        yield from differences(p, left, right)
    yield from _in_some(p)


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
        side = int(ratio < 1)
        if cause := clipped_to(p, side, min(ratio, 1 / ratio), p.both("gradients")[side]):
            yield cause
        elif p.agrees("learning rate"):
            t = p.step + 1
            correction = _correction(ratio, t)
            text = f"the step of {SIDES[1]} is {figure(ratio)} times as long at the same learning rate{correction}"
            yield Cause(text, "bias-correction" if correction else "step-scaled")
        else:
            text = f"the step is {figure(ratio)} times as long in {SIDES[1]}: the learning rate"
            yield Cause(text, "learning-rate", f"multiply JAX's learning rate by {figure(ratio)}", 1.0, ratio)


def _in_some(p: Parting) -> Causes:
    """Name the same of the tensors whose moments differ alone, as of a group or of one of several optimizers.

    Without moments a rate and a decay would be fitted to few numbers, which fit too easily.
    """
    if p.parted.quantity != "optimizer state":
        return
    tensors = [*dict.fromkeys(name.rpartition(" of ")[2] for name in p.wrong(p.parted.quantity))]
    part = p.of(tensors)
    left, right = rule_of(part, 0), rule_of(part, 1)
    if left is not None and right is not None:
        yield from (found + f", of {several(tensors)}" for found in differences(part, left, right))


def _of_kind(p: Parting) -> Causes:
    """Name optimizers that keep other state."""
    slots = [{n.partition(" of ")[0] for n in record.get("optimizer state", {})} & {*STATES} for record in p.at]
    if all(slots) and (slots[0] ^ slots[1]) & {FIRST, SECOND, SQUARES}:
        shown = [f"{' and '.join(sorted(one))} in {SIDES[i]}" for i, one in enumerate(slots)]
        text = f"the optimizers are of other kinds: they keep {', '.join(shown)}"
        yield Cause(text, "optimizer-kind", "train both with the same optimizer", *map(sorted, slots))


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
    still = int(bool(both[0][p.step]))  # the run that doesn't
    kept = [record.get("optimizer state", {}) for record in (p.before[still], p.at[still])]
    if any(not np.array_equal(a, kept[0].get(n, np.zeros_like(a))) for n, a in kept[1].items()):
        text = (
            f"step {p.step} leaves the parameters as they are in {SIDES[still]} only, and its optimizer takes in the "
            "gradient: a learning rate of 0, as of a warm-up that starts at 0"
        )
        yield Cause(text, "learning-rate", "use the learning rate of PyTorch in this step", *sided(still, 0.0, None))
        return
    yield Cause(
        f"step {p.step} updates the parameters in {SIDES[1 - still]} only: an update that is skipped, or an incomplete "
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
        real = judging.SMALL * max(map(judging.peak, gradients.values()), default=0.0)  # a gradient, not its rounding
        if any(judging.peak(gradients[n]) > real for n in out) and len(still[side]) < len(names):
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
        largest, square = slots_of(LARGEST, state), slots_of(SECOND, state)
        beta2 = _beta2(p, side)
        if not largest:
            found.append(NONE)
        else:
            found.append(
                None if beta2 is None else largest_of(slots_of(LARGEST, old), largest, square, beta2, p.step + 1)
            )
    if found[0] == found[1] or None in found:
        return
    if p.parted.quantity == "optimizer state" and NONE in found:
        return
    shown = [f"{kind} in {SIDES[i]}" for i, kind in enumerate(found)]
    why = ", as optax has it and torch hasn't" if set(found) == {CORRECTED, PLAIN} else ""
    yield Cause(f"amsgrad takes {' and '.join(shown)}{why}", "amsgrad", "let JAX's amsgrad take {torch}", *found)


def _beta2(p: Parting, side: int) -> float | None:
    """Return the beta2 of a run from a step that has one before it."""
    rule = rule_of(p, side)
    return None if rule is None else rule.beta2


def _used(p: Parting) -> Causes:
    """Name clipping and factors between the gradient and what the moments show of it."""
    before, (left, right) = p.state("optimizer state"), p.both("optimizer state")
    slot = next((s for s in (FIRST, MOMENTUM) if slots_of(s, left)), None)
    if slot is None:
        return
    first = [slots_of(slot, arrays) for arrays in (left, right)]
    earlier = slots_of(slot, before[0])
    empty = not earlier or not joined(earlier).any()
    betas = [beta_of(p, side, slot) for side in (0, 1)]
    if empty:
        ratio = factor(joined(first[1]), joined(first[0]))
        squares = [slots_of(SECOND, arrays) for arrays in (left, right)]
        if p.explains({n: ratio * a for n, a in first[0].items()}, first[1], first[0]) and abs(ratio - 1) > p.tolerance:
            if squares[0] and not p.explains({n: ratio**2 * a for n, a in squares[0].items()}, squares[1], squares[0]):
                return
            if betas[0] is not None and betas[1] is not None and abs(betas[0] - betas[1]) > 1e-6:
                return
            yield _of_factor(p, ratio, first)
            return
    gradients = p.both("gradients")
    differ = betas[0] is not None and betas[1] is not None and abs(betas[0] - betas[1]) > SAME[p.precision]
    if not gradients[0] or differ:
        return
    for side in (0, 1):
        beta = next((b for b in (betas[1 - side], betas[side], 0.9) if b is not None), 0.9)
        share = 1 - beta if slot == FIRST else 1.0
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


def _of_factor(p: Parting, ratio: float, first: Sequence[Arrays]) -> Cause:
    """Name a factor of the gradient that the optimizer gets, which is clipping where it makes a norm of round length.

    Args:
        p: Where the runs part.
        ratio: The factor, of PyTorch's.
        first: The first moments or the momentum of both, which are those of this step's gradient alone.
    """
    gradients = [{n: a for n, a in arrays.items() if n in first[0]} for arrays in p.both("gradients")]
    shares = [factor(joined({n: first[i][n] for n in gradients[i]}), joined(gradients[i])) for i in (0, 1)]
    side = int(ratio < 1)
    if gradients[0] and (cause := clipped_to(p, side, shares[side] / shares[1 - side], p.both("gradients")[side])):
        return cause
    k = round(max(ratio, 1 / ratio))
    exact = k > 1 and abs(max(ratio, 1 / ratio) - k) < 1e-6 * k
    text = (
        f"the optimizer gets {k if exact else figure(max(ratio, 1 / ratio))} times the gradient in "
        f"{SIDES[int(ratio > 1)]}"
    )
    text += ": a sum of batches or micro-batches for their mean, or another scale of the loss" if exact else ""
    return Cause(text, "gradient-scaled", f"multiply the gradient in JAX by {figure(ratio)}", 1.0, ratio)


def _correction(ratio: float, t: int) -> str:
    for b1, b2 in ((0.9, 0.999), (0.9, 0.95), (0.9, 0.99)):
        c = np.sqrt(1 - b2**t) / (1 - b1**t)
        if abs(c - 1) > 1e-2 and min(abs(ratio / c - 1), abs(ratio * c - 1)) < 1e-4:
            return f": Adam's bias correction is missing in {SIDES[int(abs(ratio / c - 1) >= 1e-4)]}"
    return ""
