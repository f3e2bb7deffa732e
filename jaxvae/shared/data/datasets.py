"""Data sets by name."""

import os
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

from jaxvae.shared import safe_io
from jaxvae.shared.config.parts import ImagesSpec, ModelSpec
from jaxvae.shared.config.spec import Spec
from jaxvae.shared.data import cifar, idx, image_folder, numpy_files, sklearn_digits, streaming
from jaxvae.shared.data.dataset import Dataset, Request, UnavailableError, held_out
from jaxvae.shared.data.resize import fit
from jaxvae.shared.data.sklearn_digits import digits as digits
from jaxvae.shared.errors import InputError
from jaxvae.shared.text import named

READERS: dict[str, Callable[[Request], Dataset]] = {
    "mnist": idx.read,
    "fashion-mnist": idx.read,
    "kmnist": idx.read,
    "emnist": idx.read,
    "cifar10": cifar.read,
    "digits": sklearn_digits.read,
    "images": image_folder.read,
    "npy": numpy_files.read,
    "npz": numpy_files.read,
}
"""The function that reads each entry of `config.data_sets.DATA_SETS`, but for `auto`, which chooses one of them."""

_DARK = 31  # of 255: images of 4 or 5 bits that were not scaled to 8 have no brighter pixel


def load(spec: Spec, root: Path | None, mapped: bool = False) -> tuple[Dataset, str | None]:
    """Load the images that a configuration names, in its model's size.

    Published data sets are looked for under `root`, `$JAXVAE_DATA` and the user's cache, then downloaded.

    Args:
        spec: The configuration.
        root: The folder of the published data sets, which holds MNIST/raw and the like; None for the default ones.
        mapped: Leave the user's own training images in their file, a `streaming.Mapped`.

    Returns:
        The data set, and for `auto` why it is not MNIST; None if it is.

    Raises:
        InputError: If `root` is not a folder, if a file is not what it should be, if all of its training images' pixels
            are one value, or 0 and 1 of 255, if the data set is not available, or if its size, number or labels don't
            fit the configuration.
        streaming.UnmappableError: If `mapped` and the images have to be read whole.
    """
    root = _required(root)
    dataset, why = _read(spec, root, mapped)
    what, limit, classes = f"The data {dataset.name}", spec.images.train_images, spec.model.classes
    if (value := _only_value(dataset.train)) is not None:
        raise InputError(f"The training images of {dataset.name} are all of one value, {value}; give others.")
    if (largest := _largest(dataset.train)) == 1:
        raise InputError(
            f"The training images of {dataset.name} hold only 0 and 1, where white is 255; multiply them by 255."
        )
    if largest <= _DARK:
        note = (
            f"The training images of {dataset.name} hold numbers up to {largest}, where white is 255; multiply them if "
            "they should be brighter."
        )
        dataset = dataset._replace(notes=(*dataset.notes, note))
    if (value := _only_value(dataset.test)) is not None:
        dataset = dataset._replace(
            notes=(*dataset.notes, f"The test images of {dataset.name} are all of one value, {value}.")
        )
    if limit is not None and limit > len(dataset.train):
        raise InputError(
            f"{'' if why is None else why + ' '}{what} has {len(dataset.train):,} training images, {limit:,} are asked "
            f"for; give --train-images {len(dataset.train)} or less."
        )
    if classes and not dataset.labelled:
        raise InputError(
            f"{what} has no labels, the model's classes are {classes}; give --classes 0, or data with labels: pictures "
            "each in a folder of its class, at most 256 of them, or npz:FILE with labels."
        )
    dataset = dataset._replace(train=dataset.train[:limit], train_labels=dataset.train_labels[:limit])
    largest = max(int(labels.max()) for labels in (dataset.train_labels, dataset.test_labels))
    if classes and largest >= classes:
        raise InputError(
            f"{what} has labels up to {largest}, the model's {classes} classes are 0 to {classes - 1}; "
            f"give --classes {largest + 1}."
        )
    if classes > (known := len(dataset.class_names)) > 0:
        note = (
            f"The model has {classes} classes, {what} has {known}: the others have no images. Give --classes {known}."
        )
        dataset = dataset._replace(notes=(*dataset.notes, note))
    image, resize = spec.model.image, spec.images.resize
    train, test = (fit(i, image, resize, f"{what} has images of") for i in (dataset.train, dataset.test))
    dataset = held_out(dataset._replace(train=train, test=test), spec.images.validation)
    names = dataset.class_names[: classes or None] or tuple(map(str, range(classes)))
    few = classes or limit is not None
    if few and (untrained := set(range(len(names))) - set(dataset.train_labels.tolist())):
        among = "" if limit is None else f" among the first {limit:,}"
        missing = named(names[i] for i in sorted(untrained))
        note = f"{what} has no training images of these classes{among}: {missing}."
        dataset = dataset._replace(notes=(*dataset.notes, note))
    return dataset, why


def load_data(
    name: str = "auto",
    root: Path | str | None = None,
    *,
    image: tuple[int, int, int] = idx.SIZE,
    resize: bool = False,
) -> Dataset:
    """Load a data set by its name.

    The images are uint8, `[n, height, width, channels]`, in memory. MNIST and its siblings are looked for under `root`,
    `$JAXVAE_DATA` and the user's cache folder, then downloaded.

    Args:
        name: `mnist`, `fashion-mnist`, `kmnist`, `emnist` or `emnist:SPLIT`, `cifar10`, `digits`, `images:DIR`,
            `npy:FILE`, `npy:DIR`, `npz:FILE`, or `auto`: MNIST, or the digits with a warning if it is not available.
        root: The folder of the published data sets, which holds MNIST/raw and the like.
        image: Height, width and channels of an image. Give the size of your own images for `images:`, `npy:` and
            `npz:`.
        resize: Resize images of another size to `image` instead of rejecting them.

    Returns:
        The images and labels of both splits.

    Raises:
        InputError: If the name is unknown, if a file is missing or corrupt, or if an image has another size than
            `image` and `resize` is False.
    """
    spec = Spec(data=name, model=ModelSpec(image=image), images=ImagesSpec(resize=resize))
    dataset, why = load(spec, _required(root))
    substituted = () if why is None else (f"{why} These are scikit-learn's digits instead.",)
    for note in (*substituted, *dataset.notes):
        warnings.warn(note, stacklevel=2)
    return dataset


def mnist(root: Path | str | None = None) -> Dataset:
    """Load MNIST's 60,000 training and 10,000 test images, verified.

    Args:
        root: The folder that holds MNIST/raw; else `$JAXVAE_DATA`, the user's cache, or a download.

    Raises:
        InputError: If `root` is not a folder, if MNIST is not available, or if a file of it is not what was published.
    """
    return idx.load("mnist", _required(root))


def _required(root: Path | str | None) -> Path | None:
    """The data root, if it is given. Raises InputError unless it is a folder."""
    path = None if root is None else safe_io.as_path(root, "The data root")
    if path is not None and not path.is_dir():
        raise InputError(
            f"The data root {path} is not a folder; give the published data sets' folder, or leave it out."
        )
    return path


def _only_value(images: np.ndarray) -> int | None:
    """The value that all pixels have; None if there are others, which is known after a few images of most data sets."""
    first = int(np.asarray(images[:1]).flat[0])
    return first if all((piece == first).all() for piece in streaming.pieces(images)) else None


def _largest(images: np.ndarray) -> int:
    """The largest value of a pixel if that is dark, which is known after a few images of most data sets; else one that
    is not dark."""
    largest = 0
    for piece in streaming.pieces(images):
        largest = max(largest, int(piece.max()))
        if largest > _DARK:
            break
    return largest


def _read(spec: Spec, root: Path | None, mapped: bool) -> tuple[Dataset, str | None]:
    """The data set that a configuration names, of whatever size and number it is, and why `auto` is not MNIST."""
    kind, _, argument = ("mnist" if spec.data == "auto" else spec.data).partition(":")
    argument = os.path.expanduser(argument)  # noqa: PTH111 (Path.expanduser() fails without a home)
    request = Request(kind, argument, root, spec.model.image, spec.images.resize, spec.images.train_images, mapped)
    try:
        return READERS[kind](request), None
    except UnavailableError as error:
        if spec.data != "auto":
            raise
        return READERS["digits"](request._replace(kind="digits")), str(error)
