"""Limits of other programs' files, so that a small file can't take all memory or time: bytes, tensors and names."""

import os
from collections.abc import Sequence
from pathlib import Path

from jaxvae.shared.backend import Tensor
from jaxvae.shared.errors import InputError
from jaxvae.shared.text import printable, shown

MAX_TENSORS = 10_000  # a hundred times as many as a VAE's
_HARMLESS = 2**26  # bytes that any file may take
_MOST_TIMES = 4  # tensors that share their numbers, as tied weights do, are stored once
_LONGEST_NAME = 200


class Budget:
    """The bytes that a file's tensors may still take together.

    Strides of 0, tensors that share their numbers and compression let a file of a few kB have tensors of many GB.
    """

    def __init__(self, path: Path, size: int | None = None) -> None:
        self._path, self._size = path, path.stat().st_size if size is None else size
        self._most = self._left = max(_HARMLESS, _MOST_TIMES * self._size)

    def take(self, nbytes: int) -> None:
        """Count bytes that are about to be read or copied. Raises InputError if they are too many for the file."""
        self._left -= nbytes
        if self._left < 0:
            raise InputError(
                f"{self._path} must have tensors of at most {self._most:,} bytes, since on the disk it has "
                f"{self._size:,}, found more: it repeats or compresses the same numbers; save the model's tensors as "
                "plain, dense ones."
            )


def require_content(path: Path) -> None:
    """Check that a file's bytes are on the disk: a file that is mostly holes has any size and takes no room.

    Raises:
        InputError: If less than a quarter of a large file is there.
    """
    size, end, written = path.stat().st_size, 0, 0
    if size <= _HARMLESS:
        return
    with path.open("rb") as file:
        while end < size and _MOST_TIMES * written < size:
            try:
                start = os.lseek(file.fileno(), end, os.SEEK_DATA)
                end = os.lseek(file.fileno(), start, os.SEEK_HOLE)
            except OSError:  # no data follows
                break
            written += end - start
    if _MOST_TIMES * written < size:
        raise InputError(
            f"{path} must be stored whole, found {size:,} bytes of which only {written:,} were ever written; download "
            "or copy it again."
        )


def require_names(path: Path, tensors: Sequence[Tensor]) -> None:
    """Check the number and the names of a file's tensors, since messages show them.

    Raises:
        InputError: If there are too many, or if a name is long or has control characters.
    """
    require_few(path, len(tensors))
    for name in (".".join(tensor.path) for tensor in tensors):
        if not name.isprintable() or len(name) > _LONGEST_NAME:
            raise InputError(
                f"{path}: tensors must have printable names of at most {_LONGEST_NAME} characters, found "
                f"{shown(name)}; rename it."
            )


def require_few(path: Path, n: int, times: int = 1, whole: bool = True) -> None:
    """Raises InputError if a file has more tensors than `times` as many models; n of them, or more if not `whole`."""
    if n > (most := times * MAX_TENSORS):
        found = f"{n:,}" if whole else "more"
        raise InputError(f"{path} must have at most {most:,} tensors, found {found}; save the model's tensors alone.")


def wrong_type(path: Path, name: str, dtype: str, types: str) -> InputError:
    """The error for a tensor of a type that can't be read."""
    return InputError(f"{path}: tensor {printable(name)} must have {types}, found {printable(dtype)}; convert it.")
