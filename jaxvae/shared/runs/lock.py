"""The lock of a folder in which a process trains: the kernel's, on its file .lock, which ends with the process."""

import contextlib
import datetime
import os
import socket
from pathlib import Path

from jaxvae.shared import safe_io
from jaxvae.shared.errors import InputError
from jaxvae.shared.plain_paths import is_open, require_plain


def acquire(path: Path) -> int:
    """Lock a folder.

    Args:
        path: The folder.

    Returns:
        The open file .lock, for `sign` and `release`.

    Raises:
        InputError: If another process has the lock, or the folder's disk has none.
    """
    import fcntl  # not on every system

    file = path / ".lock"
    while True:
        require_plain(file)
        handle = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if is_open(handle, file):
                return handle
            # The process that had the lock removed the file between open and flock.
        except BlockingIOError:
            if _is_exclusive(handle):
                holder = os.read(handle, 200).decode(errors="replace")
                os.close(handle)
                raise InputError(f"{path} is being trained by {holder}; let it end or stop it first.") from None
            # A process that only looked, as `is_held` does, had the lock for a moment.
        except OSError as error:
            os.close(handle)
            why = error.strerror or error
            raise InputError(f"{file} can't be locked ({why}); use a folder on a disk that has locks.") from None
        os.close(handle)


def sign(path: Path, handle: int) -> None:
    """Write into a lock's file whose it is."""
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    with safe_io.named(path / ".lock"):
        os.ftruncate(handle, 0)
        os.write(handle, f"process {os.getpid()} on {socket.gethostname()} since {now}".encode())


def release(path: Path, handle: int) -> None:
    """Remove a folder's file .lock, unless the folder is another one by now, and end the lock."""
    try:
        if is_open(handle, path / ".lock"):
            (path / ".lock").unlink()
    finally:
        os.close(handle)


def is_held(path: Path) -> bool:
    """Check whether a process has a folder's lock, without a change to the folder; False on a disk that has none."""
    try:
        handle = os.open(path / ".lock", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        return _is_exclusive(handle)
    finally:
        os.close(handle)


def _is_exclusive(handle: int) -> bool:
    """Whether another process holds an open file's lock for itself alone."""
    import fcntl

    try:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return False
    except OSError:
        return False
    return True
