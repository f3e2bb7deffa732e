"""The run folder, the same whichever package wrote it: config.json, metrics.jsonl, model.safetensors, checkpoints/ and
images/."""

import contextlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from jaxvae.shared import safe_io
from jaxvae.shared.config import choices
from jaxvae.shared.config.fields import LATER
from jaxvae.shared.config.serialization import build, to_json
from jaxvae.shared.config.spec import Spec
from jaxvae.shared.data.class_names import CLASS_NAMES
from jaxvae.shared.errors import InputError
from jaxvae.shared.plain_paths import kept_in_place, likely, make_folder, require_folder, require_plain
from jaxvae.shared.runs import lock
from jaxvae.shared.safe_io import write_atomically
from jaxvae.shared.text import LONGEST, shown

VERSION = 3
DATA_FOLDER = "data"
OWN_DATA = f"npy:{DATA_FOLDER}"
"""The data set of a run whose images are in its own folder."""


class Run(NamedTuple):
    """A run: its folder and its configuration."""

    path: Path
    spec: Spec
    config: dict[str, Any]
    """The content of config.json: version, the framework that started the run, preset, log_every, checkpoint_every,
    keep, keep_pictures, data, spec, and the sessions: which package trained from which step on, and on which device;
    for an imported run what it was imported from."""

    @property
    def own_loop(self) -> bool:
        """Whether it was trained by a loop of its user's own, which no command starts or resumes."""
        return self.config.get("own_loop", False)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes by label; empty where these have numbers only."""
        return tuple(self.config["data"].get("class_names", ())) or CLASS_NAMES.get(self.spec.data, ())

    @property
    def weights(self) -> Path:
        return self.path / "model.safetensors"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def images(self) -> Path:
        return self.path / "images"


@dataclass(frozen=True)
class _Data:
    """The images in config.json."""

    asked: str
    name: str
    source: str
    instead_of_mnist: str | None
    train: int
    test: int
    digest: str
    class_names: tuple[str, ...] = field(default=(), metadata=LATER)
    validation: int = field(default=0, metadata=LATER)

    def __post_init__(self) -> None:
        for name in ("train", "test"):
            choices.require(0 < getattr(self, name) < 2**31, name, "positive and below 2^31", getattr(self, name))
        choices.require(0 <= self.validation < 2**31, "validation", "at least 0 and below 2^31", self.validation)
        choices.require(len(self.source) <= 4096, "source", "the path of a folder or a file", self.source)
        choices.require(len(self.digest) == 64, "digest", "64 hexadecimal digits", self.digest)
        for name in self.class_names:
            choices.require(name.isprintable() and len(name) <= LONGEST, "class_names", "printable", name)


@dataclass(frozen=True)
class _Session:
    """An entry of config.json for each time the run was started or resumed."""

    framework: Literal["jaxvae", "torchvae"]
    from_step: int
    device: str
    versions: dict[str, str]
    created: str
    diverged: str | None = field(default=None, metadata=LATER)
    """What became NaN or infinite and ended the session."""

    def __post_init__(self) -> None:
        choices.require(0 <= self.from_step < 2**31, "from_step", "at least 0 and below 2^31", self.from_step)


@dataclass(frozen=True)
class _Config:
    """config.json."""

    version: int
    framework: Literal["jaxvae", "torchvae"]
    preset: str
    log_every: int | None
    checkpoint_every: int | None
    keep: int
    data: _Data
    sessions: tuple[_Session, ...]
    spec: Spec
    keep_pictures: int | None = field(default=None, kw_only=True, metadata=LATER)
    own_loop: bool = field(default=False, metadata=LATER, kw_only=True)
    """Whether it was trained by a loop of its user's own, and made by `save_run`."""

    def __post_init__(self) -> None:
        choices.require(self.preset.isprintable() and len(self.preset) <= 100, "preset", "a name", self.preset)
        for name in ("log_every", "checkpoint_every", "keep", "keep_pictures"):
            value = getattr(self, name)
            choices.require(value is None or 0 < value < 2**31, name, "positive and below 2^31", value)
        choices.require(self.data.name == self.spec.data, "data, name", f"spec's data {self.spec.data}", self.data.name)


@dataclass(frozen=True)
class _AnyData:
    """The images in the config.json of an imported run: those to evaluate it on."""

    asked: str
    name: str
    source: str


@dataclass(frozen=True)
class _Imported(_Config):
    """config.json of an imported run."""

    data: _AnyData  # type: ignore[assignment]
    imported: dict  # what was imported, see `commands.import_`


def free_path(folder: Path, prefix: str) -> Path:
    """Find `folder/prefix-N` with the first N that does not exist."""
    n = 1
    while (folder / f"{prefix}-{n}").exists():
        n += 1
    return folder / f"{prefix}-{n}"


def require_free(path: Path) -> None:
    """Raises InputError if something exists at `path`, where a run is to start."""
    if path.exists() or path.is_symlink():
        more = ", or continue that run with --resume" if (path / "config.json").is_file() else ""
        raise InputError(f"{path} exists already; give another --out, or move it away{more}.")


def create(path: Path, spec: Spec, config: dict[str, Any], fill: Callable[[Run], None]) -> Run:
    """Make the folder of a new run, whole or not at all: beside `path`, then renamed.

    Args:
        path: The folder.
        spec: The configuration.
        config: The other fields of config.json, but for the version.
        fill: Called with the run where it is made, to write its other files.

    Returns:
        The run.

    Raises:
        InputError: If `path` exists or can't be made.
    """
    require_free(path)
    run = Run(path, spec, {"version": VERSION, **config, "spec": to_json(spec)})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with safe_io.written_whole(path) as part:
            made = run._replace(path=part)
            for folder in (part, made.images, made.checkpoints):
                folder.mkdir()
            made.metrics.touch()
            fill(made)
            write_config(made)
    except OSError as error:
        raise InputError(f"The run folder {path} can't be made ({error.strerror}); give another --out.") from None
    return run


@contextlib.contextmanager
def created(path: Path, spec: Spec, config: dict[str, Any], fill: Callable[[Run], None]) -> Iterator[Run]:
    """Make the folder of a new run as `create` does, locked from the moment it appears to the end of the context."""
    with contextlib.ExitStack() as stack:

        def locked_and_filled(made: Run) -> None:
            handle = lock.acquire(made.path)
            stack.callback(lock.release, path, handle)
            lock.sign(made.path, handle)
            fill(made)

        run = create(path, spec, config, locked_and_filled)
        stack.enter_context(kept_in_place(path))
        yield run


def write_config(run: Run) -> None:
    """Write the run's config.json."""
    content = {**run.config, "spec": to_json(run.spec)}
    write_atomically(run.path / "config.json", (json.dumps(content, indent=2) + "\n").encode())


def locked(run: Run) -> contextlib.AbstractContextManager[None]:
    """Lock a run's folder, as `held` does."""
    files = (run.path / "config.json", run.metrics, run.weights, run.checkpoints / "steps.json")
    return held(run.path, files, (run.checkpoints, run.images))


@contextlib.contextmanager
def held(path: Path, files: Iterable[Path], inner: Sequence[Path] = ()) -> Iterator[None]:
    """Lock a folder, so that no other process trains in it, and remove files that a killed process left unfinished.

    The lock is the kernel's and ends with the process, however that ends. Within the context nothing is written below
    the folder once it is moved or replaced, nor through a link in it.

    Args:
        path: The folder.
        files: Files in it that are going to be written, and may be no links.
        inner: Folders in it that are made if they are missing, and cleared of unfinished files too.

    Raises:
        InputError: If another process has the lock, which the message names, or if there is a link where a file or a
            folder is written.
    """
    with kept_in_place(path):
        for folder in inner:
            require_folder(folder)
        for file in files:
            require_plain(file)
        handle = lock.acquire(path)
        try:
            lock.sign(path, handle)
            for folder in inner:
                make_folder(folder)  # some copies leave out empty folders
            for folder in (path, *inner):
                safe_io.remove_unfinished(folder)
            yield
        finally:
            lock.release(path, handle)


def read(path: Path) -> Run:
    """Open a run folder.

    Args:
        path: The folder.

    Returns:
        The run, its config.json validated.

    Raises:
        InputError: If it is not a run folder, or its config.json is invalid.
    """
    return read_config(path / "config.json")


def read_config(file: Path) -> Run:
    """Read the config.json of a run, wherever it lies.

    Args:
        file: The file.

    Returns:
        The run in the file's folder, the file validated.

    Raises:
        InputError: If the file is missing or invalid.
    """
    path = file.parent
    try:
        if not path.exists():
            raise InputError(f"{path} does not exist{likely(path)}; give a run folder that train or import wrote.")
        if safe_io.instead_of_file(file) == "nothing":
            raise InputError(f"{path} is not a run folder: it has no config.json; give one that train or import wrote.")
        config = safe_io.read_json(file)
    except (ValueError, OSError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{file} can't be read as JSON ({reason}); restore it or train again.") from None
    version = config.get("version") if isinstance(config, dict) else None
    if type(version) is not int or version != VERSION:
        raise InputError(
            f"{file} must be the configuration of a run, version {VERSION}, found "
            f"{'none' if version is None else f'version {shown(version)}'}; restore it or train again."
        )
    kind = _Imported if "imported" in config else _Config
    return Run(path, build(kind, config, f"The configuration in {file}").spec, config)
