"""A run's agreement.json: whether the two packages agree on its configuration, level by level, as scripts/parity.py
--run found."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from jaxvae.shared import safe_io
from jaxvae.shared.config import choices
from jaxvae.shared.config.choices import Stored
from jaxvae.shared.config.serialization import build
from jaxvae.shared.config.spec import Spec, same_run
from jaxvae.shared.errors import InputError
from jaxvae.shared.runs import run_folder

VERSION = 1


@dataclass(frozen=True)
class Level:
    """The worst difference of one level in one precision."""

    level: str
    dtype: Stored
    size: float | None
    """In `unit`; None where a side gave no number."""
    owed: float
    """What two right implementations may differ by."""
    unit: str
    passed: bool


@dataclass(frozen=True)
class Agreement:
    """What was found, and by which versions; as JSON the content of the file."""

    version: int
    spec: Spec
    """The configuration that was compared."""
    steps: int
    """Of the runs that were compared."""
    verdict: str
    passed: bool
    versions: dict[str, str]
    levels: tuple[Level, ...]

    def __post_init__(self) -> None:
        choices.require(self.version == VERSION, "version", str(VERSION), self.version)
        choices.require(0 < self.steps < 2**31, "steps", "positive and below 2^31", self.steps)
        passed = bool(self.levels) and all(level.passed for level in self.levels)
        choices.require(self.passed == passed, "passed", "that of all levels", self.passed)


def write(run: run_folder.Run, found: Agreement) -> None:
    """Keeps it in the run's folder."""
    content = json.dumps(asdict(found), indent=1, allow_nan=False) + "\n"
    safe_io.write_atomically(run.path / "agreement.json", content.encode())


def read(run: run_folder.Run) -> Agreement | None:
    """What is kept in the run's folder; None if nothing is. Raises InputError for what is no such file, and for another
    configuration's."""
    file = run.path / "agreement.json"
    if safe_io.instead_of_file(file) == "nothing":
        return None
    try:
        found = build(Agreement, safe_io.read_json(file), f"{file}")
    except ValueError as error:
        raise InputError(f"{file} can't be read as JSON ({error}); remove it or measure it again.") from None
    if not same_run(found.spec, run.spec):
        raise InputError(f"{file} is of another configuration than {run.path}; remove it or measure it again.")
    return found


def brief(levels: Sequence[Level]) -> tuple[list[str], list[list[str]]]:
    """The head and the rows of a table: one row a level, in each precision its worst difference and what is owed."""
    by = {(level.level, level.dtype): level for level in levels}
    names, dtypes = (list(dict.fromkeys(key[i] for key in by)) for i in (0, 1))
    rows = []
    for name in names:
        found = [by.get((name, dtype)) for dtype in dtypes]
        cells = [(number(level.size), number(level.owed)) if level else ("", "") for level in found]
        rows.append([name, *(cell for pair in cells for cell in pair)])
    return ["largest difference in", *(cell for dtype in dtypes for cell in (dtype, "owed"))], rows


def number(value: float | None) -> str:
    """Counts whole, all else to two digits."""
    if value is None:
        return "no number"
    return f"{value:,.0f}" if float(value).is_integer() and abs(value) < 1e6 else f"{value:.1e}"
