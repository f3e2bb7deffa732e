"""The run folder, the same whichever package wrote it: config.json, metrics.jsonl, model.safetensors, checkpoints/ and
images/."""

import contextlib
import datetime
import json
import os
import socket
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from jaxvae.shared import spec as specs
from jaxvae.shared.errors import InputError
from jaxvae.shared.spec import Spec

VERSION = 3
_PART = ".part"  # how the names of files end that are being written
_RECORD = {"step": int, "epoch": int, "split": str}  # and the terms of the configuration, floats


class Run(NamedTuple):
    path: Path
    spec: Spec
    config: dict[str, Any]
    """config.json as it stands: version, the framework that began it, preset, log_every, checkpoint_every, keep, data,
    spec, and the sessions: who trained from which step on, and where; of an imported run what it was imported from."""

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


def free_path(folder: Path, prefix: str) -> Path:
    """`folder/prefix-N` with the first N that is free."""
    n = 1
    while (folder / f"{prefix}-{n}").exists():
        n += 1
    return folder / f"{prefix}-{n}"


def require_free(path: Path) -> None:
    """Raises InputError if a run can't start at `path` because something is there."""
    if path.exists() or path.is_symlink():
        raise InputError(f"{path} exists already; give another --out, or remove it to train there.")


def create(path: Path, spec: Spec, config: dict[str, Any]) -> Run:
    """Makes the folder of a new run. Raises InputError if `path` exists or can't be made."""
    require_free(path)
    run = Run(path, spec, {"version": VERSION, **config, "spec": specs.to_json(spec)})
    try:
        path.mkdir(parents=True)
        run.images.mkdir()
        run.checkpoints.mkdir()
        run.metrics.touch()
        write_config(run)
    except OSError as error:
        raise InputError(f"The run folder {path} can't be made ({error.strerror}); give another --out.") from None
    return run


def write_config(run: Run) -> None:
    """Writes the run's config.json. The last thing a new run folder gets: with it, it is one."""
    content = {**run.config, "spec": specs.to_json(run.spec)}
    write_atomically(run.path / "config.json", (json.dumps(content, indent=2) + "\n").encode())


@contextlib.contextmanager
def locked(run: Run) -> Iterator[None]:
    """Keeps every other process from training in the run's folder, and clears away what one that was killed in the
    middle of writing has left. The lock is the kernel's and goes with its process, however that ends. Raises InputError
    naming the process that has it."""
    import fcntl  # not everywhere, as all else here is

    file = run.path / ".lock"
    while True:
        handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if file.exists() and os.fstat(handle).st_ino == file.stat().st_ino:
                break  # else the process before removed it between the two lines above
        except BlockingIOError:
            holder = os.read(handle, 200).decode(errors="replace")
            os.close(handle)
            raise InputError(f"{run.path} is being trained by {holder}; let it end or stop it first.") from None
        os.close(handle)
    try:
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        os.ftruncate(handle, 0)
        os.write(handle, f"process {os.getpid()} on {socket.gethostname()} since {now}".encode())
        for part in run.path.rglob(f".*{_PART}"):
            part.unlink()
        yield
    finally:
        file.unlink(missing_ok=True)
        os.close(handle)


def read(path: Path) -> Run:
    """The run at `path`. Raises InputError if that is no run folder, or its config.json is not one."""
    file = path / "config.json"
    if not file.is_file():
        raise InputError(f"{path} is not a run folder: it has no config.json; give the folder that train wrote.")
    try:
        config = json.loads(file.read_bytes())
    except (ValueError, OSError, RecursionError) as error:
        raise InputError(f"{file} can't be read as JSON ({error}); restore it or train again.") from None
    if not isinstance(config, dict) or config.get("version") != VERSION:
        raise InputError(f"{file} must be the configuration of a run, version {VERSION}; restore it or train again.")
    about = config.get("data")
    told = {
        "framework": config.get("framework"),
        "preset": config.get("preset"),
        "data, source": about.get("source") if isinstance(about, dict) else None,
        "data, digest": about.get("digest") if isinstance(about, dict) else None,
    }
    for name, value in told.items():
        if not isinstance(value, str):
            raise InputError(f"The {name} in {file} must be text, found {value!r}; restore it or train again.")
    for name in ("log_every", "checkpoint_every", "keep"):
        value = config.get(name, "none")
        if not (value is None and name != "keep") and (type(value) is not int or value < 1):
            raise InputError(f"The {name} in {file} must be a number from 1 on, found {value!r}; restore it.")
    sessions = config.get("sessions")
    if not isinstance(sessions, list):
        raise InputError(f"The sessions in {file} must be a list, found {sessions!r}; restore it or train again.")
    return Run(path, specs.from_json(config.get("spec"), f"The configuration in {file}"), config)


def append_metrics(run: Run, records: Iterable[dict[str, Any]]) -> None:
    """Adds one line a record, all or none. Floats are written with as many digits as bring them back exactly."""
    lines = _lines(records)
    before = run.metrics.stat().st_size
    try:
        with run.metrics.open("ab") as file:
            file.write(lines)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        os.truncate(run.metrics, before)
        raise


def cut_metrics(run: Run, epoch: int, step: int) -> None:
    """Leaves the records of the epochs before `epoch`, which `step` steps ended, as they were before it began. Raises
    InputError if they are not all there."""
    kept, lines = [], run.metrics.read_bytes().splitlines() if run.metrics.is_file() else []
    for line in lines:
        record = _record(run, line)
        if record is None or record["epoch"] >= epoch:
            break  # a line that was cut short is the last, of the epoch to be taken again
        kept.append(record)
    if step and (not kept or (kept[-1]["step"], kept[-1]["split"]) != (step, "test")):
        raise InputError(
            f"{run.metrics} should hold the records of the first {epoch - 1} epochs, to step {step}; restore it or "
            "train again."
        )
    write_atomically(run.metrics, _lines(kept))


def read_metrics(run: Run) -> list[dict[str, Any]]:
    """The run's records so far. Raises InputError naming the first line that is not one."""
    if not run.metrics.is_file():
        raise InputError(f"{run.path} has no metrics.jsonl; give the folder that train wrote.")
    records = []
    for number, line in enumerate(run.metrics.read_bytes().splitlines(), 1):
        if (record := _record(run, line)) is None:
            raise InputError(f"{run.metrics}, line {number}, is not a record of metrics: {line[:80]!r}.")
        records.append(record)
    return records


def _record(run: Run, line: bytes) -> dict[str, Any] | None:
    fields = _RECORD | dict.fromkeys(run.spec.terms, float)
    try:
        record = json.loads(line)
        whole = all(type(record[name]) is kind for name, kind in fields.items())
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return {name: record[name] for name in fields} if whole else None


def _lines(records: Iterable[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(record, allow_nan=False) + "\n" for record in records).encode()


def write_atomically(path: Path, content: bytes) -> None:
    """Writes the file whole or not at all: to a neighbour, flushed to the disk, then renamed over `path`."""
    handle, name = tempfile.mkstemp(_PART, f".{path.name}.", path.parent)
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
