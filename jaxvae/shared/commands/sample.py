"""The sample command: images from a run's prior."""

from dataclasses import dataclass

import numpy as np

from jaxvae.shared.backend import Backend, DeviceName
from jaxvae.shared.commands.common import (
    MAX_COLUMNS,
    RunPath,
    class_to_draw,
    open_run,
    require_deviations,
    require_within,
)
from jaxvae.shared.commands.figures import FigurePath, FigureTitle, require_figure
from jaxvae.shared.plotting import figure_file, labelled_figure
from jaxvae.shared.text import counted, say

_MAX_SAMPLES = 10_000


@dataclass(frozen=True)
class Sample:
    """Write a picture of images that the model generates from its prior; for a model with classes each class has a
    column.

    For example:

        sample runs/jaxvae-1 --out samples.png --n 100 --temperature 0.7"""

    run: RunPath
    """The run folder, written by either package."""
    out: FigurePath
    title: FigureTitle = ""
    n: int = 64
    """Number of images."""
    seed: int = 0
    """Seed for the draws; both packages draw the same images from it."""
    temperature: float = 1.0
    """Standard deviation of the latents: below 1, images are more likely and more alike; above 1, less so."""
    label: int | None = None
    """The class to generate, for a model with classes. By default each class in turn."""
    device: DeviceName = "auto"
    """Where to compute."""


def run(backend: Backend, command: Sample) -> None:
    """Write the picture.

    Args:
        backend: The package that samples.
        command: The parsed flags.

    Raises:
        InputError: If the request is invalid.
    """
    require_within("n", command.n, 1, _MAX_SAMPLES)
    require_deviations("temperature", command.temperature)
    kind = require_figure(command.out, command.title)
    run, weights = open_run(backend, command.run, command.device)
    # Epochs count from 1, so a run's own pictures never use the key of epoch 0.
    key = backend.stream_key(backend.root_key(command.seed), "pictures", 0)
    classes = run.spec.model.classes
    label = class_to_draw(run.spec, command.label)
    labels = None if label is None or command.label is None else np.full(command.n, label)
    images = backend.sample(run.spec, weights, key, command.n, labels, command.temperature)
    if classes and labels is None and command.n % classes == 0 and classes <= MAX_COLUMNS:
        heads = list(map(str, range(classes)))
        rows = images.reshape(-1, classes, *images.shape[1:])
        picture = labelled_figure.rows(rows, [""] * len(rows), heads=heads, title=command.title, kind=kind)
    else:
        picture = labelled_figure.grid(images, "", command.title, kind)
    figure_file.write(picture, command.out)
    say(f"{counted(command.n, 'sample')} in {command.out}")
