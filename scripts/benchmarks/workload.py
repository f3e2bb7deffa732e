"""The configuration and the images, the same for every program."""

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxvae.shared.config.parts import ObjectiveSpec
from jaxvae.shared.config.presets import preset
from jaxvae.shared.config.spec import Spec
from jaxvae.shared.data import datasets
from jaxvae.shared.errors import InputError


class Setting(NamedTuple):
    """A configuration and its images."""

    spec: Spec
    train: np.ndarray
    """uint8 `[n, height, width, channels]`."""
    test: np.ndarray
    device: str
    """`cpu`, `gpu` or `tpu`."""

    @property
    def steps(self) -> int:
        """Number of steps in an epoch."""
        return self.spec.training.epoch_steps(len(self.train))

    @property
    def torch_device(self) -> str:
        return "cuda" if self.device == "gpu" else "cpu"


def load(name: str, images: str, root: Path | None, device: str) -> tuple[Setting, str | None]:
    """Load a preset and all of its images, and the reason if they are not MNIST. Raises InputError if they are not
    available."""
    spec = replace(preset(name), data=images)
    dataset, missing = datasets.load(spec, root)
    return Setting(replace(spec, data=dataset.name), dataset.train, dataset.test, device), missing


def changed(
    setting: Setting,
    images: int | None = None,
    batch: int | None = None,
    hidden: int | None = None,
    samples: int | None = None,
) -> Setting:
    """Change sizes of a setting. More images than there are repeat them. Raises InputError for a batch of more images
    than an epoch."""
    spec = setting.spec
    if hidden is not None:
        spec = replace(spec, model=replace(spec.model, hidden=(hidden,)))
    if samples is not None:
        spec = replace(spec, objective=ObjectiveSpec(form="iwae", samples=samples))
    if batch is not None:
        spec = replace(spec, training=replace(spec.training, batch_size=batch))
    n = len(setting.train) if images is None else images
    if spec.training.batch_size > n:
        raise InputError(
            f"A batch of {spec.training.batch_size:,} is more than the {n:,} training images; give a smaller --batch "
            "or more --images."
        )
    return setting._replace(spec=spec, train=np.resize(setting.train, (n, *setting.train.shape[1:])))
