"""Training images that stay in a file or in host memory and come in blocks, each read while the one before it trains.

A block is whole batches of an epoch, so that what a step is given, and with it the run, is the same as ever."""

import contextlib
import copy
import mmap
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from jaxvae.shared.config.parts import TrainingSpec
from jaxvae.shared.config.spec import Spec
from jaxvae.shared.errors import InputError
from jaxvae.shared.model.noise_blocks import steps_at_once

_PIECE = 2**24  # bytes that are looked through at a time
# Of images that lie further apart than this all together, the kernel is told which are needed next, so many at a time.
# Else it reads 128 kB around each, one after another: 12 times as long, and 32 times as much, from a fast disk.
_BETWEEN, _ROWS = 2**27, 64

T = TypeVar("T")


class Mapped:
    """uint8 images `[n, height, width, channels]` in a .npy file. Indexing chooses among them as it does among an
    array's and reads none; `numpy.asarray` reads those that are left, and raises InputError if the file has changed."""

    dtype = np.dtype(np.uint8)

    def __init__(self, found: np.memmap) -> None:
        self._path = Path(str(found.filename))
        with self._path.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._offset = found.offset
        self._images = np.frombuffer(self._map, np.uint8, found.size, self._offset).reshape(found.shape)
        self._stamp, self._rows = self._stamped(), np.arange(len(found))

    @property
    def shape(self) -> tuple[int, ...]:
        return len(self), *self._images.shape[1:]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, which: slice | np.ndarray) -> "Mapped":
        chosen = copy.copy(self)
        chosen._rows = self._rows[which]
        return chosen

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if self._stamped() != self._stamp:  # of one that is shorter now the kernel would kill who reads on
            raise InputError(
                f"{self._path} has changed since its images were counted; start again with what it is now."
            )
        found, image = np.empty(self.shape, np.uint8), self._images[0].nbytes
        between = image * (int(np.ptp(self._rows)) + 1) if len(self) else 0
        scattered = between > max(_BETWEEN, 2 * found.nbytes) and hasattr(mmap, "MADV_WILLNEED")
        at_once = _ROWS if scattered else max(1, len(self))
        for start in range(0, len(self), at_once):
            rows = self._rows[start : start + at_once]
            for begin in (self._offset + rows * image).tolist() if scattered else []:
                page = begin - begin % mmap.PAGESIZE
                self._map.madvise(mmap.MADV_WILLNEED, page, begin + image - page)
            # Of numpy's modes the one that copies once.
            self._images.take(rows, axis=0, out=found[start : start + at_once], mode="clip")
            if hasattr(mmap, "MADV_DONTNEED"):
                self._map.madvise(mmap.MADV_DONTNEED)  # the kernel may keep them, but they count as ours no longer
        return found if dtype is None else found.astype(dtype, copy=False)

    def _stamped(self) -> tuple[int, int, int]:
        try:
            now = self._path.stat()
        except OSError as error:
            raise InputError(f"{self._path} can't be read any longer ({error.strerror}); put it back.") from None
        return now.st_ino, now.st_size, now.st_mtime_ns


class UnmappableError(InputError):
    """Images that can't stay in their file, since it has not what the model takes."""

    def __init__(self, where: str, found: str) -> None:
        super().__init__(
            f"{where} must be uint8 of the model's size in an .npy to be streamed, found {found}; save them so by "
            "numpy.save, and give npy:FILE, or npy:DIR for a folder of train.npy, test.npy and their labels."
        )


class Span(NamedTuple):
    """What one block of an epoch is for."""

    block: int
    """Its number in the epoch, from 0."""
    end: int
    """The step of the run that it goes up to."""


def pieces(images: Any) -> Iterator[np.ndarray]:
    """An array's rows, or a Mapped's, so many at a time as are no burden."""
    rows = max(1, _PIECE // max(1, int(np.prod(images.shape[1:])) * images.dtype.itemsize))
    for start in range(0, len(images), rows):
        yield np.asarray(images[start : start + rows])


def steps_in_block(spec: Spec, n: int, size: int) -> int:
    """Steps that a block of at most `size` bytes is for, of an epoch over n images; one at least. Of many, a multiple
    of those that draw their numbers in one go, since a part of these costs as much."""
    batch = min(spec.training.batch_size, n)
    most, at_once = max(1, size // (batch * spec.model.pixels)), steps_at_once(spec, batch)
    return min(spec.training.epoch_steps(n), most - most % at_once or most)


def spans(training: TrainingSpec, n: int, per: int, first: int, done: int) -> Iterator[tuple[int, list[Span]]]:
    """The epochs, from 0, that are left of a run over n images, and the blocks of `per` steps that are left of each: of
    one that has taken `done` steps, its epoch begun at step `first`. An epoch's last block is among them even if all of
    it is done, so that the epoch can be evaluated."""
    steps, total = training.epoch_steps(n), training.total_steps(n)
    for epoch in range(first // steps, -(-total // steps)):
        last = min((epoch + 1) * steps, total)
        ends = [min(begin + per, last) for begin in range(epoch * steps, last, per)]
        yield epoch, [Span(block, end) for block, end in enumerate(ends) if end > done or end == last]


def blocks(order: np.ndarray, size: int, own: np.ndarray | None = None) -> tuple[list[np.ndarray], np.ndarray]:
    """An epoch's order of images `[n]`, cut into blocks of `size` of its places: each block's rows, ascending, as disks
    like to be read, and for each place where in its block the image is, int32 `[n]`. own: the places that this process
    computes, ascending, else all; the others' images are in no block."""
    own, found = np.arange(len(order)) if own is None else own, []
    places = np.zeros(len(order), np.int32)
    for start in range(0, len(order), size):
        at = own[slice(*np.searchsorted(own, (start, start + size)))]
        by = np.argsort(order[at])
        places[at[by]] = np.arange(len(at))
        found.append(order[at[by]])
    return found, places


@contextlib.contextmanager
def ahead(items: Iterator[T]) -> Iterator[Iterator[T]]:
    """The same items, each made by a thread while the one before it is in use. What goes wrong there is raised where
    its item would have come, and the thread ends with the context."""
    with ThreadPoolExecutor(1) as thread:

        def each() -> Iterator[T]:
            coming = thread.submit(next, items, None)
            while (item := coming.result()) is not None:
                coming = thread.submit(next, items, None)
                yield item

        yield each()
