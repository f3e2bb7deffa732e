"""A long metrics.jsonl, read in parts, so that a million lines take a second and little memory."""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxvae.shared.safe_io import MAX_JSON_BYTES

SPLITS = ("train", "test", "validation")

_PART = 2**18  # bytes
_WHOLE = 2**20  # bytes of a file whose records are all drawn
_PARTS, _LARGEST = 400, 2**24  # of a longer file, and bytes of each; a panel has about as many pixels
_LAST = 2**16  # bytes at the end of a file, which hold its last lines

Parse = Callable[[bytes], dict[str, Any]]
"""Makes the record of a line. Raises ValueError, which says what is wrong with it."""


class Part(NamedTuple):
    """Consecutive lines of a file."""

    number: int
    """The number of the first line, from 1."""
    lines: list[bytes]
    """The lines, with their ends."""
    rows: Sequence[tuple[Any, ...]]
    """Epoch, the split, e.g. `b"test"`, and the terms, to twelve decimals, as `int` and `float` read them: of each line
    up to the first that is no record."""
    error: ValueError | None
    """What is wrong with the first line that is no record."""


def parts(path: Path, terms: Sequence[str], parse: Parse, size: int = _PART) -> Iterator[Part]:
    """Read a file part by part.

    Args:
        path: The file.
        terms: The names of a record's terms, in their order.
        parse: Makes the record of a line that is not written as `metrics.append` writes it.
        size: The bytes of a part, about.

    Yields:
        The parts. After one with an error there is none.
    """
    pattern, number = _pattern(terms), 1
    with path.open("rb") as file:
        while text := file.read(size):
            text += file.readline(MAX_JSON_BYTES + 1)
            rows, lines = pattern.findall(text), text.splitlines(keepends=True)
            error = None
            if len(rows) < len(lines):
                rows = []
                try:
                    for line in lines:
                        record = parse(line)
                        rows.append((record["epoch"], record["split"].encode(), *(record[term] for term in terms)))
                except ValueError as wrong:
                    error = wrong
            yield Part(number, lines, rows, error)
            if error is not None:
                return
            number += len(lines)


def to_draw(path: Path, terms: Sequence[str], parse: Parse) -> Iterator[Part]:
    """Read the lines of a file that a picture needs.

    Of a file above a megabyte these are, of each of some hundred parts and of each split, the first, the last, and
    those with the least and the largest value of each term.

    Args:
        path: The file.
        terms: The names of a record's terms, in their order.
        parse: Makes the record of a line that is not written as `metrics.append` writes it.

    Yields:
        The parts, with their lines that are left. After one with an error there is none.
    """
    size = path.stat().st_size
    if size <= _WHOLE:
        yield from parts(path, terms, parse)
        return
    for part in parts(path, terms, parse, min(size // _PARTS, _LARGEST)):
        if part.error is not None:
            yield part
            return
        kept: set[int] = set()
        for split in map(str.encode, SPLITS):
            where = [i for i, row in enumerate(part.rows) if row[1] == split]
            kept.update(where[:1], where[-1:])
            for term in range(2, 2 + len(terms)) if where else ():
                values = [float(part.rows[i][term]) for i in where]
                kept.update((where[values.index(min(values))], where[values.index(max(values))]))
        yield part._replace(lines=[part.lines[i] for i in sorted(kept)])


def last_lines(path: Path) -> list[bytes]:
    """Read the lines at the end of a file, with their ends: all lines of a short one. Empty if the file is."""
    with path.open("rb") as file:
        start = file.seek(max(0, file.seek(0, os.SEEK_END) - _LAST))
        lines = file.read().splitlines(keepends=True)
    return lines[1:] if start and len(lines) > 1 else lines


def _pattern(terms: Sequence[str]) -> re.Pattern[bytes]:
    """Matches a record on its line as `metrics.append` writes it, but for numbers out of the ordinary."""
    integer, decimals = rb"([1-9]\d{0,8}+)", rb"\.\d{1,12}+(?=\d*+[,}])"
    value = rb"(-?(?:0|[1-9]\d{0,99}+)(?:" + decimals + rb"|(?:\.\d++)?+e[+-]?\d{1,2}+(?!\d)))\d*+"
    fields = [
        b'"step": ' + integer.replace(b"(", b"(?:"),
        b'"epoch": ' + integer,
        b'"split": "(' + "|".join(SPLITS).encode() + b')"',
    ]
    fields += [b'"' + re.escape(term).encode() + b'": ' + value for term in terms]
    return re.compile(rb"^\{" + b", ".join(fields) + rb"\}(?:\n|\Z)", re.MULTILINE)
