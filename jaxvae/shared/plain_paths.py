"""Paths that can be written without touching anything else: no links, no devices, folders that stay where they are."""

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from jaxvae.shared.errors import InputError
from jaxvae.shared.text import closest

_in_place: dict[Path, int] = {}  # an open handle of each folder that has to stay where it is
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFREG: "a file",
}


def kind_of(mode: int) -> str:
    """Say what a path is by its mode: "a file", "a folder", "a FIFO", "a socket", "a symbolic link" or "a device"."""
    return _KINDS.get(stat.S_IFMT(mode), "a device")


def likely(path: Path) -> str:
    """The folder that is most like one that does not exist, as " (did you mean runs/faces?)"; empty if none is."""
    try:
        beside = {folder.name: folder for folder in path.parent.iterdir() if folder.is_dir()}
    except OSError:
        return ""
    alike = closest(path.name, beside)
    return f" (did you mean {beside[alike]}?)" if alike else ""


@contextlib.contextmanager
def kept_in_place(folder: Path) -> Iterator[None]:
    """Refuse, within the context, every write below a folder that is no longer the same one, or through a link in it.

    Args:
        folder: The folder. How it is reached doesn't matter: it and those above it may be links.
    """
    path = folder.absolute()
    before, handle = _in_place.get(path), os.open(path, os.O_RDONLY)  # while it is open its inode has no other use
    _in_place[path] = handle
    try:
        yield
    finally:
        os.close(handle)
        del _in_place[path]
        if before is not None:
            _in_place[path] = before


def is_open(handle: int, path: Path) -> bool:
    """Check whether an open file or folder is still the one of a path."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except (FileNotFoundError, NotADirectoryError):
        return False


def is_in_place(folder: Path) -> bool:
    """Check whether a folder that is kept in place is still the same one."""
    return is_open(_in_place[folder.absolute()], folder)


def require_in_place(path: Path) -> None:
    """Check the folders above a path, below those that are kept in place.

    Args:
        path: The path, which is about to be written.

    Raises:
        InputError: If a folder that is kept in place was moved or replaced, or if one between it and `path` is a link.
    """
    for folder, handle in _in_place.items():
        if folder not in (path.absolute(), *path.absolute().parents):
            continue
        if not is_open(handle, folder):
            raise InputError(
                f"The folder {folder} was moved or replaced while it was in use, so nothing more is written there; put "
                "it back, or resume from where it is now."
            )
        for between in path.absolute().parents:
            if folder in between.parents:
                require_folder(between)


def require_plain(path: Path) -> None:
    """Check that writing a file changes no other one: that nothing is there yet, or a regular file of this one name.

    Args:
        path: The file.

    Raises:
        InputError: If anything else is there, such as a link or a device, or as `require_in_place` does.
    """
    require_in_place(path)
    try:
        found = path.lstat()
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a null byte in the path
        return
    kind = kind_of(found.st_mode)
    if kind == "a file" and found.st_nlink > 1:
        kind = f"one with {found.st_nlink} names (hard links)"
    if kind != "a file":
        raise InputError(
            f"{path} can't be written: it must be a regular file of one name, found {kind}; remove it or move it away."
        )


def make_folder(path: Path) -> None:
    """Make a folder unless it exists. Raises InputError if something else is there, a link to a folder included."""
    require_in_place(path)
    with contextlib.suppress(FileExistsError):
        path.mkdir()
    require_folder(path)


def require_folder(folder: Path) -> None:
    """Raises InputError if something is there that is no folder, a link to a folder included."""
    try:
        mode = folder.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(mode):
        raise InputError(f"{folder} must be a folder, found {kind_of(mode)}; put a folder there.")
