"""MNIST and the data sets in its IDX format: verified and read.

MNIST's files are checked against their published MD5 digests each time (a tenth of a second): torchvision accepts four
images, a label of 200 or unequal counts without an error. Of its siblings only the archives' digests are known, which
torchvision checks as it downloads; their files are checked for type, counts, sizes and range of labels.
"""

import hashlib
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxvae.shared.config.data_sets import DATA_SETS
from jaxvae.shared.data import published
from jaxvae.shared.data.class_names import CLASS_NAMES
from jaxvae.shared.data.dataset import Dataset, Request
from jaxvae.shared.data.published import Published, wrong_digest, wrong_size
from jaxvae.shared.data.resize import words

# MD5 of the unpacked files, as published with them: train images and labels, then test images and labels.
MNIST = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}
SIZE = (28, 28, 1)


class IdxSet(NamedTuple):
    """A data set of four IDX files: images and labels to train, images and labels to test."""

    title: str
    torchvision: str
    """The name of its class in `torchvision.datasets`, and of its folder."""
    train: int
    """Training images."""
    test: int
    """Test images."""
    classes: int
    split: str | None = None
    """One of EMNIST's."""
    first_label: int = 0
    """The smallest label in the files."""

    @property
    def published(self) -> Published:
        start = "" if self.split is None else f"emnist-{self.split}-"
        splits = ("train", "t10k" if self.split is None else "test")
        files = (f"{start}{split}-{kind}" for split in splits for kind in ("images-idx3-ubyte", "labels-idx1-ubyte"))
        others = None if self.split is None else "emnist-*-ubyte"  # the archive has all of EMNIST's splits
        return Published(
            *(self.title, self.torchvision, f"{self.torchvision}/raw", tuple(files), SIZE, self.split, others),
            recognized=self.split is not None or self.torchvision == "MNIST",
        )


IDX_SETS = {
    "mnist": IdxSet("MNIST", "MNIST", 60_000, 10_000, 10),
    "fashion-mnist": IdxSet("Fashion-MNIST", "FashionMNIST", 60_000, 10_000, 10),
    "kmnist": IdxSet("KMNIST", "KMNIST", 60_000, 10_000, 10),
    "emnist:balanced": IdxSet("EMNIST balanced", "EMNIST", 112_800, 18_800, 47, "balanced"),
    "emnist:byclass": IdxSet("EMNIST byclass", "EMNIST", 697_932, 116_323, 62, "byclass"),
    "emnist:bymerge": IdxSet("EMNIST bymerge", "EMNIST", 697_932, 116_323, 47, "bymerge"),
    "emnist:letters": IdxSet("EMNIST letters", "EMNIST", 124_800, 20_800, 26, "letters", first_label=1),
    "emnist:digits": IdxSet("EMNIST digits", "EMNIST", 240_000, 40_000, 10, "digits"),
    "emnist:mnist": IdxSet("EMNIST mnist", "EMNIST", 60_000, 10_000, 10, "mnist"),
}


def read(request: Request) -> Dataset:
    """The IDX set that the request names; its first split where it names none."""
    splits = DATA_SETS[request.kind].splits
    key = f"{request.kind}:{request.argument or splits[0]}" if splits else request.kind
    published.require_published_size(IDX_SETS[key].published, request)
    return load(key, request.root)._replace(name=request.name, class_names=CLASS_NAMES.get(key, ()))


def load(name: str, root: Path | None = None) -> Dataset:
    """Find or download, verify and read an IDX set.

    Args:
        name: One of `IDX_SETS`.
        root: The folder to look in first, such as one that holds MNIST/raw or MNIST's files; see `published.locate`.

    Returns:
        The whole data set, its images upright and its labels from 0.

    Raises:
        UnavailableError: If it is nowhere and the download failed.
        InputError: If one of its files is not what was published.
    """
    return _read_files(name, published.locate(IDX_SETS[name].published, root))


def _read_files(name: str, found: published.Found) -> Dataset:
    """The set of the four files."""
    idx_set, arrays = IDX_SETS[name], []
    this, most = idx_set.published, max(idx_set.train, idx_set.test)
    counts = (idx_set.train, idx_set.train, idx_set.test, idx_set.test)
    for file, n in zip(this.files, counts, strict=True):
        shape = (n, *SIZE[:2]) if "images" in file else (n,)
        content = published.read_bytes(this, found.files[file], _length(shape), _length((most, *SIZE[:2])))
        if name == "mnist":
            wrong = wrong_digest(file, content, _length(shape), MNIST)
        else:
            wrong = _malformed(idx_set, shape, content) or _of_mnist(content)
        if wrong is not None:
            raise published.unpublished(this, found.files[file], wrong)
        arrays.append(content[_header(shape) :].reshape(shape))
    train, train_labels, test, test_labels = arrays
    if idx_set.split is not None:  # EMNIST's images are stored column by column, and torchvision leaves them so
        train, test = train.transpose(0, 2, 1).copy(), test.transpose(0, 2, 1).copy()
    train_labels, test_labels = (labels - np.uint8(idx_set.first_label) for labels in (train_labels, test_labels))
    return Dataset(name, found.source, train[..., None], train_labels, test[..., None], test_labels)


def _of_mnist(content: np.ndarray) -> str | None:
    """Which file of MNIST the content is, which lies where one of another set should; None if it is none."""
    digest = hashlib.md5(content.data, usedforsecurity=False).hexdigest()
    return next((f"the content of MNIST's {file}" for file, known in MNIST.items() if known == digest), None)


def _malformed(idx_set: IdxSet, shape: tuple[int, ...], content: np.ndarray) -> str | None:
    """What the content has, unless it is an IDX file of this shape, and its labels are in the set's range."""
    start = _header(shape)
    kind, *sizes = np.frombuffer(content[:start].tobytes().ljust(start, b"\0"), ">u4").tolist()
    expected = 0x0800 + len(shape)  # 08: of unsigned bytes; then the number of dimensions
    if kind != expected:
        return f"the IDX type {kind:#010x} where there should be {expected:#010x}"
    if tuple(sizes) != shape:
        return f"the sizes {words(sizes)} where there should be {words(shape)}"
    if len(content) != _length(shape):
        return wrong_size(len(content), _length(shape))
    low, high, last = content[start:].min(), content[start:].max(), idx_set.first_label + idx_set.classes - 1
    if len(shape) == 1 and (low < idx_set.first_label or high > last):
        return f"labels from {low} to {high} where there should be {idx_set.first_label} to {last}"
    return None


def _header(shape: tuple[int, ...]) -> int:
    """Bytes before an IDX file's numbers: its type and its sizes."""
    return 4 + 4 * len(shape)


def _length(shape: tuple[int, ...]) -> int:
    """Bytes of an IDX file of this shape."""
    return _header(shape) + math.prod(shape)
