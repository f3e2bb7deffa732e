"""A small batch of CIFAR-10, a pickle as Python 2 wrote it, that may be malformed behind its digest."""

import io
import pickle
import struct
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from jaxvae.shared.data import cifar
from parity_tests.corrupt import structured
from parity_tests.corrupt.fuzz import OTHER, SAME

NAME = "data_batch_1"
N = 4  # images
_IMAGES, _LABELS = np.random.default_rng(0).integers(0, 256, (N, 3072), np.uint8), [6, 9, 9, 4]
MUTATIONS = structured.with_plain(structured.opcodes)


def pickled(value: Any) -> bytes:
    """Pickle a value as Python 2 did with NumPy 1."""
    file = io.BytesIO()
    pickler: Any = pickle._Pickler(file, protocol=2)  # type: ignore[attr-defined]
    pickler.dispatch = pickler.dispatch | {bytes: _save_as_python_2}
    pickler.dump(value)
    return file.getvalue().replace(b"numpy._core", b"numpy.core")  # the module's name before NumPy 2


def batch(images: np.ndarray, labels: list[int]) -> bytes:
    """Return the content of a file of images `[n, 3072]` and their labels."""
    about = {b"batch_label": b"a batch", b"filenames": [b"a.png"] * len(images)}
    return pickled({**about, b"labels": labels, b"data": images})


def whole() -> bytes:
    """Return an intact batch."""
    return batch(_IMAGES, _LABELS)


def read(path: Path) -> str:
    """Read a batch as if its digest were the published one."""
    with mock.patch.object(cifar, "BATCH", N):
        images, labels = cifar._batch(path, np.frombuffer(path.read_bytes(), np.uint8))
    assert (images.shape, images.dtype, labels.shape, labels.dtype) == ((N, 32, 32, 3), np.uint8, (N,), np.uint8)
    assert labels.max() < cifar.CLASSES
    expected = _IMAGES.reshape(N, 3, 32, 32).transpose(0, 2, 3, 1)
    return SAME if (images == expected).all() and labels.tolist() == _LABELS else OTHER


def _save_as_python_2(pickler: Any, value: bytes) -> None:
    """Writes bytes as Python 2 wrote its strings, as the published files have them."""
    pickler.write(b"T" + struct.pack("<i", len(value)) + value)
    pickler.memoize(value)
