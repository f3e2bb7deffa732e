"""The methods that both kinds of report have: they are NamedTuples, which take no base class with methods."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from parity_tests.harness.findings import Report
    from parity_tests.harness.loops.report import RunsReport

    Reported = Report | RunsReport


def passed(self: "Reported") -> bool:
    """Whether something was compared and all of it agrees."""
    return bool(self.findings) and all(finding.passed for finding in self.findings)


def to_json(self: "Reported") -> dict[str, Any]:
    """Convert the report to plain JSON values, for `json.dumps(.., allow_nan=False)`.

    Floats that are not finite are the strings `NaN`, `Infinity` and `-Infinity`, which `float` reads. The schema is
    parity_tests/harness/formats/schema.json.
    """
    from parity_tests.harness.formats import document

    return document.of(self)


def to_markdown(self: "Reported") -> str:
    """Format the report as Markdown: the verdict, the causes, the levels or quantities, the tree."""
    from parity_tests.harness.formats import text

    return text.to_markdown(to_json(self))


def to_html(self: "Reported") -> str:
    """Format the report as one HTML page that loads nothing from the network."""
    from parity_tests.harness.formats import page

    return page.to_html(to_json(self))


def save(self: "Reported", path: str | Path) -> None:
    """Write the report as JSON, Markdown or HTML, whole or not at all.

    Args:
        path: A file that ends in .json, .md or .html.

    Raises:
        InputError: If it ends otherwise, or can't be written.
    """
    from parity_tests.harness.formats import files

    files.save(self, path)
