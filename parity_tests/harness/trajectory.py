"""Whole runs from the same seed with nothing carried across, step by step.

In float64 they must agree. Float32 training is chaotic: a difference of one rounding grows. How fast is measured on the
spot, each framework against itself with its weights moved by one ulp, and the packages may be apart by so much."""

from dataclasses import replace
from types import ModuleType
from typing import NamedTuple

import jax
import numpy as np

from jaxvae.shared.data import Dataset
from jaxvae.shared.spec import Spec
from parity_tests.harness import oracle
from parity_tests.harness.causes import draws, training
from parity_tests.harness.compare import gap, shares
from parity_tests.harness.diagnose import name_cause
from parity_tests.harness.findings import Diagnosis, Finding, Trajectory
from parity_tests.harness.levels import SIDES, Arrays, Case, noise, nudge

LOSSES, WEIGHTS, EVALUATIONS = "the run's losses", "the run's weights", "the run's evaluations"
SHADOW = "each step of the run from the same state"
OWED = {LOSSES: 1e-12, WEIGHTS: 1e-10, EVALUATIONS: 1e-12}
# Two float32 programs round differently at every operation, where a run moved by an ulp is disturbed once; and one draw
# of a chaotic quantity is no bound on another. Ten times the largest of four draws covers both with room to spare:
# honest pairs stay within three. A step's own rounding is owed in any case.
TIMES_FLOOR, STEP = 10.0, 2e-6
_DRAWS, _CLOSE = 2, 32


class Run(NamedTuple):
    """One package's whole run."""

    weights: Arrays
    terms: np.ndarray
    """Of each step `[steps, 3]`."""
    test: np.ndarray
    """Of each evaluation `[epochs, 3]`."""


def bounded(spec: Spec, steps: int, images: int) -> Spec:
    """The configuration of a run of so many steps."""
    epochs = -(-steps // spec.training.epoch_steps(images))
    return replace(spec, training=replace(spec.training, epochs=epochs, max_steps=steps))


def follow(
    spec: Spec, data: Dataset, start: Arrays, sides: tuple[ModuleType, ModuleType] = SIDES
) -> tuple[list[Finding], Trajectory, tuple[Run, Run]]:
    """Both runs of a bounded spec, compared; in float32 beside the noise floor, for which runs begin at `start` moved
    by an ulp."""
    ours, theirs = runs = (Run(*sides[0].run(spec, data)), Run(*sides[1].run(spec, data)))
    with np.errstate(all="ignore"):
        gaps = _worst_term(ours.terms, theirs.terms)
    losses = {side.NAME: run.terms[:, 0] for side, run in zip(sides, runs, strict=True)}
    if spec.training.dtype == "float64":
        return _owed_to_the_digit(ours, theirs, gaps), Trajectory("float64", losses, gaps, None), runs
    floor = _floor(spec, data.train, start, runs, sides)
    findings = [_owed_to_chaos(gaps, floor)]
    if not findings[0].passed and np.isfinite(gaps).all():
        findings = _adjudicate(findings[0], shadow(spec, data.train, start, len(gaps), sides))
    return findings, Trajectory("float32", losses, gaps, floor), runs


def _owed_to_the_digit(ours: Run, theirs: Run, gaps: np.ndarray) -> list[Finding]:
    at = int(np.argmax(np.nan_to_num(gaps, nan=np.inf)))
    worst = gap(theirs.weights, ours.weights)
    tests = shares({"evaluation": theirs.test}, {"evaluation": ours.test})
    grown = "a rounding grows by training itself; measured 7e-15 over 4,690 steps"
    slow = "Adam's first steps turn a gradient's rounding below its eps into 1e-12 of a weight"
    return [
        Finding(LOSSES, "float64", float(gaps[at]), f"step {at}", OWED[LOSSES], "of the term", grown),
        Finding(WEIGHTS, "float64", worst.size, str(worst), OWED[WEIGHTS], "of the tensor's largest", slow),
        Finding(EVALUATIONS, "float64", tests.size, str(tests), OWED[EVALUATIONS], "of the term", grown),
    ]


def _owed_to_chaos(gaps: np.ndarray, floor: np.ndarray) -> Finding:
    # As far apart as they have come, since chaotic differences shrink by chance as well as grow.
    sofar, noise = np.maximum.accumulate(gaps), np.maximum.accumulate(floor)
    allowed = np.maximum(STEP, TIMES_FLOOR * noise)
    at = int(np.argmax(sofar / allowed))
    reason = (
        f"{TIMES_FLOOR:g} times the noise floor, each framework against itself moved by an ulp, here {noise[at]:.1e}; "
        f"but {STEP:g}, a step's own rounding, at least"
    )
    return Finding(LOSSES, "float32", float(sofar[at]), f"step {at}", float(allowed[at]), "of the term", reason)


def _adjudicate(run: Finding, steps: Finding) -> list[Finding]:
    """A run that leaves the noise floor is still chaos if each of its steps agrees from the same state: the draws of
    the floor happened to meet no kink, or met one later."""
    if not steps.passed:
        return [run, steps]
    why = f"beyond the noise floor, yet each step agrees from the same state ({steps.size:.1e} at most): chaos"
    return [run._replace(owed=run.size, reason=why), steps]


def shadow(
    spec: Spec, images: np.ndarray, start: Arrays, steps: int, sides: tuple[ModuleType, ModuleType] = SIDES
) -> Finding:
    """The steps of a float32 run one by one, each side from the state the first side had before it: the step in which
    they differ most for what is owed there. That is a step's rounding, or, where a hidden unit comes so near to ReLU's
    kink or a gradient so near to zero that an ulp decides, as much as a step from weights moved by an ulp differs."""
    weights, optimizer = start, _nothing(start)
    worst = Finding(SHADOW, "float32", 0.0, "", STEP, "of the tensor's largest", "a step's own rounding")
    for t in range(steps):
        rows = places(spec, len(images), t)
        x = (images[rows].reshape(len(rows), -1) / 255).astype(np.float32)
        after = [side.steps(spec, weights, [x], optimizer) for side in sides]
        apart = gap(after[1][0], after[0][0])
        owed, reason = STEP, worst.reason
        if not apart.size <= STEP:
            for draw in range(_CLOSE):
                moved = sides[1].steps(spec, nudge(weights, draw), [x], optimizer)[0]
                owed = max(owed, TIMES_FLOOR * gap(moved, after[1][0]).size)
                if apart.size <= owed:
                    break
            reason = f"{TIMES_FLOOR:g} times what a move by an ulp, of up to {_CLOSE} drawn, does to this step"
        if not apart.size / owed <= worst.size / worst.owed:
            worst = worst._replace(size=apart.size, where=f"step {t}, {apart}", owed=owed, reason=reason)
        weights, optimizer = after[0][:2]
    return worst


def places(spec: Spec, images: int, t: int) -> np.ndarray:
    """Which images training step `t` is given."""
    epoch, i = divmod(t, spec.training.epoch_steps(images))
    order = jax.random.permutation(draws.stream(spec, "order", epoch), images)
    return np.asarray(order)[i * spec.training.batch_size :][: spec.training.batch_size]


def _floor(
    spec: Spec, images: np.ndarray, start: Arrays, runs: tuple[Run, ...], sides: tuple[ModuleType, ...]
) -> np.ndarray:
    """How far each framework comes from itself: of each step's terms, the most of all draws."""
    return np.max(
        [
            _worst_term(run.terms, side.train(spec, nudge(start, draw), images)[2])
            for side, run in zip(sides, runs, strict=True)
            for draw in range(_DRAWS)
        ],
        axis=0,
    )


def first_parting(
    case: Case, spec: Spec, data: Dataset, runs: tuple[Run, Run], sides: tuple[ModuleType, ModuleType] = SIDES
) -> Diagnosis:
    """The first step of two float64 runs after which their states differ, and what was done otherwise in it."""
    names = tuple(side.NAME for side in sides)
    length = min(len(run.terms) for run in runs)
    over = np.flatnonzero(~(_worst_term(runs[0].terms[:length], runs[1].terms[:length]) <= OWED[LOSSES]))
    if not len(over) and len(runs[0].terms) != len(runs[1].terms):
        found = " and ".join(f"{len(run.terms)} by {name}" for run, name in zip(runs, names, strict=True))
        return Diagnosis(f"the run's length (float64): {found} steps", "one side's epochs are shorter", None)
    last = int(over[0]) + 1 if len(over) else length

    def after(steps: int) -> list[tuple[Arrays, Arrays]]:
        if steps == 0:
            return [(case.start, _nothing(case.start))] * 2
        part = bounded(spec, steps, len(data.train))
        return [side.train(part, case.start, data.train)[:2] for side in sides]

    low, high = 0, last  # states agree after `low` steps; after `high` they or the terms before them don't
    while high - low > 1:
        middle = (low + high) // 2
        ours, theirs = after(middle)
        low, high = (middle, high) if gap(theirs[0], ours[0]).size <= OWED[WEIGHTS] else (low, middle)
    before, both = after(low)[0], after(high)
    answers = [{"loss": run.terms[low : low + 1, 0], **weights} for run, (weights, _) in zip(runs, both, strict=True)]
    name = next((n for n in answers[0] if not gap({n: answers[1][n]}, {n: answers[0][n]}).size <= OWED[WEIGHTS]), "")
    if not name:
        return Diagnosis(f"the run (float64): step {low}", "states and terms agree there, evaluations don't", None)
    here = (answers[0][name], answers[1][name])
    suspects = [step_causes(case, spec, data.train, before, low, name) for _ in sides]
    cause, culprit, _ = name_cause(here, suspects, "float64", OWED[WEIGHTS])
    if cause is None and name != "loss":
        cause, culprit = _by_ratio(case, spec, data.train, before, low, name, here)
    numbers = " and ".join(f"{float(a.ravel()[0]):.9g} by {n}" for a, n in zip(here, names, strict=True))
    place = f"the run (float64): step {low}, {name}"
    return Diagnosis(place, numbers, cause, None if culprit is None else names[culprit])


def step_causes(
    case: Case, spec: Spec, images: np.ndarray, before: tuple[Arrays, Arrays], t: int, name: str
) -> draws.Causes:
    """What step `t` would give from the state before it, plainly and under faults that come with time."""
    n, batch, per_epoch = len(images), spec.training.batch_size, spec.training.epoch_steps(len(images))

    def step(rows: np.ndarray, t: int, how: oracle.Adam | None = None) -> np.ndarray:
        x = (images[rows].reshape(len(rows), -1) / 255).astype(case.dtype)
        eps = noise(spec, t, min(batch, n))[: len(rows)]
        if name == "loss":
            return oracle.losses(spec, before[0], x, eps).loss.mean()[None]
        grad = oracle.gradients(spec, before[0], x, eps)
        return oracle.adam(before[0], [grad], spec.training.learning_rate, before[1], how or oracle.Adam())[0][name]

    mine = places(spec, n, t)
    yield None, step(mine, t)
    if name == "loss":
        for other in [*range(t - 1, -1, -1), t + 1]:
            yield f"key reused: step {t} draws the noise of step {other}", step(mine, other)
            yield f"step {t} is given the images of step {other}", step(places(spec, n, other), t)
        if t >= per_epoch:
            yield "key reused: every epoch has the first one's order", step(places(spec, n, t % per_epoch), t)
        return
    for cause, how in training.ADAMS.items():
        yield cause, step(mine, t, how)


def _by_ratio(
    case: Case, spec: Spec, images: np.ndarray, before: tuple[Arrays, Arrays], t: int, name: str, here: tuple
) -> tuple[str | None, int | None]:
    """A learning rate of its own, told by every weight's step being the same multiple of the right one."""
    plain = np.asarray(next(step_causes(case, spec, images, before, t, name))[1]) - before[0][name]
    moving = np.abs(plain) > 1e-3 * np.abs(plain).max()
    for i, found in enumerate(here):
        ratios = (found - before[0][name])[moving] / plain[moving]
        if ratios.size and np.ptp(ratios) < 1e-6 * abs(ratios.mean()) and abs(ratios.mean() - 1) > 1e-6:
            return f"learning rate {ratios.mean():.6g} times as large from step {t} on", i
    return None, None


def _nothing(arrays: Arrays) -> Arrays:
    zeros = {name: np.zeros_like(array) for name, array in arrays.items()}
    moments = {f"{moment}.{name}": zero for moment in ("exp_avg", "exp_avg_sq") for name, zero in zeros.items()}
    return {**moments, "step": np.asarray(0, np.int32)}


def _worst_term(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """The largest difference of any term at each step, as a share of itself: `[steps]`; infinite where the lengths
    differ."""
    if len(ours) != len(theirs):
        return np.full(max(len(ours), len(theirs)), np.inf)
    with np.errstate(all="ignore"):
        size = np.where(ours == theirs, 0.0, np.abs(ours - theirs) / np.abs(ours))
    return np.where(np.isfinite(size), size, np.inf).max(-1).astype(np.float64)
