"""MNIST and the data sets in its format: found or downloaded, verified and read.

MNIST's files are checked against their published MD5 digests each time (a tenth of a second): torchvision accepts four
images, a label of 200 or unequal counts without a word. Of its siblings only the archives' digests are known, which
torchvision checks as it downloads; their files are checked for type, counts, sizes and range of labels. A verified file
is read here, so that a run needs torchvision, and with it torch, only to download.
"""

import contextlib
import hashlib
import io
import math
import os
import shutil
import socket
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxvae.shared import safe_io
from jaxvae.shared.data.dataset import Dataset, UnavailableError
from jaxvae.shared.data.resize import words
from jaxvae.shared.errors import InputError

# MD5 of the unpacked files, as published with them: train images and labels, then test images and labels.
MNIST = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}
SIZE = (28, 28, 1)


class Published(NamedTuple):
    """A set of four IDX files that torchvision knows: images and labels to train, images and labels to test."""

    title: str
    folder: str
    """torchvision's name for its class and its folder."""
    train: int
    test: int
    classes: int
    split: str | None = None
    """One of EMNIST's."""
    first_label: int = 0

    @property
    def names(self) -> tuple[str, ...]:
        start = f"emnist-{self.split}-"
        splits = ("train", "t10k") if self.split is None else (f"{start}train", f"{start}test")
        return tuple(f"{split}-{kind}" for split in splits for kind in ("images-idx3-ubyte", "labels-idx1-ubyte"))


PUBLISHED = {
    "mnist": Published("MNIST", "MNIST", 60_000, 10_000, 10),
    "fashion-mnist": Published("Fashion-MNIST", "FashionMNIST", 60_000, 10_000, 10),
    "kmnist": Published("KMNIST", "KMNIST", 60_000, 10_000, 10),
    "emnist:balanced": Published("EMNIST balanced", "EMNIST", 112_800, 18_800, 47, "balanced"),
    "emnist:byclass": Published("EMNIST byclass", "EMNIST", 697_932, 116_323, 62, "byclass"),
    "emnist:bymerge": Published("EMNIST bymerge", "EMNIST", 697_932, 116_323, 47, "bymerge"),
    "emnist:letters": Published("EMNIST letters", "EMNIST", 124_800, 20_800, 26, "letters", first_label=1),
    "emnist:digits": Published("EMNIST digits", "EMNIST", 240_000, 40_000, 10, "digits"),
    "emnist:mnist": Published("EMNIST mnist", "EMNIST", 60_000, 10_000, 10, "mnist"),
}


def published(name: str, root: Path | str | None = None) -> Dataset:
    """A set of `PUBLISHED`, whole, verified, its images upright and its labels from 0."""
    this = PUBLISHED[name]
    places = [place / this.folder / "raw" for place in _places(None if root is None else Path(root))]
    for folder in places:
        if any((folder / file).exists() for file in this.names):
            return _read(name, folder)
    target = Path(root or cache())
    reason = _download(target, this)
    if reason is None:
        return _read(name, target / this.folder / "raw")
    raise UnavailableError(
        f"{this.title} can't be had: it is not in {', '.join(map(str, places))}, and downloading it failed ({reason}); "
        "give its folder by --data-root or JAXVAE_DATA, or ask for --data digits."
    )


def cache() -> Path:
    """The user's cache folder of this project; in the temporary folder for a user without a home."""
    home = Path(os.path.expanduser("~"))  # noqa: PTH111 (Path.home() fails without one)
    base = home / ".cache" if home.is_absolute() else Path(tempfile.gettempdir())
    return Path(os.environ.get("XDG_CACHE_HOME") or base) / "jaxvae"


def _places(root: Path | None) -> list[Path]:
    variable = os.environ.get("JAXVAE_DATA")
    return [place for place in (root, Path(variable) if variable else None, cache()) if place is not None]


def _read(name: str, folder: Path) -> Dataset:
    """The set's four files in `folder`."""
    this, arrays = PUBLISHED[name], []
    for file, n in zip(this.names, (this.train, this.train, this.test, this.test), strict=True):
        shape = (n, *SIZE[:2]) if "images" in file else (n,)
        try:
            found, largest = safe_io.instead_of_file(folder / file), _length((max(this.train, this.test), *SIZE[:2]))
            if found not in (None, "nothing"):
                raise _refusal(this, folder / file, f"is {found}")
            if (size := (folder / file).stat().st_size) > largest:  # before it is read
                wrong = f"{size:,} bytes where there should be {_length(shape):,}"
                raise _refusal(this, folder / file, f"is not the published file, it has {wrong}")
            content = np.fromfile(folder / file, np.uint8)
        except OSError as error:
            raise _refusal(this, folder / file, f"can't be read ({error.strerror})") from None
        wrong = _unlike_mnist(file, shape, content) if name == "mnist" else _malformed(this, shape, content)
        if wrong is not None:
            raise _refusal(this, folder / file, f"is not the published file, it has {wrong}")
        arrays.append(content[_header(shape) :].reshape(shape))
    train, train_labels, test, test_labels = arrays
    if this.split is not None:  # EMNIST's images are stored column by column, and torchvision leaves them so
        train, test = train.transpose(0, 2, 1).copy(), test.transpose(0, 2, 1).copy()
    train_labels, test_labels = (labels - np.uint8(this.first_label) for labels in (train_labels, test_labels))
    source = str(folder.parent.parent.resolve())
    return Dataset(name, source, train[..., None], train_labels, test[..., None], test_labels)


def _refusal(this: Published, path: Path, what: str) -> InputError:
    advice = f"remove {path.parent} and let it be downloaded again, or give another folder by --data-root"
    return InputError(f"The file {path} of {this.title} {what}; {advice}.")


def _unlike_mnist(name: str, shape: tuple[int, ...], content: np.ndarray) -> str | None:
    """What the content has, unless it is MNIST's to the bit."""
    found = hashlib.md5(content.data, usedforsecurity=False).hexdigest()
    if found == MNIST[name]:
        return None
    other = next((name for name, md5 in MNIST.items() if md5 == found), None)
    if other is not None:
        return f"the content of {other}"
    if len(content) != _length(shape):
        return f"{len(content):,} bytes where there should be {_length(shape):,}"
    return f"a changed file: MD5 {found} where it should be {MNIST[name]}"


def _malformed(this: Published, shape: tuple[int, ...], content: np.ndarray) -> str | None:
    """What the content has, unless it is an IDX file of so many images, or of labels in the set's range."""
    start = _header(shape)
    kind, *sizes = np.frombuffer(content[:start].tobytes().ljust(start, b"\0"), ">u4").tolist()
    expected = 0x0800 + len(shape)  # 08: of unsigned bytes; then the number of dimensions
    if kind != expected:
        return f"the IDX type {kind:#010x} where there should be {expected:#010x}"
    if tuple(sizes) != shape:
        return f"the sizes {words(sizes)} where there should be {words(shape)}"
    if len(content) != _length(shape):
        return f"{len(content):,} bytes where there should be {_length(shape):,}"
    low, high, last = content[start:].min(), content[start:].max(), this.first_label + this.classes - 1
    if len(shape) == 1 and (low < this.first_label or high > last):
        return f"labels from {low} to {high} where there should be {this.first_label} to {last}"
    return None


def _header(shape: tuple[int, ...]) -> int:
    """Bytes before an IDX file's numbers: its type and its sizes."""
    return 4 + 4 * len(shape)


def _length(shape: tuple[int, ...]) -> int:
    return _header(shape) + math.prod(shape)


def _download(root: Path, this: Published) -> str | None:
    """Lets torchvision fetch and unpack a set under `root`, whole or not at all; the reason where it can't."""
    timeout = socket.getdefaulttimeout()
    folder: str | None = None
    try:
        root.mkdir(parents=True, exist_ok=True)
        folder = tempfile.mkdtemp(dir=root, prefix=".download.")
        socket.setdefaulttimeout(20)  # torchvision's own download would wait for ever
        with contextlib.redirect_stdout(io.StringIO()):
            from torchvision import datasets

            split = {} if this.split is None else {"split": this.split}
            getattr(datasets, this.folder)(folder, download=True, **split)
        fetched, target = Path(folder) / this.folder / "raw", root / this.folder / "raw"
        target.mkdir(parents=True, exist_ok=True)
        for name in this.names:
            (fetched / name).replace(target / name)
        for path in fetched.glob("emnist-*-ubyte"):  # the archive has all of EMNIST's splits: none is fetched again
            if not (target / path.name).exists():
                path.replace(target / path.name)
    except (OSError, RuntimeError, ImportError) as error:
        return " ".join(str(error).split())
    finally:
        socket.setdefaulttimeout(timeout)
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
    return None
