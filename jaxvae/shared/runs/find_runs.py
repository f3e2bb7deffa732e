"""Runs below a folder, and those that arguments of a command stand for."""

import glob
import itertools
import os
import re
import sys
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

from jaxvae.shared import safe_io
from jaxvae.shared.errors import InputError
from jaxvae.shared.runs import run_folder
from jaxvae.shared.text import LONGEST, printable, say

_DEPTH = 6  # folders below the first one
_NAMED = 5  # of those left out
_NO_RUNS = ("checkpoints", "images", "tensorboard")  # folders of a run


def runs_below(folder: Path, depth: int = _DEPTH) -> list[Path]:
    """Find the runs in a folder and in those below it. Links are not followed, hidden folders are left out.

    Args:
        folder: The folder; it may be a run itself.
        depth: How many folders deep to look.

    Returns:
        The run folders, damaged ones too, in the order of their names, 9 before 10; and folders that can't be read.
    """
    try:
        with os.scandir(folder) as entries:
            by_name = {entry.name: entry for entry in entries}
    except OSError:
        return [folder]
    runs = [folder] if _is_run(folder, by_name) else []
    for name in sorted(by_name, key=by_number) if depth else ():
        if name[0] != "." and name not in _NO_RUNS and by_name[name].is_dir(follow_symlinks=False):
            runs += runs_below(folder / name, depth - 1)
    return runs


def by_number(name: str) -> list[Any]:
    """A key to sort names by, whose numbers count as such: 10 comes after 9."""
    return [int(part) if i % 2 else part for i, part in enumerate(re.split("([0-9]+)", name))]


def chosen_runs(program: str, given: Sequence[Path], why_not: Callable[[Path], str | None]) -> list[Path]:
    """Find the runs that arguments stand for: a run for itself, another folder for the runs below it, and a pattern
    such as `runs/*`, expanded by the shell or not, for the runs that it matches.

    Args:
        program: The name of the program, for the warning about what is left out.
        given: The arguments.
        why_not: Says in a few words why a run can't be used, None if it can. A run that can't is left out, unless it
            was named itself.

    Returns:
        The run folders. Where none can be used, the first of those left out, which is refused when it is opened.

    Raises:
        InputError: If a pattern matches nothing, or a path that was named itself is neither a run nor has any below it.
    """
    runs: list[Path] = []
    left_out: dict[Path, str] = {}
    matched = _matched(given)
    for path in itertools.chain.from_iterable(map(_expanded, given)):
        below = [path] if _is_run(path, _names(path)) else runs_below(path) if path.is_dir() else []
        if below in ([], [path]) and path in given and path not in matched:
            run_folder.read(path)  # says why it is none, before any warning
            runs.append(path)
            continue
        if not below:
            left_out[path] = "no run"
        for run in below:
            if (reason := why_not(run)) is not None:
                left_out[run] = reason
            elif run not in runs:
                runs.append(run)
    if runs and left_out:
        few = [f"{printable(str(path), LONGEST)} ({reason})" for path, reason in [*left_out.items()][:_NAMED]]
        rest = [f"and {len(left_out) - _NAMED:,} more"] if len(left_out) > _NAMED else []
        say(f"{program}: WARNING: left out: {', '.join([*few, *rest])}.", sys.stderr)
    return runs or list(left_out)[:1]


def _expanded(path: Path) -> Iterable[Path]:
    """The paths that a pattern matches; a path that exists, or is no pattern, itself."""
    if path.exists() or not glob.has_magic(str(path)):
        return [path]
    if not (matches := glob.glob(str(path))):  # noqa: PTH207 (the path may be absolute)
        raise InputError(f"Nothing matches {path}; give run folders, or folders of runs.")
    return [Path(match) for match in sorted(matches, key=by_number)]


def _matched(given: Sequence[Path]) -> set[Path]:
    """Those of several arguments that a shell may have made of a pattern such as `runs/*` or `runs/a*`: all are there,
    and no path beside them begins alike and is not given."""
    matched: set[Path] = set()
    for parent in {path.parent for path in given}:
        names = {path.name for path in given if path.parent == parent}
        begin = os.path.commonprefix(list(names))  # noqa: RUF071 (letters are meant)
        alike = {name for name in _names(parent) if name[0] != "." and name.startswith(begin)}
        if len(names) > 1 and alike == names:
            matched.update(parent / name for name in names)
    return matched


def _names(folder: Path) -> list[str]:
    """The names in a folder; none if it can't be read."""
    try:
        return [path.name for path in folder.iterdir()]
    except OSError:
        return []


def _is_run(folder: Path, names: Collection[str]) -> bool:
    """Whether a folder with these names in it is a run, damaged or not: two of a run's files are there, and its
    configuration is not another program's."""
    marks = ["config.json" in names, "metrics.jsonl" in names]
    if sum(marks) == 1 and "checkpoints" in names:
        marks.append((folder / "checkpoints" / "steps.json").exists())
    return sum(marks) > 1 and not _is_foreign(folder / "config.json")


def _is_foreign(file: Path) -> bool:
    """Whether a config.json is another program's."""
    try:
        config = safe_io.read_json(file)
    except (ValueError, OSError):
        return False
    return isinstance(config, dict) and not {"framework", "sessions"} & set(config)
