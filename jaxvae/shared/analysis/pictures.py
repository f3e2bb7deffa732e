"""Figures of a model: samples, reconstructions, traversals and latents, as the commands write them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from jaxvae.shared.analysis import latents as latent_space
from jaxvae.shared.analysis.latents import By, project
from jaxvae.shared.analysis.reconstructions import reconstruct
from jaxvae.shared.backend import Backend, Latents, Weights
from jaxvae.shared.config.spec import Spec
from jaxvae.shared.data.class_names import label_names
from jaxvae.shared.data.dataset import Dataset
from jaxvae.shared.data.spread import spread
from jaxvae.shared.model import requirements
from jaxvae.shared.plotting import image_grid, labelled_figure
from jaxvae.shared.plotting.figure_flags import PRIOR_UNIT, data_name
from jaxvae.shared.text import counted

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SAMPLES, EACH = 64, 8
"""Images that are sampled by default, and images of each class."""


def samples(
    backend: Backend,
    spec: Spec,
    weights: Weights,
    n: int | None = None,
    seed: int = 0,
    label: int | None = None,
    temperature: float = 1.0,
    names: Sequence[str] = (),
    title: str = "",
) -> "Figure":
    """Draw images from the prior: in a grid, or for a model with classes a row for each.

    Args:
        backend: The package that samples.
        spec: The configuration.
        weights: The weights.
        n: Number of images; by default 64, or 8 of each class.
        seed: Seed for the draws; both packages draw the same images from it.
        label: The class, for a model with classes; by default each in turn.
        temperature: The latents' standard deviation.
        names: The names of the classes; by default their numbers.
        title: Above the figure.

    Returns:
        The figure.

    Raises:
        InputError: If the model has no prior, or no such class.
    """
    # Epochs count from 1, so a run's own pictures never use the key of epoch 0.
    key = backend.stream_key(backend.root_key(seed), "pictures", 0)
    by_class = spec.model.classes > 0 and label is None
    n = n or (EACH * spec.model.classes if by_class else SAMPLES)
    images = backend.sample(spec, weights, key, n, None if label is None else np.full(n, label), temperature)
    if not by_class:
        caption = "" if label is None else f"class {label_names(names, [label])[0]}"
        return labelled_figure.grid(images, caption, title)
    rows, classes = image_grid.by_class(images, spec.model.classes)
    return labelled_figure.rows(rows, label_names(names, classes), title=title)


def reconstructions(backend: Backend, spec: Spec, weights: Weights, data: Dataset, n: int, title: str = "") -> "Figure":
    """Draw test images of all classes, each above its reconstruction.

    Args:
        backend: The package that encodes and decodes.
        spec: The configuration.
        weights: The weights.
        data: The images.
        n: Number of test images.
        title: Above the figure.

    Returns:
        The figure.
    """
    chosen = spread(data.test_labels, n)
    rows = image_grid.paired(data.test[chosen] / 255, reconstruct(backend, spec, weights, data, chosen))
    return labelled_figure.rows(rows, ["image", "reconstruction"] * (len(rows) // 2), title=title)


def traversals(
    backend: Backend,
    spec: Spec,
    weights: Weights,
    posteriors: Latents,
    *,
    image: int | None = None,
    latents: int = 10,
    steps: int = 11,
    reach: float = 3.0,
    label: int | None = None,
    names: Sequence[str] = (),
    title: str = "",
    name: str = "The model",
    noun: str = "test image",
) -> "Figure":
    """Draw latent traversals: each row varies one latent, the one with the largest KL first.

    Args:
        backend: The package that decodes.
        spec: The configuration.
        weights: The weights.
        posteriors: The posteriors of test images, of `encode_images`.
        image: Start from the latent of this one; by default from the prior's mean.
        latents: The most latents that are shown.
        steps: Images in a row.
        reach: How far a latent varies in each direction, in standard deviations of the prior. Without a prior it
            varies from the smallest to the largest value over the posteriors.
        label: The class, for a model with classes.
        names: The names of the classes; by default their numbers.
        title: Above the figure.
        name: The model, for messages.
        noun: What the images are called, one of them.

    Returns:
        The figure.

    Raises:
        InputError: If a posterior is not finite.
    """
    space, prior = latent_space.space(spec, posteriors, name), requirements.has_prior(spec)
    order = space.order[:latents]
    base = space.centre if image is None else posteriors.mean[image]
    low, high = (-reach, reach) if prior else (space.low[order], space.high[order])
    values = np.broadcast_to(np.linspace(low, high, steps, axis=-1), (len(order), steps))
    rows = backend.traverse(spec, weights, base, order, values, label)
    of = "KL " if space.unit == "nats" else ""
    labels = [f"latent {i + 1}\n{of}{space.activity[i]:.2f} {space.unit}" for i in order]
    heads, start = ["least", *[""] * (steps - 2), "largest"], "the mean code"
    if prior:
        heads, start = [f"{value:.3g}" for value in values[0].round(9)], "the prior's mean"
    caption = f"One latent at a time, from {start if image is None else f'{noun} {image}'}"
    caption += "" if label is None else f", class {label_names(names, [label])[0]}"
    caption += f"; above the columns: {PRIOR_UNIT}" if prior else ""
    return labelled_figure.rows(rows, labels, caption, heads, title)


def latents(
    spec: Spec,
    means: np.ndarray,
    labels: np.ndarray,
    data: Dataset,
    by: By = "auto",
    seed: int = 0,
    title: str = "",
    noun: str = "test image",
) -> "Figure":
    """Draw the latents of test images as points in a plane, coloured by label.

    Args:
        spec: The configuration.
        means: The posteriors' means, `[n, latent]`.
        labels: Their images' classes, `[n]`.
        data: The data set of the images, for its names.
        by: How they are projected.
        seed: The seed for t-SNE.
        title: Above the figure.
        noun: What the images are called, one of them.

    Returns:
        The figure.

    Raises:
        InputError: If there are too few images for t-SNE.
    """
    unit = f" ({PRIOR_UNIT})" if requirements.has_prior(spec) else ""
    points, names = project(means, by, seed, unit)
    caption = f"{counted(len(means), noun)} of {data_name(data.name)}"
    classes = label_names(data.class_names, range(int(labels.max()) + 1))
    return labelled_figure.points(points, labels, names, caption, title, classes)
