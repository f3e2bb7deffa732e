"""The sample command: images from a run's prior."""

from dataclasses import dataclass

import numpy as np

from jaxvae.shared.backend import Backend, DeviceName
from jaxvae.shared.commands.common import (
    RunPath,
    class_to_draw,
    open_run,
    require_deviations,
    require_within,
)
from jaxvae.shared.data.class_names import label_names
from jaxvae.shared.plotting import figure_file, image_grid, labelled_figure
from jaxvae.shared.plotting.figure_flags import FigurePath, FigureTitle, require_figure
from jaxvae.shared.text import counted, say

_SAMPLES, _EACH = 64, 8  # images by default, and images of each class
_MAX_SAMPLES = 10_000


@dataclass(frozen=True)
class Sample:
    """Write a picture of images that the model generates from its prior; for a model with classes each class has a row.

    For example:

        sample runs/jaxvae-1 --out samples.png --n 100 --temperature 0.7"""

    run: RunPath
    """The run folder, written by either package."""
    out: FigurePath
    title: FigureTitle = ""
    n: int | None = None
    """Number of images. By default 64, or 8 of each class."""
    seed: int = 0
    """Seed for the draws; both packages draw the same images from it."""
    temperature: float = 1.0
    """Standard deviation of the latents: below 1, images are more likely and more alike; above 1, less so."""
    label: str | None = None
    """The class to generate, by its name or its number, for a model with classes. By default each class in turn,
    so that image i is of the class i modulo their number."""
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
    require_within("n", _EACH if command.n is None else command.n, 1, _MAX_SAMPLES)
    require_deviations("temperature", command.temperature)
    kind = require_figure(command.out, command.title)
    run, weights = open_run(backend, command.run, command.device)
    # Epochs count from 1, so a run's own pictures never use the key of epoch 0.
    key = backend.stream_key(backend.root_key(command.seed), "pictures", 0)
    label = class_to_draw(run, command.label)
    by_class = label is not None and command.label is None
    n = command.n or (_EACH * run.spec.model.classes if by_class else _SAMPLES)
    labels = None if label is None or by_class else np.full(n, label)
    images = backend.sample(run.spec, weights, key, n, labels, command.temperature)
    if by_class:
        rows, classes = image_grid.by_class(images, run.spec.model.classes)
        names = label_names(run.class_names, classes)
        picture = labelled_figure.rows(rows, names, title=command.title, kind=kind)
    else:
        caption = "" if label is None else f"class {label_names(run.class_names, [label])[0]}"
        picture = labelled_figure.grid(images, caption, command.title, kind)
    figure_file.write(picture, command.out)
    say(f"{counted(n, 'sample')} in {command.out}")
