"""The files of TensorBoard's embedding projector: latents as points, each with its label and its image."""

import io
import math
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxvae.shared.errors import InputError
from jaxvae.shared.plain_paths import require_plain
from jaxvae.shared.plotting.image_grid import visible
from jaxvae.shared.safe_io import write_atomically

_MAX_SPRITE = 8192  # width and height in pixels that TensorBoard accepts
_CONFIG = """embeddings {{
  tensor_name: "latents"
  tensor_path: "tensors.tsv"
  metadata_path: "metadata.tsv"
  sprite {{
    image_path: "sprite.png"
    single_image_dim: {0}
    single_image_dim: {0}
  }}
}}
"""


def write(folder: Path, latents: np.ndarray, labels: Sequence[str], images: np.ndarray) -> None:
    """Write the four files for `tensorboard --logdir`, all or none.

    Args:
        folder: The folder; created if it does not exist.
        latents: `[n, latent]`.
        labels: What to call the class of each, `[n]`.
        images: uint8, `[n, height, width, channels]`. They are reduced if the sprite would be larger than 8,192 pixels.

    Raises:
        InputError: If there are no images or too many, or if the files can't be written.
    """
    content = files(latents, labels, images)
    try:
        put(folder, content)
    except OSError as error:
        raise InputError(
            f"The files of TensorBoard's projector in {folder} can't be written ({error.strerror}); give another "
            "folder."
        ) from None


def files(latents: np.ndarray, labels: Sequence[str], images: np.ndarray) -> dict[str, bytes]:
    """Return the content of each file that `write` writes, by name."""
    columns = math.ceil(math.sqrt(len(images)))
    if not 1 <= columns <= _MAX_SPRITE:
        raise InputError(f"TensorBoard's projector shows from 1 to {_MAX_SPRITE**2:,} images, found {len(images):,}.")
    size = min(max(images.shape[1:3]), _MAX_SPRITE // columns)
    return {
        "tensors.tsv": _lines(latents),
        "metadata.tsv": "".join(f"{label}\n" for label in labels).encode(),
        "sprite.png": _png(_sprite(images, columns, size)),
        "projector_config.pbtxt": _CONFIG.format(size).encode(),  # last: it makes TensorBoard read the others
    }


def put(folder: Path, files: dict[str, bytes]) -> None:
    """Write the files to a temporary folder, then move them into `folder`.

    Raises OSError, and InputError if one of them is a link."""
    new = not folder.exists()
    folder.mkdir(exist_ok=True)
    for name in files:
        require_plain(folder / name)
    try:
        with tempfile.TemporaryDirectory(".part", ".projector.", folder) as temporary:
            for name, content in files.items():
                with (Path(temporary) / name).open("xb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
            for name in files:
                (Path(temporary) / name).replace(folder / name)
    except BaseException:
        if new:
            shutil.rmtree(folder)
        raise


def update(folder: Path, latents: np.ndarray) -> None:
    """Replace the latents `[n, latent]` of the same images. Raises OSError, and InputError if their file is a link."""
    # Not flushed to the disk: after each epoch that would take longer than the rest.
    write_atomically(folder / "tensors.tsv", _lines(latents), sync=False)


def _lines(latents: np.ndarray) -> bytes:
    row = "\t".join(["%.6g"] * latents.shape[1]) + "\n"
    return "".join(row % tuple(values) for values in latents.tolist()).encode()


def _sprite(images: np.ndarray, columns: int, size: int) -> np.ndarray:
    """The images row by row, with as many rows as columns, each in the middle of a black square of `size` pixels."""
    images = visible(images)
    n, height, width, channels = images.shape
    scale = min(1.0, size / max(height, width))
    height, width = max(1, round(height * scale)), max(1, round(width * scale))
    tiles = np.zeros((columns**2, size, size, channels), np.uint8)
    top, left = (size - height) // 2, (size - width) // 2
    tiles[:n, top : top + height, left : left + width] = images if scale == 1 else _smaller(images, height, width)
    edge = columns * size
    return tiles.reshape(columns, columns, size, size, channels).swapaxes(1, 2).reshape(edge, edge, channels)


def _smaller(images: np.ndarray, height: int, width: int) -> np.ndarray:
    from PIL import Image

    shape = (len(images), height, width, images.shape[-1])
    small = [
        np.asarray(Image.fromarray(_flat(image)).resize((width, height), Image.Resampling.BOX)) for image in images
    ]
    return np.stack(small).reshape(shape)


def _png(picture: np.ndarray) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(_flat(picture)).save(buffer, format="PNG")
    return buffer.getvalue()


def _flat(picture: np.ndarray) -> np.ndarray:
    """Without the channel axis for grey, as Pillow expects."""
    return picture[..., 0] if picture.shape[-1] == 1 else picture
