"""A data set: images and labels in two splits."""

import hashlib
from typing import NamedTuple

import numpy as np

from jaxvae.shared.data import streaming
from jaxvae.shared.errors import InputError


class Dataset(NamedTuple):
    """uint8 images `[n, height, width, channels]` and uint8 labels `[n]`, in two splits. The training images may be a
    `streaming.Mapped`."""

    name: str
    source: str
    """Where it was found, for the run's record."""
    train: np.ndarray
    train_labels: np.ndarray
    test: np.ndarray
    test_labels: np.ndarray
    labelled: bool = True
    """Whether the labels say something; else they are all 0."""


class UnavailableError(InputError):
    """MNIST or its like is nowhere to be had; `auto` goes on without it."""


def digest(dataset: Dataset) -> str:
    """SHA-256 of all that is trained and tested on."""
    sha = hashlib.sha256()
    for array in (dataset.train, dataset.train_labels, dataset.test, dataset.test_labels):
        sha.update(f"{array.shape}".encode())
        for piece in streaming.pieces(array):
            sha.update(np.ascontiguousarray(piece).data)
    return sha.hexdigest()


class Images(NamedTuple):
    """uint8 images `[n, height, width, channels]` and uint8 labels `[n]`, all 0 if there are none, in two splits."""

    train: np.ndarray
    train_labels: np.ndarray
    test: np.ndarray
    test_labels: np.ndarray
    labelled: bool


def tenths(n: int, where: str) -> tuple[np.ndarray, np.ndarray]:
    """Which of n images are for training and which for testing, bool `[n]` each: every tenth, or the last, tests."""
    if n < 2:
        raise InputError(f"{where} has {n} image{'s' * (n != 1)}, and it takes one to train and one to test; add more.")
    test = np.arange(1, n + 1) % 10 == 0
    test[-1] |= n < 10
    return ~test, test
