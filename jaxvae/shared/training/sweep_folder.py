"""The folder of a sweep: which of its runs are finished, and the files that summarize them."""

import contextlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from jaxvae.shared import safe_io
from jaxvae.shared.analysis import sweep_summary
from jaxvae.shared.config.fields import later
from jaxvae.shared.config.parts import ImagesSpec, ModelSpec, TrainingSpec
from jaxvae.shared.config.spec import Spec
from jaxvae.shared.data.dataset import Dataset
from jaxvae.shared.errors import InputError
from jaxvae.shared.plotting.figure_flags import data_name
from jaxvae.shared.runs import best_epoch, metrics, run_folder
from jaxvae.shared.runs.command_line import WITHOUT_FLAG, changed_flags, flags_of
from jaxvae.shared.text import say

_VERSION = 1  # of sweep.json


@contextlib.contextmanager
def locked(out: Path, spec: Spec) -> Iterator[None]:
    """Create a sweep's folder or reopen it, and lock it within the context.

    Args:
        out: The folder.
        spec: The configuration of any of its runs.

    Yields:
        Nothing.

    Raises:
        InputError: If the folder is not a sweep, or a sweep of another configuration.
    """
    file = out / "sweep.json"
    if not file.exists() and (out.is_file() or (out.is_dir() and any(p.name != ".lock" for p in out.iterdir()))):
        raise InputError(f"{out} exists but is not a sweep; give another --out, or remove it to train there.")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"The folder {out} can't be created ({error.strerror}); give another --out.") from None
    with run_folder.held(out, [file, out / "sweep.md", out / "sweep.png"]):
        for part in out.glob(f".seed-*{safe_io.PART_SUFFIX}"):
            shutil.rmtree(part)  # a run that was being made when its process was killed
        if file.exists():
            try:
                before = safe_io.read_json(file)
                shared, version = before["shared"], before["version"]
            except (ValueError, TypeError, KeyError) as error:
                raise InputError(f"{file} is not a sweep's file ({error}); restore it or give another --out.") from None
            if version != _VERSION or not isinstance(shared, dict):
                raise InputError(
                    f"{file} is not a sweep's file of version {_VERSION}; restore it or give another --out."
                )
            _require_same(out, shared, _shared_flags(spec))
        else:
            sweep_summary.write_json(file, {"version": _VERSION, "shared": _shared_flags(spec)})
        yield


def is_finished(path: Path, spec: Spec) -> bool:
    """Check whether a run of the sweep is finished.

    Args:
        path: The run folder, which need not exist.
        spec: The run's configuration.

    Returns:
        Whether the run has nothing left to train.

    Raises:
        InputError: If the path is not a run of this configuration.
    """
    if not (path.exists() or path.is_symlink()):
        return False
    if not (path / "config.json").exists():
        raise InputError(f"{path} exists but is not a run folder; choose another --out or move it away.")
    run = run_folder.read(path)
    actual, expected = ((s.training.seed, s.objective.beta, s.training.learning_rate) for s in (run.spec, spec))
    if actual != expected:
        raise InputError(f"{path} has another seed, beta or learning rate than its name says; rename it.")
    _require_same(path, _shared_flags(run.spec), _shared_flags(spec))
    last = metrics.last(run)
    end = spec.training.total_steps(run.config["data"]["train"])
    return last is not None and last["split"] == "test" and (last["step"] == end or best_epoch.ended_early(run))


def write_summary(out: Path, specs: dict[Path, Spec], dataset: Dataset) -> None:
    """Write and print the mean and standard error for each setting.

    Args:
        out: The folder.
        specs: The configuration of each run by its folder.
        dataset: The images.
    """
    results = []
    for path, spec in specs.items():
        finished = is_finished(path, replace(spec, data=dataset.name))
        record = best_epoch.kept(run_folder.read(path)) if finished else None
        results.append(sweep_summary.RunResult(path.name, spec, record))
    shared = _shared_flags(replace(results[0].spec, data=dataset.name))
    table = sweep_summary.table(results, len(dataset.test), data_name(dataset.name))
    content = {"version": _VERSION, "shared": shared, **sweep_summary.to_json(results)}
    sweep_summary.write_json(out / "sweep.json", content)
    safe_io.write_atomically(out / "sweep.md", (table + "\n").encode())
    safe_io.write_atomically(out / "sweep.png", sweep_summary.picture(results, data_name(dataset.name)))
    say(f"{table}\n\nas {out / 'sweep.md'}, sweep.json and sweep.png")


def _shared_flags(spec: Spec) -> dict[str, Any]:
    """The flags that all runs of a sweep share, as they are read back from JSON, without later ones at their default,
    as in a configuration."""
    flags, defaults = flags_of(spec), _later()
    apart = {"seed", "beta", "learning_rate", *(name for name, value in defaults.items() if flags[name] == value)}
    return {name: value for name, value in _as_read(flags).items() if name not in apart}


def _later() -> dict[str, Any]:
    """The defaults of the flags that sweeps of earlier versions lack."""
    defaults = [item for part in (ModelSpec, TrainingSpec, ImagesSpec) for item in later(part).items()]
    return {name: value for name, value in defaults if name != WITHOUT_FLAG}


def _as_read(flags: dict[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(flags))


def _require_same(path: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    defaults = _as_read(_later())
    if changed := changed_flags(defaults | before, defaults | now):
        raise InputError(f"{path} has another configuration: {changed}; leave that out, or give another --out.")
