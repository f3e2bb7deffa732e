"""Pictures as grids of images."""

import io
import math
from pathlib import Path

import numpy as np

from jaxvae.shared.plotting import figure_file

_GAP, _SCALE, _GREY = 2, 2, 64


def visible(images: np.ndarray) -> np.ndarray:
    """Return images that can be shown: grey and colour as they are; any other channels side by side, each in grey.

    Args:
        images: `[..., height, width, channels]`.

    Returns:
        The images; `[..., height, channels * width, 1]` unless there are one or three channels.
    """
    if images.shape[-1] in (1, 3):
        return images
    return np.concatenate(list(np.moveaxis(images, -1, 0)), axis=-1)[..., None]


def grid(images: np.ndarray, columns: int | None = None) -> np.ndarray:
    """Arrange images in a grid, row by row.

    Args:
        images: `[n, height, width, channels]` in [0, 1].
        columns: Images in a row; without it the grid is about square.

    Returns:
        One picture, uint8 `[height, width, channels]` of one or three channels, with grey gaps.
    """
    images = visible(images)
    n, height, width, channels = images.shape
    columns = columns or math.ceil(math.sqrt(n))
    rows = math.ceil(n / columns)
    picture = np.full((rows * (height + _GAP) + _GAP, columns * (width + _GAP) + _GAP, channels), _GREY, np.uint8)
    for i, image in enumerate(np.round(np.clip(images, 0, 1) * 255).astype(np.uint8)):
        top, left = (_GAP + (i // columns) * (height + _GAP), _GAP + (i % columns) * (width + _GAP))
        picture[top : top + height, left : left + width] = image
    return picture


def pairs(above: np.ndarray, below: np.ndarray, columns: int = 16) -> np.ndarray:
    """Arrange two sets of images in a grid: rows of `above` (originals), each with the same row of `below`
    (reconstructions) under it, as `paired` does. The picture is uint8 `[height, width, channels]`."""
    rows = paired(above, below, columns)
    return grid(rows.reshape(-1, *above.shape[1:]), rows.shape[1])


def paired(above: np.ndarray, below: np.ndarray, columns: int = 16) -> np.ndarray:
    """Arrange two sets of images in alternating rows.

    Args:
        above: Images `[n, height, width, channels]` in [0, 1].
        below: As many images.
        columns: The most images in a row.

    Returns:
        `[2 * rows, columns, height, width, channels]`, grey where the last row has no image.
    """
    rows = math.ceil(len(above) / columns)
    columns = math.ceil(len(above) / rows)
    blank = np.full((rows * columns - len(above), *above.shape[1:]), _GREY / 255)
    both = [np.concatenate([part, blank]).reshape(rows, columns, *above.shape[1:]) for part in (above, below)]
    return np.stack(both, axis=1).reshape(2 * rows, columns, *above.shape[1:])


def by_class(images: np.ndarray, classes: int, columns: int = 16) -> tuple[np.ndarray, list[int]]:
    """Arrange images in rows of one class each, or in several rows for many images of a class.

    Args:
        images: `[n, height, width, channels]` in [0, 1]; image i is of the class i modulo `classes`.
        classes: The number of classes.
        columns: The most images in a row.

    Returns:
        `[rows, columns, height, width, channels]`, grey where a class has no further image, and the class of each row.
    """
    shape, classes = images.shape[1:], min(classes, len(images))
    lines = math.ceil(len(images) / (classes * columns))
    columns = math.ceil(len(images) / (classes * lines))
    blank = np.full((lines * columns * classes - len(images), *shape), _GREY / 255, images.dtype)
    rows = np.concatenate([images, blank]).reshape(lines, columns, classes, *shape).transpose(2, 0, 1, 3, 4, 5)
    return rows.reshape(classes * lines, columns, *shape), [i // lines for i in range(classes * lines)]


def save(picture: np.ndarray, path: Path) -> None:
    """Write a picture as a PNG, at twice its size.

    Args:
        picture: uint8 `[height, width, channels]`.
        path: The file; its name ends in .png.

    Raises:
        InputError: If the file can't be written.
    """
    from PIL import Image

    enlarged = picture.repeat(_SCALE, 0).repeat(_SCALE, 1)
    image = Image.fromarray(enlarged[..., 0] if enlarged.shape[-1] == 1 else enlarged)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    figure_file.write(buffer.getvalue(), path)
