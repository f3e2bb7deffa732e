"""Published data sets, in torchvision's layout or as their authors publish them: found or downloaded, and their files
checked.

Only a download imports torchvision, and with it torch."""

import contextlib
import gzip
import hashlib
import io
import os
import shutil
import socket
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxvae.shared import safe_io
from jaxvae.shared.data.dataset import Request, UnavailableError
from jaxvae.shared.data.resize import Size, require_size
from jaxvae.shared.errors import InputError
from jaxvae.shared.text import named

PACKED = ".gz"


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
    recognized: bool = True
    """Whether files outside a folder of its own are known to be its, by their names or their digests."""


class Found(NamedTuple):
    """The files of a data set."""

    root: Path
    """Where `locate` finds them again."""
    files: dict[str, Path]
    """The path of each of `Published.files`."""

    @property
    def source(self) -> str:
        """The root, for the run's record."""
        return str(self.root.resolve())


def locate(published: Published, root: Path | None) -> Found:
    """Find or download a published data set.

    Below a root its files are looked for in `Published.folder` and the folder above it, such as MNIST/raw and MNIST;
    then in the root itself, if they are recognized there. The root may also be one of these folders. Files may be
    packed by gzip, and have a dot in place of the hyphen before `idx`.

    Args:
        published: The data set.
        root: The first folder to look in, before `$JAXVAE_DATA` and the user's cache, and where to download to; the
            cache without it.

    Returns:
        Its files, which are not checked yet.

    Raises:
        UnavailableError: If it is in none of the folders and the download failed.
        InputError: If the first folder that has some of its files doesn't have all of them.
    """
    roots = _roots(root)
    for place in roots:
        for base, folder in _folders(published, place):
            if files := _present(published, folder):
                return Found(base, _complete(published, folder, files))
    target = root or cache()
    reason = download(target, published)
    if reason is None:
        return Found(target, {name: target / published.folder / name for name in published.files})
    unknown = "".join(
        f" {place} has {named(path.name for path in files.values())}, which may be of another data set: move them to "
        f"{place / published.folder} if they are of {published.title}."
        for place in roots
        if (files := _present(published, place))
    )
    folders = ", ".join(str(place / published.folder) for place in roots)
    raise UnavailableError(
        f"{published.title} is not available: it is not in {folders}"
        f"{', or the folders above' if published.recognized else ''}, and downloading it failed ({reason}); give its "
        f"folder by --data-root or JAXVAE_DATA, or choose --data digits.{unknown}"
    )


def require_published_size(published: Published, request: Request) -> None:
    """Raises InputError unless the model takes images of the data set's size; asked before a download."""
    require_size(published.image, request.image, request.resize, f"The images of {published.title} are")


def cache() -> Path:
    """The user's cache folder of this project; in the temporary folder for a user without a home."""
    home = Path(os.path.expanduser("~"))  # noqa: PTH111 (Path.home() fails without one)
    base = home / ".cache" if home.is_absolute() else Path(tempfile.gettempdir())
    return Path(os.environ.get("XDG_CACHE_HOME") or base) / "jaxvae"


def read_bytes(published: Published, path: Path, size: int, largest: int) -> np.ndarray:
    """The bytes `[n]` of a file that should have `size`, unpacked. Raises InputError if it can't be read, or is larger
    than `largest`, the most that any file of the data set has."""
    try:
        if (kind := safe_io.instead_of_file(path)) not in (None, "nothing"):
            raise refusal(published, path, f"is {kind}")
        if path.suffix == PACKED:
            return _unpacked(published, path, largest)
        if (length := path.stat().st_size) > largest:  # before it is read
            raise unpublished(published, path, wrong_size(length, size))
        return np.fromfile(path, np.uint8)
    except OSError as error:
        raise refusal(published, path, f"can't be read ({error.strerror or error})") from None


def _unpacked(published: Published, path: Path, largest: int) -> np.ndarray:
    try:
        with gzip.open(path) as file:
            content = bytearray(file.read(largest + 1))
    except (EOFError, zlib.error) as error:
        raise refusal(published, path, f"can't be unpacked ({error})") from None
    if len(content) > largest:
        raise refusal(published, path, f"unpacks to more than {largest:,} bytes, which no file of it has")
    return np.frombuffer(content, np.uint8)


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
    advice = (
        f"remove the files of {published.title} in {path.parent} to have them downloaded again, or give another folder "
        "by --data-root"
    )
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


def _folders(published: Published, root: Path) -> Iterator[tuple[Path, Path]]:
    """The folders below a root that may hold the data set's files, the likeliest first, each after the root that it is
    found from: this one, or one above if this is itself the data set's folder or one between."""
    parts, absolute = Path(published.folder).parts, root.absolute()
    above = [absolute.parents[i - 1] for i in range(1, len(parts) + 1) if absolute.parts[-i:] == parts[:i]]
    for base in (root, *above):
        for i in range(len(parts), 0, -1):
            yield base, base.joinpath(*parts[:i])
    if published.recognized:
        yield root, root


def _present(published: Published, folder: Path) -> dict[str, Path]:
    """The data set's files that are in a folder, by their published names."""
    files = {}
    for name in published.files:
        names = [plain + ending for ending in ("", PACKED) for plain in (name, name.replace("-idx", ".idx"))]
        if paths := [folder / name for name in names if (folder / name).exists()]:
            files[name] = next(filter(Path.is_file, paths), paths[0])
    return files


def _complete(published: Published, folder: Path, files: dict[str, Path]) -> dict[str, Path]:
    """The same files. Raises InputError unless they are all."""
    if missing := [name for name in published.files if name not in files]:
        present = named(path.name for path in files.values())
        raise InputError(
            f"{published.title} in {folder} lacks {named(missing)} of its {len(published.files)} files, found "
            f"{present}; add what is missing, or give another folder by --data-root."
        )
    return files


def _roots(root: Path | None) -> list[Path]:
    """Where to look, in this order."""
    variable = os.environ.get("JAXVAE_DATA")
    return [place for place in (root, Path(variable) if variable else None, cache()) if place is not None]
