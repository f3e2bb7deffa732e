"""A run's checkpoints: where they are, which is the last valid one, and how many are kept.

An index beside them, steps.json, lists them, so that a missing one is noticed; only what it lists is ever removed. It
is written last, after a checkpoint and after older ones are removed: whenever the process is killed, the last
checkpoint exists, and none that is to be removed is forgotten."""

import contextlib
import json
import re
from collections.abc import Sequence
from pathlib import Path

from jaxvae.shared import safe_io
from jaxvae.shared.config.spec import same_run
from jaxvae.shared.errors import InputError
from jaxvae.shared.model import weight_file
from jaxvae.shared.runs.run_folder import Run
from jaxvae.shared.safe_io import write_atomically
from jaxvae.shared.text import shown


def path(run: Run, step: int) -> Path:
    """The file of a step's checkpoint."""
    return run.checkpoints / f"step-{step:09}.safetensors"


def best_before(run: Run) -> Path:
    """The file of the best epoch's weights before an epoch that was cut short and is better. Resumed, that epoch gets
    longer, and may be worse."""
    return run.checkpoints / "best-before.safetensors"


def present(run: Run) -> list[int]:
    """List the steps whose checkpoint files exist, valid or not, in ascending order."""
    names = [re.fullmatch(r"step-([0-9]{9,10})\.safetensors", file.name) for file in run.checkpoints.glob("step-*")]
    return sorted(int(name[1]) for name in names if name)


def index_written(run: Run, step: int, keep: int) -> None:
    """Add a checkpoint to the index and remove others.

    Args:
        run: The run.
        step: The step of the checkpoint, which has been written.
        keep: How many checkpoints up to this one are kept. All of later steps are removed: they are not whole, or from
            before the run was resumed.
    """
    listed = _listed(run)
    _keep(run, listed, sorted(other for other in {*listed, step} if other <= step)[-keep:])


def create_index(run: Run) -> None:
    """Write the empty index of a new run."""
    _write_index(run, [])


def index_resumed(run: Run, step: int, keep: int) -> None:
    """Write the index of a run that is resumed.

    Args:
        run: The run.
        step: The step of the checkpoint it is resumed from.
        keep: How many checkpoints up to this one are kept. Later ones stay until another is written, since they may
            become readable again.
    """
    listed = _listed(run)
    own = sorted({*(listed or _valid(run)), step})
    _keep(run, listed, [*[other for other in own if other <= step][-keep:], *[other for other in own if other > step]])


def latest(run: Run) -> tuple[Path | None, list[str]]:
    """Find the last valid checkpoint.

    Args:
        run: The run.

    Returns:
        The file, None if the run was stopped before its first checkpoint; and what is wrong with later checkpoints,
        in sentences.

    Raises:
        InputError: If there were checkpoints and none is valid; the message says why.
    """
    listed, wrong = _read_index(run)
    for step in sorted({*listed, *present(run)}, reverse=True):
        file = path(run, step)
        try:
            _require_own(run, step)
        except InputError as error:
            wrong.append(str(error))
        else:
            return file, _few(wrong)
    if not wrong and ((run.checkpoints / "steps.json").exists() or _unwritten(run.metrics)):
        return None, []
    why = " ".join(_few(wrong)) or f"{run.checkpoints} has none."
    raise InputError(f"{why} {run.path} has no checkpoint left to resume from; restore one or train again.")


def _require_own(run: Run, step: int) -> None:
    """Raise InputError unless the checkpoint of a step is valid and of this run."""
    file = path(run, step)
    if not file.exists():
        raise InputError(f"The checkpoint {file} is gone.")
    checkpoint = weight_file.load_checkpoint(file)
    if checkpoint.step != step:
        raise InputError(f"The checkpoint {file} is of step {checkpoint.step}.")
    if not same_run(checkpoint.spec, run.spec):
        raise InputError(f"The checkpoint {file} has another configuration than the run.")


def _listed(run: Run) -> list[int]:
    """The steps in the index whose files exist."""
    return sorted(set(_read_index(run)[0]) & set(present(run)))


def _valid(run: Run) -> list[int]:
    """The steps of the checkpoints that are valid and of this run; for when the index is lost."""
    steps = []
    for step in present(run):
        with contextlib.suppress(InputError):
            _require_own(run, step)
            steps.append(step)
    return steps


def _keep(run: Run, listed: Sequence[int], steps: Sequence[int]) -> None:
    """Write the index of some steps, after the removal of others that it listed."""
    for other in set(listed).difference(steps):
        safe_io.remove(path(run, other))
    _write_index(run, steps)


def _unwritten(file: Path) -> bool:
    """Whether a file is there and empty."""
    return file.is_file() and not file.stat().st_size


def _write_index(run: Run, steps: Sequence[int]) -> None:
    write_atomically(run.checkpoints / "steps.json", json.dumps(steps).encode() + b"\n")


def _read_index(run: Run) -> tuple[list[int], list[str]]:
    """The steps in the index, and what is wrong with it."""
    file = run.checkpoints / "steps.json"
    kind = safe_io.instead_of_file(file)
    if kind == "nothing":
        return [], [f"The checkpoint index {file} is gone."] if present(run) else []
    if kind is not None:
        raise InputError(f"The checkpoint index {file} must be a file, found {kind}; remove it.")
    try:
        steps = safe_io.read_json(file)
    except ValueError as error:
        return [], [f"The checkpoint index {file} is corrupt ({error})."]
    if isinstance(steps, list) and all(type(step) is int and 0 <= step < 2**31 for step in steps):
        return steps, []
    return [], [f"The checkpoint index {file} is corrupt (expected a list of steps, found {shown(steps)})."]


def _few(wrong: list[str]) -> list[str]:
    """The first few sentences, and how many there are more."""
    return wrong if len(wrong) <= 5 else [*wrong[:5], f"And {len(wrong) - 5:,} more like these."]
