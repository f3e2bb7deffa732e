"""A table of names in a JSON file: where the tensors of anybody's model go, and what they leave open."""

import fnmatch
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import NamedTuple

from jaxvae.shared.config.fields import build
from jaxvae.shared.config.presets import DEFAULT_PRESET
from jaxvae.shared.errors import InputError
from jaxvae.shared.interop.given import Given
from jaxvae.shared.interop.name_mapping import Laid, Rule
from jaxvae.shared.interop.source import Source
from jaxvae.shared.safe_io import read_json

TABLE = "table"
"""The name of a source that a table describes."""
EXAMPLE = '{"rules": {"enc.{2i}.*": "encoder.hidden.{i}.*", "mu.*": "encoder.mean.*", ...}}'


class Table(NamedTuple):
    """A program that a table describes, and what the table gives beside names."""

    source: Source
    given: Given
    skip: tuple[str, ...] = ()
    """Patterns of the names of tensors that the model has no use for, in which `*` stands for anything."""

    def skipped(self, names: Iterable[str]) -> set[str]:
        """Return those of these names that the table skips."""
        patterns = [re.sub(r"([?[])", r"[\1]", pattern) for pattern in self.skip]
        return {name for name in names if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)}


@dataclass(frozen=True)
class _File(Given):
    """The file's fields; only `rules` has to be there."""

    rules: dict[str, str] = field(default_factory=dict)
    layout: Laid = "torch"
    skip: tuple[str, ...] = ()


def read(path: Path) -> Table:
    """Read a table of names.

    Args:
        path: A JSON file such as `EXAMPLE`: a pattern of names here for each pattern of names there, as in a `Rule`.
            Beside `rules` it may have `layout`, as a rule's `laid`, `skip`, a list of the names of tensors to leave
            out, and the fields of `Given`.

    Returns:
        The table.

    Raises:
        InputError: If the file is not such a table; the message names the field.
    """
    try:
        value = read_json(path)
    except ValueError as error:
        raise InputError(f"The table {path} can't be read ({error}); it is a JSON file such as {EXAMPLE}.") from None
    where = f"The table {path}"
    if isinstance(value, dict) and value.get("rules") in (None, {}):
        raise InputError(f"{where} has no rules; write it such as {EXAMPLE}.")
    if isinstance(value, dict):
        value = {f.name: None for f in fields(Given)} | {"layout": "torch", "skip": []} | value
    file = build(_File, value, where)
    rules = tuple(Rule(theirs, ours, file.layout) for theirs, ours in file.rules.items())
    given = {f.name: asdict(file)[f.name] for f in fields(Given)}
    source = Source(TABLE, f"the table {path}", file.preset or DEFAULT_PRESET, rules)
    return Table(source, Given(**given), file.skip)
