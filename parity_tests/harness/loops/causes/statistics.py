"""Known faults in running statistics."""

import numpy as np

from parity_tests.harness.causes import Cause
from parity_tests.harness.loops.causes.parting import Causes, Parting, factor, figure, joined, sided
from parity_tests.harness.loops.records import SIDES


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
        times = f"{ratio:.3g}" if p.half else figure(ratio)
        yield Cause(
            f"the momentum of the running statistics: they move {times} times as far in {SIDES[1]} (0.1 in PyTorch is "
            "0.9 in Flax)",
            "batch-norm-momentum",
            f"multiply 1 - momentum of the Flax layer by {times}",
        )
        return
    variances = [n for n, a in before.items() if n.rpartition(".")[2] in ("running_var", "var")]
    means = [n for n in before if n not in variances]
    ratio = factor(*(joined({n: m[n] for n in means}) for m in reversed(moved))) if means else 1.0
    if p.half and p.explains({n: left[n] for n in means}, {n: right[n] for n in means}, left):
        ratio = 1.0  # but for rounding
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
            times = f"{ratio:.3g}" if p.half else figure(ratio)
            other_momentum = "" if abs(ratio - 1) < 1e-6 else f", and the momentum differs: {times} times"
            n = f"n about {float(f'{count:.2g}'):g}" if p.half else f"n = {round(count)}"
            yield Cause(
                f"the running variance is the unbiased one in {SIDES[1 - side]}, n / (n - 1) times with {n}, and not "
                f"in {SIDES[side]}{other_momentum}",
                "biased-variance",
                "let the running variance be the {torch} one in JAX",
                *sided(side, "biased", "unbiased"),
            )
            return
