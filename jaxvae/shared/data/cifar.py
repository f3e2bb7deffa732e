"""CIFAR-10, from the Python pickles that torchvision downloads.

Loading a pickle can run any code. So nothing in a file is interpreted before its MD5 digest is the published one, and
the only functions it can name are NumPy's for an array, which are replaced here.
"""

import io
import pickle
import pickletools
from pathlib import Path
from typing import Any

import numpy as np

from jaxvae.shared.data import published
from jaxvae.shared.data.class_names import CLASS_NAMES
from jaxvae.shared.data.dataset import Dataset, Request
from jaxvae.shared.data.published import Published, wrong_digest
from jaxvae.shared.text import printable

IMAGE = (32, 32, 3)
BATCH = 10_000  # images in a file
CLASSES = 10
BYTES = {
    "data_batch_1": 31_035_704,
    "data_batch_2": 31_035_320,
    "data_batch_3": 31_035_999,
    "data_batch_4": 31_035_696,
    "data_batch_5": 31_035_623,
    "test_batch": 31_035_526,
    "batches.meta": 158,
}
DIGESTS = {  # MD5, as torchvision's CIFAR10 lists them
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
    "batches.meta": "5ff9c542aee3614f3951f8cda6e48888",
}
CIFAR10 = Published("CIFAR-10", "CIFAR10", "cifar-10-batches-py", tuple(DIGESTS), IMAGE)


def read(request: Request) -> Dataset:
    """Find or download, verify and read CIFAR-10: 50,000 training and 10,000 test images, 32x32 in colour.

    Args:
        request: The folder to look in first, and the size of the model's images.

    Returns:
        The whole data set, in the order of its files.

    Raises:
        UnavailableError: If it is nowhere and the download failed.
        InputError: If the model takes images of another size, or a file is not what was published.
    """
    published.require_published_size(CIFAR10, request)
    found = published.locate(CIFAR10, request.root)
    contents = {name: _verified(name, found.files[name]) for name in CIFAR10.files}
    batches = [_batch(found.files[name], contents.pop(name)) for name in CIFAR10.files if name != "batches.meta"]
    *train, (test, test_labels) = batches
    train_images, train_labels = (np.concatenate(parts) for parts in zip(*train, strict=True))
    names = CLASS_NAMES[request.name]
    return Dataset(request.name, found.source, train_images, train_labels, test, test_labels, class_names=names)


def _verified(name: str, path: Path) -> np.ndarray:
    """The bytes `[n]` of a file, uint8. Raises InputError unless they are the published ones."""
    content = published.read_bytes(CIFAR10, path, BYTES[name], max(BYTES.values()))
    if (wrong := wrong_digest(name, content, BYTES[name], DIGESTS)) is not None:
        raise published.unpublished(CIFAR10, path, wrong)
    return content


def _batch(path: Path, content: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The images `[n, height, width, channels]` and the labels `[n]` in a verified file, uint8."""
    try:
        _require_small_memo(content.data)
        batch = _Unpickler(io.BytesIO(content.data), encoding="bytes").load()
        pixels, labels = batch[b"data"].pixels, np.array(batch[b"labels"], np.int64)
        planes = pixels.reshape(BATCH, IMAGE[2], *IMAGE[:2])  # all of an image's red, then its green, then its blue
    except Exception as error:  # pickle raises many kinds
        raise published.unpublished(CIFAR10, path, f"no batch of {BATCH:,} images ({printable(str(error))})") from None
    if labels.shape != (BATCH,) or labels.min() < 0 or labels.max() >= CLASSES:
        raise published.unpublished(CIFAR10, path, f"other labels than {BATCH:,} from 0 to {CLASSES - 1}")
    return np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), labels.astype(np.uint8)


def _require_small_memo(content: memoryview) -> None:
    """Checks that a pickle is whole and stores no value at a larger number than it has operations: pickle makes a table
    up to that number."""
    for count, (operation, argument, _) in enumerate(pickletools.genops(bytes(content))):
        if operation.name.endswith("PUT") and not 0 <= int(argument) <= count:  # type: ignore[arg-type]
            raise pickle.UnpicklingError(f"its operation {count} stores value number {argument}")


class _Array:
    """Stands in for a NumPy array of bytes."""

    pixels: np.ndarray

    def __setstate__(self, state: Any) -> None:
        _, shape, _, fortran, content = state
        self.pixels = np.frombuffer(content, np.uint8).reshape(shape, order="F" if fortran else "C")


class _Dtype:
    """Stands in for a NumPy dtype, which is that of bytes."""

    def __init__(self, *_: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...


_STAND_INS: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): lambda *_: _Array(),
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _STAND_INS:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return _STAND_INS[module, name]
