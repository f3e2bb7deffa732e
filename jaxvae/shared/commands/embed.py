"""The embed command: latents of test images as points in a plane, coloured by label."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from jaxvae.shared.analysis.latents import flat
from jaxvae.shared.backend import Backend, DeviceName
from jaxvae.shared.commands.common import RunDataRoot, RunPath, encode_first, open_images, open_run
from jaxvae.shared.commands.figures import PRIOR_UNIT, FigurePath, FigureTitle, data_name, require_figure
from jaxvae.shared.config.choices import require_seed
from jaxvae.shared.data.class_names import label_names
from jaxvae.shared.errors import InputError
from jaxvae.shared.model import requirements
from jaxvae.shared.plotting import figure_file, labelled_figure
from jaxvae.shared.text import say
from jaxvae.shared.training import projector

By = Literal["auto", "latents", "pca", "tsne"]

_MIN_TSNE = 5  # images


@dataclass(frozen=True)
class Embed:
    """Plot the latents of test images as points, coloured by label.

    For example:

        embed runs/jaxvae-1 --out latents.png --by tsne --n 2000
        embed runs/jaxvae-1 --out latents.png --projector runs/jaxvae-1/projector

    and then `tensorboard --logdir runs/jaxvae-1/projector`."""

    run: RunPath
    """The run folder, written by either package."""
    out: FigurePath
    title: FigureTitle = ""
    by: By = "auto"
    """How to project to two dimensions. auto: two latents as they are, more by their first two principal components.
    tsne takes a minute for thousands of images; both packages find the same neighbourhoods, but not the same
    coordinates."""
    n: int = 2000
    """Use at most this many test images, the first ones."""
    seed: int = 0
    """Seed for t-SNE."""
    projector: Path | None = None
    """A folder to write the latents, labels and images to, in the format of TensorBoard's projector."""
    data_root: RunDataRoot = None
    device: DeviceName = "auto"
    """Where to compute."""


def run(backend: Backend, command: Embed) -> None:
    """Write the picture, and the projector's files if they are requested.

    Args:
        backend: The package that encodes.
        command: The parsed flags.

    Raises:
        InputError: If the request is invalid.
    """
    kind = require_figure(command.out, command.title)
    require_seed(command.seed)
    if command.projector is not None and not command.projector.parent.is_dir():
        raise InputError(f"{command.projector} can't be created: its parent is not a folder; give another --projector.")
    if command.n < 2:
        raise InputError(f"--n must be at least 2, found {command.n}.")
    run, weights = open_run(backend, command.run, command.device)
    if command.by == "latents" and run.spec.model.latent != 2:
        raise InputError(f"--by latents shows two latents, and the model has {run.spec.model.latent}; choose another.")
    dataset = open_images(run, command.data_root)
    images, labels = dataset.test[: command.n], dataset.test_labels[: command.n]
    latents = encode_first(backend, run, weights, dataset, command.n).mean
    unit = f" ({PRIOR_UNIT})" if requirements.has_prior(run.spec) else ""
    points, names = project(latents, command.by, command.seed, unit)
    caption = f"The first {len(images):,} test images of {data_name(dataset.name)}"
    classes = label_names(dataset.class_names, range(int(labels.max()) + 1))
    picture = labelled_figure.points(points, labels, names, caption, command.title, kind, classes)
    figure_file.write(picture, command.out)
    say(f"{len(images):,} test images in {command.out}")
    if command.projector is not None:
        projector.write(command.projector, latents, [classes[label] for label in labels], images)
        say(f"for TensorBoard's projector in {command.projector}")


def project(latents: np.ndarray, by: By = "auto", seed: int = 0, unit: str = "") -> tuple[np.ndarray, tuple[str, str]]:
    """Project latents to a plane.

    Args:
        latents: `[n, latent]`.
        by: The method.
        seed: The seed for t-SNE.
        unit: What follows the name of a latent.

    Returns:
        The points, `[n, 2]`, and the names of their axes.

    Raises:
        InputError: If there are too few images for t-SNE.
    """
    if by in ("auto", "latents") and latents.shape[1] == 2:
        return latents, (f"latent 1{unit}", f"latent 2{unit}")
    if by == "tsne":
        from sklearn.manifold import TSNE

        if len(latents) < _MIN_TSNE:
            raise InputError(f"t-SNE needs at least {_MIN_TSNE} images, found {len(latents)}; give a larger --n.")
        perplexity = min(30.0, (len(latents) - 1) / 3)
        model = TSNE(2, perplexity=perplexity, init="pca", random_state=seed % 2**32)
        return model.fit_transform(latents), ("t-SNE 1", "t-SNE 2")
    directions, shares = flat(latents)
    names = [f"component {i + 1}, {100 * share:.0f} % of the variance" for i, share in enumerate(shares)]
    if latents.shape[1] == 1:
        names = [f"latent 1{unit}", ""]
    return (latents - latents.mean(0)) @ directions.T, (names[0], names[1])
