"""Links between reports that lie beside each other: in the same folder, the one above it, or those in it."""

import contextlib
import html
import itertools
import os
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

from jaxvae.shared import safe_io
from jaxvae.shared.text import printable

GENERATOR = '<meta name="generator" content="jaxvae and torchvae">'
"""What every report has in its head."""
PLACE = "<!--beside--><!--/beside-->"
"""Where a report has its links."""
_PLACE = re.compile(rb"<!--beside-->.*?<!--/beside-->", re.DOTALL)
_HEAD, _LARGEST, _MOST = 4096, 2**26, 20  # bytes that have a page's title, bytes of a page, and links
_OTHERS = {"sweep.md": "Table of the sweep", "sweep.png": "Picture of the sweep"}


def write(path: Path, page: bytes) -> None:
    """Write a report with links to those beside it, and update their links. Raises OSError if it can't be written.

    Args:
        path: The file.
        page: Its content, with `GENERATOR` and `PLACE`.
    """
    safe_io.write_atomically(path, page)
    beside = list(itertools.islice(_beside(path), _MOST))
    safe_io.write_atomically(path, _linked(path, page, beside))
    for other in beside:
        with contextlib.suppress(OSError):  # it may be another user's
            if other.suffix == ".html" and other.stat().st_size <= _LARGEST:
                before = other.read_bytes()
                after = _linked(other, before, list(itertools.islice(_beside(other), _MOST)))
                if after != before:
                    safe_io.write_atomically(other, after)


def _beside(path: Path) -> Iterator[Path]:
    """The reports beside one, and a sweep's table and picture."""
    folder = path.parent.resolve()
    for pattern in ("*", "../*", "*/*"):
        with contextlib.suppress(OSError):
            for file in sorted(folder.glob(pattern)):
                known = file.name in _OTHERS or (file.suffix == ".html" and _title(file))
                if known and file.is_file() and not file.is_symlink() and file.resolve() != path.resolve():
                    yield file.resolve()


def _title(file: Path) -> str:
    """The title of a report; empty if the file is none."""
    try:
        with file.open("rb") as content:
            head = content.read(_HEAD).decode(errors="replace")
    except OSError:
        return ""
    found = re.search("<title>(.*?)</title>", head, re.DOTALL)
    return html.unescape(found[1]) if found and GENERATOR in head else ""


def _linked(path: Path, page: bytes, beside: list[Path]) -> bytes:
    """The page with its links in their place."""
    links = []
    for other in beside:
        to = os.path.relpath(other, path.parent.resolve())
        title = _OTHERS.get(other.name) or _title(other)
        text = html.escape(printable(f"{title} ({to})", 200))
        links.append(f'<li><a href="{html.escape(quote(to), quote=True)}">{text}</a></li>')
    inner = f'<nav class="beside"><p>Beside this report:</p><ul>{"".join(links)}</ul></nav>' if links else ""
    return _PLACE.sub(lambda _: f"<!--beside-->{inner}<!--/beside-->".encode(), page, count=1)
