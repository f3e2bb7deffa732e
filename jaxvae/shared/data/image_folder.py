"""Images from a folder of pictures.

A size, a type or a label that doesn't fit is an error; nothing is guessed.
"""

import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from jaxvae.shared import safe_io
from jaxvae.shared.data.dataset import Dataset, Request, from_path, tenths
from jaxvae.shared.data.resize import require_size, resized, with_progress
from jaxvae.shared.data.streaming import UnmappableError
from jaxvae.shared.errors import InputError

PICTURES = (".png", ".jpg", ".jpeg", ".jfif", ".bmp", ".webp", ".gif", ".tif", ".tiff")
_LARGEST_OF_14_BITS, _LARGEST_OF_16_BITS = 2**14 - 1, 2**16 - 1
_TRAIN, _TEST = ("train", "training"), ("test", "testing", "val", "valid", "validation")
# Pillow looks at the content, and runs Ghostscript for some others.
_FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "GIF", "TIFF")


def read(request: Request) -> Dataset:
    """Read the pictures in a folder and all below it, by sorted path; hidden files and folders are left out.

    The folders `train` or `training`, and `test`, `testing`, `val`, `valid` or `validation`, in any case, are the
    splits (of a test and a validation folder, the test folder); without them every tenth picture is for testing. If all
    lie in subfolders, the first level's names, sorted, are the labels. What is transparent is laid on white, and of a
    moving picture all frames but the first are dropped.

    Args:
        request: The folder, the size of the model's images, and whether to resize. No more than the first
            `request.limit` training images are read.

    Returns:
        The data set, its images in the model's size, unlabelled if the folders give no labels.

    Raises:
        InputError: If the folder has no pictures, one can't be read, or one has another size that may not be resized.
        UnmappableError: If the images have to stay in their file.
    """
    if request.mapped:
        raise UnmappableError(f"The images of {request.name}", "pictures")
    folder, image = Path(request.argument), request.image
    if not folder.is_dir():
        raise InputError(f"The folder of pictures {folder} is not a folder; give one by --data images:DIR.")
    train, test = _splits(folder)
    if train is not None and test is None:
        raise InputError(
            f"{folder} has {train.name} without test or val; add one of them, or give --data images:{train}."
        )
    if test is not None and train is None:
        raise InputError(f"{folder} has {test.name} without train; add it, or give --data images:{test}.")
    if train is not None and test is not None:
        splits = [_find(train), _find(test)]
    else:
        pictures = _find(folder)
        tests = tenths(len(pictures), f"The folder {folder}")
        splits = [[pictures[i] for i in np.flatnonzero(split)] for split in tests]
    names = sorted({name for split in splits for name, _ in split})
    labelled = "" not in names and len(names) <= 256
    labels = [np.array([names.index(n) if labelled else 0 for n, _ in split], np.uint8) for split in splits]
    splits[0], labels[0] = splits[0][: request.limit], labels[0][: request.limit]
    images = np.empty((sum(map(len, splits)), *image), np.uint8)
    largest = 0
    for i, (_, path) in enumerate(with_progress([pair for split in splits for pair in split], len(images))):
        pixels = _picture(path, image[2])
        require_size(pixels.shape, image, request.resize, f"The picture {path} is")
        if pixels.dtype == np.uint16:
            largest = max(largest, int(pixels.max()))
            pixels = (pixels >> 8).astype(np.uint8)
        images[i] = pixels if pixels.shape == image else resized(pixels, image)
    if 0 < largest <= _LARGEST_OF_14_BITS:
        raise InputError(
            f"The 16-bit pictures in {folder} hold numbers from 0 to {largest:,}, expected up to 65,535; multiply them "
            "so that white is 65,535, or save them with 8 bits."
        )
    if images.size and images.min() == images.max():
        raise InputError(f"The pictures in {folder} are all of one value, {images.min()}; give others.")
    cut = len(splits[0])
    return Dataset(*from_path(request), images[:cut], labels[0], images[cut:], labels[1], labelled)


def _splits(folder: Path) -> list[Path | None]:
    """The folders of the two splits, each by the first of its names that there is; None where there is none."""
    held: dict[str, list[str]] = {}
    for name in sorted(next(os.walk(folder, onerror=_refuse))[1]):
        held.setdefault(name.lower(), []).append(name)
    splits: list[Path | None] = []
    for names in (_TRAIN, _TEST):
        found = next((held[name] for name in names if name in held), [])
        if len(found) > 1:
            raise InputError(f"{folder} has {found[0]} and {found[1]}, found two for one split; rename one.")
        splits.append(folder / found[0] if found else None)
    return splits


def _refuse(error: OSError) -> None:
    raise InputError(f"The folder {error.filename} can't be read ({error.strerror}); make it readable or remove it.")


def _find(root: Path) -> list[tuple[str, Path]]:
    """The pictures below `root` by sorted path, each with its first folder below `root`, empty if it is in none."""
    paths = [Path(folder, name).relative_to(root) for folder, names in _walk(root) for name in names]
    pictures = sorted((path.parts, path) for path in paths if path.suffix.lower() in PICTURES and _shows(path.name))
    if not pictures:
        raise InputError(
            f"The folder {root} has no pictures ({', '.join(PICTURES)}) in it or below; give one that has some."
        )
    return [(parts[0] if len(parts) > 1 else "", root / path) for parts, path in pictures]


def _walk(root: Path) -> Iterator[tuple[str, list[str]]]:
    """Every folder with its files. Links are followed, as torchvision does: class folders are often links. A link to a
    folder that it is in is an error, since the walk would never end."""
    above: dict[str, tuple[str, ...]] = {str(root): (os.path.realpath(root),)}
    for folder, folders, names in os.walk(root, onerror=_refuse, followlinks=True):
        folders[:] = filter(_shows, folders)
        yield folder, names
        for path in (os.path.join(folder, name) for name in folders):  # noqa: PTH118 (as os.walk does)
            real = os.path.realpath(path)
            if real in above[folder]:
                raise InputError(f"The folder {path} is a link back to {real}, which it is in; remove it.")
            above[path] = (*above[folder], real)


def _shows(name: str) -> bool:
    """Whether a file or folder is the user's own: `.ipynb_checkpoints` and `__MACOSX` hold copies."""
    return not name.startswith(".") and name != "__MACOSX"


def _picture(path: Path, channels: int) -> np.ndarray:
    """A picture file as uint8 `[h, w, 1]` or `[h, w, 3]`; a palette may count as either, if its colours allow."""
    from PIL import Image

    try:
        if (kind := safe_io.instead_of_file(path)) not in (None, "nothing"):
            raise InputError(f"The picture {path} is {kind}; remove it.")
        with warnings.catch_warnings(action="ignore"):
            # Pillow only warns of a header with too many pixels, up to twice its limit.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            return _pixels(path, channels)
    except InputError:
        raise
    except Exception as error:  # each of Pillow's decoders raises its own kinds
        reason = getattr(error, "strerror", None) or f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise InputError(f"The picture {path} can't be read ({reason}); repair or remove it.") from None


def _pixels(path: Path, channels: int) -> np.ndarray:
    """A picture's pixels, transparent ones on white, as uint8, or uint16 if it has 16 bits; raises whatever Pillow
    does."""
    from PIL import Image

    with Image.open(path, formats=_FORMATS) as picture:
        if picture.mode == "F":
            raise InputError(f"The picture {path} holds fractions, expected 8 or 16 bits; convert or remove it.")
        if picture.mode.startswith("I"):  # 16 bits; of 16-bit colour Pillow keeps the high byte
            numbers = np.asarray(picture)
            if numbers.min() < 0 or numbers.max() > _LARGEST_OF_16_BITS:
                raise InputError(f"The picture {path} holds more than 16 bits, expected 8 or 16; convert or remove it.")
            return numbers.astype(np.uint16)[..., None]
        grey, palette = picture.mode in ("1", "L", "LA"), picture.mode in ("P", "PA")
        if picture.has_transparency_data:
            white = Image.new("RGBA", picture.size, "white")
            colour = np.asarray(Image.alpha_composite(white, picture.convert("RGBA")))[..., :3]
        else:
            colour = np.asarray(picture.convert("L" if grey else "RGB"))
            colour = colour[..., None] if grey else colour
    return colour[..., :1] if grey or (palette and channels == 1 and (colour == colour[..., :1]).all()) else colour
