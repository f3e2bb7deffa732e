"""Known faults in a learning-rate schedule."""

import numpy as np

from parity_tests.harness.causes import Cause
from parity_tests.harness.loops.causes.parting import Causes, Parting, figure, sided
from parity_tests.harness.loops.records import SIDES

_LEAST = 3  # steps, before a pattern means anything
_SAME = 1e-5  # factors of a rate


def of_schedule(p: Parting) -> Causes:
    """Name how the learning rates of all steps are related."""
    name = p.parted.name
    yield from _exchanged(p)
    found = [[run.figure("learning rate", t).get(name) for t in range(len(run))] for run in p.runs]
    if any(rate is None or rate.ndim for run in found for rate in run):
        return
    left, right = (np.array([float(rate) for rate in run]) for run in found)  # type: ignore[arg-type]
    n = len(left)

    def same(a: np.ndarray, b: np.ndarray) -> bool:
        return bool(np.allclose(a, b, rtol=max(p.tolerance, 1e-6 if p.precision == "float32" else 0), atol=0))

    for shift in (1, 2):
        for ahead, (a, b) in enumerate(((left, right), (right, left))):
            # a has at step t what b has `shift` steps later
            if n - shift >= _LEAST and np.ptp(a[:-shift]) and same(a[:-shift], b[shift:]):
                yield Cause(
                    f"the schedule of {SIDES[1 - ahead]} is {shift} step{'s' * (shift > 1)} late: it has "
                    f"{SIDES[ahead]}'s learning rate of step t at step t + {shift}",
                    "schedule-shift",
                    f"evaluate JAX's schedule at step t {'+' if ahead else '-'} {shift}",
                    *sided(ahead, 0, shift),
                )
                return
    if left.all() and same(right / left, np.full(n, right[0] / left[0])):
        text = f"the learning rate is {figure(right[0] / left[0])} times as large in {SIDES[1]}, at every step"
        remedy = "set JAX's learning rate to {torch} at this step"
        yield Cause(text, "learning-rate", remedy, float(left[p.step]), float(right[p.step]))
        return
    for side, (a, b) in enumerate(((left, right), (right, left))):
        for k in range(2, n):
            if _advances(a, b, k) and (same(a[np.arange(n) // k * k], b) or same(a[np.arange(n) // k], b)):
                yield Cause(
                    f"the schedule advances with each step in {SIDES[side]} and once in {k} steps in "
                    f"{SIDES[1 - side]}: an epoch, or an accumulation",
                    "schedule-interval",
                    "advance JAX's schedule once in {torch} steps",
                    *sided(side, 1, k),
                )
                return
    lengths = [_warm(run) for run in (left, right)]
    if lengths[0] != lengths[1] and _warm_up_alone(left, right, max(lengths)):
        if min(lengths) <= 1:
            side = int(lengths[0] > lengths[1])
            text = f"{SIDES[side]} has no warm-up, and {SIDES[1 - side]} one of {max(lengths)} steps"
            values = sided(side, 0, max(lengths))
        else:
            text = f"the warm-up takes {lengths[0]} steps in {SIDES[0]} and {lengths[1]} in {SIDES[1]}"
            values = (lengths[0], lengths[1])
        yield Cause(text, "warm-up", "warm JAX's learning rate up for {torch} steps", *values)
        return
    periods = [_cosine(run) for run in (left, right)]
    if None not in periods and not same(np.array(periods[:1]), np.array(periods[1:])):
        text = f"the cosine takes {figure(periods[0])} steps in {SIDES[0]} and {figure(periods[1])} in {SIDES[1]}"  # type: ignore[arg-type]
        yield Cause(text, "cosine-length", "let JAX's cosine take {torch} steps", periods[0], periods[1])
    elif found := _floor(left, right) or _dropped(left, right):
        yield found


def _floor(left: np.ndarray, right: np.ndarray) -> Cause | None:
    """Name a cosine that ends above zero in one run only."""
    start = int(np.flatnonzero(np.isclose(right, right.max(), rtol=1e-9))[-1])
    if not (left.max() == left[start] > 0 and right[start] > 0 and len(left) >= start + _LEAST):
        return None
    shapes = [run[start:] / run[start] for run in (left, right)]
    for side, (a, b) in enumerate((shapes, shapes[::-1])):
        share = float(((a - b) @ (1 - b)) / ((1 - b) @ (1 - b))) if b[-1] < 1 else 0.0
        if _SAME < share < 1 and _cosine(b) is not None and np.allclose(a, share + (1 - share) * b, rtol=1e-6, atol=0):
            text = f"the cosine ends at {figure(share)} times its largest learning rate in {SIDES[side]} and at 0 in "
            remedy = "let JAX's cosine end at {torch} times its largest learning rate"
            return Cause(f"{text}{SIDES[1 - side]}", "cosine-end", remedy, *sided(side, share, 0.0))
    return None


def _advances(each: np.ndarray, once: np.ndarray, interval: int) -> bool:
    """Return whether rates change step by step within several intervals, and those of the other run between them."""
    changes = {int(t) + 1 for t in np.flatnonzero(np.diff(each))}
    inside = {t // interval for t in changes if t % interval}
    return bool(np.ptp(once)) and len(inside) > 1 and any(t + 1 in changes for t in changes)


def _dropped(left: np.ndarray, right: np.ndarray) -> Cause | None:
    """Name the first step at which the rate changes by another factor than in the other run, or in one run only."""
    if not (left.all() and right.all()) or not np.isclose(left[0], right[0], rtol=_SAME, atol=0):
        return None
    factors = left[1:] / left[:-1], right[1:] / right[:-1]
    apart = np.flatnonzero(np.abs(factors[0] - factors[1]) > _SAME)
    if not len(apart):
        return None
    step = int(apart[0]) + 1
    now = [float(run[step - 1]) for run in factors]
    if len(left) > _LEAST:
        for what, runs in (("is multiplied by", factors), ("changes by", (np.diff(left), np.diff(right)))):
            if all(np.ptp(run) <= _SAME * np.abs(run).max() for run in runs):
                values = float(runs[0][0]), float(runs[1][0])
                text = f"the learning rate {what} {figure(values[0])} a step in {SIDES[0]} and {figure(values[1])} in"
                return Cause(
                    f"{text} {SIDES[1]}", "schedule-change", "let JAX's learning rate change by {torch}", *values
                )
    if any(2 * np.count_nonzero(np.abs(run - 1) > _SAME) > len(left) for run in factors):
        return None
    if all(abs(f - 1) > _SAME for f in now):
        text = f"the learning rate changes to {figure(now[0])} of itself in {SIDES[0]} and to {figure(now[1])} of "
        text += f"itself in {SIDES[1]} at step {step}"
        return Cause(text, "schedule-change", "multiply JAX's learning rate by {torch} there", *now)
    side = int(abs(now[0] - 1) <= _SAME)  # whose rate changes
    others = np.flatnonzero(np.abs(factors[1 - side] - now[side]) <= _SAME) + 1
    later = f"at step {others[0]}" if len(others) else "at no later step that is compared"
    text = f"the learning rate changes to {figure(now[side])} of itself at step {step} in {SIDES[side]} and {later} in"
    values = sided(side, step, int(others[0]) if len(others) else None)
    return Cause(
        f"{text} {SIDES[1 - side]}", "schedule-change", "change JAX's learning rate at the same steps", *values
    )


def _exchanged(p: Parting) -> Causes:
    """Name two groups that have each other's learning rate."""
    left, right = p.both("learning rate")
    wrong = p.wrong("learning rate")
    if len(wrong) == 2 and all(left[a] == right[b] for a, b in (wrong, wrong[::-1])):
        a, b = wrong
        text = f"the learning rates of {a} and {b} are exchanged: {figure(float(left[a].ravel()[0]))} of {a} in JAX"
        yield Cause(text, "group-rates", "give each group in JAX the learning rate of its group in PyTorch")


def _warm(rates: np.ndarray) -> int:
    """Return how many steps the rate rises by the same amount from its first value on."""
    rises = np.diff(rates)
    if not len(rises) or rises[0] <= 0:
        return 0
    others = np.flatnonzero(~np.isclose(rises, rises[0], rtol=1e-5, atol=0))
    return int(others[0] if len(others) else len(rises)) + 1


def _warm_up_alone(left: np.ndarray, right: np.ndarray, length: int) -> bool:
    """Return whether the rates are the same after the longer warm-up, or a cosine that starts there."""
    same = np.allclose(left[length:], right[length:], rtol=1e-6)
    return length < len(left) and bool(same or np.isclose(left.max(), right.max()))


def _cosine(rates: np.ndarray) -> float | None:
    """Return after how many steps a cosine from the largest rate ends at zero, None where it is none."""
    start = int(np.flatnonzero(np.isclose(rates, rates.max(), rtol=1e-9))[-1])
    after = rates[start:]
    if len(after) < 4 or not after[0] > 0:
        return None
    phase = np.arccos(np.clip(2 * after / after[0] - 1, -1, 1)) / np.pi
    t = np.arange(len(after))
    slope = float(phase @ t) / float(t @ t)
    return 1 / slope if slope > 0 and np.allclose(phase, slope * t, atol=1e-6) else None
