"""The traverse command: one latent at a time, from end to end."""

from dataclasses import dataclass

import numpy as np

from jaxvae.shared.analysis import latents
from jaxvae.shared.backend import Backend, DeviceName
from jaxvae.shared.commands.common import (
    MAX_COLUMNS,
    MAX_ROWS,
    SPLITS,
    ImageSplit,
    RunDataRoot,
    RunPath,
    class_to_draw,
    encode_first,
    open_images,
    open_run,
    require_deviations,
    require_within,
)
from jaxvae.shared.data.class_names import label_names
from jaxvae.shared.model import requirements
from jaxvae.shared.plotting import figure_file, labelled_figure
from jaxvae.shared.plotting.figure_flags import PRIOR_UNIT, FigurePath, FigureTitle, require_figure
from jaxvae.shared.text import counted, say


@dataclass(frozen=True)
class Traverse:
    """Write a picture of latent traversals. Each row varies one latent and keeps the others fixed; the latent with
    the largest KL comes first.

    For example:

        traverse runs/jaxvae-1 --out latents.png --image 7 --reach 2.5"""

    run: RunPath
    """The run folder, written by either package."""
    out: FigurePath
    title: FigureTitle = ""
    image: int | None = None
    """Start from the latent of this image, counted from 0. By default from the prior's mean."""
    latents: int = 10
    """Show at most this many latents, one in each row."""
    steps: int = 11
    """Images in a row."""
    reach: float = 3.0
    """How far a latent varies in each direction, in standard deviations of the prior. Without a prior it varies from
    the smallest to the largest value over the images."""
    label: str | None = None
    """The class to generate, by its name or its number, for a model with classes. By default that of the image, or the
    first."""
    split: ImageSplit = "test"
    data_root: RunDataRoot = None
    device: DeviceName = "auto"
    """Where to compute."""


def run(backend: Backend, command: Traverse) -> None:
    """Write the picture.

    Args:
        backend: The package that encodes and decodes.
        command: The parsed flags.

    Raises:
        InputError: If the request is invalid.
    """
    kind = require_figure(command.out, command.title)
    require_within("steps", command.steps, 2, MAX_COLUMNS)
    require_within("latents", command.latents, 1, MAX_ROWS)
    require_deviations("reach", command.reach)
    run, weights = open_run(backend, command.run, command.device)
    dataset = open_images(run, command.data_root, split=command.split)
    if command.image is not None:
        require_within("image", command.image, 0, len(dataset.test) - 1)
    posteriors = encode_first(backend, run, weights, dataset, len(dataset.test))
    space, prior = latents.space(run.spec, posteriors, str(command.run)), requirements.has_prior(run.spec)
    order = space.order[: command.latents]
    base = space.centre if command.image is None else posteriors.mean[command.image]
    low, high = (-command.reach, command.reach) if prior else (space.low[order], space.high[order])
    values = np.broadcast_to(np.linspace(low, high, command.steps, axis=-1), (len(order), command.steps))
    label = class_to_draw(run, command.label)
    if command.label is None and command.image is not None and label is not None:
        label = int(dataset.test_labels[command.image])
    rows = backend.traverse(run.spec, weights, base, order, values, label)
    names = [f"latent {i + 1}\n{space.activity[i]:.2f} {space.unit}" for i in order]
    heads, start = ["least", *[""] * (command.steps - 2), "largest"], "the mean code"
    if prior:
        heads, start = [f"{value:.3g}" for value in values[0].round(9)], "the prior's mean"
    if command.image is not None:
        start = f"{SPLITS[command.split]} {command.image}"
    caption = f"One latent at a time, from {start}"
    caption += "" if label is None else f", class {label_names(run.class_names, [label])[0]}"
    caption += f"; above the columns: {PRIOR_UNIT}" if prior else ""
    figure_file.write(labelled_figure.rows(rows, names, caption, heads, command.title, kind), command.out)
    say(f"{len(rows)} of {counted(run.spec.model.latent, 'latent')} in {command.out}")
