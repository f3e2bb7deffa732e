"""Images from a folder of pictures.

A size, a type or a label that doesn't fit is an error; nothing is guessed.
"""

import contextlib
import os
import re
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from jaxvae.shared import safe_io
from jaxvae.shared.data.dataset import Dataset, Request, from_path, tenths
from jaxvae.shared.data.resize import Size, require_size, resized, with_progress
from jaxvae.shared.data.streaming import UnmappableError
from jaxvae.shared.errors import InputError
from jaxvae.shared.plain_paths import likely
from jaxvae.shared.text import LONGEST, named, printable

PICTURES = (".png", ".jpg", ".jpeg", ".jfif", ".bmp", ".webp", ".gif", ".tif", ".tiff")
_LARGEST_OF_14_BITS, _LARGEST_OF_16_BITS = 2**14 - 1, 2**16 - 1
_TRAIN, _TEST = ("train", "training"), ("test", "testing", "val", "valid", "validation")
_LIKE_SPLITS = [re.compile(f"({'|'.join(names)})([^a-z].*)?", re.IGNORECASE) for names in (_TRAIN, _TEST)]
# Pillow looks at the content, and runs Ghostscript for some others.
_FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "GIF", "TIFF")
_ORIENTATION = 0x0112  # the tag of EXIF
_COLOUR_OF_16_BITS = re.compile("(RGB[AXa]*|LA);16[BLN]")  # Pillow's names for how pixels are stored
# Few bytes can claim gigabytes of pixels. A photograph has ten pixels in a byte, a blank page of grey a thousand.
_PIXELS_OF_ANY_FILE, _PIXELS_OF_A_BYTE = 2**24, 1000

Pictures = list[tuple[str, Path]]
"""Pictures, each with its first folder below the split's, empty if it is in none."""


def read(request: Request) -> Dataset:
    """Read the pictures in a folder and all below it, by sorted path; hidden files and folders are left out.

    The folders `train` or `training`, and `test`, `testing`, `val`, `valid` or `validation`, in any case, are the
    splits (of a test and a validation folder, the test folder); without them every tenth picture is for testing. If all
    lie in subfolders, the first level's names, sorted, are the labels. A photograph is turned as its EXIF says. What is
    transparent is laid on white, and of a moving picture all frames but the first are dropped.

    Args:
        request: The folder, the size of the model's images, and whether to resize. No more than the first
            `request.limit` training images are read.

    Returns:
        The data set, its images in the model's size, its classes named by their folders, unlabelled if the folders give
        no labels.

    Raises:
        InputError: If the folder has no pictures, one can't be read, or one has another size that may not be resized;
            or if folders further down, or with names like train2017 and val2017, look like splits.
        UnmappableError: If the images have to stay in their file.
    """
    if request.mapped:
        raise UnmappableError(f"The images of {request.name}", "pictures")
    folder, image = Path(request.argument), request.image
    if not folder.exists():
        raise InputError(
            f"The folder of pictures {folder} does not exist{likely(folder)}; give one by --data images:DIR."
        )
    if not folder.is_dir():
        raise InputError(f"The folder of pictures {folder} is not a folder; give one by --data images:DIR.")
    splits, notes = _split_pictures(folder)
    names = sorted({name for split in splits for name, _ in split})
    labelled = "" not in names and len(names) <= 256
    labels = [np.array([names.index(n) if labelled else 0 for n, _ in split], np.uint8) for split in splits]
    splits[0], labels[0] = splits[0][: request.limit], labels[0][: request.limit]
    images = np.empty((sum(map(len, splits)), *image), np.uint8)
    largest = 0
    for i, (_, path) in enumerate(with_progress([pair for split in splits for pair in split], len(images))):
        pixels = _picture(path, image, request.resize)
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
    cut = len(splits[0])
    classes = tuple(printable(name, LONGEST) for name in names) if labelled else ()
    return Dataset(*from_path(request), images[:cut], labels[0], images[cut:], labels[1], labelled, notes, classes)


def _split_pictures(folder: Path) -> tuple[list[Pictures], tuple[str, ...]]:
    """The pictures to train and to test, and sentences about what else is in the folder."""
    train, test = _splits(folder)
    if train is not None and test is None:
        raise InputError(
            f"{folder} has {train.name} without test or val; add one of them, or give --data images:{train}."
        )
    if test is not None and train is None:
        raise InputError(f"{folder} has {test.name} without train; add it, or give --data images:{test}.")
    notes = []
    if train is not None and test is not None:
        found = [_find(train), _find(test)]
        splits = [pictures for pictures, _ in found]
        left = [path.name for path in folder.iterdir() if _shows(path.name) and path not in (train, test)]
        left = [name for name in left if (folder / name).is_dir() or Path(name).suffix.lower() in PICTURES]
        if left:
            notes.append(f"{folder} has {named(sorted(left))} beside {train.name} and {test.name}, left out.")
    else:
        found = [_find(folder)]
        pictures = found[0][0]
        _require_unmixed(folder, pictures)
        tests = tenths(len(pictures), f"The folder {folder}")
        splits = [[pictures[i] for i in np.flatnonzero(split)] for split in tests]
    if counts := sum((others for _, others in found), Counter[str]()):
        notes.append(f"{folder} has {counts.total():,} other files than pictures, left out: {_counted(counts)}.")
    return splits, tuple(notes)


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


def _require_unmixed(folder: Path, pictures: Pictures) -> None:
    """Raises InputError if folders below one without splits look like splits: test images would be trained on."""
    inner: dict[Path, set[str]] = {}
    for place in {path.parent.relative_to(folder) for _, path in pictures}:
        for above in place.parents:
            inner.setdefault(above, set()).add(place.parts[len(above.parts)])
    for above, names in sorted(inner.items()):
        train, test = (next(filter(like.fullmatch, sorted(names)), None) for like in _LIKE_SPLITS)
        if train is None or test is None:
            continue
        advice = f"put the splits first, as in {folder / train / above}"
        if train.lower() not in _TRAIN or test.lower() not in _TEST:
            advice = "rename them to train and test"
        elif all(path.is_relative_to(folder / above) for _, path in pictures):
            advice = f"give --data images:{folder / above}"
        raise InputError(
            f"{folder / above} has {named((train, test), ' and ')}, which look like splits, and their pictures would "
            f"be mixed; {advice}."
        )


def _refuse(error: OSError) -> None:
    raise InputError(f"The folder {error.filename} can't be read ({error.strerror}); make it readable or remove it.")


def _find(root: Path) -> tuple[Pictures, Counter[str]]:
    """The pictures below `root` by sorted path, and the number of other files of each ending."""
    paths = [Path(folder, name) for folder, names in _walk(root) for name in names if _shows(name)]
    pictures = sorted(path.relative_to(root).parts for path in paths if path.suffix.lower() in PICTURES)
    others = Counter(
        path.suffix.lower() or "without an ending" for path in paths if path.suffix.lower() not in PICTURES
    )
    if not pictures:
        raise InputError(
            f"The folder {root} has no pictures ({', '.join(PICTURES)}) in it or below"
            f"{f', found {_counted(others)}' if others else ''}; give one that has some."
        )
    return [(parts[0] if len(parts) > 1 else "", root.joinpath(*parts)) for parts in pictures], others


def _counted(others: Counter[str]) -> str:
    return named(f"{n:,} {ending}" for ending, n in sorted(others.items(), key=lambda pair: (-pair[1], pair[0])))


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


def _picture(path: Path, image: Size, resize: bool) -> np.ndarray:
    """A picture file as uint8 `[h, w, 1]` or `[h, w, 3]`; a palette may count as either, if its colours allow."""
    from PIL import Image

    try:
        if (kind := safe_io.instead_of_file(path)) not in (None, "nothing"):
            raise InputError(f"The picture {path} is {kind}; remove it.")
        with warnings.catch_warnings(action="ignore"):
            # Pillow only warns of a header with too many pixels, up to twice its limit.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            return _pixels(path, image, resize)
    except InputError:
        raise
    except Exception as error:  # each of Pillow's decoders raises its own kinds
        reason = getattr(error, "strerror", None) or f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise InputError(f"The picture {path} can't be read ({reason}); repair or remove it.") from None


def _pixels(path: Path, image: Size, resize: bool) -> np.ndarray:
    """A picture's pixels, transparent ones on white, as uint8, or uint16 if it has 16 bits; raises whatever Pillow
    does. A size that can't be is refused before memory is taken for it."""
    from PIL import Image

    with Image.open(path, formats=_FORMATS) as picture:
        if picture.mode == "F":
            raise InputError(f"The picture {path} holds fractions, expected 8 or 16 bits; convert or remove it.")
        grey, palette = picture.mode in ("1", "L", "LA"), picture.mode in ("P", "PA")
        deep = picture.mode.startswith("I")
        orientation = _orientation(picture.info.get("exif", b""))
        height, width = (picture.width, picture.height) if orientation > 4 else (picture.height, picture.width)
        size = (height, width, 1 if grey or deep or (palette and image[2] == 1) else 3)
        if size[:2] != image[:2]:
            require_size(size, image, resize, f"The picture {path} is")
        stored, claimed = path.stat().st_size, picture.height * picture.width
        if claimed > max(_PIXELS_OF_ANY_FILE, _PIXELS_OF_A_BYTE * stored):
            raise InputError(
                f"The picture {path} claims {claimed:,} pixels in a file of {stored:,} bytes, expected at most "
                f"{_PIXELS_OF_A_BYTE:,} a byte; remove it, or save it smaller."
            )
        wide = any(_COLOUR_OF_16_BITS.search(str(tile)) for tile in picture.tile)
        if deep:
            numbers = np.asarray(picture)
            if numbers.min() < 0 or numbers.max() > _LARGEST_OF_16_BITS:
                raise InputError(f"The picture {path} holds more than 16 bits, expected 8 or 16; convert or remove it.")
            return _upright(numbers.astype(np.uint16)[..., None], orientation)
        if picture.has_transparency_data:
            white = Image.new("RGBA", picture.size, "white")
            colour = np.asarray(Image.alpha_composite(white, picture.convert("RGBA")))[..., :3]
        else:
            colour = np.asarray(picture.convert("L" if grey else "RGB"))
            colour = colour[..., None] if grey else colour
    colour = _upright(colour, orientation)
    if wide:  # of 16-bit colour Pillow keeps the high byte
        return colour * np.uint16(257)
    return colour[..., :1] if grey or (palette and image[2] == 1 and (colour == colour[..., :1]).all()) else colour


def _orientation(exif: bytes) -> int:
    """How a photograph lies, from 1 to 8; 1, upright, if its EXIF doesn't say. Pillow turns a TIFF itself."""
    from PIL import Image

    tags, orientation = Image.Exif(), 1
    with contextlib.suppress(Exception):  # of nonsense, as in the picture's decoders
        tags.load(exif)
        orientation = tags.get(_ORIENTATION, 1)
    return orientation if orientation in range(1, 9) else 1


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turn and mirror a picture `[h, w, channels]` to how it was taken."""
    pixels = pixels.swapaxes(0, 1) if orientation > 4 else pixels
    return pixels[:: -1 if orientation in (3, 4, 7, 8) else 1, :: -1 if orientation in (2, 3, 6, 7) else 1]
