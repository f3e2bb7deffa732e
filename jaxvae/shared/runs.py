"""The run folder, the same whichever package wrote it: config.json, metrics.jsonl, model.safetensors and images/."""

import contextlib
import json
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from jaxvae.shared import spec as specs
from jaxvae.shared.errors import InputError
from jaxvae.shared.spec import Spec

VERSION = 2
_RECORD = {"step": int, "epoch": int, "split": str}  # and the terms of the configuration, floats


class Run(NamedTuple):
    path: Path
    spec: Spec
    config: dict[str, Any]
    """config.json as it stands: version, framework, preset, spec, data, device, versions, created."""

    @property
    def weights(self) -> Path:
        return self.path / "model.safetensors"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

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
        write_atomically(path / "config.json", (json.dumps(run.config, indent=2) + "\n").encode())
        run.metrics.touch()
    except OSError as error:
        raise InputError(f"The run folder {path} can't be made ({error.strerror}); give another --out.") from None
    return run


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
    }
    for name, value in told.items():
        if not isinstance(value, str):
            raise InputError(f"The {name} in {file} must be text, found {value!r}; restore it or train again.")
    return Run(path, specs.from_json(config.get("spec"), f"The configuration in {file}"), config)


def append_metrics(run: Run, records: Iterable[dict[str, Any]]) -> None:
    """Adds one line a record. Floats are written with as many digits as bring them back exactly."""
    with run.metrics.open("a") as file:
        file.write("".join(json.dumps(record, allow_nan=False) + "\n" for record in records))


def read_metrics(run: Run) -> list[dict[str, Any]]:
    """The run's records so far. Raises InputError naming the first line that is not one."""
    if not run.metrics.is_file():
        raise InputError(f"{run.path} has no metrics.jsonl; give the folder that train wrote.")
    records, fields = [], _RECORD | dict.fromkeys(run.spec.terms, float)
    for number, line in enumerate(run.metrics.read_bytes().splitlines(), 1):
        try:
            record = json.loads(line)
            whole = [type(record[name]) is kind for name, kind in fields.items()]
        except (ValueError, KeyError, TypeError, RecursionError):
            whole = [False]
        if not all(whole):
            raise InputError(f"{run.metrics}, line {number}, is not a record of metrics: {line[:80]!r}.")
        records.append({name: record[name] for name in fields})
    return records


def write_atomically(path: Path, content: bytes) -> None:
    """Writes the file whole or not at all: to a neighbour, flushed to the disk, then renamed over `path`."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        mask = os.umask(0)
        os.umask(mask)
        Path(name).chmod(0o666 & ~mask)  # mkstemp makes it private; others may want to read a run
        Path(name).replace(path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            Path(name).unlink()
        raise
