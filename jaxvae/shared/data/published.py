"""Published data sets in torchvision's layout: found or downloaded, and their files checked.

Only a download imports torchvision, and with it torch."""

import contextlib
import hashlib
import io
import os
import shutil
import socket
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxvae.shared import safe_io
from jaxvae.shared.data.dataset import Request, UnavailableError
from jaxvae.shared.data.resize import Size, require_size
from jaxvae.shared.errors import InputError


class Published(NamedTuple):
    """A data set that torchvision can download."""

    title: str
    torchvision: str
    """The name of its class in `torchvision.datasets`."""
    folder: str
    """Where that class keeps its files, below its root."""
    files: tuple[str, ...]
    image: Size
    split: str | None = None
    """The `split` that torchvision's class is given, if it takes one."""
    others: str | None = None
    """A pattern of files of other splits that the same download brings."""


def locate(published: Published, root: Path | None) -> Path:
    """Find or download a published data set.

    Args:
        published: The data set.
        root: The first folder to look in, before `$JAXVAE_DATA` and the user's cache, and where to download to; the
            cache without it.

    Returns:
        The folder that holds its files, which are not checked yet.

    Raises:
        UnavailableError: If it is in none of the folders and the download failed.
        InputError: If one of the folders is the data set's own, not the one that contains it.
    """
    folders = [place / published.folder for place in _roots(root)]
    for place, folder in zip(_roots(root), folders, strict=True):
        if _has_files(published, folder):
            return folder
        _require_above(published, place)
    target = root or cache()
    reason = download(target, published)
    if reason is None:
        return target / published.folder
    raise UnavailableError(
        f"{published.title} is not available: it is not in {', '.join(map(str, folders))}, and downloading it failed "
        f"({reason}); give its folder by --data-root or JAXVAE_DATA, or choose --data digits."
    )


def require_published_size(published: Published, request: Request) -> None:
    """Raises InputError unless the model takes images of the data set's size; asked before a download."""
    require_size(published.image, request.image, request.resize, f"The images of {published.title} are")


def source(published: Published, folder: Path) -> str:
    """The root above a data set's folder, for the run's record."""
    return str(folder.parents[published.folder.count("/")].resolve())


def cache() -> Path:
    """The user's cache folder of this project; in the temporary folder for a user without a home."""
    home = Path(os.path.expanduser("~"))  # noqa: PTH111 (Path.home() fails without one)
    base = home / ".cache" if home.is_absolute() else Path(tempfile.gettempdir())
    return Path(os.environ.get("XDG_CACHE_HOME") or base) / "jaxvae"


def read_bytes(published: Published, path: Path, size: int, largest: int) -> np.ndarray:
    """The bytes `[n]` of a file that should have `size`. Raises InputError if it can't be read, or is larger than
    `largest`, the most that any file of the data set has."""
    try:
        if (kind := safe_io.instead_of_file(path)) not in (None, "nothing"):
            raise refusal(published, path, f"is {kind}")
        if (length := path.stat().st_size) > largest:  # before it is read
            raise unpublished(published, path, wrong_size(length, size))
        return np.fromfile(path, np.uint8)
    except OSError as error:
        raise refusal(published, path, f"can't be read ({error.strerror})") from None


def wrong_digest(name: str, content: np.ndarray, size: int, digests: Mapping[str, str]) -> str | None:
    """What the content of file `name` is instead of what was published; None if its MD5 is the one in `digests`.

    Args:
        name: The name of the file.
        content: Its bytes, `[n]`, uint8.
        size: How many bytes it should have.
        digests: The published MD5 of every file of the data set, by name.
    """
    md5 = hashlib.md5(content.data, usedforsecurity=False).hexdigest()
    if md5 == digests[name]:
        return None
    other = next((other for other, known in digests.items() if known == md5), None)
    if other is not None:
        return f"the content of {other}"
    if len(content) != size:
        return wrong_size(len(content), size)
    return f"a changed file: MD5 {md5} where it should be {digests[name]}"


def wrong_size(length: int, size: int) -> str:
    return f"{length:,} bytes where there should be {size:,}"


def unpublished(published: Published, path: Path, what: str) -> InputError:
    """The refusal of a file that has `what` instead of what was published."""
    return refusal(published, path, f"is not the published file, it has {what}")


def refusal(published: Published, path: Path, what: str) -> InputError:
    """The refusal of a file of a data set, and what to do about it."""
    advice = f"remove {path.parent} and let it be downloaded again, or give another folder by --data-root"
    return InputError(f"The file {path} of {published.title} {what}; {advice}.")


def download(root: Path, published: Published) -> str | None:
    """Download a data set by torchvision, whole or not at all.

    Args:
        root: Where the data set's folder is made.
        published: The data set.

    Returns:
        Why the download failed; None if it succeeded.
    """
    timeout = socket.getdefaulttimeout()
    folder: str | None = None
    try:
        root.mkdir(parents=True, exist_ok=True)
        folder = tempfile.mkdtemp(dir=root, prefix=".download.")
        socket.setdefaulttimeout(20)  # torchvision's own download would wait for ever
        with contextlib.redirect_stdout(io.StringIO()):
            from torchvision import datasets

            split = {} if published.split is None else {"split": published.split}
            getattr(datasets, published.torchvision)(folder, download=True, **split)
        fetched, target = Path(folder) / published.folder, root / published.folder
        target.mkdir(parents=True, exist_ok=True)
        for name in published.files:
            (fetched / name).replace(target / name)
        for path in [] if published.others is None else fetched.glob(published.others):
            if not (target / path.name).exists():
                path.replace(target / path.name)
    except (OSError, RuntimeError, ImportError) as error:
        return " ".join(str(error).split())
    finally:
        socket.setdefaulttimeout(timeout)
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
    return None


def _has_files(published: Published, folder: Path) -> bool:
    return any((folder / file).exists() for file in published.files)


def _require_above(published: Published, root: Path) -> None:
    """Raises InputError if a root is the data set's folder, or one between."""
    parts, above = Path(published.folder).parts, root.absolute()
    for i in range(1, len(parts) + 1):
        if above.parts[-i:] == parts[:i] and _has_files(published, root.joinpath(*parts[i:])):
            raise InputError(
                f"The data root {root} is the folder of {published.title}; give the folder that contains "
                f"{published.folder}, {above.parents[i - 1]}."
            )


def _roots(root: Path | None) -> list[Path]:
    """Where to look, in this order."""
    variable = os.environ.get("JAXVAE_DATA")
    return [place for place in (root, Path(variable) if variable else None, cache()) if place is not None]
