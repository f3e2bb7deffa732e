"""Runs below a folder."""

import os
from collections.abc import Collection
from pathlib import Path

from jaxvae.shared import safe_io

_DEPTH = 6  # folders below the first one
_NO_RUNS = ("checkpoints", "images", "tensorboard")  # folders of a run


def runs_below(folder: Path, depth: int = _DEPTH) -> list[Path]:
    """Find the runs in a folder and in those below it. Links are not followed, hidden folders are left out.

    Args:
        folder: The folder; it may be a run itself.
        depth: How many folders deep to look.

    Returns:
        The run folders, damaged ones too, in the order of their names; and folders that can't be read.
    """
    try:
        with os.scandir(folder) as entries:
            by_name = {entry.name: entry for entry in entries}
    except OSError:
        return [folder]
    runs = [folder] if _is_run(folder, by_name) else []
    for name in sorted(by_name) if depth else ():
        if name[0] != "." and name not in _NO_RUNS and by_name[name].is_dir(follow_symlinks=False):
            runs += runs_below(folder / name, depth - 1)
    return runs


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
