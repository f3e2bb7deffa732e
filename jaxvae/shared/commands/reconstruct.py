"""The reconstruct command: test images above their reconstructions."""

from dataclasses import dataclass

from jaxvae.shared.analysis import pictures
from jaxvae.shared.backend import Backend, DeviceName
from jaxvae.shared.commands.common import SPLITS, ImageSplit, PartsFile, RunDataRoot, RunPath, open_images, open_run
from jaxvae.shared.errors import InputError
from jaxvae.shared.plotting import figure_file
from jaxvae.shared.plotting.figure_flags import FigurePath, FigureTitle, require_figure
from jaxvae.shared.text import counted, say


@dataclass(frozen=True)
class Reconstruct:
    """Write a picture of test images, each above its reconstruction by the model.

    For example:

        reconstruct runs/jaxvae-1 --out reconstructions.png --n 16"""

    run: RunPath
    """The run folder, written by either package."""
    out: FigurePath
    title: FigureTitle = ""
    n: int | None = None
    """Number of images, of all classes; by default 32, or all if there are fewer."""
    split: ImageSplit = "test"
    data_root: RunDataRoot = None
    device: DeviceName = "auto"
    """Where to compute."""
    parts: PartsFile = None


def run(backend: Backend, command: Reconstruct) -> None:
    """Write the picture.

    Args:
        backend: The package that encodes and decodes.
        command: The parsed flags.

    Raises:
        InputError: If the request is invalid.
    """
    require_figure(command.out, command.title)
    run, weights = open_run(backend, command.run, command.device)
    dataset, noun = open_images(run, command.data_root, split=command.split), SPLITS[command.split]
    n = min(32, len(dataset.test)) if command.n is None else command.n
    if not 1 <= n <= len(dataset.test):
        raise InputError(f"--n must be from 1 to {len(dataset.test)}, the number of {noun}s, found {n}.")
    picture = pictures.reconstructions(backend, run.spec, weights, dataset, n, command.title)
    figure_file.save(picture, command.out)
    below = "its reconstruction" if n == 1 else "their reconstructions"
    say(f"{counted(n, noun)} above {below} in {command.out}")
