"""The manifold command: the plane of a model with two latents."""

from dataclasses import dataclass

from jaxvae.shared.analysis import pictures
from jaxvae.shared.backend import Backend, DeviceName
from jaxvae.shared.commands.common import MAX_COLUMNS, PartsFile, RunPath, class_to_draw, open_run, require_within
from jaxvae.shared.plotting import figure_file
from jaxvae.shared.plotting.figure_flags import FigurePath, FigureTitle, require_figure
from jaxvae.shared.text import say


@dataclass(frozen=True)
class Manifold:
    """Write a picture of the latent plane of a model with two latents, on a grid of the normal distribution's
    quantiles, so that every image stands for the same probability.

    For example:

        manifold runs/plane --out plane.png --steps 20

    after `train --latent 2 --out runs/plane`."""

    run: RunPath
    """The run folder, written by either package."""
    out: FigurePath
    title: FigureTitle = ""
    steps: int = 20
    """Number of rows and columns."""
    label: str | None = None
    """The class to generate, by its name or its number, for a model with classes. By default the first."""
    device: DeviceName = "auto"
    """Where to compute."""
    parts: PartsFile = None


def run(backend: Backend, command: Manifold) -> None:
    """Write the picture.

    Args:
        backend: The package that decodes.
        command: The parsed flags.

    Raises:
        InputError: If the request is invalid.
    """
    require_figure(command.out, command.title)
    require_within("steps", command.steps, 2, MAX_COLUMNS)
    run, weights = open_run(backend, command.run, command.device)
    label = class_to_draw(run, command.label)
    figure = pictures.manifold(backend, run.spec, weights, command.steps, label, run.class_names, command.title)
    figure_file.save(figure, command.out)
    say(f"{command.steps} by {command.steps} images in {command.out}")
