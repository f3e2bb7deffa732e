"""A run's agreement.json: whether the two packages agree on its configuration, level by level. scripts/parity.py --run
writes it."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from jaxvae.shared import safe_io
from jaxvae.shared.config import choices
from jaxvae.shared.config.choices import Stored
from jaxvae.shared.config.serialization import build, to_json
from jaxvae.shared.config.spec import Spec, same_run
from jaxvae.shared.errors import InputError
from jaxvae.shared.runs import run_folder

VERSION = 2  # version 1 calls a level's tolerance `owed`


@dataclass(frozen=True)
class Level:
    """The worst difference of one level in one precision."""

    level: str
    dtype: Stored
    size: float | None
    """In `unit`; None if a package returned NaN or infinity."""
    tolerance: float
    """The largest difference of two correct implementations, in `unit`."""
    unit: str
    passed: bool


@dataclass(frozen=True)
class Agreement:
    """The content of the file: the verdict, the levels and the versions that were compared."""

    version: int
    spec: Spec
    """The configuration that was compared."""
    steps: int
    """Length of the runs that were compared."""
    verdict: str
    passed: bool
    versions: dict[str, str]
    levels: tuple[Level, ...]

    def __post_init__(self) -> None:
        choices.require(self.version == VERSION, "version", str(VERSION), self.version)
        choices.require(0 < self.steps < 2**31, "steps", "positive and below 2^31", self.steps)
        passed = bool(self.levels) and all(level.passed for level in self.levels)
        choices.require(self.passed == passed, "passed", "that of all levels", self.passed)


def write(run: run_folder.Run, agreement: Agreement) -> None:
    """Write agreement.json in a run's folder."""
    written = asdict(agreement) | {"spec": to_json(agreement.spec)}
    content = json.dumps(written, indent=1, allow_nan=False) + "\n"
    safe_io.write_atomically(run.path / "agreement.json", content.encode())


def read(run: run_folder.Run) -> Agreement | None:
    """Read agreement.json in a run's folder.

    Args:
        run: The run.

    Returns:
        Its content; None if there is no such file.

    Raises:
        InputError: If the file is not valid, or of another configuration.
    """
    file = run.path / "agreement.json"
    if safe_io.instead_of_file(file) == "nothing":
        return None
    try:
        agreement = build(Agreement, _upgraded(safe_io.read_json(file)), f"{file}")
    except ValueError as error:
        raise InputError(f"{file} can't be read as JSON ({error}); remove it or measure it again.") from None
    if not same_run(agreement.spec, run.spec):
        raise InputError(f"{file} is of another configuration than {run.path}; remove it or measure it again.")
    return agreement


def _upgraded(content: Any) -> Any:
    """The content of a file of version 1 as one of version 2; any other unchanged."""
    if not isinstance(content, dict) or content.get("version") != 1 or not isinstance(content.get("levels"), list):
        return content
    levels = [
        {"tolerance" if name == "owed" else name: value for name, value in level.items()}
        if isinstance(level, dict)
        else level
        for level in content["levels"]
    ]
    return {**content, "version": VERSION, "levels": levels}


def brief(levels: Sequence[Level]) -> tuple[list[str], list[list[str]]]:
    """Make the head and the rows of a table: for each level, in each precision, its worst difference and tolerance."""
    by = {(level.level, level.dtype): level for level in levels}
    names, dtypes = (list(dict.fromkeys(key[i] for key in by)) for i in (0, 1))
    rows = []
    for name in names:
        of_name = [by.get((name, dtype)) for dtype in dtypes]
        cells = [(number(level.size), number(level.tolerance)) if level else ("", "") for level in of_name]
        rows.append([name, *(cell for pair in cells for cell in pair)])
    return ["largest difference in", *(cell for dtype in dtypes for cell in (dtype, "tolerance"))], rows


def number(value: float | None) -> str:
    """Format a number: counts in full, others with two digits; None as "no number"."""
    if value is None:
        return "no number"
    return f"{value:,.0f}" if float(value).is_integer() and abs(value) < 1e6 else f"{value:.1e}"
