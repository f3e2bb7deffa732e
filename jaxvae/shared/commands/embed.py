"""The embed command: latents of test images as points in a plane, coloured by label."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import tyro

from jaxvae.shared.analysis import latents_file
from jaxvae.shared.analysis.latents import flat
from jaxvae.shared.backend import Backend, DeviceName
from jaxvae.shared.commands.common import SPLITS, ImageSplit, RunDataRoot, RunPath, encode_first, open_images, open_run
from jaxvae.shared.config.choices import require_seed
from jaxvae.shared.data.class_names import label_names
from jaxvae.shared.data.spread import spread
from jaxvae.shared.errors import InputError
from jaxvae.shared.model import requirements
from jaxvae.shared.plotting import figure_file, labelled_figure
from jaxvae.shared.plotting.figure_flags import PRIOR_UNIT, FigureTitle, data_name, require_figure
from jaxvae.shared.text import counted, say
from jaxvae.shared.training import projector

By = Literal["auto", "latents", "pca", "tsne"]

_POINTS, _TSNE, _MIN_TSNE = 2000, 1000, 5  # images by default, by default for t-SNE, and at least for t-SNE
_TSNE_A_SECOND = 200  # images


@dataclass(frozen=True)
class Embed:
    """Plot the latents of test images as points, coloured by label.

    For example:

        embed runs/jaxvae-1 --out latents.png --by tsne --n 2000
        embed runs/jaxvae-1 --save latents.csv
        embed runs/jaxvae-1 --projector runs/jaxvae-1/projector

    and then `tensorboard --logdir runs/jaxvae-1/projector`."""

    run: RunPath
    """The run folder, written by either package."""
    out: Annotated[Path | None, tyro.conf.arg(help_behavior_hint="")] = None
    """The PNG, PDF or SVG to write, by the ending of its name; may be left out with --save or --projector."""
    title: FigureTitle = ""
    by: By = "auto"
    """How to project to two dimensions. auto: two latents as they are, more by their first two principal components.
    tsne takes a minute for ten thousand images; both packages find the same neighbourhoods, but not the same
    coordinates."""
    n: int | None = None
    """Use at most this many images, of all classes. By default 2,000, or 1,000 for tsne; with --save and without
    --out all."""
    split: ImageSplit = "test"
    seed: int = 0
    """Seed for t-SNE."""
    save: Path | None = None
    """A CSV or NPY to write the latents to, by the ending of its name. Columns: image, its number in its split;
    label, its class; name, the class in words; mean_1, mean_2, ..., the mean of its posterior. In an NPY, which is
    read by `numpy.load`, these are the fields image, label, name and mean."""
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
    targets = (command.out, command.save, command.projector)
    if all(target is None for target in targets):
        raise InputError("There is nothing to write; give --out, --save or --projector.")
    kind = "" if command.out is None else require_figure(command.out, command.title)
    if command.save is not None:
        latents_file.require(command.save)
    require_seed(command.seed)
    if command.projector is not None and not command.projector.parent.is_dir():
        raise InputError(f"{command.projector} can't be created: its parent is not a folder; give another --projector.")
    if command.n is not None and command.n < 2:
        raise InputError(f"--n must be at least 2, found {command.n}.")
    run, weights = open_run(backend, command.run, command.device)
    if command.by == "latents" and run.spec.model.latent != 2:
        raise InputError(f"--by latents shows two latents, and the model has {run.spec.model.latent}; choose another.")
    dataset = open_images(run, command.data_root, split=command.split)
    n = (_TSNE if command.by == "tsne" else _POINTS) if command.n is None else command.n
    if command.n is None and command.out is None and command.projector is None:
        n = len(dataset.test)
    noun = SPLITS[command.split]
    chosen = np.sort(spread(dataset.test_labels, n))
    images, labels = dataset.test[chosen], dataset.test_labels[chosen]
    latents = encode_first(backend, run, weights, dataset, int(chosen.max()) + 1).mean[chosen]
    classes = label_names(dataset.class_names, range(int(labels.max()) + 1))
    label_of = [classes[label] for label in labels]
    if command.out is not None:
        if command.by == "tsne" and len(images) >= _MIN_TSNE:
            seconds = f"about {max(1, round(len(images) / _TSNE_A_SECOND))} s"
            say(f"{backend.__name__}: t-SNE of {counted(len(images), 'image')}, {seconds} ...", sys.stderr)
        unit = f" ({PRIOR_UNIT})" if requirements.has_prior(run.spec) else ""
        points, names = project(latents, command.by, command.seed, unit)
        caption = f"{counted(len(images), noun)} of {data_name(dataset.name)}"
        picture = labelled_figure.points(points, labels, names, caption, command.title, kind, classes)
        figure_file.write(picture, command.out)
        say(f"{counted(len(images), noun)} in {command.out}")
    if command.save is not None:
        latents_file.write(command.save, latents_file.table(chosen, labels, label_of, latents))
        say(f"latents of {counted(len(images), noun)} in {command.save}")
    if command.projector is not None:
        projector.write(command.projector, latents, label_of, images)
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
