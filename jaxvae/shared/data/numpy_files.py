"""The user's own images in NumPy's files. Anything ambiguous is an error; nothing is guessed."""

import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from jaxvae.shared import safe_io
from jaxvae.shared.data import streaming
from jaxvae.shared.data.dataset import Dataset, Request, from_path, tenths
from jaxvae.shared.data.resize import Size
from jaxvae.shared.errors import InputError
from jaxvae.shared.text import named, shown

_ARRAYS = (("train", "train_labels", "test", "test_labels"), ("x_train", "y_train", "x_test", "y_test"))
_KNOWN = {"images", "labels", *_ARRAYS[0], *_ARRAYS[1]}
_MAGIC = b"\x93NUMPY", b"PK\3\4", b"PK\5\6"
_FEW = 1000  # images that are looked at before all are
_FEW_CHANNELS = 4  # no picture is one or three pixels high or wide and has more
_UNPACKED = 100  # an .npz may unpack to this many times its size: images pack to a tenth, a zip bomb to a thousandth


def read(request: Request) -> Dataset:
    """Read images from an .npy, from an .npz, or from a folder of .npy files.

    The arrays of an .npz or a folder are called `train` and `test`, Keras' `x_train` and `x_test`, or `images`; their
    labels `train_labels` and `test_labels`, `y_train` and `y_test`, or `labels`. Of a single array every tenth image
    is for testing. An array is `[n, h, w]`, `[n, h, w, c]` or, of one channel, `[n, pixels]`; uint8, bool (False is 0,
    True 255), or floats in [0, 1], which are rounded to a byte: 0.5 becomes 128.

    Args:
        request: `npy` and the path of a file or a folder, or `npz` and the path of a file; the size of the model's
            images; and whether the training images stay in their .npy.

    Returns:
        The data set, its images in their own size, unlabelled if there are no labels.

    Raises:
        InputError: If a file can't be read, or its arrays are not images.
        UnmappableError: If the training images have to stay in their file and are not contiguous uint8 in an .npy.
    """
    if request.mapped and request.kind != "npy":
        raise streaming.UnmappableError(f"The images of {request.name}", "an .npz")
    path, image, mapped = Path(request.argument), request.image, request.mapped
    folder = request.kind == "npy" and any(path.glob("*.npy"))
    content = _folder(path, mapped) if folder else _content(path, mapped)
    name, source = from_path(request)
    for train, train_labels, test, test_labels in _ARRAYS:
        if train not in content or test not in content:
            continue
        splits = [_bytes(content[name], image, f"{path}'s {name}", mapped) for name in (train, test)]
        if (train_labels in content) != (test_labels in content):
            raise InputError(
                f"{path} has one of {train_labels} and {test_labels} only; add the other or leave out both."
            )
        labels = [_labels(content, n, len(s), path) for n, s in zip((train_labels, test_labels), splits, strict=True)]
        labelled = train_labels in content
        return Dataset(name, source, splits[0], labels[0], np.asarray(splits[1]), labels[1], labelled)
    if "images" not in content:
        raise InputError(
            f"{path} must hold the arrays train and test, x_train and x_test, or images; "
            f"of these it has {', '.join(content) or 'none'}; save it with such names."
        )
    images = _bytes(content["images"], image, f"{path}'s images", mapped)
    labels = _labels(content, "labels", len(images), path)
    train, test = tenths(len(images), str(path))
    tests, labelled = np.asarray(images[test]), "labels" in content
    return Dataset(name, source, images[train], labels[train], tests, labels[test], labelled)


def _folder(path: Path, mapped: bool) -> dict[str, np.ndarray]:
    """The known arrays of a folder of .npy files by name."""
    arrays = {}
    for name in sorted(_KNOWN):
        if (file := path / f"{name}.npy").exists():
            content = _content(file, mapped)
            if list(content) != ["images"]:
                raise InputError(f"{file} must be an .npy file of one array, found an .npz; save it by numpy.save.")
            arrays[name] = content["images"]
    return arrays


def _content(path: Path, mapped: bool) -> dict[str, np.ndarray]:
    """The known arrays of an .npz by name, or the array of an .npy as `images`."""
    try:
        if (kind := safe_io.instead_of_file(path)) not in (None, "nothing"):
            raise InputError(f"{path} can't be read (it is {kind}); give another file by --data.")
        with path.open("rb") as file, warnings.catch_warnings(action="ignore"):
            if not (start := file.read(6)).startswith(_MAGIC):  # numpy would call anything else a pickle
                raise ValueError(f"it begins with {start}")
            file.seek(0)
            if mapped and start.startswith(_MAGIC[0]):
                return {"images": np.load(path, mmap_mode="r", allow_pickle=False)}
            content = np.load(file, allow_pickle=False)
            if isinstance(content, np.ndarray):
                return {"images": content}
            size, most = sum(one.file_size for one in content.zip.infolist()), _UNPACKED * path.stat().st_size + 2**26
            if size > most:
                raise InputError(f"{path} should unpack to {most:,} bytes at most, found {size:,}; save it again.")
            return {name: np.asarray(content[name]) for name in content.files if name in _KNOWN}
    except OSError as error:
        raise InputError(f"{path} can't be read ({error.strerror or error}); give another file by --data.") from None
    except InputError:
        raise
    except Exception as error:  # numpy, zipfile and zlib each raise their own kinds
        reason = shown(" ".join(str(error).split()) or type(error).__name__)
        raise InputError(
            f"{path} must be an .npy or .npz file of plain numbers, found one that is damaged or holds Python "
            f"objects ({reason}); save it again by numpy.save or numpy.savez, with a dtype of uint8."
        ) from None


def _bytes(array: np.ndarray, image: Size, where: str, mapped: bool) -> Any:
    """An array as uint8 images `[n, h, w, c]`."""
    shape, pixels, kind = list(array.shape), math.prod(image), named([str(array.dtype)])
    if mapped and not isinstance(array, np.memmap):
        raise streaming.UnmappableError(where, "an .npz")
    if mapped and (array.dtype != np.uint8 or not array.flags.c_contiguous):
        raise streaming.UnmappableError(where, kind if array.flags.c_contiguous else f"{kind} in Fortran's order")
    if array.dtype == bool:
        array = array.astype(np.uint8) * np.uint8(255)
    elif array.dtype.kind == "f":
        low, high = (array.min(), array.max()) if array.size else (0, 0)
        if np.isnan(low):
            raise InputError(f"{where} must be floats in [0, 1], found NaN; remove the images that have it.")
        if low < 0 or high > 1:
            raise InputError(
                f"{where} must be floats in [0, 1], found {low:g} to {high:g}; scale them, or store uint8 of 0 to 255."
            )
        array = np.rint(array * 255).astype(np.uint8)
    elif array.dtype != np.uint8:
        raise InputError(f"{where} must be of uint8, bool or floats in [0, 1], found {kind}; convert it.")
    elif array.ndim and array.size and array[:_FEW].max() == 1 == array.max():
        raise InputError(
            f"{where} must be uint8 of 0 to 255, found 0 and 1 only; cast them to bool, or multiply by 255."
        )
    height, width, channels = image
    if array.ndim == 2 and array.shape[1] == pixels and channels > 1:
        raise InputError(
            f"{where} must be of shape [n, height, width, channels], found rows of {pixels} numbers, which can be "
            f"meant in two ways; reshape them to (-1, {channels}, {height}, {width}) and transpose by (0, 2, 3, 1) if "
            f"channels come first, or to (-1, {height}, {width}, {channels})."
        )
    if axes := _other_axes(array.shape, image):
        first, order = axes
        raise InputError(
            f"{where} must be of shape [n, height, width, channels], found {shape}, in which {first}; transpose it by "
            f"{order}."
        )
    if array.ndim == 2 and array.shape[1] == pixels:
        array = array.reshape(-1, *image)
    elif array.ndim == 3:
        array = array[..., None]
    if array.ndim != 4 or array.size == 0:
        raise InputError(
            f"{where} must be of shape [n, height, width], [n, height, width, channels]"
            f"{f' or [n, {pixels}]' * (channels == 1)}, without a 0, found {shape}; reshape it."
        )
    return streaming.Mapped(array) if isinstance(array, np.memmap) else np.ascontiguousarray(array)


def _other_axes(shape: tuple[int, ...], image: Size) -> tuple[str, tuple[int, ...]] | None:
    """How images lie in an array of another order of axes, as MATLAB and PyTorch have them, and what puts it right."""
    height, width, channels = image
    if len(shape) == 3:
        last = shape[:2] == (height, width) != shape[1:] and channels == 1
        return ("the images come last", (2, 0, 1)) if last else None
    if len(shape) != 4:
        return None
    few = shape[1] in (1, 3) or (shape[1] <= _FEW_CHANNELS and shape[2] == shape[3])
    if shape[1:] == (channels, height, width) != image or (few and min(shape[2:]) > _FEW_CHANNELS):
        return "channels come first", (0, 2, 3, 1)
    if shape[:3] == image != shape[1:] or (shape[2] == 3 and min(shape[0], shape[1], shape[3]) > _FEW_CHANNELS):
        return "the images come last", (3, 0, 1, 2)
    return None


def _labels(content: dict[str, np.ndarray], name: str, n: int, path: Path) -> np.ndarray:
    """The labels of n images as uint8 `[n]`; 0 if the file has none."""
    if name not in content:
        return np.zeros(n, np.uint8)
    labels = content[name]
    labels = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels  # keras' have a second axis
    if labels.dtype.kind not in "iu" or labels.shape != (n,):
        raise InputError(
            f"{path}'s {name} must be {n:,} integers, one for each image, found {named([str(labels.dtype)])} "
            f"of shape {list(labels.shape)}; convert or leave them out."
        )
    if labels.min() < 0 or labels.max() > 255:
        raise InputError(
            f"{path}'s {name} must be integers from 0 to 255, found {labels.min()} to {labels.max()}; renumber them."
        )
    return labels.astype(np.uint8, subok=False)
