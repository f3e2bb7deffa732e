"""Text for sentences and tables: values a file holds, made printable and short; names; aligned columns."""

import reprlib
from collections.abc import Iterable, Sequence

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 100
_SHORT.maxlong = 50
_SHORT.maxlevel = 2


def shown(value: object) -> str:
    """A value for a sentence: on one line, printable, and short, whatever it is."""
    return _SHORT.repr(value)


def named(names: Iterable[str]) -> str:
    """Names for a sentence: the first few as they are, if that is fit to print."""
    names = list(names)
    few = [name if name.isprintable() and 0 < len(name) <= 100 else shown(name) for name in names[:5]]
    return ", ".join(few) + (f" and {len(names) - 5:,} more" if len(names) > 5 else "")


def columns(rows: list[tuple[str, str, str]]) -> str:
    """The rows in columns."""
    first, second = (max(len(row[i]) for row in rows) for i in (0, 1))
    return "\n".join(f"  {name:<{first}}  {figure:>{second}}  {unit}".rstrip() for name, figure, unit in rows)


def aligned(cells: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a Markdown table from those of its head and of each row, its columns aligned for a terminal, all but
    the first to the right."""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return [
        f"| {first.ljust(widths[0])} | {' | '.join(map(str.rjust, rest, widths[1:]))} |"
        for first, *rest in (cells[0], rule, *cells[1:])
    ]
