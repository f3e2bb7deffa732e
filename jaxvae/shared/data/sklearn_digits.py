"""scikit-learn's handwritten digits, which need no file and no network."""

import functools
import gzip
import importlib.util
from pathlib import Path

import numpy as np

from jaxvae.shared.config.parts import ModelSpec
from jaxvae.shared.data.dataset import Dataset, Request
from jaxvae.shared.data.resize import Size, require_memory, resized
from jaxvae.shared.errors import InputError

_TRAIN = 1500


def read(request: Request) -> Dataset:
    """The digits in the model's size; grey ones, if they may be resized to colour."""
    height, width, channels = request.image
    return digits((height, width, 1 if request.resize else channels))


def digits(image: Size = (28, 28, 1)) -> Dataset:
    """Load scikit-learn's 1,797 handwritten digits, 8x8 with 17 grey levels, resized: 1,500 train, 297 test.

    Args:
        image: Height, width and channels of the images; one channel.

    Raises:
        InputError: If `image` is not three sizes, or has more than one channel.
    """
    image = ModelSpec(image=image).image  # checked
    if image[2] != 1:
        raise InputError(
            f"The digits are grey, with 1 channel, the model's images have {image[2]}; "
            f"give --image {image[0]} {image[1]} 1 or --resize."
        )
    require_memory(_TRAIN, image, "The digits are images of")
    images, labels = (array.copy() for array in _resized_digits(image))
    return Dataset("digits", "scikit-learn", images[:_TRAIN], labels[:_TRAIN], images[_TRAIN:], labels[_TRAIN:])


@functools.lru_cache(maxsize=4)
def _resized_digits(image: Size) -> tuple[np.ndarray, np.ndarray]:
    """All images and labels, resized once for a process that asks again."""
    # load_digits reads the same file; importing it takes two seconds.
    package = importlib.util.find_spec("sklearn")
    assert package is not None
    assert package.origin is not None
    with gzip.open(Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz") as file:
        table = np.loadtxt(file, delimiter=",")
    small = np.round(table[:, :64].reshape(-1, 8, 8, 1) * (255 / 16)).astype(np.uint8)
    return np.stack([resized(a, image) for a in small]), table[:, 64].astype(np.uint8)
