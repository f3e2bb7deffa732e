"""The files of TensorBoard's embedding projector: latents as points in space, each with its label and its image."""

import io
import math
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np

from jaxvae.shared.errors import InputError

_SIDE = 8192  # pixels of a sprite that TensorBoard takes
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


def write(folder: Path, latents: np.ndarray, labels: np.ndarray, images: np.ndarray) -> None:
    """Writes the four files for latents `[n, latent]` with labels `[n]` and uint8 images `[n, height, width, channels]`
    into the folder, which is made if it isn't there: `tensorboard --logdir` shows it. All of them or none. Images are
    made smaller where together they would be more than 8,192 pixels wide. Raises InputError for more images than that
    leaves a pixel each, for none, and where the files can't be written."""
    content = files(latents, labels, images)
    try:
        put(folder, content)
    except OSError as error:
        reason = f"{folder} can't be written ({error.strerror})"
        raise InputError(f"The files of TensorBoard's projector in {reason}; give another folder.") from None


def files(latents: np.ndarray, labels: np.ndarray, images: np.ndarray) -> dict[str, bytes]:
    """What `write` writes: each file's name and content."""
    columns = math.ceil(math.sqrt(len(images)))
    if not 1 <= columns <= _SIDE:
        raise InputError(f"TensorBoard's projector shows from 1 to {_SIDE**2:,} images, found {len(images):,}.")
    size = min(max(images.shape[1:3]), _SIDE // columns)
    return {
        "tensors.tsv": _lines(latents),
        "metadata.tsv": "".join(f"{label}\n" for label in labels.tolist()).encode(),
        "sprite.png": _png(_sprite(images, columns, size)),
        "projector_config.pbtxt": _CONFIG.format(size).encode(),  # the last: with it TensorBoard finds the others
    }


def put(folder: Path, files: dict[str, bytes]) -> None:
    """Writes the files where they are in nobody's way, and only then each in its place. Raises OSError."""
    new = not folder.exists()
    folder.mkdir(exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(".part", ".projector.", folder) as aside:
            for name, content in files.items():
                with (Path(aside) / name).open("xb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
            for name in files:
                (Path(aside) / name).replace(folder / name)
    except BaseException:
        if new:
            shutil.rmtree(folder)
        raise


def update(folder: Path, latents: np.ndarray) -> None:
    """Writes other latents `[n, latent]` of the images that are there. Raises OSError."""
    part = folder / ".tensors.tsv.part"
    try:
        part.write_bytes(
            _lines(latents)
        )  # not flushed to the disk: after each epoch that would cost more than the rest
        part.replace(folder / "tensors.tsv")
    finally:
        part.unlink(missing_ok=True)


def _lines(latents: np.ndarray) -> bytes:
    row = "\t".join(["%.6g"] * latents.shape[1]) + "\n"
    return "".join(row % tuple(values) for values in latents.tolist()).encode()


def _sprite(images: np.ndarray, columns: int, size: int) -> np.ndarray:
    """The images row by row, as many rows as columns, each a square of `size` pixels: what is not square has black
    beside it."""
    n, height, width, channels = images.shape
    scale = min(1.0, size / max(height, width))
    height, width = max(1, round(height * scale)), max(1, round(width * scale))
    tiles = np.zeros((columns**2, size, size, channels), np.uint8)
    top, left = (size - height) // 2, (size - width) // 2
    tiles[:n, top : top + height, left : left + width] = images if scale == 1 else _smaller(images, height, width)
    side = columns * size
    return tiles.reshape(columns, columns, size, size, channels).swapaxes(1, 2).reshape(side, side, channels)


def _smaller(images: np.ndarray, height: int, width: int) -> np.ndarray:
    from PIL import Image

    shape = (len(images), height, width, images.shape[-1])
    found = [
        np.asarray(Image.fromarray(_flat(image)).resize((width, height), Image.Resampling.BOX)) for image in images
    ]
    return np.stack(found).reshape(shape)


def _png(picture: np.ndarray) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(_flat(picture)).save(buffer, format="PNG")
    return buffer.getvalue()


def _flat(picture: np.ndarray) -> np.ndarray:
    """As Pillow has them: grey without an axis of channels."""
    return picture[..., 0] if picture.shape[-1] == 1 else picture
