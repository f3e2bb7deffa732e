"""Whole runs from the same seed with nothing carried across, step by step.

In float64 they must agree, and the first step in which they don't is found. What float32 runs owe is in `chaos`."""

from types import ModuleType
from typing import NamedTuple

import numpy as np

from jaxvae.shared.data import Dataset
from jaxvae.shared.spec import Spec
from parity_tests.harness import chaos
from parity_tests.harness.compare import gap, shares, worst
from parity_tests.harness.findings import Diagnosis, Finding, Trajectory
from parity_tests.harness.levels import SIDES, Arrays
from parity_tests.harness.steps import bounded, explain, untrained

LOSSES, WEIGHTS, EVALUATIONS = chaos.LOSSES, "the run's weights", "the run's evaluations"
OWED = {LOSSES: 1e-12, WEIGHTS: 1e-10, EVALUATIONS: 1e-12}


class Run(NamedTuple):
    """One package's whole run."""

    weights: Arrays
    terms: np.ndarray
    """Of each step `[steps, 3]`."""
    test: np.ndarray
    """Of each evaluation `[epochs, 3]`."""


def follow(
    spec: Spec, data: Dataset, start: Arrays, sides: tuple[ModuleType, ModuleType] = SIDES
) -> tuple[list[Finding], Trajectory, Diagnosis | None]:
    """Both runs of a bounded spec, compared, in float32 beside the noise floor; and where they part if they do. Both
    begin at weights equal to `start`."""
    ours, theirs = (Run(*side.run(spec, data)) for side in sides)
    gaps = chaos.worst_term(ours.terms, theirs.terms)
    losses = {side.NAME: run.terms[:, 0] for side, run in zip(sides, (ours, theirs), strict=True)}
    if spec.training.dtype == "float32":
        evaluations = tuple((run.weights, run.test[-1]) for run in (ours, theirs))
        findings, floor, diagnosis = chaos.judge(spec, data, start, (ours.terms, theirs.terms), evaluations, sides)
        return findings, Trajectory("float32", losses, gaps, floor), diagnosis
    at = int(np.argmax(gaps))
    weights = gap(theirs.weights, ours.weights)
    tests = worst(shares, {"evaluation": theirs.test}, {"evaluation": ours.test})
    grown = "a rounding grows by training itself; measured 7e-15 over 4,690 steps"
    slow = "Adam's first steps turn a gradient's rounding below its eps into 1e-12 of a weight"
    findings = [
        Finding(LOSSES, "float64", float(gaps[at]), f"step {at}", OWED[LOSSES], "of the term", grown),
        Finding(WEIGHTS, "float64", weights.size, str(weights), OWED[WEIGHTS], "of the tensor's largest", slow),
        Finding(EVALUATIONS, "float64", tests.size, str(tests), OWED[EVALUATIONS], "of the term", grown),
    ]
    passed = all(finding.passed for finding in findings)
    diagnosis = None if passed else first_parting(spec, data, start, (ours, theirs), sides)
    return findings, Trajectory("float64", losses, gaps, None), diagnosis


def first_parting(
    spec: Spec, data: Dataset, start: Arrays, runs: tuple[Run, Run], sides: tuple[ModuleType, ModuleType] = SIDES
) -> Diagnosis:
    """The first step of two float64 runs after which their states differ, and what was done otherwise in it."""
    names = tuple(side.NAME for side in sides)
    length = min(len(run.terms) for run in runs)
    over = np.flatnonzero(~(chaos.worst_term(runs[0].terms[:length], runs[1].terms[:length]) <= OWED[LOSSES]))
    if not len(over) and len(runs[0].terms) != len(runs[1].terms):
        found = " and ".join(f"{len(run.terms)} steps by {name}" for run, name in zip(runs, names, strict=True))
        return Diagnosis("the run's length (float64)", found, None)
    last = int(over[0]) + 1 if len(over) else length

    def after(steps: int) -> list[tuple[Arrays, Arrays]]:
        if steps == 0:
            return [(start, untrained(start))] * 2
        part = bounded(spec, steps, len(data.train))
        return [side.train(part, start, data.train)[:2] for side in sides]

    low, high = 0, last  # states agree after `low` steps; after `high` they or the terms before them don't
    while high - low > 1:
        middle = (low + high) // 2
        ours, theirs = after(middle)
        low, high = (middle, high) if gap(theirs[0], ours[0]).size <= OWED[WEIGHTS] else (low, middle)
    both = after(high)
    ours, theirs = (
        {"loss": run.terms[low : low + 1, 0], **weights} for run, (weights, _) in zip(runs, both, strict=True)
    )
    found = explain(spec, data.train, after(low)[0], low, (ours, theirs), OWED[WEIGHTS], names)
    return found or Diagnosis(f"the run (float64): after step {low}", "states agree there, evaluations don't", None)
