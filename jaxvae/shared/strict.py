"""JSON that can be meant in one way only, and words for what a file holds that nobody vouches for."""

import json
import reprlib
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn

MOST = 4 * 2**20
"""Bytes of JSON that are read: what Python makes of them takes tens of times as many."""

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


def instead_of_file(path: Path) -> str | None:
    """What is at the path where a file should be, in words; None for a file. A FIFO that is opened is waited for.
    Raises OSError."""
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError, ValueError):  # a path with a null byte names nothing
        return "nothing"
    kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket"}
    return None if stat.S_ISREG(mode) else kinds.get(stat.S_IFMT(mode), "a device")


def read(path: Path) -> Any:
    """The JSON in a file of moderate size. Raises ValueError, which says what is wrong with it, and OSError."""
    if (found := instead_of_file(path)) is not None:
        raise ValueError(f"{found} is there")
    with path.open("rb") as file:
        return parse(file.read(MOST + 1))


def parse(content: bytes | str) -> Any:
    """The value of a JSON text. Raises ValueError, which says what is wrong with it, for one that could be read in two
    ways, such as a name given twice, and for all that is no JSON, such as NaN."""
    if len(content) > MOST:
        raise ValueError(f"more than {MOST:,} bytes")
    try:
        text = content if isinstance(content, str) else content.decode()
        return json.loads(text, object_pairs_hook=_object, parse_int=_int, parse_constant=_refuse)
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 at byte {error.start}") from None
    except RecursionError:
        raise ValueError("nested too deep") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"{shown(name)} given twice")
        found[name] = value
    return found


def _int(digits: str) -> int:
    if len(digits) > 100:  # which takes the square of its length
        raise ValueError(f"a number of {len(digits):,} digits")
    return int(digits)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number of JSON")
