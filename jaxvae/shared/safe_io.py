"""Files written whole or not at all, and strict JSON: no name given twice, no NaN, no endless input."""

import contextlib
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from jaxvae.shared.errors import InputError
from jaxvae.shared.text import shown

PART_SUFFIX = ".part"  # how the names of files end that are being written


def write_atomically(path: Path, content: bytes) -> None:
    """Writes the file whole or not at all: to a neighbour, flushed to the disk, then renamed over `path`."""
    handle, name = tempfile.mkstemp(PART_SUFFIX, f".{path.name}.", path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        mask = os.umask(0)
        os.umask(mask)
        Path(name).chmod(0o666 & ~mask)  # mkstemp makes it private; others may want to read a run
        Path(name).replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # or a power failure could undo the renaming
        finally:
            os.close(folder)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            Path(name).unlink()
        raise


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Where to make the file or folder that is to be `path`: beside it, renamed in the end, and gone if that fails.
    Raises InputError if something is there already, or nothing can be made there."""
    if path.exists() or path.is_symlink():
        raise InputError(f"{path} exists already; give another --out, or remove it.")
    try:
        folder = Path(tempfile.mkdtemp(".part", f".{path.name}.", path.parent))
    except OSError as error:
        raise InputError(f"{path} can't be written ({error.strerror}); give another --out.") from None
    try:
        made = folder.resolve() / path.name
        yield made
        for written in [made, *made.rglob("*")]:
            handle = os.open(written, os.O_RDONLY)
            os.fsync(handle)  # or after a power failure it could be there and empty
            os.close(handle)
        made.rename(path)
    finally:
        shutil.rmtree(folder)


MAX_JSON_BYTES = 4 * 2**20
"""Bytes of JSON that are read: what Python makes of them takes tens of times as many."""


def instead_of_file(path: Path) -> str | None:
    """What is at the path where a file should be, in words; None for a file. A FIFO that is opened is waited for.
    Raises OSError."""
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError, ValueError):  # a path with a null byte names nothing
        return "nothing"
    kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket"}
    return None if stat.S_ISREG(mode) else kinds.get(stat.S_IFMT(mode), "a device")


def read_json(path: Path) -> Any:
    """The JSON in a file of moderate size. Raises ValueError, which says what is wrong with it, and OSError."""
    if (found := instead_of_file(path)) is not None:
        raise ValueError(f"{found} is there")
    with path.open("rb") as file:
        return parse_json(file.read(MAX_JSON_BYTES + 1))


def parse_json(content: bytes | str) -> Any:
    """The value of a JSON text. Raises ValueError, which says what is wrong with it, for one that could be read in two
    ways, such as a name given twice, and for all that is no JSON, such as NaN."""
    if len(content) > MAX_JSON_BYTES:
        raise ValueError(f"more than {MAX_JSON_BYTES:,} bytes")
    try:
        text = content if isinstance(content, str) else content.decode()
        return json.loads(text, object_pairs_hook=_object, parse_int=_int, parse_constant=_refuse)
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 at byte {error.start}") from None
    except RecursionError:
        raise ValueError("nested too deep") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"{shown(name)} given twice")
        found[name] = value
    return found


def _int(digits: str) -> int:
    if len(digits) > 100:  # which takes the square of its length
        raise ValueError(f"a number of {len(digits):,} digits")
    return int(digits)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number of JSON")
