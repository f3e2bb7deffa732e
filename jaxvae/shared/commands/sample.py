"""The sample command: images from a run's prior."""

from dataclasses import dataclass

from jaxvae.shared.analysis import pictures
from jaxvae.shared.backend import Backend, DeviceName
from jaxvae.shared.commands.common import (
    PartsFile,
    RunPath,
    class_to_draw,
    open_run,
    require_deviations,
    require_within,
)
from jaxvae.shared.plotting import figure_file
from jaxvae.shared.plotting.figure_flags import FigurePath, FigureTitle, require_figure
from jaxvae.shared.text import counted, say

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
    """The class to generate, by its name or its number, for a model with classes. By default every class, a row for
    each."""
    device: DeviceName = "auto"
    """Where to compute."""
    parts: PartsFile = None


def run(backend: Backend, command: Sample) -> None:
    """Write the picture.

    Args:
        backend: The package that samples.
        command: The parsed flags.

    Raises:
        InputError: If the request is invalid.
    """
    require_within("n", pictures.EACH if command.n is None else command.n, 1, _MAX_SAMPLES)
    require_deviations("temperature", command.temperature)
    require_figure(command.out, command.title)
    run, weights = open_run(backend, command.run, command.device)
    label = class_to_draw(run, command.label) if command.label is not None else None
    by_class = run.spec.model.classes > 0 and label is None
    n = command.n or (pictures.EACH * run.spec.model.classes if by_class else pictures.SAMPLES)
    drawn = n, command.seed, label, command.temperature, run.class_names, command.title
    figure_file.save(pictures.samples(backend, run.spec, weights, *drawn), command.out)
    say(f"{counted(n, 'sample')} in {command.out}")
