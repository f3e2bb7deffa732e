"""The compare command: test images as each run reconstructs them, and their squared errors, as table and picture."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxvae.shared.analysis import pca
from jaxvae.shared.analysis.pca import Row
from jaxvae.shared.commands.common import Device, RunPaths, open_images, open_run
from jaxvae.shared.errors import InputError
from jaxvae.shared.plotting import image_grid, labelled_figure
from jaxvae.shared.runs.run_folder import Run
from jaxvae.shared.text import markdown_table


@dataclass(frozen=True)
class Compare:
    """Picture test images beside their reconstructions by several runs, and print the squared error of each, from the
    grey images even where a run was trained on binarised ones.

    For example, two runs and principal component analysis:

        compare runs/a runs/b --pca --out beside-pca.png"""

    run: RunPaths
    """The run folders, whichever package wrote them, all on the same data."""
    out: Path
    """The PNG to write."""
    pca: bool = False
    """Beside them the linear baseline: principal component analysis, fitted to all of the training images."""
    components: int | None = None
    """The baseline's components; as many as each run has latents if not given."""
    n: int = 16
    """How many images to picture, from the test split's first on."""
    data_root: Path | None = None
    """The folder that holds the data. Else where training found it."""
    device: Device = "auto"
    """Where to compute."""


def run_compare(side: Any, command: Compare) -> None:
    image_grid.require_png(command.out)
    if command.components is not None and not command.pca:
        raise InputError("--components are those of --pca; ask for both.")
    opened = [open_run(side, path, command.device) for path in command.run]
    require_comparable([run for run, _ in opened])
    dataset = open_images(opened[0][0], command.data_root, whole=command.pca)
    test, labels = dataset.test, dataset.test_labels
    rows = [
        pca.row(
            str(run.path),
            run.spec.model.latent,
            test,
            lambda part, run=run, weights=weights: side.reconstruct(run.spec, weights, test[part], labels[part]),
            command.n,
            # Static binarisation numbers its images from the first of a call.
            batch=len(test) if run.spec.images.binarization == "static" else 1000,
        )
        for run, weights in opened
    ]
    if command.pca:
        latents = sorted({run.spec.model.latent for run, _ in opened})
        for components in latents if command.components is None else [command.components]:
            rows.append(pca.pca(np.asarray(dataset.train), test, components, command.n))
    print(table(rows, len(test), dataset.name))
    image_grid.write(picture(rows, test, dataset.name), command.out)
    print(f"reconstructions side by side in {command.out}")


_ROUNDING = 1e-9  # squared error per image


def require_comparable(runs: Sequence[Run]) -> None:
    """Raises InputError unless there is a run, and all were trained on the same images in the same shape."""
    if not runs:
        raise InputError("There is nothing to compare; give one run folder or more.")
    words = [f"{run.spec.data}, {' '.join(map(str, run.spec.model.image))}" for run in runs]
    for run, found in zip(runs, words, strict=True):
        if found != words[0]:
            raise InputError(
                f"The images of {run.path} ({found}) are not those of {runs[0].path} ({words[0]}); "
                "squared errors compare on the same images only, so give runs of the same data and shape."
            )


def table(rows: Sequence[Row], images: int, data: str) -> str:
    """The rows' errors over so many test images of `data` as a Markdown table, its columns aligned for a terminal.

    The last column is a share of PCA's error: that with as many components, else the only one; without any PCA, of the
    first row's."""
    last = "of PCA's" if any(r.baseline for r in rows) else "of the first's"
    head, cells = ["name", "latents", "squared error per image", "per pixel", last], []
    for r in rows:
        against = _against(r, rows)
        share = "-" if against is None or against.error < _ROUNDING else f"{r.error / against.error:.3f}"
        name = " ".join(r.name.split()).replace("|", "\\|")
        cells.append([name, str(r.latent), f"{r.error:.3f}", f"{r.per_pixel:.5f}", share])
    return f"{_caption(images, data)}:\n\n{markdown_table(head, cells)}"


def picture(rows: Sequence[Row], test: np.ndarray, data: str) -> bytes:
    """A PNG: the first of the uint8 `test` images of `data`, and below them each row's reconstructions, labelled with
    its name and error. Images are drawn to the dot, enlarged by a whole number."""
    n = len(rows[0].reconstructions)
    shown = np.stack([test[:n] / 255, *(r.reconstructions for r in rows)])
    labels = ["test images", *(f"{r.name}\n{r.latent} {_unit(r)}, error {r.error:.2f}" for r in rows)]
    return labelled_figure.rows(shown, labels, _caption(len(test), data))


def _against(row: Row, rows: Sequence[Row]) -> Row | None:
    """The row whose error is the measure of this one's."""
    baselines = [r for r in rows if r.baseline] or list(rows[:1])
    same = [r for r in baselines if r.latent == row.latent]
    return same[0] if same else baselines[0] if len(baselines) == 1 else None


def _caption(images: int, data: str) -> str:
    return f"Squared error per image, pixels in [0, 1]: the mean over {images:,} test images of {data}"


def _unit(row: Row) -> str:
    return ("component" if row.baseline else "latent") + ("s" if row.latent != 1 else "")
