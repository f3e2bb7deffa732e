"""A data set: images and labels in two splits, or three."""

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxvae.shared.config.parts import ImagesSpec
from jaxvae.shared.data import streaming
from jaxvae.shared.data.resize import Size
from jaxvae.shared.errors import InputError


class Dataset(NamedTuple):
    """uint8 images `[n, height, width, channels]` and uint8 labels `[n]`, in two splits, or three with `held_out`. The
    training images may be a `streaming.Mapped`."""

    name: str
    source: str
    """The root it was read from, for the run's record."""
    train: np.ndarray
    train_labels: np.ndarray
    test: np.ndarray
    test_labels: np.ndarray
    labelled: bool = True
    """Whether there are labels; without them all are 0."""
    notes: tuple[str, ...] = ()
    """Sentences about what was left out or looks wrong, for whoever trains on it."""
    class_names: tuple[str, ...] = ()
    """The names of the classes by label; empty where these have numbers only."""
    validation: np.ndarray | None = None
    """Images that are not trained on and choose the best epoch; None without any."""
    validation_labels: np.ndarray | None = None


def as_dataset(function: str, data: Any, labels: Any = None) -> Dataset:
    """Make a data set of an array of images, of which every tenth is for testing.

    Args:
        function: The function that was given them, for a message.
        data: A data set, which is returned, or uint8 images `[n, height, width, channels]` of any framework.
        labels: Classes from 0 to 255, `[n]`, if the images are an array and have any.

    Returns:
        The data set. Whether it is the model's, its user checks.

    Raises:
        InputError: If it is neither, if there are fewer than two images, if no pixel is above 1, or if there are not
            as many labels.
    """
    if isinstance(data, Dataset):
        if labels is not None:
            raise InputError(f"{function}: a Dataset has labels of its own; leave labels out.")
        return data
    if not hasattr(data, "__array__") or not data.shape:
        raise InputError(
            f"{function} needs a Dataset, or uint8 images, found {type(data).__name__}; give load_data(...) or "
            "digits(...), or an array [n, height, width, channels]."
        )
    images = np.asarray(data)
    classes = np.zeros(len(images), np.uint8) if labels is None else np.asarray(labels)
    if classes.shape != (len(images),):
        raise InputError(f"{function} needs one label for each of {len(images):,} images, found {classes.shape}.")
    if classes.dtype.kind in "iu" and classes.size and 0 <= classes.min() <= classes.max() <= 255:
        classes = classes.astype(np.uint8)
    train, test = tenths(len(images), "The array")
    if images.dtype == np.uint8 and images.size and (largest := images.max()) <= 1:
        raise InputError(
            f"{function} needs uint8 images, 0 to 255, found none above {largest}; multiply images of 0 and 1 by 255."
        )
    splits = images[train], classes[train], images[test], classes[test]
    return Dataset("an array", "memory", *splits, labelled=labels is not None)


class Request(NamedTuple):
    """The request to a reader of data sets."""

    kind: str
    """The data set's name, before the colon."""
    argument: str
    """What follows the colon: a split or a path; empty without one."""
    root: Path | None
    """Where to look first for a published data set."""
    image: Size
    """Height, width and channels of the model's images."""
    resize: bool
    """Whether images of another size may be resized to these."""
    limit: int | None
    """How many training images are used; a reader may read more."""
    mapped: bool
    """Whether training images have to stay in their file."""

    @property
    def name(self) -> str:
        """As `--data` names it."""
        return f"{self.kind}:{self.argument}" if self.argument else self.kind


class UnavailableError(InputError):
    """A published data set is neither on this machine nor can be downloaded; `auto` takes another."""


def held_out(dataset: Dataset, n: int) -> Dataset:
    """Hold training images out for validation, evenly spaced, so that images sorted by class keep all classes.

    Args:
        dataset: The data set, with all training images, or with these held out already.
        n: The number of images to hold out; 0 for none.

    Returns:
        The data set with a third split, or as it is without one.

    Raises:
        InputError: If no image would be left to train on, or if it holds out another number of images.
    """
    held = 0 if dataset.validation is None else len(dataset.validation)
    if held == n:
        return dataset
    if held:
        raise InputError(
            f"The data {dataset.name} holds {held:,} images out for validation, the configuration {n:,}; give it "
            f"validation={held}."
        )
    total = len(dataset.train)
    if n >= total:
        raise InputError(
            f"The data {dataset.name} has {total:,} training images, {n:,} are to be held out; give --validation "
            f"{max(total - 1, 0)} or less."
        )
    chosen = _evenly(n, total)
    images, labels = dataset.train, dataset.train_labels
    return dataset._replace(
        train=images[~chosen],
        train_labels=labels[~chosen],
        validation=np.asarray(images[chosen]),
        validation_labels=labels[chosen],
    )


def trained_on(dataset: Dataset, images: ImagesSpec) -> Dataset:
    """Leave out of a data set what a configuration does not train on: all but its first images, and those held out.

    Args:
        dataset: The data set, as it was read, or with images held out already.
        images: How many are used, and how many of them are held out.

    Returns:
        The data set, with a third split if images are held out.

    Raises:
        InputError: As `held_out`.
    """
    if dataset.validation is None:
        first = slice(images.train_images)
        dataset = dataset._replace(train=dataset.train[first], train_labels=dataset.train_labels[first])
    return held_out(dataset, images.validation)


def put_back(dataset: Dataset) -> Dataset:
    """Undo `held_out`: the held-out images are training images again, in their order."""
    if dataset.validation is None:
        return dataset
    chosen = _evenly(len(dataset.validation), len(dataset.validation) + len(dataset.train))

    def merged(trained: Any, held: Any) -> np.ndarray:
        whole = np.empty((len(chosen), *held.shape[1:]), held.dtype)
        whole[~chosen], whole[chosen] = np.asarray(trained), held
        return whole

    return dataset._replace(
        train=merged(dataset.train, dataset.validation),
        train_labels=merged(dataset.train_labels, dataset.validation_labels),
        validation=None,
        validation_labels=None,
    )


def _evenly(n: int, total: int) -> np.ndarray:
    """Which of `total` images are n evenly spaced ones, `[total]`."""
    chosen = np.zeros(total, bool)
    chosen[(2 * np.arange(n) + 1) * total // (2 * n)] = True
    return chosen


def digest(dataset: Dataset) -> str:
    """Compute the SHA-256 of the images and labels of all splits, and their shapes."""
    sha = hashlib.sha256()
    held = [array for array in (dataset.validation, dataset.validation_labels) if array is not None]
    for array in (dataset.train, dataset.train_labels, dataset.test, dataset.test_labels, *held):
        sha.update(f"{array.shape}".encode())
        for piece in streaming.pieces(array):
            sha.update(np.ascontiguousarray(piece).data)
    return sha.hexdigest()


def from_path(request: Request) -> tuple[str, str]:
    """Resolve the request's path: the name and the source of the data set."""
    path = str(Path(request.argument).resolve())
    return f"{request.kind}:{path}", path


def tenths(n: int, where: str) -> tuple[np.ndarray, np.ndarray]:
    """Split n images: every tenth, or else the last, is for testing.

    Args:
        n: The number of images.
        where: What they are called in a message.

    Returns:
        Which images are for training and which for testing, bool `[n]` each.

    Raises:
        InputError: If there are fewer than two.
    """
    if n < 2:
        images = f"{n} image{'s' * (n != 1)}"
        raise InputError(f"{where} has {images}, but one to train and one to test are needed; add more.")
    test = np.arange(1, n + 1) % 10 == 0
    test[-1] |= n < 10
    return ~test, test
