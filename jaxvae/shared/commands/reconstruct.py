"""The reconstruct command: test images above their reconstructions."""

from dataclasses import dataclass
from pathlib import Path

from jaxvae.shared.backend import Backend, DeviceName
from jaxvae.shared.commands.common import RunDataRoot, RunPath, open_images, open_run
from jaxvae.shared.errors import InputError
from jaxvae.shared.plotting import image_grid, labelled_figure
from jaxvae.shared.text import counted, say


@dataclass(frozen=True)
class Reconstruct:
    """Write a picture of test images, each above its reconstruction by the model.

    For example:

        reconstruct runs/jaxvae-1 --out reconstructions.png --n 16"""

    run: RunPath
    """The run folder, written by either package."""
    out: Path
    """The PNG to write."""
    n: int | None = None
    """Number of test images, the first ones; by default 32, or all if there are fewer."""
    data_root: RunDataRoot = None
    device: DeviceName = "auto"
    """Where to compute."""


def run(backend: Backend, command: Reconstruct) -> None:
    """Write the picture.

    Args:
        backend: The package that encodes and decodes.
        command: The parsed flags.

    Raises:
        InputError: If the request is invalid.
    """
    image_grid.require_png(command.out)
    run, weights = open_run(backend, command.run, command.device)
    dataset = open_images(run, command.data_root)
    n = min(32, len(dataset.test)) if command.n is None else command.n
    if not 1 <= n <= len(dataset.test):
        raise InputError(f"--n must be from 1 to {len(dataset.test)}, the number of test images, found {n}.")
    images = dataset.test[:n]
    reconstructions = backend.reconstruct(run.spec, weights, images, dataset.test_labels[:n])
    rows = image_grid.paired(images / 255, reconstructions)
    image_grid.write(labelled_figure.rows(rows, ["image", "reconstruction"] * (len(rows) // 2)), command.out)
    below = "its reconstruction" if n == 1 else "their reconstructions"
    say(f"{counted(n, 'test image')} above {below} in {command.out}")
