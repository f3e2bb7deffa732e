"""Data sets by name."""

import functools
import os
import warnings
from pathlib import Path

import numpy as np

from jaxvae.shared.config.choices import FROM_FILES
from jaxvae.shared.config.parts import ImagesSpec, ModelSpec
from jaxvae.shared.config.spec import Spec
from jaxvae.shared.data import idx, image_folder, numpy_files, streaming
from jaxvae.shared.data.dataset import Dataset, UnavailableError
from jaxvae.shared.data.resize import fit, require_size, resized
from jaxvae.shared.errors import InputError

_DIGITS_TRAIN = 1500


def load(spec: Spec, root: Path | None, mapped: bool = False) -> tuple[Dataset, str | None]:
    """The images that a spec names, as its model takes them, and for `auto` why they are not MNIST's, if so.

    MNIST and its siblings are looked for under `root`, `$JAXVAE_DATA` and the user's cache, then downloaded. mapped:
    leave the user's own training images in their file, a `streaming.Mapped`. Raises InputError if `root` is not a
    folder, if a file found is not what it should be, if what is asked for can't be had, or if its size, number or
    labels don't fit the spec; streaming.UnmappableError for what would have to be read whole."""
    if root is not None and not root.is_dir():
        raise InputError(f"The data root {root} is not a folder; give one that holds MNIST/raw, or leave it out.")
    dataset, why = _named(spec, root, mapped)
    what, limit, classes = f"The data {dataset.name}", spec.images.train_images, spec.model.classes
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
    image, resize = spec.model.image, spec.images.resize
    train, test = (fit(i, image, resize, f"{what} has images of") for i in (dataset.train, dataset.test))
    return dataset._replace(train=train, test=test), why


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
        name: `mnist`, `fashion-mnist`, `kmnist`, `emnist` or `emnist:SPLIT`, `digits`, `images:DIR`, `npy:FILE`,
            `npy:DIR`, `npz:FILE`, or `auto`: MNIST, and where it is not available the digits, with a warning.
        root: The folder that holds MNIST/raw.
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
    dataset, why = load(spec, None if root is None else Path(root))
    if why is not None:
        warnings.warn(f"{why} These are scikit-learn's digits instead.", stacklevel=2)
    return dataset


def mnist(root: Path | str | None = None) -> Dataset:
    """MNIST's 60,000 training and 10,000 test images, verified."""
    return idx.published("mnist", root)


def digits(image: tuple[int, int, int] = idx.SIZE) -> Dataset:
    """scikit-learn's 1,797 handwritten digits, 8x8 with 17 grey levels, resized: 1,500 train, 297 test."""
    if image[2] != 1:
        raise InputError(
            f"The digits are grey, with 1 channel, the model's images have {image[2]}; "
            f"give --image {image[0]} {image[1]} 1 or --resize."
        )
    images, labels = (array.copy() for array in _resized_digits(image))
    cut = _DIGITS_TRAIN
    return Dataset("digits", "scikit-learn", images[:cut], labels[:cut], images[cut:], labels[cut:])


@functools.lru_cache(maxsize=4)
def _resized_digits(image: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """All images and labels, resized once for a process that asks again."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    small = np.round(pixels.reshape(-1, 8, 8, 1) * (255 / 16)).astype(np.uint8)
    return np.stack([resized(a, image) for a in small]), labels.astype(np.uint8)


def _named(spec: Spec, root: Path | None, mapped: bool) -> tuple[Dataset, str | None]:
    """What `load` goes by, of whatever size and number it is."""
    name, image, resize = spec.data, spec.model.image, spec.images.resize
    if name.startswith(FROM_FILES):
        kind, _, path = name.partition(":")
        path = Path(os.path.expanduser(path))  # noqa: PTH111 (Path.expanduser() fails without a home)
        limit = spec.images.train_images
        if mapped and kind != "npy":
            raise streaming.UnmappableError(f"The images of {name}", "pictures" if kind == "images" else "an .npz")
        if kind == "images":
            images = image_folder.pictures(path, image, resize, limit)
        else:
            images = numpy_files.read(path, image, kind == "npy" and any(path.glob("*.npy")), mapped)
        return Dataset(f"{kind}:{path.resolve()}", str(path.resolve()), *images), None
    grey = (image[0], image[1], 1) if resize else image
    if name == "digits":
        return digits(grey), None
    key = {"auto": "mnist", "emnist": "emnist:balanced"}.get(name, name)
    require_size(idx.SIZE, image, resize, f"The images of {idx.PUBLISHED[key].title} are")  # before a download
    try:
        return idx.published(key, root)._replace(name="mnist" if name == "auto" else name), None
    except UnavailableError as error:
        if name != "auto":
            raise
        return digits(grey), str(error)
