"""Say how two runs differ where they part, and find the known fault that reproduces the numbers."""

from collections.abc import Callable

import numpy as np

from parity_tests.harness.causes import Cause
from parity_tests.harness.loops import judging
from parity_tests.harness.loops.causes import averages, data, forward, rates, scales, statistics, updates
from parity_tests.harness.loops.causes.parting import Causes, Parting, factor, figure, joined
from parity_tests.harness.loops.records import SIDES

__all__ = ["Parting", "cause", "difference"]

_CAUSES: dict[str, tuple[Callable[[Parting], Causes], ...]] = {
    "batch": (data.of_values, data.of_batches),
    "inputs": (data.of_values, data.of_batches),
    "learning rate": (rates.of_schedule,),
    "loss scale": (scales.of_scale,),
    "loss in evaluation": (forward.of_evaluation,),
    "loss": (forward.of_loss,),
    "terms": (forward.of_terms,),
    "gradients": (scales.of_skipped, forward.of_gradients),
    "optimizer state": (
        scales.of_skipped,
        updates.of_optimizer,
    ),
    "parameters": (scales.of_skipped, updates.of_optimizer, updates.of_parameters),
    "running statistics": (statistics.of_statistics,),
    "EMA": (averages.of_average,),
}
_ELSEWHERE = {
    "loss in evaluation": "the forward pass differs: compare_modules compares it layer by layer",
    "loss": "the forward pass or the loss differs: compare_modules compares them layer by layer",
    "gradients": "the backward pass differs: compare_modules compares it tensor by tensor",
}


def cause(p: Parting) -> str | None:
    """Return the first known fault that reproduces the numbers, or None."""
    if p.step < 0:
        return _of_start(p)
    for causes in (_in_float32, *_CAUSES[p.parted.quantity]):
        for found in causes(p):
            return found
    return None


def difference(p: Parting) -> str:
    """Say how the worst array differs, with the numbers of both."""
    quantity, name = p.parted.quantity, p.parted.name
    left, right = (record[quantity][name] for record in p.at)
    if left.shape != right.shape:
        return f"It is {list(left.shape)} in JAX and {list(right.shape)} in PyTorch."
    if not left.ndim:
        text = f"{_number(left)} in JAX and {_number(right)} in PyTorch"
    else:
        at = judging.worst_index(left, right)
        place = f", at [{', '.join(map(str, at))}] {_number(left[at])} in JAX and {_number(right[at])} in PyTorch"
        text = f"by {p.parted.size:.1e} of its largest{place}"
    hint = _ELSEWHERE.get(quantity, "")
    return f"It differs: {text}{_ratio(p)}" + (f"; {hint}" if hint and cause(p) is None else "") + "."


def _ratio(p: Parting) -> str:
    left, right = (joined(arrays) for arrays in p.both(p.parted.quantity))
    if left.shape != right.shape or not left.any() or not np.isfinite(left).all() or not np.isfinite(right).all():
        return ""
    ratio = factor(right, left)
    same = judging.difference(right, ratio * left, float(np.abs(right).max(initial=0.0)) or 1.0) <= p.tolerance
    return f"; all of PyTorch's are {figure(ratio)} times JAX's" if same and left.size > 1 else ""


def _in_float32(p: Parting) -> Causes:
    """Numbers that are all float32's in one run of float64, and nearly those of the other."""
    left, right = (record[p.parted.quantity][p.parted.name] for record in p.at)
    if p.dtype != "float64" or p.parted.size > 1e-5 or left.dtype.kind != "f" or right.dtype.kind != "f":
        return
    exact = [bool((array.astype(np.float32) == array).all()) for array in (left, right)]
    if exact[0] != exact[1]:
        what = f"{p.parted.name} of the {p.parted.quantity}" if p.parted.name else f"the {p.parted.quantity}"
        text = f"{what} is computed in float32 in {SIDES[exact.index(True)]} only"
        yield Cause(
            text, "low-precision", "compute it in {torch} in JAX", *("float32" if e else "float64" for e in exact)
        )


def _of_start(p: Parting) -> str | None:
    """Name what the start of the two runs differs by."""
    left, right = p.both(p.parted.quantity)
    wrong = [name for name, size in judging.between(p.parted.quantity, left, right).items() if size > p.tolerance]
    for name in wrong:
        a, b = left[name], right[name]
        if a.ndim == 2 and a.shape == b.shape and p.explained(a.T, b, a):
            return Cause(f"{name} is transposed in {SIDES[1]}", "kernel-transposed", f"transpose {name} in JAX")
    if p.parted.quantity in ("parameters", "EMA"):
        what = "weights" if p.parted.quantity == "parameters" else "averages"
        text = f"the runs start from other {what}: copy one's into the other"
        return Cause(text, "start", f"copy PyTorch's {what} into the JAX run")
    return None


def _number(value: np.ndarray) -> str:
    return f"{value.item():.6g}"
