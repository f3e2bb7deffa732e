"""Small configurations and data that tests share."""

from dataclasses import replace

import numpy as np

from jaxvae.shared.config.presets import PRESETS
from jaxvae.shared.config.spec import Spec
from jaxvae.shared.data.dataset import Dataset

STEPS = 12  # in epochs of five, the last of two images


def small(name: str) -> Spec:
    """Return the preset with small sizes."""
    spec = PRESETS[name]
    model, objective, images = spec.model, spec.objective, spec.images
    hidden = {1: (12,), 2: (12, 9), 4: (4, 6), 5: (4, 6)}[len(model.hidden)]
    image = (6, 5, 2) if model.network == "conv" else (6, 5, 1)
    model = replace(model, image=image, hidden=hidden, latent=4, discriminator=model.discriminator and (8, 7))
    objective = replace(objective, samples=min(3, objective.samples))
    if objective.form == "capacity":
        objective = replace(objective, capacity_steps=8)
    training = replace(spec.training, batch_size=17, seed=2**40 + 5)
    return Spec("digits", model, objective, training, replace(images, train_images=None, shift=min(images.shift, 2)))


def some(spec: Spec) -> Dataset:
    """Return random images and labels: five training batches, the last with two images."""
    rng = np.random.default_rng(0)
    sizes = (70, 45)
    images = [rng.integers(-128, 384, (n, *spec.model.image)).clip(0, 255).astype(np.uint8) for n in sizes]
    labels = [rng.integers(0, 10, n).astype(np.uint8) for n in sizes]
    return Dataset("digits", "random", images[0], labels[0], images[1], labels[1])
