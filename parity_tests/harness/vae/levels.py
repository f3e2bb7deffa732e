"""The levels of agreement: at each both packages compute the same arrays, whose difference has a tolerance.

They are in the order of their dependence, so that the first to fail contains the fault. All except the key streams and
the initial weights start from the same named arrays in both backends. The file is long, since the table of levels is
read beside the few lines that ask a backend for each of them."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import ModuleType
from typing import NamedTuple

import numpy as np

from jaxvae.shared.config.networks import NETWORKS
from jaxvae.shared.config.spec import Spec, resolved
from jaxvae.shared.data.dataset import Dataset
from parity_tests.harness.compare import Gap, count, gap, shares, worst
from parity_tests.harness.findings import Finding
from parity_tests.harness.vae import jax_backend, ranges, reference, torch_backend
from parity_tests.harness.vae.batch import Batch
from parity_tests.harness.vae.batches import drawn, prepared, rows_batch, stream

Arrays = dict[str, np.ndarray]
BACKENDS = (jax_backend, torch_backend)

WARM = 20
"""Number of steps before the one that is compared: Adam's first steps are of size lr * sign(gradient), and the sign of
a gradient that is zero up to rounding differs between correct implementations."""
HELD = 1e-30  # a learning rate too small to move a weight
# A framework rounds at every operation, where a nudge of the weights disturbs once.
TIMES_ULP = 10.0
_NUDGES, _GROSS = 4, 1e4
_MARGIN = {"float32": 4e-6, "float64": 1e-14}


class Case(NamedTuple):
    """The inputs of all levels."""

    spec: Spec
    data: Dataset
    """The images; the number of test images is small and not a multiple of a batch."""
    start: Arrays
    """The weights."""
    batch: Batch
    """Pixels and random numbers."""
    states: dict[str, tuple[Spec, Arrays]]
    """The points at which losses and gradients are compared, each with its spec and weights."""
    warm: tuple[Arrays, Arrays]
    """Weights and Adam's state after `WARM` steps."""
    batches: tuple[Batch, ...]
    """The inputs of the next steps."""
    ranges: dict[str, ranges.State]
    """The points at which one layer is driven to an end of its range."""

    @property
    def dtype(self) -> str:
        return self.spec.training.dtype


class Level(NamedTuple):
    """A function of the backends, a measure of the difference, and the tolerance by dtype."""

    name: str
    ask: Callable[[ModuleType, Case], Arrays]
    measure: Callable[[Mapping[str, np.ndarray], Mapping[str, np.ndarray]], Gap]
    tolerance: dict[str, float]
    unit: str
    reason: str


def case(spec: Spec, data: Dataset) -> Case:
    """Make the inputs of all levels.

    Args:
        spec: The configuration, of the dtype that JAX's 64-bit mode is set for.
        data: The images.

    Returns:
        The inputs.
    """
    size, n = min(spec.training.batch_size, len(data.train)), len(data.train)
    spec = resolved(spec, n)
    start = jax_backend.initial(spec, data.train)
    few = data._replace(test=data.test[:1100], test_labels=data.test_labels[:1100])
    rng = np.random.default_rng(spec.training.seed)
    own = drawn(spec, stream(spec, "noise", 0), size)
    own = own._replace(eps=rng.normal(size=own.eps.shape).astype(spec.training.dtype), step=WARM)
    far = _far_out(spec, start, rows_batch(spec, data, np.arange(size), 0))
    rows = np.arange((WARM + 4) * size) % n
    batch = _clear(spec, [start, far], data, rows, own)
    states = {
        "at the start": (spec, start),
        "with logits to 60": (spec, far),
        "with all weights zero": (spec, {name: np.zeros_like(array) for name, array in start.items()}),
    }
    if (other := _weighted_otherwise(spec)) is not None:
        states[other[0]] = (other[1], start)
    shuffled = [rows_batch(spec, data, np.roll(rows, -i * size)[:size], i) for i in range(WARM)]
    warm = jax_backend.steps(spec, start, shuffled)[:2]
    batches = tuple(
        _clear(spec, [warm[0]], data, np.roll(rows, -(WARM + i) * size), noise(spec, WARM + i, size)) for i in (0, 1)
    )
    return Case(spec, few, start, batch, states, warm, batches, ranges.states(spec))


def noise(spec: Spec, t: int, rows: int) -> Batch:
    """Draw the random numbers of training step `t` by jax.random directly; the batch has no pixels."""
    return drawn(spec, stream(spec, "noise", t), rows)._replace(step=t)


def held_still(case: Case) -> tuple[Spec, Dataset]:
    """Make two short epochs with a smaller last batch and a learning rate too small to move a weight, so that the terms
    of each step depend only on its images and noise."""
    size = min(5 * case.spec.training.batch_size + case.spec.training.batch_size // 3 + 1, len(case.data.train))
    size += size % case.spec.training.batch_size == 1  # batch norm needs more than one image
    training = replace(case.spec.training, learning_rate=HELD, epochs=2, max_steps=None)
    few = case.data._replace(train=case.data.train[:size], train_labels=case.data.train_labels[:size])
    return replace(case.spec, training=training), few


def _weighted_otherwise(spec: Spec) -> tuple[str, Spec] | None:
    """The spec with another weight of the divergence, and its name; None if the objective has no such weight."""
    if spec.objective.form == "elbo":
        other = replace(spec.objective, beta=spec.objective.beta + 1)
        return f"with beta {other.beta:g}", replace(spec, objective=other)
    if spec.objective.form == "capacity":
        other = replace(spec.objective, gamma=spec.objective.gamma + 1)
        return f"with gamma {other.gamma:g}", replace(spec, objective=other)
    return None


def compare(
    level: Level, case: Case, backends: tuple[ModuleType, ModuleType] = BACKENDS
) -> tuple[Finding, tuple[Arrays, Arrays]]:
    """Compare both backends at one level.

    Args:
        level: The level.
        case: Its inputs.
        backends: The two backends.

    Returns:
        The finding, and the arrays of both backends.
    """
    left, right = (level.ask(backend, case) for backend in backends)
    return judge(level, case, (left, right), backends[0]), (left, right)


def judge(level: Level, case: Case, answers: tuple[Arrays, Arrays], backend: ModuleType) -> Finding:
    """Make the finding of a level from the arrays of two backends.

    Args:
        level: The level.
        case: Its inputs.
        answers: The arrays of both backends. Arrays of different shapes are infinitely far apart.
        backend: The backend of the first, which measures the effect of an ulp where the tolerance is exceeded.

    Returns:
        The finding.
    """
    finding = _conditioned(level, case, answers, backend)
    if finding.passed or level.measure is not ranges.measure or list(answers[0]) != list(answers[1]):
        return finding
    first = ranges.first_over(answers[1], answers[0], finding.tolerance)
    return finding._replace(where=f"{first} on, most in {finding.where}")


def _conditioned(level: Level, case: Case, answers: tuple[Arrays, Arrays], backend: ModuleType) -> Finding:
    """The finding of a level, with another tolerance where its numbers are ill-conditioned."""
    finding = _measured(level, case.dtype, answers)
    if finding.passed or finding.tolerance == 0 or not np.isfinite(finding.size):
        return finding
    # Some numbers are worse conditioned than a sum: a new model's KL, a difference of near equals, or a gradient that
    # comes through ten batch norms from saturated pixels.
    most = 0.0
    for draw in range(_NUDGES):
        size = _measured(level, case.dtype, (answers[0], level.ask(backend, _nudged(case, draw)))).size
        most = max(most, size if np.isfinite(size) else 0.0)
        # Draws move the same numbers by an ulp with other signs, so that their effects differ by a small factor, or in
        # float32 at a kink by a few thousand. No other draw explains a difference far beyond that.
        if finding.size > _GROSS * TIMES_ULP * most > 0:
            break
    reason = f"{TIMES_ULP:g} times what moving the weights by an ulp does here, {most:.1e}"
    return (
        finding._replace(tolerance=TIMES_ULP * most, reason=reason) if TIMES_ULP * most > finding.tolerance else finding
    )


def nudge(arrays: Arrays, draw: int) -> Arrays:
    """Move every float by one ulp, up or down at random."""
    rng = np.random.default_rng(draw)
    return {
        name: np.nextafter(array, rng.choice(np.array([-np.inf, np.inf], array.dtype), array.shape))
        for name, array in arrays.items()
    }


def _nudged(case: Case, draw: int) -> Case:
    states = {name: (spec, nudge(arrays, draw)) for name, (spec, arrays) in case.states.items()}
    ends = {name: state._replace(arrays=nudge(state.arrays, draw)) for name, state in case.ranges.items()}
    warm = nudge(case.warm[0], draw), case.warm[1]
    return case._replace(start=nudge(case.start, draw), states=states, warm=warm, ranges=ends)


def _measured(level: Level, dtype: str, answers: tuple[Arrays, Arrays]) -> Finding:
    difference = worst(level.measure, answers[1], answers[0])
    return Finding(
        level.name, dtype, difference.size, str(difference), level.tolerance[dtype], level.unit, level.reason
    )


def _keys(backend: ModuleType, case: Case) -> Arrays:
    return backend.keys(case.spec, len(case.data.train))


def _normals(backend: ModuleType, case: Case) -> Arrays:
    return backend.normals(case.spec, 200_000)


def _draws(backend: ModuleType, case: Case) -> Arrays:
    return backend.draws(case.spec, 50, WARM)


def _initial(backend: ModuleType, case: Case) -> Arrays:
    return backend.initial(case.spec, case.data.train)


def _pixels(backend: ModuleType, case: Case) -> Arrays:
    named = {name: backend.pixels(case.spec, images)["pixels"] for name, images in pictured(case).items()}
    return named | backend.prepared(case.spec, case.data.train[:100])


def pictured(case: Case) -> dict[str, np.ndarray]:
    """Collect uint8 images: every byte, colour, and the data set's."""
    grey, colour = np.arange(256, dtype=np.uint8), np.arange(210, dtype=np.uint8)
    return {
        "every byte": grey.reshape(1, 16, 16, 1),
        "colour": colour.reshape(2, 5, 7, 3),
        "images": case.data.train[:100],
    }


def _layers(backend: ModuleType, case: Case) -> Arrays:
    return backend.layers(case.spec, case.start, case.batch)


def _losses(backend: ModuleType, case: Case) -> Arrays:
    return _everywhere(backend.losses, case)


def _training(backend: ModuleType, case: Case) -> Arrays:
    return _everywhere(backend.training, case)


def _gradients(backend: ModuleType, case: Case) -> Arrays:
    return _everywhere(backend.gradients, case)


def _everywhere(ask: Callable[..., Arrays], case: Case) -> Arrays:
    return {
        f"{name} {state}": array
        for state, (spec, arrays) in case.states.items()
        for name, array in ask(spec, arrays, case.batch).items()
    }


def _outputs_at_ends(backend: ModuleType, case: Case) -> Arrays:
    return _at_ends(backend.outputs, case)


def _gradients_at_ends(backend: ModuleType, case: Case) -> Arrays:
    return _at_ends(backend.gradients, case)


def _at_ends(ask: Callable[..., Arrays], case: Case) -> Arrays:
    return {
        f"{name} {at}": array
        for at, state in case.ranges.items()
        for name, array in ask(state.spec, state.arrays, state.batch).items()
    }


def _optimizer(backend: ModuleType, case: Case) -> Arrays:
    weights, optimizer = backend.optimize(case.spec, case.start, given_gradients(case))
    return weights | optimizer


def given_gradients(case: Case) -> list[Arrays]:
    """Make three gradients of the sizes in training, the same for both backends."""
    rng = np.random.default_rng(1)
    scale = {name.replace("exp_avg.", ""): a * 0.3 for name, a in case.warm[1].items() if "exp_avg." in name}
    return [
        {name: (array * (1 + rng.normal(size=array.shape))).astype(array.dtype) for name, array in scale.items()}
        for _ in range(3)
    ]


def _steps(backend: ModuleType, case: Case) -> Arrays:
    weights, optimizer, terms = backend.steps(case.spec, case.warm[0], list(case.batches), case.warm[1])
    return {**by_term(case.spec, terms), **weights, **optimizer}


def _order(backend: ModuleType, case: Case) -> Arrays:
    spec, data = held_still(case)
    return by_term(spec, backend.train(spec, case.start, data)[2])


def by_term(spec: Spec, terms: np.ndarray) -> Arrays:
    """Split terms `[steps, terms]` by their names."""
    return dict(zip(spec.terms, np.ascontiguousarray(terms.T), strict=True))


def _evaluation(backend: ModuleType, case: Case) -> Arrays:
    answers = backend.evaluate(case.spec, case.start, case.data, 1)
    return {name: np.asarray(answers[name]) for name in case.spec.terms}


def _pictures(backend: ModuleType, case: Case) -> Arrays:
    answers = backend.evaluate(case.spec, case.start, case.data, 1)
    return {name: answers[name] for name in ("samples", "reconstructions") if name in answers}


_LARGEST = "of the tensor's largest"
_DRIVEN = "of the tensor's largest times the head's number"
_SUM = "a sum of n products rounds at n^0.5 half-ulps of its terms, and the frameworks add in different orders"
_EXACT = "numbers that differ"

LEVELS = (
    Level("key streams", _keys, count, {"float32": 0, "float64": 0}, _EXACT, "threefry is integer arithmetic"),
    Level(
        "normals", _normals, shares, {"float32": 3.6e-7, "float64": 4e-15}, "of the number",
        "3 ulp in float32; in float64 XLA's logarithm itself changes so much from one version to the next",
    ),
    Level(
        "what a step draws", _draws, gap, {"float32": 3.6e-7, "float64": 4e-15}, _LARGEST,
        "normals as above; dropout's factors are made of bits",
    ),
    Level(
        "initial weights", _initial, count, {"float32": 0, "float64": 0}, _EXACT,
        "a uniform is made of bits, and its scaling is one product",
    ),
    Level(
        "pixels", _pixels, count, {"float32": 0, "float64": 0}, _EXACT,
        "a division of a byte by 255 has one right rounding, and a comparison with a uniform none",
    ),
    Level("every layer's output", _layers, gap, {"float32": 1e-5, "float64": 1e-13}, _LARGEST, _SUM),
    Level("every loss term", _losses, gap, {"float32": 2e-6, "float64": 1e-13}, _LARGEST, _SUM),
    Level(
        "every term and statistic in training", _training, gap, {"float32": 2e-6, "float64": 1e-13}, _LARGEST, _SUM
    ),
    Level("every gradient", _gradients, gap, {"float32": 5e-6, "float64": 1e-12}, _LARGEST, _SUM),
    Level(
        "outputs and losses at both ends of every head", _outputs_at_ends, ranges.measure,
        {"float32": 1e-5, "float64": 1e-13}, _DRIVEN, _SUM,
    ),
    Level(
        "gradients at both ends of every head", _gradients_at_ends, ranges.measure,
        {"float32": 1e-5, "float64": 1e-12}, _DRIVEN, _SUM,
    ),
    Level(
        "the optimizer on given gradients", _optimizer, gap, {"float32": 1e-6, "float64": 1e-12}, _LARGEST,
        "a dozen roundings a step",
    ),
    Level(
        "weights and optimizer state after a step", _steps, gap, {"float32": 2e-6, "float64": 1e-12}, _LARGEST,
        "two steps of the gradient's rounding, of which the moments damp nine tenths",
    ),
    Level("data order", _order, gap, {"float32": 2e-6, "float64": 1e-13}, "of the run's largest", _SUM),
    Level("evaluation figures", _evaluation, gap, {"float32": 2e-6, "float64": 1e-13}, "of the figure", _SUM),
    Level("pictures", _pictures, gap, {"float32": 1e-5, "float64": 1e-13}, "of the brightest pixel", _SUM),
)  # fmt: skip


def _far_out(spec: Spec, arrays: Arrays, batch: Batch) -> Arrays:
    """The weights with the last layer scaled so that logits reach 60, where probabilities saturate."""
    logits = np.abs(reference.forward(spec, arrays, batch).logits).max()
    factor = batch.x.dtype.type(60 / logits)
    return {n: a * factor if n.startswith("decoder.logits") else a for n, a in arrays.items()}


def _clear(spec: Spec, weights: list[Arrays], data: Dataset, spare: np.ndarray, own: Batch) -> Batch:
    """A batch of the images of these indices, with the random numbers of `own`, in which no hidden unit is within
    rounding of its kink, where the gradient jumps and two correct results differ."""
    size = own.eps.shape[-2]
    rows, used = spare[:size].copy(), size
    for _ in range(100):
        key = stream(spec, "noise", own.step)
        labels = data.train_labels[rows] if spec.model.classes else None
        batch = own._replace(x=prepared(spec, data.train[rows], rows, "train", key), labels=labels)
        if NETWORKS[spec.model.network].spatial:
            break  # some of a million units always are: an ulp's effect sets the tolerance
        near = np.min([reference.forward(spec, w, batch, training=True).margins for w in weights], axis=0)
        bad = np.flatnonzero(near < _MARGIN[spec.training.dtype])
        if not len(bad):
            break
        rows[bad] = spare[(used + np.arange(len(bad))) % len(spare)]
        used += len(bad)
    return batch
