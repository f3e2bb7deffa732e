"""Text for messages and tables: values from files made printable and short, lists of names, aligned columns."""

import difflib
import re
import reprlib
import unicodedata
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import TextIO

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 100
_SHORT.maxlong = 50
_SHORT.maxlevel = 2

LONGEST = 2000
"""Characters of a line of a message, or of a cell of a table."""


def shown(value: object) -> str:
    """Format any value for a message: on one line, printable and short."""
    text = _SHORT.repr(value)
    return " ".join(text.split()) if "\n" in text else text  # an array's has a line for each row


def printable(text: str, longest: int = 100) -> str:
    """Make text from a file fit for a terminal: control characters are escaped, and the end of a long text left out."""
    text = text if len(text) <= longest else f"{text[: longest - 3]}..."
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def columns(text: str) -> int:
    """Count the columns that a text takes in a terminal, where a Chinese letter is as wide as two Latin ones."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def from_here(text: str) -> str:
    """Write the paths in a text that lie in the current folder without it."""
    try:
        here = re.escape(str(Path.cwd()))
    except FileNotFoundError:  # it was removed
        return text
    return re.sub(rf"(?<![^\s:'\"]){here}/", "", text)


def named(names: Iterable[str], separator: str = ", ", most: int = 5) -> str:
    """List names in a message: the first few, made printable and short, and how many more there are."""
    names = list(names)
    few = [name if name.isprintable() and 0 < len(name) <= 100 else shown(name) for name in names[:most]]
    return separator.join(few) + (f" and {len(names) - most:,} more" if len(names) > most else "")


def suggestion(word: str, choices: Iterable[str]) -> str:
    """The choice that is most like a word, for a message, as " (did you mean conv?)"; empty if none is like it."""
    alike = closest(word, choices)
    return f" (did you mean {alike}?)" if alike else ""


def closest(word: str, choices: Iterable[str]) -> str:
    """The choice that is most like a word; empty if none is like it."""
    return next(iter(difflib.get_close_matches(word, choices, 1)), "")


def counted(n: int, noun: str) -> str:
    """A number and a noun, such as "1 step" or "2,000 steps"."""
    plural = "es" if noun.endswith("s") else "s"
    return f"{n:,} {noun}{'' if n == 1 else plural}"


def text_table(rows: Sequence[Sequence[str]], right: Collection[int] = (1,)) -> str:
    """Format rows as indented columns for a terminal.

    Args:
        rows: The cells of each row, as many in every row.
        right: The columns, from 0, that are aligned to the right.

    Returns:
        One line a row, without a newline at the end.
    """
    rows = [[printable(cell, LONGEST) for cell in cells] for cells in rows]
    return "\n".join(f"  {'  '.join(cells)}".rstrip() for cells in _padded(rows, right))


def markdown_table(
    head: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: bool = True, padded: bool = True
) -> str:
    """Format a Markdown table.

    Args:
        head: The titles of the columns.
        rows: The cells of each row, already escaped where that is needed.
        numbers: Align all columns but the first to the right.
        padded: Pad the cells, so that the columns are aligned in a terminal too.

    Returns:
        One line a row, without a newline at the end.
    """
    body = [[printable(cell, LONGEST) for cell in cells] for cells in (head, *rows)]
    right = range(1, len(head) if numbers else 1)
    widths = [4 if i in right else 3 for i in range(len(head))]
    if padded:
        widths = [max(map(columns, column)) for column in zip(*body, strict=True)]
    body.insert(1, ["-" * (width - 1) + ":" if i in right else "-" * width for i, width in enumerate(widths)])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (_padded(body, right) if padded else body))


def say(text: str, file: TextIO | None = None) -> None:
    """Print lines, each made printable, on standard output or to `file`."""
    print("\n".join(printable(line, LONGEST) for line in text.split("\n")), file=file)


def _padded(rows: Sequence[Sequence[str]], right: Collection[int]) -> list[list[str]]:
    """The cells, each padded to its column's width."""
    widths = [max(map(columns, column)) for column in zip(*rows, strict=True)]
    padded = []
    for row in rows:
        spaces = [" " * (width - columns(cell)) for cell, width in zip(row, widths, strict=True)]
        cells = enumerate(zip(row, spaces, strict=True))
        padded.append([space + cell if i in right else cell + space for i, (cell, space) in cells])
    return padded
