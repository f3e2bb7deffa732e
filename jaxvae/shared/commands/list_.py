"""The list command: the runs below a folder, a line for each."""

import shlex
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from json import dumps
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import tyro

from jaxvae.shared.backend import Backend
from jaxvae.shared.config.presets import PRESETS
from jaxvae.shared.config.spec import Spec
from jaxvae.shared.errors import InputError
from jaxvae.shared.runs import best_epoch, checkpoints, command_line, lock, metrics, run_folder
from jaxvae.shared.runs.find_runs import by_number, runs_below
from jaxvae.shared.text import LONGEST, columns, from_here, printable, say, text_table

_MAX_FLAGS = 60  # characters in the table, or as many as the terminal has room for

By = Literal["path", "loss", "step"]
State = Literal["running", "stopped", "finished", "diverged", "imported", "damaged"]


@dataclass(frozen=True)
class List:
    """List the runs below a folder: the package that started each, its preset and the flags that differ from it, the
    steps taken and those of the whole run, the last test loss in nats per image, with validation that of the best
    epoch, and its state. Running: a process
    trains it now; stopped, finished, diverged (a loss or a gradient became NaN or infinite), imported, or damaged.

    For example, all runs in runs/, and those of a sweep, the smallest loss first:

        list
        list runs/betas --sort loss"""

    folder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="[DIR]")] = Path("runs")
    """The folder; that of a single run lists that run."""
    sort: By = "path"
    """The order: by path, by loss from the smallest, or by step from the largest."""
    json: bool = False
    """Print a JSON list instead, with all flags, and with what is wrong with a damaged or diverged run."""


class Row(NamedTuple):
    """A run in the list; what a damaged run doesn't tell is None."""

    path: str
    framework: str | None
    preset: str | None
    flags: str | None
    step: int | None
    """None for an imported run, which was not trained here."""
    steps: int | None
    loss: float | None
    """With validation, the test loss of the best epoch."""
    state: State
    error: str | None
    best: int | None = None
    """The epoch whose weights are kept, the best by validation loss; None without validation."""


def run(backend: Backend, command: List) -> None:
    """Print the list.

    Args:
        backend: Unused but for its name: a list needs no framework.
        command: The parsed flags.

    Raises:
        InputError: If the folder does not exist.
    """
    folder, program = command.folder, backend.__name__
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise InputError(f"{folder} {what}; give the folder of your runs, or start one with {program} train.")
    rows = sorted((row(path, folder) for path in runs_below(folder)), key=_ORDERS[command.sort])
    if command.json:
        print(dumps([row._asdict() for row in rows], indent=2, allow_nan=False))
    elif rows:
        head = ("run", "framework", "preset", "flags", "step", "test loss", "state")
        say(_table([head, *map(_cells, rows)]))
    else:
        say(f"There are no runs in {folder}; start one with {program} train.")


def row(path: Path, folder: Path) -> Row:
    """Describe a run, from its configuration and the end of its metrics.

    Args:
        path: The run folder.
        folder: The folder that the row's path is relative to.
    """
    name = str(path.relative_to(folder))
    try:
        return _row(run_folder.read(path), name)
    except (InputError, OSError) as error:
        return Row(name, None, None, None, None, None, None, "damaged", str(error))


def _row(run: run_folder.Run, name: str) -> Row:
    config, record = run.config, metrics.last_test(run)
    preset, imported = config["preset"], "imported" in config
    if (record is not None or imported) and not run.weights.is_file():
        raise InputError(f"{run.weights} is missing; restore it{'' if imported else ', or resume the run'}.")
    flags = shlex.join(command_line.changes(PRESETS.get(preset, Spec()), run.spec))
    if imported:
        return Row(name, config["framework"], preset, flags, None, None, None, "imported", None)
    step = max([0 if record is None else record["step"], *checkpoints.present(run)])
    steps = run.spec.training.total_steps(config["data"]["train"])
    diverged = next((session.get("diverged") for session in config["sessions"][-1:]), None)
    state: State = "stopped" if diverged is None else "diverged"
    if lock.is_held(run.path):
        state, diverged = "running", None
    elif record is not None and (record["step"] == steps or best_epoch.ended_early(run)):
        state, diverged = "finished", None
    validated = run.spec.images.validation > 0
    kept = best_epoch.kept(run) if validated else record
    loss, best = (None, None) if kept is None else (kept["loss"], kept["epoch"] if validated else None)
    return Row(name, config["framework"], preset, flags, step, steps, loss, state, diverged, best)


def _table(rows: Sequence[Sequence[str]]) -> str:
    """The rows as lines, with as much of the flags as fits into the terminal."""

    def lines(longest: int) -> str:
        return text_table([[*row[:3], printable(row[3], longest), *row[4:]] for row in rows], right=(4, 5))

    whole = lines(LONGEST)
    if not sys.stdout.isatty():
        return lines(_MAX_FLAGS)
    over = max(map(columns, whole.split("\n"))) - shutil.get_terminal_size().columns
    return whole if over <= 0 else lines(max(_MAX_FLAGS, max(columns(row[3]) for row in rows) - over))


def _cells(row: Row) -> list[str]:
    step = "-" if row.step is None else f"{row.step:,} of {row.steps:,}"
    loss = "-" if row.loss is None else f"{row.loss:.3f}"
    loss += "" if row.best is None else f" in epoch {row.best}"
    flags = "-" if row.flags is None else from_here(row.flags)
    state = f"{row.state}: {row.error}" if row.state == "damaged" else row.state
    return [row.path, row.framework or "-", row.preset or "-", flags, step, loss, state]


_ORDERS: dict[By, Callable[[Row], Any]] = {
    "path": lambda row: by_number(row.path),
    "loss": lambda row: (row.loss is None, row.loss, by_number(row.path)),
    "step": lambda row: (row.step is None, -(row.step or 0), by_number(row.path)),
}
