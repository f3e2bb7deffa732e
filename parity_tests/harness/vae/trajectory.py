"""Whole runs from the same seed with nothing carried across, step by step.

In float64 they must agree, and the first step in which they don't is found. The tolerance of float32 runs is in
`noise_floor`."""

from types import ModuleType
from typing import NamedTuple

import numpy as np

from jaxvae.shared.config.spec import Spec
from jaxvae.shared.data.dataset import Dataset
from parity_tests.harness.compare import gap, shares, worst
from parity_tests.harness.findings import Diagnosis, Finding, Trajectory
from parity_tests.harness.vae import noise_floor
from parity_tests.harness.vae.batch import evaluated
from parity_tests.harness.vae.levels import BACKENDS, Arrays, nudge
from parity_tests.harness.vae.places import located
from parity_tests.harness.vae.steps import explain, untrained

LOSSES, WEIGHTS, EVALUATIONS = noise_floor.LOSSES, "the run's weights", "the run's evaluations"
OPTIMIZER = "the run's optimizer state"
TOLERANCES = {LOSSES: 1e-12, WEIGHTS: 1e-10, OPTIMIZER: 1e-10, EVALUATIONS: 1e-12}
# As for float32's noise floor: two programs round at every operation, while a run moved by an ulp is disturbed once.
_TIMES_GROWTH, _DRAWS, _GROSS = 10.0, 2, 1e4
_LARGEST = "of the tensor's largest"


class Run(NamedTuple):
    """One package's whole run."""

    weights: Arrays
    optimizer: Arrays
    """Adam's state, and the average of the weights if there is one."""
    terms: np.ndarray
    """The terms of each step, `[steps, terms]`."""
    test: np.ndarray
    """The terms of each evaluation, `[evaluations, terms]`, that of the last epoch's test images last."""


def follow(
    spec: Spec,
    data: Dataset,
    start: Arrays,
    backends: tuple[ModuleType, ModuleType] = BACKENDS,
    *,
    settle: bool = True,
    bisect: bool = True,
) -> tuple[list[Finding], Trajectory, Diagnosis | None]:
    """Run both packages and compare the runs, in float32 with their noise floor.

    Args:
        spec: The configuration, with a bounded number of steps.
        data: The images.
        start: The weights that both runs start from.
        backends: The two backends.
        settle: Whether to examine runs that differ by more than the tolerance. False where an earlier level or dtype
            has failed, which neither chaos nor growth can excuse.
        bisect: Whether to explain the first step that differs.

    Returns:
        The findings; the losses and differences of each step; the diagnosis, if there is one.
    """
    runs = tuple(Run(*backend.run(spec, data)) for backend in backends)
    left, right = runs
    gaps = noise_floor.worst_term(spec, left.terms, right.terms)
    losses = {backend.NAME: run.terms[:, 0] for backend, run in zip(backends, runs, strict=True)}
    if spec.training.dtype == "float32":
        evaluations = tuple((evaluated(run.weights, run.optimizer), run.test[-1]) for run in runs)
        findings, floor, diagnosis = noise_floor.judge(
            spec, data, start, (left.terms, right.terms), evaluations, backends, settle=settle, bisect=bisect
        )
        return findings, Trajectory("float32", losses, gaps, floor), diagnosis
    findings = _exact(spec, left, right, gaps)
    if settle and not all(finding.passed for finding in findings):
        sizes = {finding.level: finding.size for finding in findings if not finding.passed}
        grows = growth(spec, data, start, backends, sizes)
        findings = [_beside(finding, grows[finding.level]) for finding in findings]
    passed = all(finding.passed for finding in findings)
    diagnosis = None if passed or not bisect else first_parting(spec, data, start, (left, right), backends)
    return findings, Trajectory("float64", losses, gaps, None), diagnosis


def _exact(spec: Spec, left: Run, right: Run, gaps: np.ndarray) -> list[Finding]:
    """The findings on two float64 runs."""
    at = int(np.argmax(gaps))
    weights, state = (worst(gap, getattr(right, kind), getattr(left, kind)) for kind in ("weights", "optimizer"))
    tests = worst(shares, {"evaluation": right.test}, {"evaluation": left.test})
    grown = "a rounding grows by training itself; measured 7e-15 over 4,690 steps"
    slow = "Adam's first steps turn a gradient's rounding below its eps into 1e-12 of a weight"
    return [
        Finding(LOSSES, "float64", float(gaps[at]), f"step {at}", TOLERANCES[LOSSES], "of the term", grown),
        Finding(WEIGHTS, "float64", weights.size, str(weights), TOLERANCES[WEIGHTS], _LARGEST, slow),
        Finding(OPTIMIZER, "float64", state.size, str(state), TOLERANCES[OPTIMIZER], _LARGEST, slow),
        Finding(EVALUATIONS, "float64", tests.size, str(tests), TOLERANCES[EVALUATIONS], "of the term", grown),
    ]


def _beside(finding: Finding, grows: float) -> Finding:
    """The finding with a tolerance of at least the growth of an ulp in this run."""
    if finding.passed or not _TIMES_GROWTH * grows > finding.tolerance:
        return finding
    reason = f"{_TIMES_GROWTH:g} times what becomes of an ulp in this run, either package against itself: {grows:.1e}"
    return finding._replace(tolerance=_TIMES_GROWTH * grows, reason=reason)


def growth(
    spec: Spec, data: Dataset, start: Arrays, backends: tuple[ModuleType, ModuleType], sizes: dict[str, float]
) -> dict[str, float]:
    """Measure the growth of an ulp of the weights in the course of a run.

    Args:
        spec: The configuration.
        data: The images.
        start: The initial weights.
        backends: The two backends.
        sizes: Differences by the names of the findings; the second package is not asked where the first shows that
            they are far beyond any growth.

    Returns:
        The largest difference of some draws by the names of the findings, in the package where it is smaller, so that a
        fault can't excuse itself.
    """
    data = data._replace(test=data.test[:1100], test_labels=data.test_labels[:1100])
    grown: list[dict[str, float]] = []
    for backend in backends:
        alone, *moved = (
            backend.train(spec, weights, data) for weights in (start, *(nudge(start, draw) for draw in range(_DRAWS)))
        )
        apart = [_apart(spec, data, backend, alone, other) for other in moved]
        grown.append({name: max(one[name] for one in apart) for name in apart[0]})
        if all(size > _GROSS * _TIMES_GROWTH * grown[-1][name] for name, size in sizes.items()):
            break
    return {name: min(one[name] for one in grown) for name in grown[0]}


def _apart(
    spec: Spec, data: Dataset, backend: ModuleType, *runs: tuple[Arrays, Arrays, np.ndarray]
) -> dict[str, float]:
    """The differences of two runs of one package."""
    last = spec.training.epochs
    tests = [backend.evaluate(spec, evaluated(weights, state), data, last) for weights, state, _ in runs]
    figures = [{name: np.asarray(test[name]) for name in spec.terms} for test in tests]
    return {
        LOSSES: float(noise_floor.worst_term(spec, *(terms for _, _, terms in runs)).max()),
        WEIGHTS: gap(*(weights for weights, _, _ in runs)).size,
        OPTIMIZER: gap(*(optimizer for _, optimizer, _ in runs)).size,
        EVALUATIONS: shares(*figures).size,
    }


def first_parting(
    spec: Spec, data: Dataset, start: Arrays, runs: tuple[Run, Run], backends: tuple[ModuleType, ModuleType] = BACKENDS
) -> Diagnosis:
    """Find and explain the first step of two float64 runs after which their states differ.

    Args:
        spec: The configuration.
        data: The images.
        start: The initial weights.
        runs: The two runs.
        backends: The backends of the runs.

    Returns:
        The step, its first tensor that differs, and the cause if it is known.
    """
    names = tuple(backend.NAME for backend in backends)
    length = min(len(run.terms) for run in runs)
    over = np.flatnonzero(
        ~(noise_floor.worst_term(spec, runs[0].terms[:length], runs[1].terms[:length]) <= TOLERANCES[LOSSES])
    )
    if not len(over) and len(runs[0].terms) != len(runs[1].terms):
        lengths = " and ".join(f"{len(run.terms)} steps by {name}" for run, name in zip(runs, names, strict=True))
        return Diagnosis("the run's length (float64)", lengths, None, layer=located(LOSSES))
    last = int(over[0]) + 1 if len(over) else length

    low, high = 0, last  # states agree after `low` steps; after `high` they or the terms before them don't
    before = [(start, untrained(spec, start))] * 2  # each backend's own, after `low` steps

    def after(steps: int) -> list[tuple[Arrays, Arrays]]:
        return [
            backend.train(spec, mine[0], data, mine[1], steps)[:2]
            for backend, mine in zip(backends, before, strict=True)
        ]

    while high - low > 1:
        middle = (low + high) // 2
        left, right = states = after(middle)
        low, high, before = (middle, high, states) if _agree(left, right) else (low, middle, before)
    both = after(high)
    answers = [{"loss": run.terms[low : low + 1, 0], **weights} for run, (weights, _) in zip(runs, both, strict=True)]
    diagnosis = explain(spec, data, before[0], low, (answers[0], answers[1]), TOLERANCES[WEIGHTS], names)
    place = f"the run (float64): after step {low}"
    return diagnosis or Diagnosis(place, "states agree there, evaluations don't", None, layer=located(LOSSES))


def _agree(left: tuple[Arrays, Arrays], right: tuple[Arrays, Arrays]) -> bool:
    """Check whether two states, weights and optimizer, agree up to rounding."""
    return all(gap(b, a).size <= TOLERANCES[WEIGHTS] for a, b in zip(left, right, strict=True))
