"""What the commands do, as functions of a model: figures, reports and run folders."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from jaxvae.shared.analysis import pictures
from jaxvae.shared.analysis.latents import By
from jaxvae.shared.backend import Backend, Latents, Weights
from jaxvae.shared.commands import curves, report
from jaxvae.shared.config.own import Parts, using
from jaxvae.shared.config.spec import Spec, require_spec
from jaxvae.shared.data.dataset import Dataset, as_dataset
from jaxvae.shared.data.spread import spread
from jaxvae.shared.errors import InputError
from jaxvae.shared.model.argument_checks import require_bytes, require_count, require_labels
from jaxvae.shared.plotting import image_grid
from jaxvae.shared.runs import run_folder
from jaxvae.shared.safe_io import as_path
from jaxvae.shared.text import shown
from jaxvae.shared.training import saved_run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_POINTS = 2000  # images in a plane by default
Images = Dataset | np.ndarray


def picture_grid(images: np.ndarray, columns: int | None = None) -> np.ndarray:
    """Arrange images in a grid, row by row.

    Args:
        images: `[n, height, width, channels]` in [0, 1], as `sample` and `reconstruct` return them.
        columns: Images in a row; without it the grid is about square.

    Returns:
        One picture, uint8 `[height, width, channels]` of one or three channels, with grey gaps.

    Raises:
        InputError: If they are no such images, or if a row has none.
    """
    images = np.asarray(images)
    if images.ndim != 4 or images.dtype.kind != "f" or not len(images):
        raise InputError(
            f"picture_grid needs floats [n, height, width, channels] in [0, 1], found {images.dtype} of the shape "
            f"{list(images.shape)}; divide uint8 images by 255."
        )
    if columns is not None:
        require_count("picture_grid", "columns", columns)
    return image_grid.grid(images, columns)


class Library:
    """The functions of one package. `weights` are its params or its model."""

    def __init__(self, backend: Backend, check_params: Callable[..., None]):
        self._backend, self._check_params = backend, check_params

    def plot_samples(
        self,
        spec: Spec,
        weights: Weights,
        n: int | None = None,
        *,
        seed: int = 0,
        label: int | None = None,
        temperature: float = 1.0,
        class_names: Sequence[str] = (),
        title: str = "",
    ) -> "Figure":
        """Draw images from the prior, as the command `sample` does.

        Args:
            spec: The configuration.
            weights: The model's parameters, or in torchvae the model.
            n: Number of images; by default 64, or 8 of each class.
            seed: Seed for the draws; both packages draw the same images from it.
            label: The class, for a model with classes; by default a row for each.
            temperature: The latents' standard deviation; below 1 images are likelier and more alike.
            class_names: The names of the classes; by default their numbers.
            title: Above the figure.

        Returns:
            A figure of matplotlib's, which a notebook shows and `savefig` writes.

        Raises:
            InputError: If the model is not the configuration's, has no prior, or has no such class.
        """
        self._check("plot_samples", spec, weights)
        label = _class("plot_samples", spec, label)
        if n is not None:
            require_count("plot_samples", "n", n)
        return pictures.samples(self._backend, spec, weights, n, seed, label, temperature, class_names, title)

    def plot_reconstructions(
        self,
        spec: Spec,
        weights: Weights,
        images: Images,
        *,
        labels: np.ndarray | None = None,
        n: int | None = None,
        title: str = "",
    ) -> "Figure":
        """Draw images, each above its reconstruction, as the command `reconstruct` does.

        Args:
            spec: The configuration.
            weights: The model's parameters, or in torchvae the model.
            images: A data set, of whose test images some of each class are drawn, or uint8 images `[n, height, width,
                channels]`.
            labels: The classes of images that are given as an array, `[n]`.
            n: Number of images; by default 32, or all if there are fewer.
            title: Above the figure.

        Returns:
            A figure of matplotlib's, which a notebook shows and `savefig` writes.

        Raises:
            InputError: If the model, the images or the labels are not the configuration's.
        """
        self._check("plot_reconstructions", spec, weights)
        data = _shown("plot_reconstructions", spec, images, labels)
        n = min(32, len(data.test)) if n is None else n
        _require_some("plot_reconstructions", n, data)
        return pictures.reconstructions(self._backend, spec, weights, data, n, title)

    def plot_traversals(
        self,
        spec: Spec,
        weights: Weights,
        images: Images,
        *,
        labels: np.ndarray | None = None,
        image: int | None = None,
        latents: int = 10,
        steps: int = 11,
        reach: float = 3.0,
        label: int | None = None,
        title: str = "",
    ) -> "Figure":
        """Draw a row of images for each latent, which it varies, as the command `traverse` does.

        Args:
            spec: The configuration.
            weights: The model's parameters, or in torchvae the model.
            images: A data set, whose test images tell how the latents are used, or uint8 images `[n, height, width,
                channels]`.
            labels: The classes of images that are given as an array, `[n]`.
            image: Start from the latent of this image, counted from 0; by default from the prior's mean.
            latents: The most latents that are shown.
            steps: Images in a row.
            reach: How far a latent varies in each direction, in standard deviations of the prior.
            label: The class, for a model with classes; by default that of the image, or the first.
            title: Above the figure.

        Returns:
            A figure of matplotlib's, which a notebook shows and `savefig` writes.

        Raises:
            InputError: If the model, the images or the labels are not the configuration's.
        """
        self._check("plot_traversals", spec, weights)
        data = _shown("plot_traversals", spec, images, labels)
        for name, count in (("latents", latents), ("steps", steps)):
            require_count("plot_traversals", name, count)
        if image is not None and not (isinstance(image, int) and 0 <= image < len(data.test)):
            most = len(data.test) - 1
            raise InputError(f"plot_traversals needs an image from 0 to {most:,}, found {shown(image)}; give another.")
        label = _class("plot_traversals", spec, label)
        if label is None and spec.model.classes:
            label = 0 if image is None else int(data.test_labels[image])
        return pictures.traversals(
            self._backend,
            spec,
            weights,
            self._encoded(spec, weights, data),
            image=image,
            latents=latents,
            steps=steps,
            reach=reach,
            label=label,
            names=data.class_names,
            title=title,
        )

    def plot_interpolations(
        self,
        spec: Spec,
        weights: Weights,
        images: Images | None = None,
        *,
        labels: np.ndarray | None = None,
        n: int | None = None,
        steps: int = 10,
        spherical: bool = False,
        seed: int = 0,
        class_names: Sequence[str] = (),
        title: str = "",
    ) -> "Figure":
        """Draw the images between two latents, a row for each pair, as the command `interpolate` does.

        Args:
            spec: The configuration.
            weights: The model's parameters, or in torchvae the model.
            images: A data set, of whose test images some of each class are taken in pairs, or uint8 images `[n, height,
                width, channels]`; by default the ends are draws from the prior.
            labels: The classes of images that are given as an array, `[n]`.
            n: Number of interpolations; by default 8, or as many as there are pairs.
            steps: Images in an interpolation, both ends included.
            spherical: Interpolate along an arc about the origin, which keeps the typical norm of draws from the prior.
            seed: Seed for the draws; both packages draw the same latents from it.
            class_names: The names of the classes of draws; by default their numbers.
            title: Above the figure.

        Returns:
            A figure of matplotlib's, which a notebook shows and `savefig` writes.

        Raises:
            InputError: If the model, the images or the labels are not the configuration's, or if a model without a
                prior is to draw from it.
        """
        self._check("plot_interpolations", spec, weights)
        require_count("plot_interpolations", "steps", steps, least=2)
        if n is not None:
            require_count("plot_interpolations", "n", n)
        if images is None:
            if labels is not None:
                raise InputError("plot_interpolations needs images beside labels, found none; give both or neither.")
            return pictures.between_draws(
                self._backend,
                spec,
                weights,
                n or 8,
                steps,
                seed=seed,
                spherical=spherical,
                names=class_names,
                title=title,
            )
        data = _shown("plot_interpolations", spec, images, labels)
        n = max(1, min(8, len(data.test) // 2)) if n is None else n
        _require_some("plot_interpolations", 2 * n, data)
        pairs, means = spread(data.test_labels, 2 * n).reshape(-1, 2), self._encoded(spec, weights, data).mean
        return pictures.between_images(
            self._backend, spec, weights, data, means, pairs, steps, spherical=spherical, title=title
        )

    def plot_manifold(
        self,
        spec: Spec,
        weights: Weights,
        *,
        steps: int = 20,
        label: int | None = None,
        class_names: Sequence[str] = (),
        title: str = "",
    ) -> "Figure":
        """Draw the plane of a model with two latents, as the command `manifold` does.

        Args:
            spec: The configuration.
            weights: The model's parameters, or in torchvae the model.
            steps: Number of rows and columns.
            label: The class, for a model with classes; by default the first.
            class_names: The names of the classes; by default their numbers.
            title: Above the figure.

        Returns:
            A figure of matplotlib's, which a notebook shows and `savefig` writes.

        Raises:
            InputError: If the model is not the configuration's, has no prior, or not two latents.
        """
        self._check("plot_manifold", spec, weights)
        require_count("plot_manifold", "steps", steps, least=2)
        label = _class("plot_manifold", spec, label)
        if label is None and spec.model.classes:
            label = 0
        return pictures.manifold(self._backend, spec, weights, steps, label, class_names, title)

    def plot_latents(
        self,
        spec: Spec,
        weights: Weights,
        images: Images,
        *,
        labels: np.ndarray | None = None,
        by: By = "auto",
        n: int | None = None,
        seed: int = 0,
        title: str = "",
    ) -> "Figure":
        """Draw the latents of images as points in a plane, coloured by label, as the command `embed` does.

        Args:
            spec: The configuration.
            weights: The model's parameters, or in torchvae the model.
            images: A data set, for its test images, or uint8 images `[n, height, width, channels]`.
            labels: The classes of images that are given as an array, `[n]`.
            by: How they are projected: `latents` for two latents as they are, `pca`, `tsne`, or `auto` for one of the
                first two.
            n: The most images, of all classes; by default 2,000.
            seed: The seed for t-SNE.
            title: Above the figure.

        Returns:
            A figure of matplotlib's, which a notebook shows and `savefig` writes.

        Raises:
            InputError: If the model, the images or the labels are not the configuration's.
        """
        self._check("plot_latents", spec, weights)
        data = _shown("plot_latents", spec, images, labels)
        n = min(_POINTS, len(data.test)) if n is None else n
        _require_some("plot_latents", n, data)
        chosen = np.sort(spread(data.test_labels, n))
        means = self._encoded(spec, weights, data).mean[chosen]
        return pictures.latents(spec, means, data.test_labels[chosen], data, by, seed, title)

    def plot_curves(
        self,
        runs: Path | str | Sequence[Path | str],
        *,
        log: bool = False,
        names: Sequence[str] = (),
        title: str = "",
        from_step: int = 0,
        width: float = 7.0,
    ) -> "Figure":
        """Draw the learning curves of runs, as the command `curves` does.

        Args:
            runs: The folder of a run, or of several.
            log: Use logarithmic axes.
            names: What to call each run; by default as its folder.
            title: Above the panels.
            from_step: Leave out what was recorded before this step.
            width: That of the figure, in inches.

        Returns:
            A figure of matplotlib's, which a notebook shows and `savefig` writes.

        Raises:
            InputError: If one is no run, or has no metrics, or none from that step on.
        """
        return curves.figure([run_folder.read(path) for path in _paths(runs)], log, names, title, from_step, width)

    def write_report(
        self,
        path: Path | str,
        runs: Path | str | Sequence[Path | str],
        *,
        parts: Parts | None = None,
        names: Sequence[str] = (),
        title: str = "",
    ) -> None:
        """Write the HTML report of runs, as the command `report` does.

        Args:
            path: The file, which ends in .html.
            runs: The folder of a run, or of several.
            parts: The own parts that the runs were made with, if they were made with any.
            names: What to call each run; by default as its folder.
            title: The title of the page.

        Raises:
            InputError: If the file can't be written, or if one is no run, or was made with other own parts.
        """
        with using(parts):
            flags = report.Report(_paths(runs), as_path(path, "The report"), title, tuple(names))
            report.write(self._backend, flags)

    def save_run(
        self,
        path: Path | str,
        spec: Spec,
        weights: Weights,
        data: Images,
        *,
        labels: np.ndarray | None = None,
        step: int | None = None,
        terms: np.ndarray | None = None,
    ) -> None:
        """Make the run folder of a model of your own loop, whole or not at all, for all commands but `train`.

        Args:
            path: The folder, which may not exist yet.
            spec: The configuration.
            weights: The model's parameters, in torchvae the model, or a `TrainState`.
            data: The data set that it was trained on, or uint8 images `[n, height, width, channels]`, of which every
                tenth is for testing. Images that no data set's name stands for are copied into the folder.
            labels: The classes of images that are given as an array, `[n]`.
            step: The steps that were taken; by default those of the state, or of `terms`.
            terms: The mean terms of each step, `[steps, terms]`, for the learning curves.

        Raises:
            InputError: If the folder exists or can't be made, if the model or the images are not the configuration's,
                or if the number of steps is missing or doesn't fit.
            NonFiniteError: If a term over the test images is NaN or infinite.
        """
        self._check("save_run", spec, getattr(weights, "evaluated", weights))
        saved_run.save_run(self._backend, path, spec, weights, data, labels=labels, step=step, terms=terms)

    def _check(self, function: str, spec: Spec, weights: Weights) -> None:
        """Raises InputError unless it is a configuration, and the weights are its model's."""
        require_spec(spec)
        self._check_params(function, spec.model, weights, spec.training.stored)

    def _encoded(self, spec: Spec, weights: Weights, data: Dataset) -> Latents:
        """The posteriors of the test images."""
        backend, classes = self._backend, data.test_labels if spec.model.classes else None
        key = backend.stream_key(backend.root_key(spec.training.seed), "evaluation", spec.training.epochs)
        return backend.encode_images(spec, weights, data.test, key, classes)


def _shown(function: str, spec: Spec, images: Images, labels: np.ndarray | None) -> Dataset:
    """Images to draw, as a data set's test images."""
    if isinstance(images, Dataset):
        data = as_dataset(function, images, labels)
        require_bytes(function, data.test, spec.model.image)
        require_labels(function, spec, data.test_labels if data.labelled else None, len(data.test))
        return data
    images, labels = np.asarray(images), None if labels is None else np.asarray(labels)
    require_bytes(function, images, spec.model.image)
    require_labels(function, spec, labels, len(images))
    classes = np.zeros(len(images), np.uint8) if labels is None else labels.astype(np.uint8)
    return Dataset("an array", "memory", images[:0], classes[:0], images, classes, labels is not None)


def _class(function: str, spec: Spec, label: int | None) -> int | None:
    """A class that was given, if the model has classes."""
    if label is None or not spec.model.classes:
        return None
    require_labels(function, spec, np.array([label]), 1)
    return label


def _require_some(function: str, n: int, data: Dataset) -> None:
    """Raises InputError unless there are `n` images."""
    require_count(function, "n", n)
    if n > len(data.test):
        raise InputError(f"{function} needs n of at most {len(data.test):,}, the number of images, found {n:,}.")


def _paths(runs: Path | str | Sequence[Path | str]) -> tuple[Path, ...]:
    return tuple(as_path(run, "The run") for run in ([runs] if isinstance(runs, Path | str) else runs))
