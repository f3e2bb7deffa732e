"""The images: MNIST, found or downloaded, verified and read; or the small digits that ship with scikit-learn.

MNIST's files are checked against their published MD5 digests each time (a tenth of a second): torchvision accepts four
images, a label of 200 or unequal counts without a word. A verified file is read here, so that a run needs torchvision,
and with it torch, only to download.
"""

import contextlib
import hashlib
import io
import os
import shutil
import socket
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxvae.shared.errors import InputError
from jaxvae.shared.spec import DataName

# MD5 of the unpacked files, as published with them: train images and labels, then test images and labels.
MNIST = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}
_BYTES = dict(zip(MNIST, (16 + 60000 * 784, 8 + 60000, 16 + 10000 * 784, 8 + 10000), strict=True))
_DIGITS_TRAIN = 1500


class Dataset(NamedTuple):
    """uint8 images `[n, height, width, channels]` and uint8 labels `[n]`, in two splits."""

    name: DataName
    source: str
    """Where it was found, for the run's record."""
    train: np.ndarray
    train_labels: np.ndarray
    test: np.ndarray
    test_labels: np.ndarray


class UnavailableError(InputError):
    """MNIST is nowhere to be had; `auto` goes on without it."""


def load(name: DataName, root: Path | None, image: tuple[int, int, int]) -> tuple[Dataset, str | None]:
    """The images for a model of `image` (height, width, channels), and for `auto` why they are not MNIST's, if so.

    MNIST is looked for under `root`, `$JAXVAE_DATA` and the user's cache, then downloaded. Raises InputError if `root`
    is not a folder, if a file found is not MNIST's, if `mnist` can't be had, or if the data has no such images."""
    if root is not None and not root.is_dir():
        raise InputError(f"The data root {root} is not a folder; give one that holds MNIST/raw, or leave it out.")
    if name == "digits":
        return digits(image), None
    if image != (28, 28, 1):
        raise InputError(f"MNIST's images are 28 28 1, the model's {' '.join(map(str, image))}; use --data digits.")
    try:
        return mnist(root), None
    except UnavailableError as error:
        if name == "mnist":
            raise
        return digits(image), str(error)


def mnist(root: Path | str | None = None) -> Dataset:
    """MNIST's 60,000 training and 10,000 test images, verified."""
    places = _places(None if root is None else Path(root))
    for place in places:
        folder = place / "MNIST" / "raw"
        if any((folder / name).exists() for name in MNIST):
            return _read_mnist(folder)
    target = Path(root or cache())
    reason = _download(target)
    if reason is None:
        return _read_mnist(target / "MNIST" / "raw")
    looked = ", ".join(str(place / "MNIST" / "raw") for place in places)
    raise UnavailableError(
        f"MNIST can't be had: it is not in {looked}, and downloading it failed ({reason}); "
        "give its folder by --data-root or JAXVAE_DATA, or ask for --data digits."
    )


def cache() -> Path:
    """The user's cache folder of this project; in the temporary folder for a user without a home."""
    home = Path(os.path.expanduser("~"))  # noqa: PTH111 (Path.home() fails without one)
    base = home / ".cache" if home.is_absolute() else Path(tempfile.gettempdir())
    return Path(os.environ.get("XDG_CACHE_HOME") or base) / "jaxvae"


def digits(image: tuple[int, int, int] = (28, 28, 1)) -> Dataset:
    """scikit-learn's 1,797 handwritten digits, 8x8 with 17 grey levels, resized: 1,500 train, 297 test."""
    from PIL import Image
    from sklearn.datasets import load_digits

    height, width, channels = image
    if channels != 1:
        raise InputError(f"The digits are grey, with 1 channel, the model's images have {channels}.")
    pixels, labels = load_digits(return_X_y=True)
    small = np.round(pixels.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    resized = [np.asarray(Image.fromarray(a).resize((width, height), Image.Resampling.BICUBIC)) for a in small]
    images, labels, cut = np.stack(resized)[..., None], labels.astype(np.uint8), _DIGITS_TRAIN
    return Dataset("digits", "scikit-learn", images[:cut], labels[:cut], images[cut:], labels[cut:])


def _places(root: Path | None) -> list[Path]:
    variable = os.environ.get("JAXVAE_DATA")
    return [place for place in (root, Path(variable) if variable else None, cache()) if place is not None]


def _read_mnist(folder: Path) -> Dataset:
    train, train_labels, test, test_labels = (_read_verified(folder / name) for name in MNIST)
    return Dataset(
        "mnist",
        str(folder.parent.parent.resolve()),
        train[16:].reshape(-1, 28, 28, 1),
        train_labels[8:],
        test[16:].reshape(-1, 28, 28, 1),
        test_labels[8:],
    )


def _read_verified(path: Path) -> np.ndarray:
    """The file's bytes. Raises InputError unless they are MNIST's to the bit."""
    advice = f"remove {path.parent} and let it be downloaded again, or give another folder by --data-root"
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"MNIST's {path} can't be read ({error.strerror}); {advice}.") from None
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if found == MNIST[path.name]:
        return np.frombuffer(bytearray(content), np.uint8)  # writable, as torch wants it
    other = next((name for name, md5 in MNIST.items() if md5 == found), None)
    if other is not None:
        what = f"the content of {other}"
    elif len(content) != _BYTES[path.name]:
        what = f"{len(content):,} bytes where there should be {_BYTES[path.name]:,}"
    else:
        what = f"a changed file: MD5 {found} where it should be {MNIST[path.name]}"
    raise InputError(f"MNIST's {path} is not the published file, it has {what}; {advice}.")


def _download(root: Path) -> str | None:
    """Lets torchvision fetch and unpack MNIST under `root`, whole or not at all; the reason where it can't."""
    timeout = socket.getdefaulttimeout()
    folder: str | None = None
    try:
        root.mkdir(parents=True, exist_ok=True)
        folder = tempfile.mkdtemp(dir=root, prefix=".download.")
        socket.setdefaulttimeout(20)  # torchvision's own download would wait for ever
        with contextlib.redirect_stdout(io.StringIO()):
            from torchvision import datasets

            datasets.MNIST(folder, download=True)
        target = root / "MNIST" / "raw"
        target.mkdir(parents=True, exist_ok=True)
        for name in MNIST:
            (Path(folder) / "MNIST" / "raw" / name).replace(target / name)
    except (OSError, RuntimeError, ImportError) as error:
        return " ".join(str(error).split())
    finally:
        socket.setdefaulttimeout(timeout)
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
    return None
