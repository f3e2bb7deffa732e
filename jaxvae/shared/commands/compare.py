"""The compare command: reconstructions by several runs and their squared errors, as a picture and a table."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from jaxvae.shared.analysis import pca
from jaxvae.shared.analysis.pca import Row
from jaxvae.shared.backend import Backend, DeviceName
from jaxvae.shared.commands.common import (
    SPLITS,
    ImageSplit,
    PartsFile,
    RunDataRoot,
    RunPaths,
    Split,
    chosen_runs,
    open_images,
    open_run,
)
from jaxvae.shared.data.spread import spread
from jaxvae.shared.errors import InputError
from jaxvae.shared.plotting import figure_file, labelled_figure
from jaxvae.shared.plotting.figure_flags import (
    FigurePath,
    FigureTitle,
    RunNames,
    data_name,
    require_figure,
    run_names,
)
from jaxvae.shared.runs.run_folder import Run
from jaxvae.shared.text import LONGEST, counted, from_here, markdown_table, printable, say

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Compare:
    """Write a picture of test images beside their reconstructions by several runs of the same data, and print the
    squared error of each run. The error is that from the original image, even if a run was trained on binarised ones.

    For example, two runs and principal component analysis:

        compare runs/a runs/b --pca --out beside-pca.png"""

    run: RunPaths
    out: FigurePath
    title: FigureTitle = ""
    names: RunNames = ()
    pca: bool = False
    """Add a linear baseline: principal component analysis, fitted to all training images."""
    components: int | None = None
    """Number of components of the baseline. By default each run's number of latents."""
    n: int | None = None
    """Number of images to show, of all classes; by default 16, or all if there are fewer."""
    split: ImageSplit = "test"
    data_root: RunDataRoot = None
    device: DeviceName = "auto"
    """Where to compute."""
    parts: PartsFile = None


def run(backend: Backend, command: Compare) -> None:
    """Print the table and write the picture.

    Args:
        backend: The package that reconstructs.
        command: The parsed flags.

    Raises:
        InputError: If the request is invalid, or the runs' images differ.
    """
    require_figure(command.out, command.title)
    if command.components is not None and not command.pca:
        raise InputError("--components requires --pca; give both.")
    paths = chosen_runs(backend, command.run)
    names = run_names(paths, command.names)
    opened = [open_run(backend, path, command.device) for path in paths]
    require_comparable([run for run, _ in opened])
    dataset = open_images(opened[0][0], command.data_root, command.pca, command.split)
    test, labels = dataset.test, dataset.test_labels
    n = min(16, len(test)) if command.n is None else command.n
    pca.require_shown(n, test)
    chosen = spread(labels, n)
    rows = [
        pca.row(
            name or printable(str(run.path), LONGEST),
            run.spec.model.latent,
            test,
            lambda part, run=run, weights=weights: backend.reconstruct(run.spec, weights, test[part], labels[part]),
            n,
            # Static binarisation draws by an image's number within a call.
            batch=len(test) if run.spec.images.binarization == "static" else 1000,
            chosen=chosen,
        )
        for name, (run, weights) in zip(command.names or [""] * len(opened), opened, strict=True)
    ]
    if command.pca:
        latents = sorted({run.spec.model.latent for run, _ in opened})
        for components in latents if command.components is None else [command.components]:
            rows.append(pca.pca(np.asarray(dataset.train), test, components, n, chosen=chosen))
    say(table(rows, len(test), dataset.name, command.split))
    rows = [row._replace(name=name) for row, name in zip(rows, names, strict=False)] + rows[len(names) :]
    figure_file.save(picture(rows, test, dataset.name, command.title, chosen, command.split), command.out)
    say(f"reconstructions side by side in {command.out}")


_ROUNDING = 1e-9  # squared error per image


def require_comparable(runs: Sequence[Run]) -> None:
    """Check that runs can be compared.

    Args:
        runs: The runs.

    Raises:
        InputError: If there is none, or if they were not all trained on the same data in the same shape.
    """
    if not runs:
        raise InputError("There is nothing to compare; give one run folder or more.")
    images = [f"{from_here(run.spec.data)}, {' '.join(map(str, run.spec.model.image))}" for run in runs]
    for run, shown in zip(runs, images, strict=True):
        if shown != images[0]:
            raise InputError(
                f"The images of {run.path} ({shown}) are not those of {runs[0].path} ({images[0]}); squared errors "
                "can only be compared on the same images: give runs of the same data and shape."
            )


def table(rows: Sequence[Row], images: int, data: str, split: Split = "test") -> str:
    """Format the rows' errors as a Markdown table, aligned for a terminal.

    The last column is the ratio to PCA's error: the PCA with the row's number of latents, or the only one. Without PCA
    it is the ratio to the first row's error.

    Args:
        rows: The rows.
        images: The number of images.
        data: The name of the data set.
        split: Which of its images these are.

    Returns:
        The table, below its caption.
    """
    last = "of PCA's" if any(r.baseline for r in rows) else "of the first's"
    head, cells = ["name", "latents", "squared error per image", "per pixel", last], []
    for r in rows:
        reference = _reference(r, rows)
        ratio = "-" if reference is None or reference.error < _ROUNDING else f"{r.error / reference.error:.3f}"
        name = " ".join(r.name.split()).replace("|", "\\|")
        cells.append([name, str(r.latent), f"{r.error:.3f}", f"{r.per_pixel:.5f}", ratio])
    return f"{_caption(images, data, split)}:\n\n{markdown_table(head, cells)}"


def picture(
    rows: Sequence[Row],
    test: np.ndarray,
    data: str,
    title: str = "",
    chosen: np.ndarray | None = None,
    split: Split = "test",
) -> "Figure":
    """Draw test images above each row's reconstructions, labelled with its name and error.

    Args:
        rows: The rows.
        test: uint8 test images, `[images, height, width, channels]`.
        data: The name of the data set.
        title: Above the picture.
        chosen: The numbers of the test images whose reconstructions the rows have; by default the first ones.
        split: Which images of the data set these are.

    Returns:
        The figure; images are enlarged by a whole number.
    """
    chosen = np.arange(len(rows[0].reconstructions)) if chosen is None else chosen
    images = np.stack([test[chosen] / 255, *(r.reconstructions for r in rows)])
    labels = [f"{SPLITS[split]}s", *(f"{r.name}\n{r.latent} {_unit(r)}, error {r.error:.2f}" for r in rows)]
    return labelled_figure.rows(images, labels, _caption(len(test), data_name(data), split), title=title)


def _reference(row: Row, rows: Sequence[Row]) -> Row | None:
    """The row whose error this row's is divided by."""
    baselines = [r for r in rows if r.baseline] or list(rows[:1])
    same = [r for r in baselines if r.latent == row.latent]
    return same[0] if same else baselines[0] if len(baselines) == 1 else None


def _caption(images: int, data: str, split: Split) -> str:
    return f"Squared error per image, pixels in [0, 1]: the mean over {counted(images, SPLITS[split])} of {data}"


def _unit(row: Row) -> str:
    return ("component" if row.baseline else "latent") + ("s" if row.latent != 1 else "")
