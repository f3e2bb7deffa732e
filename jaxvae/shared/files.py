"""The user's own images, from a folder of pictures or from numpy's files; and the fit of any images to a model's size.

Nothing is guessed from a file that could be meant otherwise: a size, a type or a label that doesn't fit is refused.
"""

import math
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from jaxvae.shared import streaming, strict
from jaxvae.shared.errors import InputError

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif")
_FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "GIF")  # Pillow goes by content, and would start Ghostscript for some
_ARRAYS = (("train", "train_labels", "test", "test_labels"), ("x_train", "y_train", "x_test", "y_test"))
_KNOWN = {"images", "labels", *_ARRAYS[0], *_ARRAYS[1]}
_MANY = 3000
_MAGIC = b"\x93NUMPY", b"PK\3\4", b"PK\5\6"
_UNPACKED = 100  # times its size, of an .npz: images pack to a tenth, and a trap to a thousandth

Size = tuple[int, int, int]
T = TypeVar("T")


class UnmappableError(InputError):
    """Images that can't stay in their file, since what the model takes is not in it as it is."""

    def __init__(self, where: object, what: str) -> None:
        super().__init__(
            f"{where} can't be streamed: its images {what}; save them by numpy.save, of uint8 and in the model's size, "
            "and give npy:FILE, or npy:DIR for a folder of train.npy, test.npy and their labels."
        )


class Images(NamedTuple):
    """uint8 images `[n, height, width, channels]` and uint8 labels `[n]`, all 0 if there are none, in two splits."""

    train: np.ndarray
    train_labels: np.ndarray
    test: np.ndarray
    test_labels: np.ndarray
    labelled: bool


def fit(images: np.ndarray, image: Size, resize: bool, what: str) -> np.ndarray:
    """`[n, h, w, c]` as `[n, *image]`: stretched to the height and width if they differ, colour and grey exchanged.

    Raises InputError, which begins with `what`, if the sizes differ and `resize` is false."""
    require_size(images.shape[1:], image, resize, what)
    if images.shape[1:] == image:
        return images
    if isinstance(images, streaming.Mapped):
        raise UnmappableError(what.removesuffix(" has images of"), f"are {words(images.shape[1:])}")
    fitted = np.empty((len(images), *image), np.uint8)
    for i, one in enumerate(_progress(images, len(images))):
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


def pictures(folder: Path, image: Size, resize: bool, limit: int | None) -> Images:
    """The pictures in a folder and all below it, by sorted path; hidden files are left out.

    The folders `train` and `test` (or `val`) are the splits; without them every tenth picture is for testing. If all
    lie in subfolders, the first level's names, sorted, are the labels. Transparency is dropped, and of a moving picture
    all but its first. No more than the first `limit` training images are read."""
    if not folder.is_dir():
        raise InputError(f"The folder of pictures {folder} is not a folder; give one by --data images:DIR.")
    train, test = folder / "train", next((folder / n for n in ("test", "val") if (folder / n).is_dir()), None)
    if train.is_dir() and test is None:
        raise InputError(f"{folder} has train without test or val; add one of them, or give --data images:{train}.")
    if train.is_dir() and test is not None:
        splits = [_find(train), _find(test)]
    else:
        found = _find(folder)
        splits = [[found[i] for i in np.flatnonzero(split)] for split in tenths(len(found), f"The folder {folder}")]
    names = sorted({name for split in splits for name, _ in split})
    labelled = "" not in names and len(names) <= 256
    labels = [np.array([names.index(n) if labelled else 0 for n, _ in split], np.uint8) for split in splits]
    splits[0], labels[0] = splits[0][:limit], labels[0][:limit]
    images = np.empty((sum(map(len, splits)), *image), np.uint8)
    for i, (_, path) in enumerate(_progress([pair for split in splits for pair in split], len(images))):
        pixels = _picture(path, image[2])
        require_size(pixels.shape, image, resize, f"The picture {path} is")
        images[i] = pixels if pixels.shape == image else resized(pixels, image)
    cut = len(splits[0])
    return Images(images[:cut], labels[0], images[cut:], labels[1], labelled)


def arrays(path: Path, image: Size, folder: bool = False, mapped: bool = False) -> Images:
    """The images in an .npy, or in an .npz as `train` and `test`, keras' `x_train` and `x_test`, or `images`, with
    labels as `train_labels` and `test_labels`, `y_train` and `y_test`, or `labels`; one array is split by tenths.
    folder: of .npy files with these names.

    An array is `[n, h, w]`, `[n, h, w, c]` or `[n, pixels]` of the model's pixels; uint8, bool (False is 0, True 255),
    or floats in [0, 1], which are rounded to a byte: 0.5 becomes 128. mapped: the training images stay in their .npy.
    Raises UnmappableError unless they can, being uint8 and one after another."""
    content = _folder(path, mapped) if folder else _content(path, mapped)
    for train, train_labels, test, test_labels in _ARRAYS:
        if train not in content or test not in content:
            continue
        splits = [_bytes(content[name], image, f"{path}'s {name}", mapped) for name in (train, test)]
        if (train_labels in content) != (test_labels in content):
            raise InputError(
                f"{path} has one of {train_labels} and {test_labels} only; add the other or leave out both."
            )
        labels = [_labels(content, n, len(s), path) for n, s in zip((train_labels, test_labels), splits, strict=True)]
        return Images(splits[0], labels[0], np.asarray(splits[1]), labels[1], train_labels in content)
    if "images" not in content:
        raise InputError(
            f"{path} must hold the arrays train and test, x_train and x_test, or images; "
            f"of these it has {', '.join(content) or 'none'}; save it with such names."
        )
    images = _bytes(content["images"], image, f"{path}'s images", mapped)
    labels = _labels(content, "labels", len(images), path)
    train, test = tenths(len(images), str(path))
    return Images(images[train], labels[train], np.asarray(images[test]), labels[test], "labels" in content)


def tenths(n: int, where: str) -> tuple[np.ndarray, np.ndarray]:
    """Which of n images are for training and which for testing, bool `[n]` each: every tenth, or the last, tests."""
    if n < 2:
        raise InputError(f"{where} has {n} image{'s' * (n != 1)}, and it takes one to train and one to test; add more.")
    test = np.arange(1, n + 1) % 10 == 0
    test[-1] |= n < 10
    return ~test, test


def words(size: Iterable[int]) -> str:
    """Numbers as they are given on the command line."""
    return " ".join(map(str, size))


def _find(root: Path) -> list[tuple[str, Path]]:
    """The pictures below `root` by sorted path, each with the first folder on its way, empty if there is none."""

    def refuse(error: OSError) -> None:
        raise InputError(
            f"The folder {error.filename} can't be read ({error.strerror}); make it readable or remove it."
        )

    paths = [Path(folder, name).relative_to(root) for folder, names in _walk(root, refuse) for name in names]
    found = sorted((path.parts, path) for path in paths if path.suffix.lower() in PICTURES and path.name[0] != ".")
    if not found:
        raise InputError(
            f"The folder {root} has no pictures ({', '.join(PICTURES)}) in it or below; give one that has."
        )
    return [(parts[0] if len(parts) > 1 else "", root / path) for parts, path in found]


def _walk(root: Path, refuse: Callable[[OSError], None]) -> Iterator[tuple[str, list[str]]]:
    """Every folder with its files, by way of links too, as torchvision does: class folders are often links. One that
    leads back to a folder it is in would never end."""
    above: dict[str, tuple[str, ...]] = {str(root): (os.path.realpath(root),)}
    for folder, folders, names in os.walk(root, onerror=refuse, followlinks=True):
        yield folder, names
        for path in (os.path.join(folder, name) for name in folders):  # noqa: PTH118 (as os.walk does)
            real = os.path.realpath(path)
            if real in above[folder]:
                raise InputError(f"The folder {path} is a link back to {real}, which it is in; remove it.")
            above[path] = (*above[folder], real)


def _picture(path: Path, channels: int) -> np.ndarray:
    """A picture file as uint8 `[h, w, 1]` or `[h, w, 3]`; a palette may count as either, if its colours allow."""
    from PIL import Image

    try:
        if (found := strict.instead_of_file(path)) not in (None, "nothing"):
            raise InputError(f"The picture {path} is {found}; remove it.")
        with warnings.catch_warnings(action="ignore"):
            # What is larger than a picture should be is refused by its header; of twice that Pillow makes an error.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            return _pixels(path, channels)
    except InputError:
        raise
    except Exception as error:  # each of Pillow's decoders raises its own kinds
        reason = getattr(error, "strerror", None) or f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise InputError(f"The picture {path} can't be read ({reason}); repair or remove it.") from None


def _pixels(path: Path, channels: int) -> np.ndarray:
    """A picture's numbers; raises whatever Pillow does."""
    from PIL import Image

    with Image.open(path, formats=_FORMATS) as picture:
        if picture.mode.startswith("I"):  # 16 bits; of 16-bit colour too Pillow keeps the high byte
            return (np.asarray(picture) >> 8).astype(np.uint8)[..., None]
        if picture.mode in ("1", "L", "LA"):
            return np.array(picture.convert("L"))[..., None]
        palette = picture.mode in ("P", "PA")
        colour = np.asarray(picture.convert("RGBA" if palette else "RGB"))[..., :3]
    return colour[..., :1] if palette and channels == 1 and (colour == colour[..., :1]).all() else colour


def _folder(path: Path, mapped: bool) -> dict[str, np.ndarray]:
    """The known arrays of a folder of .npy files by name."""
    found = {}
    for name in sorted(_KNOWN):
        if (file := path / f"{name}.npy").exists():
            content = _content(file, mapped)
            if list(content) != ["images"]:
                raise InputError(f"{file} must be an .npy file of one array, found an .npz; save it by numpy.save.")
            found[name] = content["images"]
    return found


def _content(path: Path, mapped: bool) -> dict[str, np.ndarray]:
    """The known arrays of an .npz by name, or that of an .npy as `images`."""
    try:
        if (found := strict.instead_of_file(path)) not in (None, "nothing"):
            raise InputError(f"{path} can't be read (it is {found}); give another file by --data.")
        with path.open("rb") as file, warnings.catch_warnings(action="ignore"):
            if not (start := file.read(6)).startswith(_MAGIC):  # numpy would call it a pickle, whatever it is
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
        reason = strict.shown(" ".join(str(error).split()) or type(error).__name__)
        raise InputError(
            f"{path} must be an .npy or .npz file of plain numbers, found one that is damaged or holds Python "
            f"objects ({reason}); save it again by numpy.save or numpy.savez, with a dtype of uint8."
        ) from None


def _bytes(array: np.ndarray, image: Size, where: str, mapped: bool) -> Any:
    """An array as uint8 images `[n, h, w, c]`."""
    found, pixels, kind = list(array.shape), math.prod(image), strict.named([str(array.dtype)])
    if mapped and not (isinstance(array, np.memmap) and array.dtype == np.uint8 and array.flags.c_contiguous):
        raise UnmappableError(where, f"are {kind}{'' if array.flags.c_contiguous else ' in another order'}")
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
    if array.ndim == 2 and array.shape[1] == pixels:
        array = array.reshape(-1, *image)
    elif array.ndim == 3:
        array = array[..., None]
    if array.ndim != 4 or array.size == 0:
        raise InputError(
            f"{where} must be of shape [n, height, width], [n, height, width, channels] or [n, {pixels}], without a 0, "
            f"found {found}; reshape it."
        )
    return streaming.Mapped(array) if isinstance(array, np.memmap) else np.ascontiguousarray(array)


def _labels(content: dict[str, np.ndarray], name: str, n: int, path: Path) -> np.ndarray:
    """The labels of n images as uint8 `[n]`; 0 if the file has none."""
    if name not in content:
        return np.zeros(n, np.uint8)
    labels = content[name]
    labels = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels  # keras' have a second axis
    if labels.dtype.kind not in "iu" or labels.shape != (n,):
        raise InputError(
            f"{path}'s {name} must be {n:,} integers, one for each image, found {strict.named([str(labels.dtype)])} "
            f"of shape {list(labels.shape)}; convert or leave them out."
        )
    if labels.min() < 0 or labels.max() > 255:
        raise InputError(
            f"{path}'s {name} must be integers from 0 to 255, found {labels.min()} to {labels.max()}; renumber them."
        )
    return labels.astype(np.uint8, subok=False)


def _progress(items: Iterable[T], n: int) -> Iterable[T]:
    """The items, with a bar where they are many."""
    from tqdm import tqdm

    return tqdm(items, total=n, unit=" images", unit_scale=True, disable=None if n > _MANY else True)
