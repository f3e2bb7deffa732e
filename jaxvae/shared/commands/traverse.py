"""The traverse command: one latent at a time, from end to end."""

from dataclasses import dataclass

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
    class_to_draw,
    encode_first,
    open_images,
    open_run,
    require_deviations,
    require_within,
)
from jaxvae.shared.plotting import figure_file
from jaxvae.shared.plotting.figure_flags import FigurePath, FigureTitle, require_figure
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
    parts: PartsFile = None


def run(backend: Backend, command: Traverse) -> None:
    """Write the picture.

    Args:
        backend: The package that encodes and decodes.
        command: The parsed flags.

    Raises:
        InputError: If the request is invalid.
    """
    require_figure(command.out, command.title)
    require_within("steps", command.steps, 2, MAX_COLUMNS)
    require_within("latents", command.latents, 1, MAX_ROWS)
    require_deviations("reach", command.reach)
    run, weights = open_run(backend, command.run, command.device)
    dataset = open_images(run, command.data_root, split=command.split)
    if command.image is not None:
        require_within("image", command.image, 0, len(dataset.test) - 1)
    posteriors = encode_first(backend, run, weights, dataset, len(dataset.test))
    label = class_to_draw(run, command.label)
    if command.label is None and command.image is not None and label is not None:
        label = int(dataset.test_labels[command.image])
    picture = pictures.traversals(
        backend,
        run.spec,
        weights,
        posteriors,
        image=command.image,
        latents=command.latents,
        steps=command.steps,
        reach=command.reach,
        label=label,
        names=run.class_names,
        title=command.title,
        name=str(command.run),
        noun=SPLITS[command.split],
    )
    figure_file.save(picture, command.out)
    n = min(command.latents, run.spec.model.latent)
    say(f"{n} of {counted(run.spec.model.latent, 'latent')} in {command.out}")
