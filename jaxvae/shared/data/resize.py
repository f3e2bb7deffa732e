"""Images of another size fitted to the model's."""

from collections.abc import Iterable
from typing import TypeVar

import numpy as np

from jaxvae.shared.data import streaming
from jaxvae.shared.errors import InputError

_MANY = 3000

Size = tuple[int, int, int]
T = TypeVar("T")


def fit(images: np.ndarray, image: Size, resize: bool, what: str) -> np.ndarray:
    """`[n, h, w, c]` as `[n, *image]`: stretched to the height and width if they differ, colour and grey exchanged.

    Raises InputError, which begins with `what`, if the sizes differ and `resize` is false."""
    require_size(images.shape[1:], image, resize, what)
    if images.shape[1:] == image:
        return images
    if isinstance(images, streaming.Mapped):
        raise streaming.UnmappableError(f"{what.removesuffix(' has images of')}'s images", words(images.shape[1:]))
    fitted = np.empty((len(images), *image), np.uint8)
    for i, one in enumerate(with_progress(images, len(images))):
        fitted[i] = resized(one, image)
    return fitted


def require_size(found: tuple[int, ...], image: Size, resize: bool, what: str) -> None:
    """Raises InputError unless images of size `found` are, or may be made, the model's."""
    sizes = f"{what} {words(found)}, the model's images {words(image)}"
    if found != image and not resize:
        raise InputError(f"{sizes}; give --image {words(found)} or --resize.")
    if found[2] != image[2] and {found[2], image[2]} != {1, 3}:
        raise InputError(
            f"{sizes} (height, width, channels), and only grey (1 channel) and colour (3) can be turned into each "
            f"other; give --image with {found[2]} channels or other images."
        )


def resized(one: np.ndarray, image: Size) -> np.ndarray:
    """An image `[h, w, c]` of another size as `[*image]`; colour turns grey by the luma of ITU-R 601."""
    from PIL import Image

    if one.shape[2] > image[2]:
        one = np.asarray(Image.fromarray(np.ascontiguousarray(one)).convert("L"))[..., None]
    channels = (Image.fromarray(np.ascontiguousarray(one[..., c])) for c in range(one.shape[2]))
    # Bicubic both ways: on reduction Pillow widens the filter by the factor, so that every pixel has its share.
    scaled = [np.asarray(channel.resize((image[1], image[0]), Image.Resampling.BICUBIC)) for channel in channels]
    return np.broadcast_to(np.stack(scaled, axis=-1), image)


def words(size: Iterable[int]) -> str:
    """Numbers as they are given on the command line."""
    return " ".join(map(str, size))


def with_progress(items: Iterable[T], n: int) -> Iterable[T]:
    """The items, with a bar where they are many."""
    from tqdm import tqdm

    return tqdm(items, total=n, unit=" images", unit_scale=True, disable=None if n > _MANY else True)
