"""The embed command: latents of test images as points in a plane, coloured by label."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from jaxvae.shared.analysis import latents_file, pictures
from jaxvae.shared.analysis.latents import MIN_TSNE, By
from jaxvae.shared.backend import Backend, DeviceName
from jaxvae.shared.commands.common import (
    SPLITS,
    ImageSplit,
    PartsFile,
    RunDataRoot,
    RunPath,
    encode_first,
    open_images,
    open_run,
)
from jaxvae.shared.config.choices import require_seed
from jaxvae.shared.data.class_names import label_names
from jaxvae.shared.data.spread import spread
from jaxvae.shared.errors import InputError
from jaxvae.shared.plotting import figure_file
from jaxvae.shared.plotting.figure_flags import FigureTitle, require_figure
from jaxvae.shared.text import counted, say
from jaxvae.shared.training import projector

_POINTS, _TSNE = 2000, 1000  # images by default, and by default for t-SNE
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
    parts: PartsFile = None


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
    if command.out is not None:
        require_figure(command.out, command.title)
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
        if command.by == "tsne" and len(images) >= MIN_TSNE:
            seconds = f"about {max(1, round(len(images) / _TSNE_A_SECOND))} s"
            say(f"{backend.__name__}: t-SNE of {counted(len(images), 'image')}, {seconds} ...", sys.stderr)
        picture = pictures.latents(run.spec, latents, labels, dataset, command.by, command.seed, command.title, noun)
        figure_file.save(picture, command.out)
        say(f"{counted(len(images), noun)} in {command.out}")
    if command.save is not None:
        latents_file.write(command.save, latents_file.table(chosen, labels, label_of, latents))
        say(f"latents of {counted(len(images), noun)} in {command.save}")
    if command.projector is not None:
        projector.write(command.projector, latents, label_of, images)
        say(f"for TensorBoard's projector in {command.projector}")
