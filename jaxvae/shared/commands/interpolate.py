"""The interpolate command: images between two latents."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from jaxvae.shared.analysis import pictures
from jaxvae.shared.backend import Backend, DeviceName
from jaxvae.shared.commands.common import (
    MAX_COLUMNS,
    MAX_ROWS,
    SPLITS,
    ImageSplit,
    PartsFile,
    RunDataRoot,
    RunPath,
    encode_first,
    open_images,
    open_run,
    require_within,
)
from jaxvae.shared.data.spread import spread
from jaxvae.shared.errors import InputError
from jaxvae.shared.plotting import figure_file
from jaxvae.shared.plotting.figure_flags import FigurePath, FigureTitle, require_figure
from jaxvae.shared.text import counted, say


@dataclass(frozen=True)
class Interpolate:
    """Write a picture of interpolations: between the latents of two test images, or between two samples from the prior.

    For example:

        interpolate runs/jaxvae-1 --out between.png --images 0 1 2 3
        interpolate runs/jaxvae-1 --out between.png --between latents --spherical"""

    run: RunPath
    """The run folder, written by either package."""
    out: FigurePath
    title: FigureTitle = ""
    n: int | None = None
    """Number of interpolations (rows). Those between images take test images of all classes in pairs. By default 8, or
    as many as there are pairs."""
    steps: int = 10
    """Images in an interpolation, both ends included."""
    between: Literal["images", "latents"] = "images"
    """The end points: `images`, the encoder's means of test images; `latents`, samples from the prior."""
    images: tuple[int, ...] = ()
    """Test images to use instead, by their numbers from 0: start and end of each interpolation in turn. A model with
    classes draws a whole interpolation in the class of its first image."""
    spherical: bool = False
    """Interpolate along an arc about the origin, which keeps the typical norm of draws from the prior; by default along
    a straight line."""
    seed: int = 0
    """Seed for the draws; both packages draw the same latents from it."""
    split: ImageSplit = "test"
    data_root: RunDataRoot = None
    device: DeviceName = "auto"
    """Where to compute."""
    parts: PartsFile = None


def run(backend: Backend, command: Interpolate) -> None:
    """Write the picture.

    Args:
        backend: The package that encodes and decodes.
        command: The parsed flags.

    Raises:
        InputError: If the request is invalid.
    """
    require_figure(command.out, command.title)
    n = 8 if command.n is None else command.n
    require_within("n", n, 1, MAX_ROWS)
    require_within("steps", command.steps, 2, MAX_COLUMNS)
    if command.images and (command.between == "latents" or len(command.images) % 2):
        raise InputError("--images must be pairs of test images to interpolate between; give two of them, or four.")
    run, weights = open_run(backend, command.run, command.device)
    spec, noun = run.spec, SPLITS[command.split]
    if command.between == "latents":
        figure = pictures.between_draws(
            backend,
            spec,
            weights,
            n,
            command.steps,
            seed=command.seed,
            spherical=command.spherical,
            names=run.class_names,
            title=command.title,
        )
    else:
        dataset = open_images(run, command.data_root, split=command.split)
        if len(dataset.test) == 1 and not command.images:
            raise InputError(f"{dataset.name} has one {noun}, expected two or more; give --between latents.")
        if command.n is None:
            n = max(1, min(n, len(dataset.test) // 2))
        pairs = np.array(command.images or spread(dataset.test_labels, 2 * n))
        missing = not command.images and len(pairs) < 2 * n
        if missing or not 0 <= pairs.min() <= pairs.max() < len(dataset.test):
            have = f"{noun.capitalize()}s have the numbers 0 to {len(dataset.test) - 1}"
            raise InputError(f"{have}; give others with --images, or a smaller --n.")
        pairs = pairs.reshape(-1, 2)
        n = len(pairs)
        figure = pictures.between_images(
            backend,
            spec,
            weights,
            dataset,
            encode_first(backend, run, weights, dataset, pairs.max() + 1).mean,
            pairs,
            command.steps,
            spherical=command.spherical,
            title=command.title,
            noun=noun,
        )
    figure_file.save(figure, command.out)
    say(f"{counted(n, 'interpolation')} of {counted(command.steps, 'step')} in {command.out}")
