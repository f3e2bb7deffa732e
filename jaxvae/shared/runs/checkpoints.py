"""A run's checkpoints: where they are, which is the last good one, and how many are kept.

A listing beside them says which there should be, so that one that is gone is missed. It is written after a checkpoint
is and before older ones are removed: whatever stops in between, what it lists is there."""

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
    return run.checkpoints / f"step-{step:09}.safetensors"


def present(run: Run) -> list[int]:
    """The steps whose checkpoints are there, good or not, in ascending order."""
    names = [re.fullmatch(r"step-([0-9]{9,10})\.safetensors", file.name) for file in run.checkpoints.glob("step-*")]
    return sorted(int(name[1]) for name in names if name)


def written(run: Run, step: int, keep: int) -> None:
    """Takes note of a checkpoint that has been written, and removes all but the last `keep`, and any of later steps:
    those are not whole, or of another try."""
    gone_on_from(run, step, keep)
    for other in present(run):
        if other > step:
            path(run, other).unlink()


def begun(run: Run) -> None:
    """Lists a new run's checkpoints, of which there are none yet."""
    _list(run, [])


def gone_on_from(run: Run, step: int, keep: int) -> None:
    """Lists the checkpoint gone on from and those before it, and removes all but the last `keep` of these. Later ones
    stay until another is written: they may have been unreadable for the moment only."""
    steps = [other for other in present(run) if other <= step]
    _list(run, steps[-keep:])
    for other in steps[:-keep]:
        path(run, other).unlink()


def latest(run: Run) -> tuple[Path | None, list[str]]:
    """The last checkpoint that is whole, and what is wrong with those after it, in sentences. None if the run was
    stopped before its first. Raises InputError, saying why, if there were checkpoints and none is left."""
    listed, wrong = _listed(run)
    for step in sorted({*listed, *present(run)}, reverse=True):
        file = path(run, step)
        try:
            if not file.exists():
                raise InputError(f"The checkpoint {file} is gone.")
            found = weight_file.load_checkpoint(file)
            if found.step != step:
                raise InputError(f"The checkpoint {file} is of step {found.step}.")
            if not same_run(found.spec, run.spec):
                raise InputError(f"The checkpoint {file} is of another configuration than the run's.")
        except InputError as error:
            wrong.append(str(error))
        else:
            return file, _few(wrong)
    if not wrong and ((run.checkpoints / "steps.json").exists() or _unwritten(run.metrics)):
        return None, []
    why = " ".join(_few(wrong)) or f"{run.checkpoints} holds none."
    raise InputError(f"{why} No checkpoint is left that {run.path} could go on from; restore one or train again.")


def _unwritten(file: Path) -> bool:
    return file.is_file() and not file.stat().st_size


def _list(run: Run, steps: Sequence[int]) -> None:
    write_atomically(run.checkpoints / "steps.json", json.dumps(steps).encode() + b"\n")


def _listed(run: Run) -> tuple[list[int], list[str]]:
    """The steps that the listing names, and what is wrong with it."""
    file = run.checkpoints / "steps.json"
    found = safe_io.instead_of_file(file)
    if found == "nothing":
        return [], [f"The listing {file} is gone."] if present(run) else []
    if found is not None:
        raise InputError(f"The listing {file} must be a file, found {found}; remove it.")
    try:
        steps = safe_io.read_json(file)
    except ValueError as error:
        return [], [f"The listing {file} is spoilt ({error})."]
    if isinstance(steps, list) and all(type(step) is int and 0 <= step < 2**31 for step in steps):
        return steps, []
    return [], [f"The listing {file} is spoilt (a list of steps is called for, found {shown(steps)})."]


def _few(wrong: list[str]) -> list[str]:
    """The first few sentences, and how many there are more."""
    return wrong if len(wrong) <= 5 else [*wrong[:5], f"And {len(wrong) - 5:,} more like these."]
