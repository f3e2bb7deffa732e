"""Run the Python blocks of README.md and scripts/docs.

`python -m parity_tests.support.docs scripts/docs/*.md` writes what they print into the text blocks below them.
"""

import contextlib
import io
import linecache
import os
import re
import runpy
import shlex
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

ROOT = Path(__file__).parents[2]
GUIDES = sorted((ROOT / "scripts" / "docs").glob("*.md"))
PAGES = [ROOT / "README.md", *GUIDES]

_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.S | re.M)


class Block(NamedTuple):
    """A fenced block of a page."""

    language: str
    content: str
    shown: str | None
    """The text block right after it, which shows its output."""


def blocks(page: str) -> list[Block]:
    """Return the page's blocks in order; a text block right after another one becomes its `shown`."""
    matches, kept = list(_BLOCK.finditer(page)), []
    for i, match in enumerate(matches):
        if match[1] == "text" and i and not page[matches[i - 1].end() : match.start()].strip():
            kept[-1] = kept[-1]._replace(shown=match[2])
        else:
            kept.append(Block(match[1], match[2], None))
    return kept


def play(page: Path) -> list[str]:
    """Run a page's Python blocks in order in one namespace, then the tests that they define.

    Returns:
        The output of each block.
    """
    namespace: dict[str, Any] = {"__name__": page.stem}
    printed = []
    for i, block in enumerate(blocks(page.read_text())):
        if block.language == "python":
            name, lines = f"{page.name}, block {i}", block.content.splitlines(keepends=True)
            linecache.cache[name] = len(block.content), None, lines, name  # as of a notebook's cell, for its source
            with contextlib.redirect_stdout(io.StringIO()) as out:
                exec(compile(block.content, name, "exec"), namespace)
            printed.append(out.getvalue())
    for name, test in list(namespace.items()):
        if name.startswith("test_"):
            test(namespace["assert_parity"])
    return printed


def run_script(name: str, *arguments: object) -> int | str | None:
    """Run a script of the folder scripts as a program, in this process.

    Returns:
        Its exit status, or the message with which it exited (status 1, the message on standard error).
    """
    path = str(ROOT / "scripts" / name)
    with mock.patch.object(sys, "argv", [path, *map(str, arguments)]), mock.patch.dict(os.environ):
        try:
            runpy.run_path(path, run_name="__main__")
        except SystemExit as end:
            return end.code
    return 0


def commands(page: str) -> list[str]:
    """Return every command line on the page, in blocks and within sentences, without comments."""
    lines = [line for block in blocks(page) if block.language == "bash" for line in block.content.splitlines()]
    spans = re.findall(r"`([^`]+)`", _BLOCK.sub("", page))
    starts = (
        r"(\.venv/bin/)?(python )?((jaxvae|torchvae) [a-z]|scripts/[\w/]+\.(py|sh)|parity (--|compare ))|pip install"
    )
    lines += [" ".join(span.split()) for span in spans if re.match(starts, span)]
    return [shlex.join(words) for line in lines if (words := shlex.split(line, comments=True))]


def write(page: Path) -> None:
    """Update the text blocks below the Python blocks of a page."""
    printed = iter(play(page))

    def updated(match: re.Match[str]) -> str:
        out = next(printed)
        return match[1] + (f"\n\n```text\n{out}```" if out else "")

    page.write_text(
        re.sub(r"(^```python\n.*?^```$)(\n\n```text\n.*?^```$)?", updated, page.read_text(), flags=re.S | re.M)
    )


if __name__ == "__main__":
    pages = [Path(name).resolve() for name in sys.argv[1:]]
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):  # for what a page writes
        for page in pages:
            write(page)
