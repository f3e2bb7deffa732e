"""Images of another size, resized to the model's."""

import math
import os
from collections.abc import Iterable
from typing import TypeVar

import numpy as np

from jaxvae.shared.data import streaming
from jaxvae.shared.errors import InputError

_MANY = 3000  # images that are worth a progress bar

Size = tuple[int, int, int]
T = TypeVar("T")


def fit(images: np.ndarray, image: Size, resize: bool, what: str) -> np.ndarray:
    """Resize images to the model's size, and convert colour to grey or grey to colour.

    Args:
        images: uint8 `[n, height, width, channels]`.
        image: Height, width and channels of the model's images.
        resize: Whether another size is allowed.
        what: What a message begins with.

    Returns:
        The images `[n, *image]`: the same array if they have that size.

    Raises:
        InputError: If the sizes differ and `resize` is false, or the channels can't be converted.
        streaming.UnmappableError: If the images have to stay in their file and have another size.
    """
    require_size(images.shape[1:], image, resize, what)
    if images.shape[1:] == image:
        return images
    if isinstance(images, streaming.Mapped):
        raise streaming.UnmappableError(f"{what.removesuffix(' has images of')}'s images", words(images.shape[1:]))
    require_memory(len(images), image, what)
    fitted = np.empty((len(images), *image), np.uint8)
    for i, one in enumerate(with_progress(images, len(images))):
        fitted[i] = resized(one, image)
    return fitted


def require_memory(n: int, image: Size, what: str) -> None:
    """Raise InputError if `n` images of the model's size are more bytes than this machine's memory."""
    size = n * math.prod(image)
    try:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):  # which not every system says
        return
    if size > memory:
        sizes = f"{words(image)}, take {size / 1e9:,.0f} GB, this machine's memory is {memory / 1e9:,.0f} GB"
        raise InputError(f"{what.removesuffix(' of')} that, resized to {sizes}; give a smaller --image.")


def require_size(size: tuple[int, ...], image: Size, resize: bool, what: str) -> None:
    """Check that images have the model's size, or may be resized to it.

    Args:
        size: Height, width and channels of the images.
        image: Those of the model's images.
        resize: Whether another size is allowed.
        what: What a message begins with.

    Raises:
        InputError: If the sizes differ and `resize` is false, or the channels can't be converted.
    """
    sizes = f"{what} {words(size)}, the model's images {words(image)}"
    if size != image and not resize:
        raise InputError(f"{sizes}; give --image {words(size)} or --resize.")
    if size[2] != image[2] and {size[2], image[2]} != {1, 3}:
        raise InputError(
            f"{sizes} (height, width, channels), and only grey (1 channel) and colour (3) can be converted to each "
            f"other; give --image with {size[2]} channels or other images."
        )


def resized(one: np.ndarray, image: Size) -> np.ndarray:
    """Resize an image.

    Args:
        one: uint8 `[height, width, channels]`.
        image: The height, width and channels to convert to.

    Returns:
        The image `[*image]`, by bicubic interpolation; colour becomes grey by the luma of ITU-R 601.
    """
    from PIL import Image

    if one.shape[2] > image[2]:
        one = np.asarray(Image.fromarray(np.ascontiguousarray(one)).convert("L"))[..., None]
    channels = (Image.fromarray(np.ascontiguousarray(one[..., c])) for c in range(one.shape[2]))
    # When it reduces, Pillow widens the bicubic filter by the factor, so that every pixel contributes.
    scaled = [np.asarray(channel.resize((image[1], image[0]), Image.Resampling.BICUBIC)) for channel in channels]
    return np.broadcast_to(np.stack(scaled, axis=-1), image)


def words(size: Iterable[int]) -> str:
    """Format numbers as they are given on the command line."""
    return " ".join(map(str, size))


def with_progress(items: Iterable[T], n: int) -> Iterable[T]:
    """Iterate over n items, with a progress bar if they are many."""
    from tqdm import tqdm

    return tqdm(items, total=n, unit=" images", unit_scale=True, disable=None if n > _MANY else True)
