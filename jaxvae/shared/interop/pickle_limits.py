"""A pickle's keys, measured before it is read: tuples that share each other take for ever to hash."""

import contextlib
import io
import pickletools
import zipfile
from pathlib import Path
from typing import IO, Any

from jaxvae.shared.errors import InputError

_MOST = 2**20  # values in a tuple, counted each time that they stand in it
_OF_OLD_FILES = 5  # pickles that follow each other in a file of torch.save before version 1.6
_HOLDS = ("TUPLE", "REDUCE", "NEWOBJ", "BUILD")  # beginnings of the operations whose result is as large as its parts
_MARK = pickletools.markobject


def require_small_tuples(path: Path) -> None:
    """Check the tuples in a file of torch.save. What is no whole pickle is left to torch.

    Args:
        path: The file.

    Raises:
        InputError: If a tuple has more values than any key, as sixty of which each holds the one before it twice.
    """
    broken = (ValueError, LookupError, OSError, EOFError, RuntimeError, zipfile.BadZipFile)  # pickles and archives
    with contextlib.suppress(*broken), path.open("rb") as file:
        pickles: list[IO[bytes]] = [file] * _OF_OLD_FILES
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                members = [member for member in archive.infolist() if member.filename.endswith("/data.pkl")]
                pickles = [io.BytesIO(archive.read(member)) for member in members]
        for pickle in pickles:
            if _largest(pickle) > _MOST:
                raise InputError(
                    f"{path} must have tuples of at most {_MOST:,} values, found more, which share each other; save "
                    "only the model's state_dict."
                )


def _largest(opened: IO[bytes]) -> int:
    """How many values the largest tuple of a pickle has, by what its operations put on the stack. None is run."""
    stack: list[int | None] = []  # the size of each value; None for a mark
    memo: dict[int, int | None] = {}
    largest = 0
    for operation, argument, _ in pickletools.genops(opened):
        if operation.name.endswith("GET"):
            stack.append(memo[int(argument)])  # type: ignore[arg-type]
        elif operation.name.endswith("PUT") or operation.name == "MEMOIZE":
            memo[len(memo) if argument is None else int(argument)] = stack[-1]  # type: ignore[arg-type]
        else:
            size = 1 + sum(_taken(stack, operation.stack_before))
            size = min(size, _MOST + 1) if operation.name.startswith(_HOLDS) else 1
            largest = max(largest, size)
            stack += [None if kind is _MARK else size for kind in operation.stack_after]
    return largest


def _taken(stack: list[int | None], before: list[Any]) -> list[int]:
    """The sizes of the values that an operation takes from the stack."""
    taken = []
    if _MARK in before:
        while (size := stack.pop()) is not None:
            taken.append(size)
        before = before[: before.index(_MARK)]
    return taken + [stack.pop() or 0 for _ in before]
