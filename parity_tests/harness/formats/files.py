"""The files of a report: one in the format that its name ends in, and those that a command is to write."""

import json
from pathlib import Path
from typing import Protocol

from jaxvae.shared.errors import InputError
from jaxvae.shared.safe_io import as_path, require_writable, write_atomically

SUFFIXES = (".json", ".md", ".html")


class Formats(Protocol):
    """A report."""

    def to_json(self) -> dict: ...
    def to_markdown(self) -> str: ...
    def to_html(self) -> str: ...


def save(report: Formats, path: str | Path) -> None:
    """Write a report, whole or not at all.

    Args:
        report: The report.
        path: A file that ends in .json, .md or .html.

    Raises:
        InputError: If it ends otherwise, or can't be written.
    """
    file = as_path(path, "path")
    formats = {".json": lambda: to_text(report.to_json()), ".md": report.to_markdown, ".html": report.to_html}
    if file.suffix.lower() not in formats:
        raise InputError(f"path: {file} ends in {file.suffix or 'no suffix'}, expected one of {', '.join(formats)}.")
    require_writable(file, "choose another path")
    content = formats[file.suffix.lower()]().encode(errors="replace")
    try:
        write_atomically(file, content)
    except OSError as error:
        raise InputError(f"{file} can't be written ({error.strerror}); choose another path.") from None


def to_text(document: dict) -> str:
    """Format a report's JSON values as text."""
    return json.dumps(document, indent=1, allow_nan=False) + "\n"


def require_separate(*files: Path | None) -> None:
    """Check the files that a command is to write.

    Args:
        files: Those of --json, --markdown, --junit and --html.

    Raises:
        InputError: If one can't be written, or is another's too.
    """
    paths = [file.resolve() for file in files if file is not None]
    for path in paths:
        require_writable(path, "give another path")
        if paths.count(path) > 1:
            raise InputError(
                f"{path} can't be written: give each of --json, --markdown, --junit and --html a separate file."
            )
