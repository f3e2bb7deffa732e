"""Noise floor of float32 runs.

Float32 training is chaotic: a difference of one rounding grows. Its growth is measured in the same comparison, each
framework against itself with its weights moved by one ulp, and the tolerance of the packages' difference is ten times
that. A run beyond it may have met a kink of ReLU that no draw of the floor met; then its steps are compared one by one:
each must agree, from the same state and in the packages' own epochs."""

from collections.abc import Sequence
from dataclasses import replace
from types import ModuleType

import numpy as np

from jaxvae.shared.config.spec import Spec
from jaxvae.shared.data.dataset import Dataset
from parity_tests.harness.compare import gap
from parity_tests.harness.findings import Diagnosis, Finding
from parity_tests.harness.vae.batches import step_batch
from parity_tests.harness.vae.levels import HELD, Arrays, nudge
from parity_tests.harness.vae.steps import explain, untrained

LOSSES = "the run's losses"
OWN, STILL, SHADOW = (
    "the run against its own epochs",
    "each step of the run, weights held still",
    "each step of the run from the same state",
)
EVALUATED = "the run's evaluation of its own weights"
# Two float32 programs round differently at every operation, while a run moved by an ulp is disturbed once; and one draw
# of a chaotic quantity is no bound on another. Ten times the largest of four draws covers both: correct pairs stay
# within four. The tolerance is at least a step's own rounding.
TIMES_FLOOR, STEP = 10.0, 2e-6
_DRAWS, _CLOSE = 2, 32
_LARGEST = "of the tensor's largest"


def judge(
    spec: Spec,
    data: Dataset,
    start: Arrays,
    terms: tuple[np.ndarray, np.ndarray],
    evaluated: Sequence[tuple[Arrays, np.ndarray]],
    backends: tuple[ModuleType, ModuleType],
    *,
    settle: bool = True,
    bisect: bool = True,
) -> tuple[list[Finding], np.ndarray, Diagnosis | None]:
    """Compare two float32 runs and measure their noise floor.

    Args:
        spec: The configuration of the runs.
        data: The images.
        start: The initial weights of both.
        terms: The terms of each run, `[steps, terms]`.
        evaluated: For each run the weights of its last evaluation, and this, `[terms]`, which the other backend
            repeats.
        backends: The backends of the runs.
        settle: Whether to compare the steps of runs beyond the noise floor one by one.
        bisect: Whether to explain the first step that differs.

    Returns:
        The findings; the noise floor `[steps]`; the diagnosis, if a step differs.
    """
    alone = [backend.train(spec, start, data)[2] for backend in backends]
    floor = np.max(
        [
            worst_term(spec, own, backend.train(spec, nudge(start, draw), data)[2])
            for backend, own in zip(backends, alone, strict=True)
            for draw in range(_DRAWS)
        ],
        axis=0,
    )
    floor = np.where(np.isfinite(floor), floor, 0.0)
    gaps = worst_term(spec, *terms)
    findings, diagnosis = [_against(gaps, floor)], None
    if settle and not findings[0].passed and np.isfinite(gaps).all():
        taken, diagnosis = _taken_apart(spec, data, start, terms, alone, backends, bisect)
        if all(finding.passed for finding in taken):
            why = (
                f"beyond the noise floor ({findings[0].tolerance:.1e} allowed), yet every step on its own agrees: chaos"
            )
            findings = [findings[0]._replace(tolerance=float("inf"), reason=why)]
        findings += taken
    return [*findings, _evaluated(spec, data, evaluated, backends)], floor, diagnosis


def _against(gaps: np.ndarray, floor: np.ndarray) -> Finding:
    if len(gaps) != len(floor):
        return Finding(LOSSES, "float32", float("inf"), "their number", STEP, "of the term", "runs are equally long")
    # The largest differences so far, since chaotic differences also shrink by chance.
    sofar, noise = np.maximum.accumulate(gaps), np.maximum.accumulate(floor)
    allowed = np.maximum(STEP, TIMES_FLOOR * noise)
    at = int(np.argmax(sofar / allowed))
    reason = (
        f"{TIMES_FLOOR:g} times the noise floor, each framework against itself moved by an ulp, here {noise[at]:.1e}; "
        f"but {STEP:g}, a step's own rounding, at least"
    )
    return Finding(LOSSES, "float32", float(sofar[at]), f"step {at}", float(allowed[at]), "of the term", reason)


def _taken_apart(
    spec: Spec,
    data: Dataset,
    start: Arrays,
    terms: tuple[np.ndarray, np.ndarray],
    alone: list[np.ndarray],
    backends: tuple[ModuleType, ModuleType],
    bisect: bool = True,
) -> tuple[list[Finding], Diagnosis | None]:
    """Compare each run with its own epochs; the images and noise of the steps, on which alone the terms depend if no
    weight moves; and each step from the same state."""
    own = [worst_term(spec, run, epochs) for run, epochs in zip(terms, alone, strict=True)]
    i, at = np.unravel_index(int(np.argmax(own)), np.shape(own))
    still = replace(spec, training=replace(spec.training, learning_rate=HELD))
    given = worst_term(spec, *(s.train(still, start, data)[2] for s in backends))
    same = "the same program on the same numbers"
    shadowed, diagnosis = shadow(spec, data, start, len(terms[0]), backends, bisect)
    findings = [
        Finding(OWN, "float32", float(own[i][at]), f"{backends[i].NAME}, step {at}", STEP, "of the term", same),
        Finding(STILL, "float32", float(given.max()), f"step {given.argmax()}", 1e-5, "of the term",
                "a sum's rounding; a new model's KL is a difference of near equals"),
        shadowed,
    ]  # fmt: skip
    return findings, diagnosis


def shadow(
    spec: Spec,
    data: Dataset,
    start: Arrays,
    steps: int,
    backends: tuple[ModuleType, ModuleType],
    bisect: bool = True,
) -> tuple[Finding, Diagnosis | None]:
    """Compare the steps of a float32 run one by one, both backends starting from the first one's state.

    The tolerance is a step's rounding, or, where a hidden unit is so near to ReLU's kink or a gradient so near to zero
    that an ulp decides, the effect of moving the weights by an ulp on the step.

    Args:
        spec: The configuration.
        data: The images.
        start: The initial weights.
        steps: Number of steps.
        backends: The two backends.
        bisect: Whether to explain the first step beyond its tolerance.

    Returns:
        The finding on the first step beyond its tolerance, else on the step nearest to it; and the diagnosis, if any.
    """
    weights, optimizer = start, untrained(spec, start)
    worst = Finding(SHADOW, "float32", 0.0, "", STEP, _LARGEST, "a step's own rounding")
    for t in range(steps):
        given = step_batch(spec, data, t)
        after = [backend.steps(spec, weights, [given], optimizer) for backend in backends]
        apart = gap(after[1][0], after[0][0])
        tolerance, reason = STEP, "a step's own rounding"
        if not apart.size <= STEP:
            for draw in range(_CLOSE):
                moved = backends[1].steps(spec, nudge(weights, draw), [given], optimizer)[0]
                tolerance = max(tolerance, TIMES_FLOOR * gap(moved, after[1][0]).size)
                if apart.size <= tolerance:
                    break
            reason = f"{TIMES_FLOOR:g} times what a move by an ulp, of up to {_CLOSE} drawn, does to this step"
        if not apart.size / tolerance <= worst.size / worst.tolerance:
            worst = worst._replace(size=apart.size, where=f"step {t}, {apart}", tolerance=tolerance, reason=reason)
            answers = tuple({"loss": terms[:, 0], **state} for state, _, terms in after)
            names = tuple(backend.NAME for backend in backends)
            if not worst.passed:
                if not bisect:
                    return worst, None
                before = (weights, optimizer)
                return worst, explain(spec, data, before, t, answers, tolerance, names)  # type: ignore[arg-type]
        weights, optimizer = after[0][:2]
    return worst, None


def _evaluated(
    spec: Spec, data: Dataset, evaluated: Sequence[tuple[Arrays, np.ndarray]], backends: tuple[ModuleType, ModuleType]
) -> Finding:
    """Compare each run's last evaluation with the other backend's of the same weights."""
    worst, where = 0.0, ""
    for (weights, measured), backend, other in zip(evaluated, backends, backends[::-1], strict=True):
        again = other.evaluate(spec, weights, data, spec.training.epochs)
        terms = np.array([again[name] for name in spec.terms])
        apart = gap({"evaluation": measured}, {"evaluation": terms})
        if not apart.size <= worst:
            worst, where = apart.size, f"{backend.NAME}'s weights"
    return Finding(EVALUATED, "float32", worst, where, STEP, "of the loss", "a sum's rounding, from the same weights")


def worst_term(spec: Spec, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Compute the largest relative difference of any term at each step.

    Args:
        spec: The configuration.
        left: Terms of one run, `[steps, terms]`.
        right: Those of the other.

    Returns:
        `[steps]`; infinite where a term is NaN or infinite, and everywhere if the lengths differ.
    """
    if len(left) != len(right):
        return np.full(max(len(left), len(right)), np.inf)
    scale = np.abs(left)
    if spec.objective.form == "iwae":  # its kl is a mean of samples of either sign, and may be next to nothing
        scale = np.maximum(scale, scale[:, :1] * (np.array(spec.terms) == "kl"))
    with np.errstate(all="ignore"):
        size = np.where(left == right, 0.0, np.abs(left - right) / scale)
    return np.where(np.isfinite(size), size, np.inf).max(-1).astype(np.float64)
