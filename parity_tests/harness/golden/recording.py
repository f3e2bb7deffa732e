"""What the golden files record: the arrays either package must meet, also where the other framework is not installed.

A level is computed from the recorded arrays of the levels before it, so that a fault shows where it sits and not in all
that follows. A `side` is `jax_backend` or `torch_backend`; neither framework is imported here.
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
from parity_tests.harness.vae.batches import Batch

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
    """Of the side, the specification, and the arrays recorded so far as `LEVEL/NAME`."""
    measure: Callable[..., compare.Gap]
    owed: float
    reason: str


def images(spec: Spec, known: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """uint8 images to train and to test on, `[n, height, width, channels]`: bytes of the key stream, a quarter of them
    made black and a quarter white, as digits are."""
    count = (_TRAIN + _TEST) * spec.model.pixels
    drawn = known["keys/wide bits"].astype("<u8").view(np.uint8)[:count].astype(int)
    every = (2 * drawn - 128).clip(0, 255).astype(np.uint8).reshape(-1, *spec.model.image)
    return every[:_TRAIN], every[_TRAIN:]


def part(known: Mapping[str, np.ndarray], level: str) -> Arrays:
    """The recorded arrays of one level, by their own names."""
    return {name.removeprefix(f"{level}/"): a for name, a in known.items() if name.startswith(f"{level}/")}


def make(ours: Any, theirs: Any, spec: Spec) -> tuple[Arrays, tuple[Finding, ...]]:
    """The arrays of the first side, and how far the other is from them."""
    known: Arrays = {}
    for level in LEVELS:
        known |= {f"{level.name}/{name}": array for name, array in level.record(ours, spec, known).items()}
    return known, findings(theirs, spec, known)


def findings(side: Any, spec: Spec, recorded: Arrays) -> tuple[Finding, ...]:
    """How far the side is from the record, level by level."""
    return tuple(finding(level, side, spec, recorded) for level in LEVELS)


def finding(level: Level, side: Any, spec: Spec, recorded: Arrays) -> Finding:
    """How far the side is from the record in one level. What the side has come to tell since is not looked at."""
    found, expected = level.record(side, spec, recorded), part(recorded, level.name)
    worst = level.measure({name: found[name] for name in expected if name in found}, expected)
    where = str(worst) if worst.size else ""
    return Finding(level.name, spec.training.dtype, worst.size, where, level.owed, _UNITS[level.measure], level.reason)


def _keys(side: Any, spec: Spec, known: Arrays) -> Arrays:
    return side.keys(spec, _TRAIN) | side.wide_bits(spec, (_TRAIN + _TEST) * _MOST_PIXELS // 8)


def _pixels(side: Any, spec: Spec, known: Arrays) -> Arrays:
    return side.pixels(spec, np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1))


def _of_a_batch(question: str) -> Record:
    """What the side answers to the question about the first batch, at the initial weights."""

    def record(side: Any, spec: Spec, known: Arrays) -> Arrays:
        drawn, size = part(known, "draws"), spec.training.batch_size
        masks = tuple(array for name, array in drawn.items() if name.startswith("mask"))
        optional = (drawn.get("prior"), drawn.get("corruption"))
        labels = _labels(spec, size)
        batch = Batch(_floats(spec, known)[:size], drawn["eps"], labels, *optional, masks, 2)
        return getattr(side, question)(spec, part(known, "weights"), batch)

    return record


def _after(steps: int) -> Record:
    """The parameters, Adam's state and the terms after so many steps from the initial weights."""

    def record(side: Any, spec: Spec, known: Arrays) -> Arrays:
        size, pixels = spec.training.batch_size, _floats(spec, known)
        labels, nothing = _labels(spec, size), np.zeros(0)
        batches = [Batch(np.roll(pixels, -i * size, axis=0)[:size], nothing, labels) for i in range(steps)]
        parameters, adam, terms = side.steps(spec, part(known, "weights"), batches)
        return parameters | adam | {"terms": terms}

    return record


def _run(side: Any, spec: Spec, known: Arrays) -> Arrays:
    parameters, _, terms, evaluations = side.run(spec, _dataset(spec, known))
    return parameters | {"terms": terms, "evaluations": evaluations}


def _evaluation(side: Any, spec: Spec, known: Arrays) -> Arrays:
    """Of the run's last epoch, with as many samples as test images."""
    run = part(known, "run")
    trained = {name: run[name] for name in part(known, "weights")}
    found = side.evaluate(spec, trained, _dataset(spec, known), spec.training.epochs)
    return found | {"samples": found["samples"][:_TEST]}


def _initial(side: Any, spec: Spec, known: Arrays) -> Arrays:
    return side.initial(spec, images(spec, known)[0])


def _draws(side: Any, spec: Spec, known: Arrays) -> Arrays:
    return side.draws(spec, spec.training.batch_size, 2)


def _prepared(side: Any, spec: Spec, known: Arrays) -> Arrays:
    return side.prepared(spec, images(spec, known)[0])


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
    Level("normals", lambda side, spec, known: side.normals(spec, 2000), compare.shares, 4e-15, _LOGARITHM),
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
