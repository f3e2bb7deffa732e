"""Figures of a model: samples, reconstructions, traversals and latents, as the commands write them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from jaxvae.shared.analysis import latent_paths
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


def manifold(
    backend: Backend,
    spec: Spec,
    weights: Weights,
    steps: int = 20,
    label: int | None = None,
    names: Sequence[str] = (),
    title: str = "",
) -> "Figure":
    """Draw the plane of two latents, at equally likely steps of the normal distribution.

    Args:
        backend: The package that decodes.
        spec: The configuration.
        weights: The weights.
        steps: Number of rows and columns.
        label: The class, for a model with classes.
        names: The names of the classes; by default their numbers.
        title: Above the figure.

    Returns:
        The figure.

    Raises:
        InputError: If the model has no prior, or not two latents.
    """
    images = backend.manifold(spec, weights, steps, label)
    caption = "N(0, I) in equally likely steps"
    caption += "" if label is None else f", class {label_names(names, [label])[0]}"
    axes = f"latent 1 ({PRIOR_UNIT})", f"latent 2 ({PRIOR_UNIT})"
    return labelled_figure.plane(images, latent_paths.quantiles(steps), axes, caption, title)


def between_draws(
    backend: Backend,
    spec: Spec,
    weights: Weights,
    n: int = 8,
    steps: int = 10,
    *,
    seed: int = 0,
    spherical: bool = False,
    names: Sequence[str] = (),
    title: str = "",
) -> "Figure":
    """Draw interpolations between draws from the prior, a row each.

    Args:
        backend: The package that decodes.
        spec: The configuration.
        weights: The weights.
        n: Number of interpolations. Those of a model with classes are of each class in turn.
        steps: Images in an interpolation, both ends included.
        seed: Seed for the draws; both packages draw the same latents from it.
        spherical: Interpolate along an arc about the origin.
        names: The names of the classes; by default their numbers.
        title: Above the figure.

    Returns:
        The figure.

    Raises:
        InputError: If the model has no prior.
    """
    requirements.require_prior(spec)
    key = backend.stream_key(backend.root_key(seed), "pictures", 0)
    ends = backend.draw_latents(spec, key, 2 * n).reshape(n, 2, -1)
    classes = np.arange(n) % spec.model.classes if spec.model.classes else None
    images = backend.interpolate(spec, weights, ends[:, 0], ends[:, 1], steps, classes, spherical)
    rows = [f"pair {i + 1}" for i in range(n)]
    if classes is not None:
        rows = [f"class {name}" for name in label_names(names, classes)]
    return labelled_figure.rows(images, rows, _between("draws from the prior", spherical), _shares(steps), title)


def between_images(
    backend: Backend,
    spec: Spec,
    weights: Weights,
    data: Dataset,
    means: np.ndarray,
    pairs: np.ndarray,
    steps: int = 10,
    *,
    spherical: bool = False,
    title: str = "",
    noun: str = "test image",
) -> "Figure":
    """Draw interpolations between the latents of test images, a row each, from the image to the other.

    Args:
        backend: The package that decodes.
        spec: The configuration.
        weights: The weights.
        data: The images.
        means: Their posteriors' means, `[n, latent]`; those of the pairs are needed.
        pairs: The images' numbers from 0: start and end of each interpolation, `[rows, 2]`. A model with classes draws
            a whole interpolation in the class of its first image.
        steps: Images in an interpolation, both ends included.
        spherical: Interpolate along an arc about the origin.
        title: Above the figure.
        noun: What the images are called, one of them.

    Returns:
        The figure.
    """
    ends, originals, classes = means[pairs], data.test[pairs] / 255, data.test_labels[pairs]
    own = classes[:, 0] if spec.model.classes else None
    images = backend.interpolate(spec, weights, ends[:, 0], ends[:, 1], steps, own, spherical)
    images = np.concatenate([originals[:, :1], images, originals[:, 1:]], axis=1)
    named = [label_names(data.class_names, two) for two in classes] if data.labelled else pairs
    rows, heads = [f"{a} to {b}" for a, b in named], ["from", *_shares(steps), "to"]
    return labelled_figure.rows(images, rows, _between(f"{noun}s", spherical), heads, title)


def _between(what: str, spherical: bool) -> str:
    return (
        f"Between {what}, {'along an arc' if spherical else 'in a straight line'}; above the columns: share of the way"
    )


def _shares(steps: int) -> list[str]:
    return [f"{share:.2f}" for share in np.linspace(0, 1, steps)]


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
