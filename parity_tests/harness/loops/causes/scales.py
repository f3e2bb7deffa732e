"""Known faults in the loss scale of mixed precision, and in steps that it leaves out."""

import itertools

import numpy as np

from parity_tests.harness.causes import Cause
from parity_tests.harness.loops import judging
from parity_tests.harness.loops.causes.parting import Causes, Parting, figure, sided
from parity_tests.harness.loops.history import History
from parity_tests.harness.loops.records import SIDES

_SKIP = "leave a step out in JAX where a gradient is NaN or infinite, as torch.amp.GradScaler does"


def of_scale(p: Parting) -> Causes:
    """Name another first scale, and where one run raises or lowers it otherwise."""
    runs = [np.array([_scale(run, t) for t in range(len(run))]) for run in p.runs]
    if not all(np.isfinite(run).all() and run.all() for run in runs):
        return
    now = runs[0][p.step], runs[1][p.step]
    if p.step == 0:
        text = f"the loss scale starts at {figure(now[0])} in JAX and at {figure(now[1])} in PyTorch"
        yield Cause(text, "loss-scale", "start JAX's loss scale at {torch}", *map(float, now))
        return
    moves = now[0] / runs[0][p.step - 1], now[1] / runs[1][p.step - 1]
    finite = [np.isfinite(run.digests[p.step - 1].norm or 0.0) for run in p.runs]
    if 1.0 not in moves:
        what = "grows" if min(moves) > 1 else "is lowered" if max(moves) < 1 else "changes"
        text = f"the loss scale {what} to {figure(moves[0])} of itself in JAX and to {figure(moves[1])} in PyTorch"
        yield Cause(text, "loss-scale-factor", "multiply JAX's loss scale by {torch} there", *map(float, moves))
        return
    side = int(moves[0] == 1.0)  # which changes its scale
    if moves[side] > 1:
        intervals = [_interval(run) for run in runs]
        shown = [f"after {n} finite steps" if n else "never" for n in intervals]
        text = f"the loss scale grows {shown[0]} in JAX and {shown[1]} in PyTorch"
        yield Cause(text, "loss-scale-interval", "let JAX's loss scale grow after {torch} finite steps", *intervals)
    elif finite[side]:
        text = f"the loss scale of {SIDES[side]} is lowered after step {p.step - 1}, whose gradients are finite"
        yield Cause(text, "loss-scale-factor", "lower the loss scale in both after the same steps")
    else:
        why = "the same" if not finite[1 - side] else "finite"
        text = (
            f"the loss scale of {SIDES[side]} is lowered after step {p.step - 1}, whose gradients are NaN or infinite, "
            f"and that of {SIDES[1 - side]}, whose are {why}, isn't"
        )
        yield Cause(text, "loss-scale-factor", "lower the loss scale in both after the same steps")


def of_skipped(p: Parting) -> Causes:
    """Name a step that one run alone leaves out since its gradients are NaN or infinite."""
    finite = [judging.nonfinite(record, ("gradients",)) is None for record in p.at]
    shown = [f", at a loss scale of {figure(s)}," if (s := _scale(run, p.step)) == s else "" for run in p.runs]
    if finite[0] != finite[1]:
        side = int(finite[0])
        text = (
            f"the gradients of step {p.step} are NaN or infinite in {SIDES[side]}{shown[side]} and finite in "
            f"{SIDES[1 - side]}{shown[1 - side].rstrip(',')}: {SIDES[side]} has to leave this step out"
        )
        yield Cause(text, "not-finite", "take the gradients of both at the same loss scale", *sided(side, False, True))
        return
    changed = [run.digests[p.step].changed for run in p.runs]
    if not any(finite) and changed[0] != changed[1]:
        side = int(not changed[0])  # which takes the step
        text = (
            f"step {p.step}, whose gradients are NaN or infinite in both, is left out in {SIDES[1 - side]} and taken "
            f"in {SIDES[side]}"
        )
        yield Cause(text, "update-skipped", _SKIP, *changed)


def _scale(run: History, step: int) -> float:
    held = run.figure("loss scale", step)
    return float(next(iter(held.values())).ravel()[0]) if held else float("nan")


def _interval(scales: np.ndarray) -> int | None:
    """Return how many steps the scale stays before it first grows."""
    since = 0
    for before, after in itertools.pairwise(scales):
        since += 1
        if after > before:
            return since
        if after < before:
            since = 0
    return None
