"""Known faults in a moving average of the parameters."""

import numpy as np

from parity_tests.harness.causes import Cause
from parity_tests.harness.loops.causes.parting import Causes, Parting, factor, joined, sided
from parity_tests.harness.loops.naming import Record
from parity_tests.harness.loops.records import SIDES, Arrays

_NEAR = {"float64": 1e-9, "float32": 1e-3}
_DECAYS = (0.9, 0.99, 0.999, 0.9999, 0.95, 0.995, 0.5, 0.8)


def of_average(p: Parting) -> Causes:
    """Name the decay, the start, the weights that are averaged, a bias correction, what is left out."""
    left, right = p.both("EMA")
    near = _NEAR[p.precision]
    yield from _statistics(p, left, right)
    for this, (a, b) in enumerate(((left, right), (right, left))):
        ratio = factor(joined(b), joined(a))
        if p.explains({n: ratio * x for n, x in a.items()}, b, a):
            power = next((d for d in _DECAYS if abs(ratio * (1 - d ** (p.step + 1)) - 1) < near), None)
            if power is not None:
                yield Cause(
                    f"the average is divided by 1 - {power:g}^t in {SIDES[1 - this]} only: the bias correction of an "
                    "average that starts at zero",
                    "average-bias-correction",
                    "correct the bias of the average in both or in neither",
                    *sided(this, False, True),
                )
                return
    for step in dict.fromkeys((max(p.step, 1), p.step)):  # the first step may hide which weights are averaged
        kinds = [_kind(p, side, step) for side in (0, 1)]
        if all(kinds) and kinds[0] != kinds[1]:
            at = "" if step == p.step else f", as step {step} shows"
            text = f"the average {kinds[0]} in {SIDES[0]}, and {kinds[1]} in {SIDES[1]}{at}"
            yield Cause(text, "average-update", "update JAX's average as PyTorch's, which {torch}", kinds[0], kinds[1])
            return


def _kind(p: Parting, side: int, step: int) -> str | None:
    """Say how a run updates its average at a step."""
    run = p.runs[side]
    before, after = run.get(step - 1) if step else p.before[side], run.get(step)
    if before is None or after is None:
        return None
    old, new = before.get("EMA", {}), after.get("EMA", {})
    weights, near = _weights(after), _NEAR[p.precision]
    if old and all(np.array_equal(new[n], old[n]) for n in new if n in old):
        return "isn't updated (it starts later, or is updated at some steps only)"
    if all(n in weights and np.allclose(new[n], weights[n], rtol=near * 1e-3) for n in new):
        return "is a copy of the weights (it hasn't started yet)"
    for when, record in (("", after), (" and averages the weights before the step", before)):
        weights = _weights(record)
        names = [n for n in new if n in old and n in weights]
        moved = joined({n: new[n].astype(float) - old[n] for n in names})
        apart = joined({n: weights[n].astype(float) - old[n] for n in names})
        share = factor(moved, apart)
        if share != share or np.abs(moved - share * apart).max() > near * np.abs(moved).max():
            continue
        decay = 1 - share
        later = next((d for d in (0, 1, -1) if abs(decay - (1 + step + d) / (10 + step + d)) < near), None)
        if later is not None:
            return f"has at step t the decay ({1 + later} + t) / ({10 + later} + t), which warms up{when}"
        digits = 6 if p.precision == "float64" else 3
        return f"has the decay {decay:.{digits}g}{when}"
    return None


def _statistics(p: Parting, left: Arrays, right: Arrays) -> Causes:
    """Running statistics that one run copies and the other averages."""
    statistics = [record.get("running statistics", {}) for record in p.at]
    names = [n for n in left if n in statistics[0]]
    rest = [n for n in left if n not in names]
    if not names or not all(p.explained(left[n], right[n], right[n]) for n in rest):
        return
    copies = [
        all(np.array_equal(p.at[i]["EMA"][n], statistics[i][n]) for n in names if n in statistics[i]) for i in (0, 1)
    ]
    if copies[0] != copies[1]:
        yield Cause(
            f"running statistics are copied into the average in {SIDES[copies.index(True)]} and averaged in "
            f"{SIDES[copies.index(False)]}",
            "average-statistics",
            "let JAX's average hold the running statistics {torch}",
            *("copied" if one else "averaged" for one in copies),
        )


def _weights(record: Record) -> Arrays:
    return {**record.get("parameters", {}), **record.get("running statistics", {})}
