"""Training images that stay in a file or in host memory and are read in blocks, each while the one before it trains.

A block is whole batches of an epoch, so that every step gets the same images as without blocks, and the run is the
same."""

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

_PIECE = 2**24  # bytes that are read at a time
# If images are spread over more bytes than _SCATTERED, madvise announces _ROWS of them at a time. Without it the kernel
# reads 128 kB around each, one after another: 12 times as long, and 32 times as much, from a fast disk.
_SCATTERED, _ROWS = 2**27, 64

T = TypeVar("T")


class Mapped:
    """uint8 images `[n, height, width, channels]` that stay in their .npy file.

    Indexing selects images, as an array's does, and reads none. `numpy.asarray` reads the selected ones, and raises
    InputError if the file has changed since it was opened.
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, array: np.memmap) -> None:
        self._path = Path(str(array.filename))
        with self._path.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._offset = array.offset
        self._images = np.frombuffer(self._map, np.uint8, array.size, self._offset).reshape(array.shape)
        self._stamp, self._rows = self._file_stamp(), np.arange(len(array))

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
        if self._file_stamp() != self._stamp:  # reading beyond the end of a shortened file would kill the process
            raise InputError(f"{self._path} changed on disk since it was opened; start again with the present file.")
        images, image = np.empty(self.shape, np.uint8), self._images[0].nbytes
        span = image * (int(np.ptp(self._rows)) + 1) if len(self) else 0
        scattered = span > max(_SCATTERED, 2 * images.nbytes) and hasattr(mmap, "MADV_WILLNEED")
        at_once = _ROWS if scattered else max(1, len(self))
        for start in range(0, len(self), at_once):
            rows = self._rows[start : start + at_once]
            for begin in (self._offset + rows * image).tolist() if scattered else []:
                page = begin - begin % mmap.PAGESIZE
                self._map.madvise(mmap.MADV_WILLNEED, page, begin + image - page)
            # The other modes of take copy twice.
            self._images.take(rows, axis=0, out=images[start : start + at_once], mode="clip")
            if hasattr(mmap, "MADV_DONTNEED"):
                self._map.madvise(mmap.MADV_DONTNEED)  # they no longer count as this process's memory
        return images if dtype is None else images.astype(dtype, copy=False)

    def _file_stamp(self) -> tuple[int, int, int]:
        """What changes when the file does."""
        try:
            now = self._path.stat()
        except OSError as error:
            raise InputError(f"{self._path} can no longer be read ({error.strerror}); put it back.") from None
        return now.st_ino, now.st_size, now.st_mtime_ns


class UnmappableError(InputError):
    """Images that can't stay in their file, since they have to be converted."""

    def __init__(self, where: str, kind: str) -> None:
        super().__init__(
            f"{where} must be uint8 of the model's size in an .npy to be streamed, found {kind}; save them so by "
            "numpy.save, and give npy:FILE, or npy:DIR for a folder of train.npy, test.npy and their labels."
        )


class Span(NamedTuple):
    """A block of an epoch and its steps."""

    block: int
    """Its number in the epoch, from 0."""
    end: int
    """Its last step, counted from the beginning of the run."""


def pieces(images: Any) -> Iterator[np.ndarray]:
    """Iterate over the rows of an array or a Mapped, as many at a time as have about 16 MiB."""
    rows = max(1, _PIECE // max(1, int(np.prod(images.shape[1:])) * images.dtype.itemsize))
    for start in range(0, len(images), rows):
        yield np.asarray(images[start : start + rows])


def steps_in_block(spec: Spec, n: int, size: int) -> int:
    """Compute the number of steps that one block serves.

    Args:
        spec: The configuration.
        n: The number of training images.
        size: The most bytes of images in a block.

    Returns:
        At least 1, and at most an epoch's steps. If possible, a multiple of the steps that draw their noise in one
        call, since a part of them costs as much.
    """
    batch = min(spec.training.batch_size, n)
    most, at_once = max(1, size // (batch * spec.model.pixels)), steps_at_once(spec, batch)
    return min(spec.training.epoch_steps(n), most - most % at_once or most)


def spans(training: TrainingSpec, n: int, per: int, first: int, done: int) -> Iterator[tuple[int, list[Span]]]:
    """Iterate over the epochs and blocks that are left of a run.

    Args:
        training: The length of the run and the batch size.
        n: The number of training images.
        per: Steps in a block.
        first: The step that began the current epoch.
        done: Steps taken.

    Yields:
        The epoch, from 0, and its blocks that are left. An epoch's last block is among them even if all its steps are
        taken, so that the epoch can be evaluated.
    """
    steps, total = training.epoch_steps(n), training.total_steps(n)
    for epoch in range(first // steps, -(-total // steps)):
        last = min((epoch + 1) * steps, total)
        ends = [min(begin + per, last) for begin in range(epoch * steps, last, per)]
        yield epoch, [Span(block, end) for block, end in enumerate(ends) if end > done or end == last]


def blocks(order: np.ndarray, size: int, own: np.ndarray | None = None) -> tuple[list[np.ndarray], np.ndarray]:
    """Cut an epoch's order of images into blocks.

    Args:
        order: The index of the image at each place of the epoch, `[n]`.
        size: Places in a block.
        own: The places that this process computes, ascending; all without it. Other images are in no block.

    Returns:
        For each block the indices of its images, ascending, so that they are read in order; and for each place the
        position of its image in its block, int32 `[n]`.
    """
    own, rows = np.arange(len(order)) if own is None else own, []
    places = np.zeros(len(order), np.int32)
    for start in range(0, len(order), size):
        at = own[slice(*np.searchsorted(own, (start, start + size)))]
        by = np.argsort(order[at])
        places[at[by]] = np.arange(len(at))
        rows.append(order[at[by]])
    return rows, places


@contextlib.contextmanager
def ahead(items: Iterator[T]) -> Iterator[Iterator[T]]:
    """Compute each item in a thread while the one before it is in use.

    Args:
        items: The iterator that computes the items, none of them None.

    Yields:
        An iterator over the same items. An error in the thread is raised in place of its item; the thread ends with
        the context.
    """
    with ThreadPoolExecutor(1) as thread:

        def each() -> Iterator[T]:
            coming = thread.submit(next, items, None)
            while (item := coming.result()) is not None:
                coming = thread.submit(next, items, None)
                yield item

        yield each()
