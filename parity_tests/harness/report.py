"""Formats of a parity report: a verdict in words, tables, JSON, JUnit XML and a self-contained HTML page."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast
from xml.etree import ElementTree

import numpy as np

from jaxvae.shared.config.choices import Stored
from jaxvae.shared.config.spec import Spec
from jaxvae.shared.runs import parity_record
from jaxvae.shared.runs.parity_record import Agreement, Level, brief
from parity_tests.harness.findings import Report
from parity_tests.harness.formats import document, page, text
from parity_tests.harness.formats.words import summary, verdict

__all__ = ["to_agreement", "to_brief", "to_html", "to_json", "to_junit", "to_table", "verdict"]


def to_table(report: Report) -> str:
    """Format the findings as a Markdown table, one row for each."""
    return text.findings_table(document.of_report(report)["findings"])


def to_brief(report: Report) -> str:
    """Format the findings as a Markdown table, one row for each level: its worst difference and tolerance by dtype."""
    return text.table(*brief(_levels(report)))


def to_agreement(report: Report, spec: Spec, steps: int) -> Agreement:
    """Make the record of a comparison that a run's folder keeps.

    Args:
        report: The report on the run's configuration.
        spec: The configuration that was compared.
        steps: Length of the compared runs.

    Returns:
        The content of agreement.json.
    """
    versions = {name: str(version) for name, version in dict(cast(Mapping, report.about["versions"])).items()}
    levels = tuple(
        level if np.isfinite(cast(float, level.size)) else replace(level, size=None) for level in _levels(report)
    )
    return Agreement(parity_record.VERSION, spec, steps, verdict(report), report.passed, versions, levels)


def to_json(report: Report) -> dict[str, Any]:
    """Convert a report to plain JSON values, see `Report.to_json`."""
    return report.to_json()


def to_html(report: Report) -> str:
    """Format a report as one HTML page, see `Report.to_html`."""
    return report.to_html()


def to_junit(report: Report) -> bytes:
    """Format the findings as JUnit XML, UTF-8, with a test case for each level and dtype."""
    failed = sum(not finding.passed for finding in report.findings)
    counts = {"tests": str(len(report.findings)), "failures": str(failed), "errors": "0", "skipped": "0"}
    root = ElementTree.Element("testsuites", counts)
    suite = ElementTree.SubElement(root, "testsuite", {"name": "parity", **counts})
    for finding in report.findings:
        about = {"classname": f"parity.{finding.dtype}", "name": page.legal(finding.level)}
        case = ElementTree.SubElement(suite, "testcase", about)
        if not finding.passed:
            failure = ElementTree.SubElement(
                case, "failure", {"message": page.legal(summary(finding)), "type": "difference"}
            )
            failure.text = page.legal(finding.reason)
    ElementTree.SubElement(suite, "system-out").text = page.legal(verdict(report))
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)


def _levels(report: Report) -> tuple[Level, ...]:
    return tuple(
        Level(f.level, cast(Stored, f.dtype), float(f.size), float(f.tolerance), f.unit, f.passed)
        for f in report.findings
    )
