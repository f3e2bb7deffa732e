"""Say what a comparison of two runs found."""

import jax
import numpy as np
import torch

from parity_tests.harness.findings import Diagnosis, Finding, Layer, Node, Trajectory
from parity_tests.harness.loops import judging, tree
from parity_tests.harness.loops.causes.find import Parting, cause, difference
from parity_tests.harness.loops.comparison import Comparison
from parity_tests.harness.loops.judging import Floor, Parted, of_part
from parity_tests.harness.loops.naming import QUANTITIES
from parity_tests.harness.loops.records import SIDES
from parity_tests.harness.loops.report import RunsReport
from parity_tests.harness.modules.layers.sources import source
from parity_tests.harness.modules.torch_state import whole


def summarised(found: Comparison) -> RunsReport:
    """Return the report of a comparison that is ended."""
    with judging.quiet():
        if found.parted is not None and found.at is not None:
            found.parted = judging.in_turn(found.parted, judging.sizes(*found.at))
        return _report(found)


def _report(c: Comparison) -> RunsReport:
    steps, floor, parted = len(c.apart), c.floor, c.parted
    findings = _findings(c, parted, steps, floor)
    diagnosis = None if parted is None else _diagnosed(c, parted)
    where = (None, None) if parted is None else (parted.step, parted.quantity)
    about = {
        "jax": jax.__version__,
        "torch": torch.__version__,
        "dtype": c.dtype,
        "steps": steps,
        "states carried": bool(c.restarts.sides),
    }
    everything = (*c.missing, *c.restarts.notes)
    if parted is not None and parted.quantity not in QUANTITIES[:4] and c.restarts.hint:
        everything += (c.restarts.hint,)
    modules = _tree(c, parted, floor)
    return RunsReport(about, tuple(findings), *where, diagnosis, everything, _trajectory(c, floor), modules)


def _findings(c: Comparison, parted: Parted | None, steps: int, floor: Floor | None) -> list[Finding]:
    """Return the worst difference of each quantity before the runs part, and that in which they do."""
    apart = c.apart[: steps if parted is None else max(parted.step, 0)]
    if parted is not None and parted.step >= 0:
        earlier = QUANTITIES[: QUANTITIES.index(parted.quantity)]
        own = parted.part
        apart.append(
            {
                q: {n: size for n, size in found.items() if not own or q in ("batch", "inputs") or of_part(n, own)}
                for q, found in c.apart[parted.step].items()
                if q in earlier
            }
        )
    worst = judging.worst(apart)
    findings = []
    for quantity in QUANTITIES:
        if (found := worst.get(quantity)) is None or (parted is not None and quantity == parted.quantity):
            continue
        noise = [sizes.get(quantity, {}).get(found.name, 0.0) for sizes in (floor or [{}])[: found.step + 1]]
        tolerance = judging.allowance(c.dtype, max(noise))
        reason = judging.REASON[c.dtype]
        if not found.size <= tolerance:  # what is chaos, or grew of what an earlier step did
            tolerance, reason = float("inf"), c.chaos or reason
        findings.append(_finding(c, found, tolerance, reason))
    if parted is not None:
        reason = judging.OWN if c.same and c.exact is None else judging.REASON[c.dtype]
        findings.append(_finding(c, parted, parted.tolerance, reason))
    return findings


def _finding(c: Comparison, found: Parted, tolerance: float, reason: str) -> Finding:
    where = ("before the first step" if found.step < 0 else f"step {found.step}") + (found.name and f", {found.name}")
    return Finding(found.quantity, c.dtype, found.size, where, tolerance, tree.UNIT, reason)


def _tree(c: Comparison, parted: Parted | None, floor: Floor | None) -> Node:
    """Return the difference of each array in the step in which the runs part, or the largest."""
    if parted is None:
        return tree.of_all(c.apart, c.dtype, floor, c.chaos)
    assert c.at is not None
    reason = judging.OWN if c.same and c.exact is None else judging.REASON[c.dtype]
    return tree.of_step(parted, c.at, c.dtype, reason)


def _diagnosed(c: Comparison, parted: Parted) -> Diagnosis:
    assert c.at is not None
    runs = c.sides[0].history, c.sides[1].history
    allowed = c.allowed[-1] if c.allowed and c.same else {}
    parting = Parting(parted, c.dtype, c.before, c.at, runs, c.same, allowed).of_part()
    step = "The start" if parted.step < 0 else f"Step {parted.step}"
    where = f"{step}, {parted.quantity}" + (parted.name and f", {parted.name}")
    if parted.quantity not in c.at[0]:
        return Diagnosis(where, f"They differ by {parted.size:.1e}; the numbers of this step aren't kept.", None)
    try:
        return Diagnosis(where, difference(parting), cause(parting), layer=_layer(c, parted.name))
    except Exception as error:  # whatever goes wrong there, the figures stay
        text = f"They differ by {parted.size:.1e}, and the diagnosis failed: {type(error).__name__}: {error}."
        return Diagnosis(where, text, None)


def _layer(c: Comparison, name: str) -> Layer:
    """Return the layer of an array, with the source of both runs."""
    tensor = name.rpartition(" of ")[2]
    pair = next((pair for pair in c.sides[0].names.pairs if pair.name == tensor), None)
    names = (None, None) if pair is None else (pair.path.rpartition("/")[0], whole(tensor).rpartition(".")[0])
    return Layer(*names, *(source(side.run) if callable(side.run) else None for side in c.sides))


def _trajectory(c: Comparison, floor: Floor | None) -> Trajectory | None:
    runs = [side.history for side in c.sides]
    steps = range(len(c.apart))
    if not all(run.figure("loss", step) for run in runs for step in steps):
        return None
    losses = {
        side: np.array([float(next(iter(run.figure("loss", step).values()))) for step in steps])
        for side, run in zip(SIDES, runs, strict=True)
    }
    gaps = np.array([max(judging.between("loss", *(run.figure("loss", t) for run in runs)).values()) for t in steps])
    noise = (
        None
        if floor is None or c.exact is not None
        else np.array([max(f.get("loss", {"": 0.0}).values()) for f in floor])
    )
    return Trajectory(c.dtype, losses, gaps, noise)
