"""Every preset passes every level of the proof: small here, at full size by scripts/parity.py --preset all."""

from dataclasses import replace

import numpy as np
import pytest

from jaxvae.shared.config.choices import Stored
from jaxvae.shared.config.presets import PRESETS
from jaxvae.shared.config.spec import Spec
from jaxvae.shared.data.dataset import Dataset
from parity_tests.harness import parity, report, trajectory

STEPS = 12  # in epochs of five, the last of two images


def small(name: str) -> Spec:
    """The preset with the same parts in few numbers."""
    spec = PRESETS[name]
    model, objective, images = spec.model, spec.objective, spec.images
    hidden = {1: (12,), 2: (12, 9), 5: (4, 6)}[len(model.hidden)]
    image = (6, 5, 2) if model.network == "conv" else (6, 5, 1)
    model = replace(model, image=image, hidden=hidden, latent=4, discriminator=model.discriminator and (8, 7))
    objective = replace(objective, samples=min(3, objective.samples))
    if objective.form == "capacity":
        objective = replace(objective, capacity_steps=8)
    training = replace(spec.training, batch_size=17, seed=2**40 + 5)
    return Spec("digits", model, objective, training, replace(images, train_images=None))


def some(spec: Spec) -> Dataset:
    """Images of its size and labels, five batches of which the last has two."""
    rng = np.random.default_rng(0)
    sizes = (70, 45)
    images = [rng.integers(-128, 384, (n, *spec.model.image)).clip(0, 255).astype(np.uint8) for n in sizes]
    labels = [rng.integers(0, 10, n).astype(np.uint8) for n in sizes]
    return Dataset("digits", "random", images[0], labels[0], images[1], labels[1])


# One of each kind; the others differ from these in numbers or in parts that have tests of their own.
IN_THE_SUITE = {
    "float64": ("adversarial", "relu-sigma", "beta-b"),
    "float32": ("conditional",),
}


def presets(dtype: Stored) -> list:
    return [pytest.param(n, marks=() if n in IN_THE_SUITE[dtype] else pytest.mark.slow) for n in PRESETS]


@pytest.mark.parametrize("name", presets("float64"))
def test_a_preset_passes_every_level_in_float64(name: str) -> None:
    found = passes(name, "float64")
    levels = {finding.level for finding in found.findings}
    assert {trajectory.LOSSES, trajectory.WEIGHTS, trajectory.OPTIMIZER, trajectory.EVALUATIONS} <= levels


@pytest.mark.parametrize("name", presets("float32"))
def test_a_preset_passes_every_level_in_float32(name: str) -> None:
    passes(name, "float32")


def passes(name: str, dtype: Stored) -> report.Report:
    spec = small(name)
    found = parity.prove(spec, some(spec), dtypes=[dtype], steps=STEPS)
    assert found.passed, report.verdict(found)
    assert found.diagnosis is None
    return found
