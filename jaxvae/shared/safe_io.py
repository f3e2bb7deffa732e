"""Files written whole or not at all and never through a link, and strict JSON: no duplicate names, no NaN, of limited
size."""

import contextlib
import json
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from jaxvae.shared.errors import InputError
from jaxvae.shared.plain_paths import is_open, kind_of, require_in_place, require_plain
from jaxvae.shared.text import shown

PART_SUFFIX = ".part"  # of files that are being written


@contextlib.contextmanager
def named(path: Path) -> Iterator[None]:
    """Let the errors of the operating system name the file that was to be written, or the folder that was moved."""
    try:
        yield
    except OSError as error:
        require_in_place(path)
        error.filename, error.filename2 = str(path), None
        raise


def write_atomically(path: Path, content: bytes, sync: bool = True) -> None:
    """Write a file whole or not at all: to a temporary file beside it, flushed to the disk, then renamed over `path`.

    Args:
        path: The file; its folder has to exist.
        content: The bytes to write.
        sync: Wait until the disk has it.

    Raises:
        InputError: If `path` is not plain, see `require_plain`.
        OSError: If it can't be written; `path` is unchanged then.
    """
    require_plain(path)
    with named(path):
        handle, name = tempfile.mkstemp(PART_SUFFIX, f".{path.name}.", path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                if sync:
                    os.fsync(file.fileno())
            mask = os.umask(0)
            os.umask(mask)
            Path(name).chmod(0o666 & ~mask)  # mkstemp makes it private
            Path(name).replace(path)
            if sync:
                sync_to_disk(path.parent)  # or a power failure could undo the renaming
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                Path(name).unlink()
            raise


def sync_to_disk(path: Path) -> None:
    """Wait until the disk has a file's content, or a folder's list of files."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def append(path: Path, content: bytes, sync: bool = True) -> None:
    """Append to a file all of the content or nothing.

    Args:
        path: The file, which exists.
        content: The bytes to append.
        sync: Wait until the disk has them.

    Raises:
        InputError: If `path` is not plain, see `require_plain`.
        OSError: If it can't be written; its content is the same as before then.
    """
    require_plain(path)
    with named(path):
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW)
        try:
            before, left = os.fstat(handle).st_size, memoryview(content)
            try:
                while left:
                    left = left[os.write(handle, left) :]
                if sync:
                    os.fsync(handle)
            except OSError:
                os.ftruncate(handle, before)
                raise
        finally:
            os.close(handle)


def shorten(path: Path, size: int) -> None:
    """Leave the first bytes of a file.

    Args:
        path: The file, which exists.
        size: How many bytes to leave.

    Raises:
        InputError: If `path` is not plain, see `require_plain`.
        OSError: If it can't be written.
    """
    require_plain(path)
    with named(path):
        handle = os.open(path, os.O_WRONLY | os.O_NOFOLLOW)
        try:
            os.ftruncate(handle, size)
        finally:
            os.close(handle)


def remove(path: Path) -> None:
    """Remove a file, or a link itself, if it exists. Raises InputError as `require_in_place` does, and OSError."""
    require_in_place(path)
    path.unlink(missing_ok=True)


def remove_unfinished(folder: Path) -> None:
    """Remove the files that a killed process was writing in a folder."""
    for part in folder.glob(f".*{PART_SUFFIX}"):
        if stat.S_ISREG(part.lstat().st_mode):
            part.unlink()


def as_path(path: object, what: str) -> Path:
    """Convert what Python was given for a path. Raises InputError, which begins with `what`, unless it is a path."""
    if not isinstance(path, str | Path):
        raise InputError(f"{what} must be a path, found {shown(path)}; give it as text or as a Path.")
    return Path(path)


def require_writable(path: Path, advice: str) -> None:
    """Check that a file can be written; to be called before slow work.

    Args:
        path: The file, which may exist.
        advice: What a message ends with.

    Raises:
        InputError: If its folder doesn't exist or can't be written to, or if `path` is a folder or not plain, see
            `require_plain`.
    """
    require_in_place(path)
    folder = path.absolute().parent
    if path.is_dir():
        why = "it is a folder"
    elif not folder.is_dir():
        why = f"{folder} is not a folder" if folder.exists() else f"the folder {folder} doesn't exist"
    elif not os.access(folder, os.W_OK):
        why = f"the folder {folder} is not writable"
    else:
        require_plain(path)
        return
    raise InputError(f"{path} can't be written: {why}; {advice}.")


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Make a file or a folder whole or not at all.

    Args:
        path: What is made; nothing may be there yet.

    Yields:
        Where to write it: beside `path`. It is renamed to `path` at the end of the block, and removed if that fails. A
        killed process leaves it, and the next one that makes `path` removes it.

    Raises:
        InputError: If `path` exists, or nothing can be written beside it.
    """
    if path.exists() or path.is_symlink():
        raise InputError(f"{path} exists already; give another --out, or move it away.")
    require_in_place(path)
    try:
        _remove_left(path)
        folder, handle = _make_part(path)
    except OSError as error:
        raise InputError(f"{path} can't be written ({error.strerror}); give another --out.") from None
    try:
        part = folder.resolve() / path.name
        try:
            yield part
            for file in [part, *part.rglob("*")]:
                sync_to_disk(file)  # or a power failure after the renaming could leave it empty
            part.rename(path)
        except OSError as error:
            if error.filename is None or Path(error.filename).is_relative_to(part.parent):
                error.filename, error.filename2 = str(path), None
            raise
    finally:
        shutil.rmtree(folder)
        os.close(handle)


def _make_part(path: Path) -> tuple[Path, int]:
    """Make the folder in which `path` is made, and lock it: the folder, and an open handle of it."""
    while True:
        folder = Path(tempfile.mkdtemp(PART_SUFFIX, f".{path.name}.", path.parent))
        with contextlib.suppress(FileNotFoundError):  # another process may remove it until it is locked
            handle = os.open(folder, os.O_RDONLY)
            _lock(handle)  # without one, on a disk that has none, no process would remove what is left
            if is_open(handle, folder):
                return folder, handle
            os.close(handle)


def _remove_left(path: Path) -> None:
    """Remove the folders in which killed processes were making `path`. The lock of one that lives is its own."""
    made = re.compile(rf"\.{re.escape(path.name)}\.[a-z0-9_]{{8}}{re.escape(PART_SUFFIX)}")
    for folder in path.parent.iterdir() if os.access(path.parent, os.R_OK) else []:
        if made.fullmatch(folder.name):
            with contextlib.suppress(OSError):  # it is no folder, or another user's
                handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
                try:
                    if _lock(handle):
                        shutil.rmtree(folder)
                finally:
                    os.close(handle)


def _lock(handle: int) -> bool:
    """Lock an open folder until it is closed, by whatever ends the process; False where that is not possible."""
    try:
        import fcntl  # not on every system

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (OSError, ImportError):
        return False
    return True


MAX_JSON_BYTES = 4 * 2**20
"""The most bytes of JSON that are read; Python's objects take tens of times as many."""


def instead_of_file(path: Path) -> str | None:
    """Say what is at a path where a file should be; opening a FIFO, say, would wait for ever.

    Args:
        path: The path.

    Returns:
        None for a file, else "nothing", "a folder", "a FIFO", "a socket" or "a device".

    Raises:
        OSError: If the path can't be looked at.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a null byte in the path
        return "nothing"
    return None if stat.S_ISREG(mode) else kind_of(mode)


def read_json(path: Path) -> Any:
    """Read a JSON file, as `parse_json` does. Raises ValueError, whose message says what is wrong with it, and
    OSError."""
    if (kind := instead_of_file(path)) is not None:
        raise ValueError(f"{kind} is there")
    with path.open("rb") as file:
        return parse_json(file.read(MAX_JSON_BYTES + 1))


def parse_json(content: bytes | str) -> Any:
    """Parse a JSON text strictly.

    Args:
        content: The text; of bytes, UTF-8. At most `MAX_JSON_BYTES` long.

    Returns:
        Its value: a dict, a list, a string, a number, a boolean or None.

    Raises:
        ValueError: If it is not JSON, NaN and Infinity included, or has a name twice in an object. The message says
            what is wrong.
    """
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
    fields = {}
    for name, value in pairs:
        if name in fields:
            raise ValueError(f"{shown(name)} given twice")
        fields[name] = value
    return fields


def _int(digits: str) -> int:
    if len(digits) > 100:  # int() takes time that grows with the square
        raise ValueError(f"a number of {len(digits):,} digits")
    return int(digits)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a JSON number")
