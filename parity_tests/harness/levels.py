"""The levels of agreement: at each, one question to both packages, how far apart the answers are, and what is owed.

They stand in the order in which one depends on another, so that the first to fail is where to look. All but the key
streams and the initial weights start from the same named arrays on both sides."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import ModuleType
from typing import NamedTuple

import jax
import numpy as np

import jaxvae
from jaxvae.shared.data import Dataset
from jaxvae.shared.spec import Spec
from parity_tests.harness import jax_side, oracle, torch_side
from parity_tests.harness.compare import Gap, count, gap, shares, worst
from parity_tests.harness.findings import Finding

Arrays = dict[str, np.ndarray]
SIDES = (jax_side, torch_side)

WARM = 20
"""Steps before the one that is compared: Adam's first steps are of size lr * sign(gradient), and the sign of a gradient
that is zero but for rounding is nobody's fault."""
HELD = 1e-30  # a learning rate too small to move a weight
# A framework rounds at every operation, where a nudge of the weights disturbs once.
TIMES_ULP = 10.0
_MARGIN = {"float32": 4e-6, "float64": 1e-14}


class Case(NamedTuple):
    """What both packages are asked about."""

    spec: Spec
    images: np.ndarray
    """uint8 training images `[n, height, width, channels]`."""
    test: np.ndarray
    """uint8 test images, few and a ragged number."""
    start: Arrays
    """The weights."""
    x: np.ndarray
    """A batch of pixels `[batch, pixels]`."""
    eps: np.ndarray
    """Standard normals `[batch, latent]`."""
    states: dict[str, tuple[Spec, Arrays]]
    """Where losses and gradients are asked for, each with its spec and weights."""
    warm: tuple[Arrays, Arrays]
    """Weights and Adam's state some steps into training."""
    batches: tuple[np.ndarray, ...]
    """The pixels of the steps that follow."""

    @property
    def dtype(self) -> str:
        return self.spec.training.dtype


class Level(NamedTuple):
    """One question and what is owed."""

    name: str
    ask: Callable[[ModuleType, Case], Arrays]
    measure: Callable[[Mapping[str, np.ndarray], Mapping[str, np.ndarray]], Gap]
    owed: dict[str, float]
    unit: str
    reason: str


def case(spec: Spec, data: Dataset) -> Case:
    """The questions' common ground. `spec` has the dtype that JAX's 64-bit mode is set for."""
    batch, latent, dtype = min(spec.training.batch_size, len(data.train)), spec.model.latent, spec.training.dtype
    start = jax_side.initial(spec)
    pixels = (data.train[: (WARM + 4) * batch].reshape(-1, spec.model.pixels) / 255).astype(dtype)
    eps = np.random.default_rng(spec.training.seed).normal(size=(batch, latent)).astype(dtype)
    far = _far_out(spec, start, pixels[:batch], eps)
    x = _clear(spec, [start, far], pixels, eps)
    other = replace(spec, objective=replace(spec.objective, beta=spec.objective.beta + 1))
    states = {
        "at the start": (spec, start),
        "with logits to 60": (spec, far),
        "with all weights zero": (spec, {name: np.zeros_like(array) for name, array in start.items()}),
        f"with beta {other.objective.beta:g}": (other, start),
    }
    shuffled = [np.roll(pixels, -i * batch, axis=0)[:batch] for i in range(WARM)]
    warm = jax_side.steps(spec, start, shuffled)[:2]
    batches = tuple(
        _clear(spec, [warm[0]], np.roll(pixels, -(WARM + i) * batch, 0), noise(spec, WARM + i, batch)) for i in (0, 1)
    )
    return Case(spec, data.train, data.test[:1100], start, x, eps, states, warm, batches)


def noise(spec: Spec, t: int, rows: int) -> np.ndarray:
    """The normals of training step `t`, drawn by jax.random itself: `[rows, latent]`."""
    key = jax.random.fold_in(jax.random.fold_in(jaxvae.root_key(spec.training.seed), 2), t)
    return np.asarray(jax.random.normal(key, (rows, spec.model.latent), spec.training.dtype))


def held_still(case: Case) -> tuple[Spec, np.ndarray]:
    """Two short epochs with a ragged last batch and a learning rate too small to move a weight, so that the terms of
    each step tell which images and which noise it was given."""
    size = min(5 * case.spec.training.batch_size + case.spec.training.batch_size // 3 + 1, len(case.images))
    training = replace(case.spec.training, learning_rate=HELD, epochs=2, max_steps=None)
    return replace(case.spec, training=training), case.images[:size]


def compare(
    level: Level, case: Case, sides: tuple[ModuleType, ModuleType] = SIDES
) -> tuple[Finding, tuple[Arrays, Arrays]]:
    """The level's finding, and both answers."""
    ours, theirs = (level.ask(side, case) for side in sides)
    return judge(level, case, (ours, theirs), sides[0]), (ours, theirs)


def judge(level: Level, case: Case, answers: tuple[Arrays, Arrays], side: ModuleType) -> Finding:
    """What two answers to the level's question amount to, `side` having given the first. An answer of another shape is
    infinitely far off."""
    finding = _measured(level, case.dtype, answers)
    if finding.passed or case.dtype == "float64" or finding.owed == 0 or not np.isfinite(finding.size):
        return finding
    # Some float32 numbers are worse conditioned than a sum, as the KL of a new model, a difference of near equals.
    moved = [_measured(level, case.dtype, (answers[0], level.ask(side, _nudged(case, i)))).size for i in range(4)]
    most = max((size for size in moved if np.isfinite(size)), default=0.0)
    reason = f"{TIMES_ULP:g} times what moving the weights by an ulp does here, {most:.1e}"
    return finding._replace(owed=TIMES_ULP * most, reason=reason) if TIMES_ULP * most > finding.owed else finding


def nudge(arrays: Arrays, draw: int) -> Arrays:
    """Every float moved by one ulp, up or down by chance."""
    rng = np.random.default_rng(draw)
    return {
        name: np.nextafter(array, rng.choice(np.array([-np.inf, np.inf], array.dtype), array.shape))
        for name, array in arrays.items()
    }


def _nudged(case: Case, draw: int) -> Case:
    states = {name: (spec, nudge(arrays, draw)) for name, (spec, arrays) in case.states.items()}
    return case._replace(start=nudge(case.start, draw), states=states, warm=(nudge(case.warm[0], draw), case.warm[1]))


def _measured(level: Level, dtype: str, answers: tuple[Arrays, Arrays]) -> Finding:
    found = worst(level.measure, answers[1], answers[0])
    return Finding(level.name, dtype, found.size, str(found), level.owed[dtype], level.unit, level.reason)


def _keys(side: ModuleType, case: Case) -> Arrays:
    return side.keys(case.spec, len(case.images))


def _normals(side: ModuleType, case: Case) -> Arrays:
    return side.normals(case.spec, 200_000)


def _initial(side: ModuleType, case: Case) -> Arrays:
    return side.initial(case.spec)


def _pixels(side: ModuleType, case: Case) -> Arrays:
    grey, colour = np.arange(256, dtype=np.uint8), np.arange(210, dtype=np.uint8)
    named = {
        "every byte": grey.reshape(1, 16, 16, 1),
        "colour": colour.reshape(2, 5, 7, 3),
        "images": case.images[:100],
    }
    return {name: side.pixels(case.spec, images)["pixels"] for name, images in named.items()}


def _layers(side: ModuleType, case: Case) -> Arrays:
    return side.layers(case.spec, case.start, case.x, case.eps)


def _losses(side: ModuleType, case: Case) -> Arrays:
    return _everywhere(side.losses, case)


def _gradients(side: ModuleType, case: Case) -> Arrays:
    return _everywhere(side.gradients, case)


def _everywhere(ask: Callable[..., Arrays], case: Case) -> Arrays:
    return {
        f"{name} {state}": array
        for state, (spec, arrays) in case.states.items()
        for name, array in ask(spec, arrays, case.x, case.eps).items()
    }


def _optimizer(side: ModuleType, case: Case) -> Arrays:
    weights, optimizer = side.optimize(case.spec, case.start, given_gradients(case))
    return weights | optimizer


def given_gradients(case: Case) -> list[Arrays]:
    """Three gradients of training's own sizes, the same for both sides."""
    rng = np.random.default_rng(1)
    scale = {name: array * 0.3 for name, array in case.warm[1].items() if name.startswith("exp_avg.")}
    return [
        {
            name.removeprefix("exp_avg."): (array * (1 + rng.normal(size=array.shape))).astype(array.dtype)
            for name, array in scale.items()
        }
        for _ in range(3)
    ]


def _steps(side: ModuleType, case: Case) -> Arrays:
    weights, optimizer, terms = side.steps(case.spec, case.warm[0], list(case.batches), case.warm[1])
    return {**_by_term(terms), **weights, **optimizer}


def _order(side: ModuleType, case: Case) -> Arrays:
    spec, images = held_still(case)
    return _by_term(side.train(spec, case.start, images)[2])


def _by_term(terms: np.ndarray) -> Arrays:
    return dict(zip(("loss", "reconstruction", "kl"), np.ascontiguousarray(terms.T), strict=True))


def _evaluation(side: ModuleType, case: Case) -> Arrays:
    answers = side.evaluate(case.spec, case.start, case.test, 1)
    return {name: np.asarray(answers[name]) for name in ("loss", "reconstruction", "kl")}


def _pictures(side: ModuleType, case: Case) -> Arrays:
    answers = side.evaluate(case.spec, case.start, case.test, 1)
    return {name: answers[name] for name in ("samples", "reconstructions")}


_LARGEST = "of the tensor's largest"
_SUM = "a sum of n products rounds at n^0.5 half-ulps of its terms, and the frameworks add in different orders"
_EXACT = "numbers that differ"

LEVELS = (
    Level("key streams", _keys, count, {"float32": 0, "float64": 0}, _EXACT, "threefry is integer arithmetic"),
    Level(
        "normals", _normals, shares, {"float32": 3.6e-7, "float64": 4e-15}, "of the number",
        "3 ulp in float32; in float64 XLA's logarithm itself changes so much from one version to the next",
    ),
    Level(
        "initial weights", _initial, count, {"float32": 0, "float64": 0}, _EXACT,
        "a uniform is made of bits, and its scaling is one product",
    ),
    Level(
        "pixels", _pixels, count, {"float32": 0, "float64": 0}, _EXACT,
        "a division of a byte by 255 has one right rounding",
    ),
    Level("every layer's output", _layers, gap, {"float32": 1e-5, "float64": 1e-13}, _LARGEST, _SUM),
    Level("every loss term", _losses, gap, {"float32": 2e-6, "float64": 1e-13}, _LARGEST, _SUM),
    Level("every gradient", _gradients, gap, {"float32": 5e-6, "float64": 1e-12}, _LARGEST, _SUM),
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


def _far_out(spec: Spec, arrays: Arrays, x: np.ndarray, eps: np.ndarray) -> Arrays:
    """The weights with the last layer's made so large that logits reach 60 either way: where probabilities saturate."""
    logits = np.abs(oracle.forward(spec, arrays, x, eps).logits).max()
    factor = x.dtype.type(60 / logits)
    return {n: a * factor if n.startswith("decoder.logits") else a for n, a in arrays.items()}


def _clear(spec: Spec, weights: list[Arrays], pixels: np.ndarray, eps: np.ndarray) -> np.ndarray:
    """A batch of the pixels for these normals in which no hidden unit is within rounding of ReLU's kink, where the
    gradient jumps and two right answers differ."""
    rows, spare = np.arange(len(eps)) % len(pixels), len(eps)
    for _ in range(100):
        x = pixels[rows]
        near = np.min([oracle.forward(spec, arrays, x, eps).margins for arrays in weights], axis=0)
        bad = np.flatnonzero(near < _MARGIN[spec.training.dtype])
        if not len(bad):
            break
        rows[bad] = (spare + np.arange(len(bad))) % len(pixels)
        spare += len(bad)
    return x
