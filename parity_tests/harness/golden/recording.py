"""The arrays of the golden files, which each package must reproduce, also without the other framework.

A level is computed from the recorded arrays of the levels before it, so that a fault shows in its own level and not in
those that follow. A `backend` is `jax_backend` or `torch_backend`; neither framework is imported here.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from jaxvae.shared.config.parts import ImagesSpec, ModelSpec, ObjectiveSpec, TrainingSpec
from jaxvae.shared.config.spec import Spec
from jaxvae.shared.data.dataset import Dataset
from parity_tests.harness import compare
from parity_tests.harness.findings import Finding
from parity_tests.harness.vae.batch import Batch

Arrays = dict[str, np.ndarray]
Record = Callable[[Any, Spec, Arrays], Arrays]

_TRAINING = TrainingSpec(epochs=2, batch_size=32, seed=2**40 + 3, dtype="float64")
_SMALL = replace(_TRAINING, seed=3)
SPECS = {
    "grey": Spec(model=ModelSpec((8, 8, 1), (16,), 5), training=_TRAINING),
    "colour": Spec("auto", ModelSpec((5, 7, 3), (12, 8), 3), ObjectiveSpec(2.5), replace(_TRAINING, seed=7)),
    "conv": Spec(
        "auto",
        ModelSpec((6, 5, 2), (3, 4), 3, "conv", "leaky-relu", likelihood="gaussian-pixel", classes=3),
        ObjectiveSpec(form="capacity", units="mixed", capacity_steps=4),
        _SMALL,
        ImagesSpec("signed", corruption="gaussian", corruption_level=0.2),
    ),
    "adversarial": Spec(
        "auto",
        ModelSpec((4, 5, 1), (9,), 4, posterior="point", likelihood="squared-error", discriminator=(7,)),
        ObjectiveSpec(form="adversarial", units="pixel"),
        _SMALL,
        ImagesSpec(corruption="hidden-dropout", corruption_level=0.3),
    ),
    "iwae": Spec(
        "auto",
        ModelSpec((4, 5, 1), (9,), 4, activation="tanh", init="glorot-data"),
        ObjectiveSpec(form="iwae", samples=3),
        replace(_SMALL, decay=0.5, eps=1e-4),
        ImagesSpec(binarization="static"),
    ),
}
_TRAIN, _TEST = 75, 10  # images; 75 leave 11 for an epoch's third step
_MOST_PIXELS = 128


class Level(NamedTuple):
    name: str
    record: Record
    """Computes the arrays from the backend, the specification and the arrays recorded so far, `LEVEL/NAME`."""
    measure: Callable[..., compare.Gap]
    tolerance: float
    reason: str


def images(spec: Spec, known: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Make images from the recorded bytes of the key stream; a quarter of the pixels is black and a quarter white.

    Args:
        spec: The configuration.
        known: The recorded arrays.

    Returns:
        Training and test images, uint8 `[n, height, width, channels]`.
    """
    count = (_TRAIN + _TEST) * spec.model.pixels
    drawn = known["keys/wide bits"].astype("<u8").view(np.uint8)[:count].astype(int)
    every = (2 * drawn - 128).clip(0, 255).astype(np.uint8).reshape(-1, *spec.model.image)
    return every[:_TRAIN], every[_TRAIN:]


def part(known: Mapping[str, np.ndarray], level: str) -> Arrays:
    """Select the recorded arrays of one level, by their names in the level."""
    return {name.removeprefix(f"{level}/"): a for name, a in known.items() if name.startswith(f"{level}/")}


def make(recorder: Any, other: Any, spec: Spec) -> tuple[Arrays, tuple[Finding, ...]]:
    """Record the arrays of one backend and compare another with them."""
    known: Arrays = {}
    for level in LEVELS:
        known |= {f"{level.name}/{name}": array for name, array in level.record(recorder, spec, known).items()}
    return known, findings(other, spec, known)


def findings(backend: Any, spec: Spec, recorded: Arrays) -> tuple[Finding, ...]:
    """Compare a backend with the record at every level."""
    return tuple(finding(level, backend, spec, recorded) for level in LEVELS)


def finding(level: Level, backend: Any, spec: Spec, recorded: Arrays) -> Finding:
    """Compare a backend with the record at one level; arrays that are not recorded are ignored."""
    actual, expected = level.record(backend, spec, recorded), part(recorded, level.name)
    worst = level.measure({name: actual[name] for name in expected if name in actual}, expected)
    where = str(worst) if worst.size else ""
    return Finding(
        level.name, spec.training.dtype, worst.size, where, level.tolerance, _UNITS[level.measure], level.reason
    )


def _keys(backend: Any, spec: Spec, known: Arrays) -> Arrays:
    return backend.keys(spec, _TRAIN) | backend.wide_bits(spec, (_TRAIN + _TEST) * _MOST_PIXELS // 8)


def _pixels(backend: Any, spec: Spec, known: Arrays) -> Arrays:
    return backend.pixels(spec, np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1))


def _of_a_batch(question: str) -> Record:
    """The result of this function of the backend for the first batch, at the initial weights."""

    def record(backend: Any, spec: Spec, known: Arrays) -> Arrays:
        drawn, size = part(known, "draws"), spec.training.batch_size
        masks = tuple(array for name, array in drawn.items() if name.startswith("mask"))
        optional = (drawn.get("prior"), drawn.get("corruption"))
        labels = _labels(spec, size)
        batch = Batch(_floats(spec, known)[:size], drawn["eps"], labels, *optional, masks, 2)
        return getattr(backend, question)(spec, part(known, "weights"), batch)

    return record


def _after(steps: int) -> Record:
    """The parameters, Adam's state and the terms after this number of steps from the initial weights."""

    def record(backend: Any, spec: Spec, known: Arrays) -> Arrays:
        size, pixels = spec.training.batch_size, _floats(spec, known)
        labels, nothing = _labels(spec, size), np.zeros(0)
        batches = [Batch(np.roll(pixels, -i * size, axis=0)[:size], nothing, labels) for i in range(steps)]
        parameters, adam, terms = backend.steps(spec, part(known, "weights"), batches)
        return parameters | adam | {"terms": terms}

    return record


def _run(backend: Any, spec: Spec, known: Arrays) -> Arrays:
    parameters, _, terms, evaluations = backend.run(spec, _dataset(spec, known))
    return parameters | {"terms": terms, "evaluations": evaluations}


def _evaluation(backend: Any, spec: Spec, known: Arrays) -> Arrays:
    """The evaluation of the run's last epoch, with as many samples as test images."""
    run = part(known, "run")
    trained = {name: run[name] for name in part(known, "weights")}
    evaluated = backend.evaluate(spec, trained, _dataset(spec, known), spec.training.epochs)
    return evaluated | {"samples": evaluated["samples"][:_TEST]}


def _initial(backend: Any, spec: Spec, known: Arrays) -> Arrays:
    return backend.initial(spec, images(spec, known)[0])


def _draws(backend: Any, spec: Spec, known: Arrays) -> Arrays:
    return backend.draws(spec, spec.training.batch_size, 2)


def _prepared(backend: Any, spec: Spec, known: Arrays) -> Arrays:
    return backend.prepared(spec, images(spec, known)[0])


def _dataset(spec: Spec, known: Arrays) -> Dataset:
    train, test = images(spec, known)
    labels = [np.arange(len(some), dtype=np.uint8) % max(1, spec.model.classes) for some in (train, test)]
    return Dataset("digits", "golden", train, labels[0], test, labels[1])


def _labels(spec: Spec, size: int) -> np.ndarray | None:
    return np.arange(size, dtype=np.uint8) % spec.model.classes if spec.model.classes else None


def _floats(spec: Spec, known: Arrays) -> np.ndarray:
    return known["prepared/prepared"]


_EXACT = "integers, and floats made of them by one rounding, have one right answer"
_LOGARITHM = "a logarithm's last digit is XLA's own, and jax 0.10 and 0.11 round it differently"
_SUMS = "sums of a hundred products, each rounded at 1.1e-16, in each framework's own order"
_ADAM = "the same sums; Adam divides by the gradient's own size, and step follows step"
LEVELS = (
    Level("keys", _keys, compare.count, 0, _EXACT),
    Level("normals", lambda backend, spec, known: backend.normals(spec, 2000), compare.shares, 4e-15, _LOGARITHM),
    Level("pixels", _pixels, compare.count, 0, _EXACT),
    Level("prepared", _prepared, compare.count, 0, _EXACT),
    Level("weights", _initial, compare.count, 0, _EXACT),
    Level("draws", _draws, compare.gap, 4e-15, _LOGARITHM),
    Level("outputs", _of_a_batch("forward"), compare.gap, 1e-14, _SUMS),
    Level("losses", _of_a_batch("losses"), compare.gap, 1e-14, _SUMS),
    Level("training", _of_a_batch("training"), compare.gap, 1e-14, _SUMS),
    Level("gradients", _of_a_batch("gradients"), compare.gap, 1e-13, _SUMS),
    Level("one step", _after(1), compare.gap, 1e-13, _ADAM),
    Level("five steps", _after(5), compare.gap, 1e-13, _ADAM),
    Level("run", _run, compare.gap, 1e-13, _ADAM),
    Level("evaluation", _evaluation, compare.gap, 1e-14, _SUMS),
)
_UNITS: dict[Callable[..., compare.Gap], str] = {
    compare.count: "numbers that differ",
    compare.shares: "of itself",
    compare.gap: "of the tensor's largest",
}
