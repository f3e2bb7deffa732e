"""The commands that draw what a run's model says of latents: each the same picture again from the same seed."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jaxvae.shared.analysis import latent_paths, latents
from jaxvae.shared.commands.common import Device, RunPath, encode_first, open_images, open_run
from jaxvae.shared.config.spec import Spec
from jaxvae.shared.errors import InputError
from jaxvae.shared.model import requirements
from jaxvae.shared.plotting import image_grid, labelled_figure

_MOST = 10_000  # samples in a picture
_WIDEST, _TALLEST = 60, 100  # images in a row, and rows of them
_FARTHEST = 1000  # deviations of the prior


@dataclass(frozen=True)
class Sample:
    """Draw images from a run's prior, each class a column for a model with classes. For example:

    sample runs/jaxvae-1 --out samples.png --n 100 --temperature 0.7"""

    run: RunPath
    """The run folder, whichever package wrote it."""
    out: Path
    """The PNG to write."""
    n: int = 64
    """How many images."""
    seed: int = 0
    """The same seed draws the same images, in either package."""
    temperature: float = 1.0
    """The deviation of the latents: below 1 images are likelier and more alike, above it less so."""
    label: int | None = None
    """The class to draw, for a model with classes; without it each in turn."""
    device: Device = "auto"
    """Where to compute."""


@dataclass(frozen=True)
class Reconstruct:
    """Picture test images above their reconstructions by a run. For example:

    reconstruct runs/jaxvae-1 --out reconstructions.png --n 16"""

    run: RunPath
    """The run folder, whichever package wrote it."""
    out: Path
    """The PNG to write."""
    n: int = 32
    """How many images, from the test split's first on."""
    data_root: Path | None = None
    """The folder that holds MNIST/raw. Else where training found it."""
    device: Device = "auto"
    """Where to compute."""


@dataclass(frozen=True)
class Interpolate:
    """Picture the way from one latent to another: from that of a test image to that of the next one, or between two
    draws from the prior. For example:

        interpolate runs/jaxvae-1 --out ways.png --images 0 1 2 3
        interpolate runs/jaxvae-1 --out ways.png --between latents --spherical"""

    run: RunPath
    """The run folder, whichever package wrote it."""
    out: Path
    """The PNG to write."""
    n: int = 8
    """How many ways, each a row; between images, the test split's first ones."""
    steps: int = 10
    """Images of a way, both ends among them."""
    between: Literal["images", "latents"] = "images"
    """The means that the encoder gives test images, or draws from the prior."""
    images: tuple[int, ...] = ()
    """Which test images, counted from 0: those from which and to which the first way leads, then the second and so on.
    A model with classes draws all of a way as its first image's."""
    spherical: bool = False
    """Along an arc about the origin, on which latents keep the norm that draws from the prior have; else straight."""
    seed: int = 0
    """Of the draws; the same in either package."""
    data_root: Path | None = None
    """The folder that holds MNIST/raw. Else where training found it."""
    device: Device = "auto"
    """Where to compute."""


@dataclass(frozen=True)
class Traverse:
    """Picture what each latent does: a row for each, that with the largest KL first, along which it goes end to end
    while the others stay. For example:

        traverse runs/jaxvae-1 --out latents.png --image 7 --reach 2.5"""

    run: RunPath
    """The run folder, whichever package wrote it."""
    out: Path
    """The PNG to write."""
    image: int | None = None
    """Start from the latent of this test image, counted from 0; else from the prior's mean."""
    latents: int = 10
    """How many latents at most, those that matter most."""
    steps: int = 11
    """Images of a row."""
    reach: float = 3.0
    """How far to go either way, in deviations of the prior. A code that has no prior goes from the least to the largest
    that it is for test images."""
    label: int | None = None
    """The class to draw, for a model with classes: without it the image's, or 0."""
    data_root: Path | None = None
    """The folder that holds MNIST/raw. Else where training found it."""
    device: Device = "auto"
    """Where to compute."""


@dataclass(frozen=True)
class Manifold:
    """Picture the whole plane of a model with two latents, through the normal distribution's quantiles: each image is
    as likely as any other. For example:

        manifold runs/plane --out plane.png --steps 20

    after `train --latent 2 --out runs/plane`."""

    run: RunPath
    """The run folder, whichever package wrote it."""
    out: Path
    """The PNG to write."""
    steps: int = 20
    """Images in a row, and in a column."""
    label: int | None = None
    """The class to draw, for a model with classes; 0 without it."""
    device: Device = "auto"
    """Where to compute."""


def sample(side: Any, command: Sample) -> None:
    """Raises InputError for what can't be done as asked, as the others below do."""
    _require("n", command.n, 1, _MOST)
    _require_above("temperature", command.temperature)
    image_grid.require_png(command.out)
    # Epochs count from 1, so that a run's own pictures are never drawn from this key.
    key = side.stream_key(side.root_key(command.seed), "pictures", 0)
    run, weights = open_run(side, command.run, command.device)
    classes = run.spec.model.classes
    told = _told(run.spec, command.label)
    labels = None if told is None or command.label is None else np.full(command.n, told)
    images = side.sample(run.spec, weights, key, command.n, labels, command.temperature)
    if classes and labels is None and command.n % classes == 0 and classes <= _WIDEST:
        heads = list(map(str, range(classes)))
        shown = images.reshape(-1, classes, *images.shape[1:])
        image_grid.write(labelled_figure.rows(shown, [""] * len(shown), heads=heads), command.out)
    else:
        image_grid.save(image_grid.grid(images, classes if labels is None and classes else None), command.out)
    print(f"{command.n} samples in {command.out}")


def reconstruct(side: Any, command: Reconstruct) -> None:
    image_grid.require_png(command.out)
    run, weights = open_run(side, command.run, command.device)
    dataset = open_images(run, command.data_root)
    if not 1 <= command.n <= len(dataset.test):
        raise InputError(f"--n must be from 1 to {len(dataset.test)}, the number of test images, found {command.n}.")
    shown = dataset.test[: command.n]
    again = side.reconstruct(run.spec, weights, shown, dataset.test_labels[: command.n])
    rows = image_grid.paired(shown / 255, again)
    image_grid.write(labelled_figure.rows(rows, ["image", "reconstruction"] * (len(rows) // 2)), command.out)
    print(f"{command.n} test images above their reconstructions in {command.out}")


def interpolate(side: Any, command: Interpolate) -> None:
    image_grid.require_png(command.out)
    _require("n", command.n, 1, _TALLEST)
    _require("steps", command.steps, 2, _WIDEST)
    if command.images and (command.between == "latents" or len(command.images) % 2):
        raise InputError("--images are pairs of test images, between which the ways lead; give two of them, or four.")
    run, weights = open_run(side, command.run, command.device)
    spec = run.spec
    if command.between == "latents":
        requirements.require_prior(spec)
        key = side.stream_key(side.root_key(command.seed), "pictures", 0)
        ends = side.draw_latents(spec, key, 2 * command.n).reshape(command.n, 2, -1)
        labels = np.arange(command.n) % spec.model.classes if spec.model.classes else None
        found = side.interpolate(spec, weights, *ends.swapaxes(0, 1), command.steps, labels, command.spherical)
        names = [f"way {i + 1}" if labels is None else f"class {labels[i]}" for i in range(command.n)]
        heads = _shares(command.steps)
    else:
        dataset = open_images(run, command.data_root)
        places = np.array(command.images or range(2 * command.n))
        if not 0 <= places.min() <= places.max() < len(dataset.test):
            most = len(dataset.test) - 1
            raise InputError(f"Test images have the numbers 0 to {most}; give others with --images, or a smaller --n.")
        places = places.reshape(-1, 2)
        ends = encode_first(side, run, weights, dataset, places.max() + 1).mean[places]
        labels = dataset.test_labels[places]
        told = labels[:, 0] if spec.model.classes else None
        ways = side.interpolate(spec, weights, *ends.swapaxes(0, 1), command.steps, told, command.spherical)
        shown = dataset.test[places] / 255
        found = np.concatenate([shown[:, :1], ways, shown[:, 1:]], axis=1)
        names = [f"{a} to {b}" for a, b in (labels if dataset.labelled else places)]
        heads = ["from", *_shares(command.steps), "to"]
    kind = "along an arc" if command.spherical else "in a straight line"
    caption = f"Between {'draws from the prior' if command.between == 'latents' else 'test images'}, {kind}"
    image_grid.write(labelled_figure.rows(found, names, caption, heads), command.out)
    print(f"{len(found)} ways of {command.steps} steps in {command.out}")


def traverse(side: Any, command: Traverse) -> None:
    image_grid.require_png(command.out)
    _require("steps", command.steps, 2, _WIDEST)
    _require("latents", command.latents, 1, _TALLEST)
    _require_above("reach", command.reach)
    run, weights = open_run(side, command.run, command.device)
    dataset = open_images(run, command.data_root)
    if command.image is not None:
        _require("image", command.image, 0, len(dataset.test) - 1)
    codes = encode_first(side, run, weights, dataset, len(dataset.test))
    space, prior = latents.space(run.spec, codes, str(command.run)), requirements.has_prior(run.spec)
    order, base = space.order[: command.latents], space.centre if command.image is None else codes.mean[command.image]
    low, high = (-command.reach, command.reach) if prior else (space.low[order], space.high[order])
    values = np.broadcast_to(np.linspace(low, high, command.steps, axis=-1), (len(order), command.steps))
    label = _told(run.spec, command.label)
    if command.label is None and command.image is not None and label is not None:
        label = int(dataset.test_labels[command.image])
    found = side.traverse(run.spec, weights, base, order, values, label)
    names = [f"latent {i + 1}\n{space.activity[i]:.2f} {space.unit}" for i in order]
    heads, start = ["least", *[""] * (command.steps - 2), "largest"], "the mean code"
    if prior:
        heads, start = [f"{value:.3g}" for value in values[0].round(9)], "the prior's mean"
    caption = f"One latent at a time, from {start if command.image is None else f'test image {command.image}'}"
    image_grid.write(labelled_figure.rows(found, names, caption, heads), command.out)
    print(f"{len(found)} of {run.spec.model.latent} latents in {command.out}")


def manifold(side: Any, command: Manifold) -> None:
    image_grid.require_png(command.out)
    _require("steps", command.steps, 2, _WIDEST)
    run, weights = open_run(side, command.run, command.device)
    label = _told(run.spec, command.label)
    found = side.manifold(run.spec, weights, command.steps, label)
    of = "" if label is None else f", class {label}"
    caption = f"N(0, I) in equally likely steps{of}"
    marks = latent_paths.quantiles(command.steps)
    image_grid.write(labelled_figure.plane(found, marks, ("latent 1", "latent 2"), caption), command.out)
    print(f"{command.steps} by {command.steps} images in {command.out}")


def _told(spec: Spec, label: int | None) -> int | None:
    """The class to draw; None for a model without classes. Raises InputError for one that there isn't."""
    classes = spec.model.classes
    if label is not None and not 0 <= label < classes:
        expected = f"from 0 to {classes - 1}" if classes else "left out for a model without classes"
        raise InputError(f"--label must be {expected}, found {label}.")
    return (label or 0) if classes else None


def _require(name: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise InputError(f"--{name} must be from {least} to {most}, found {value}.")


def _require_above(name: str, value: float) -> None:
    if not 0 < value <= _FARTHEST:
        raise InputError(f"--{name} must be a number above 0 and at most {_FARTHEST}, found {value:g}.")


def _shares(steps: int) -> list[str]:
    return [f"{share:.2f}" for share in np.linspace(0, 1, steps)]
