"""A report's verdict, figures and causes in words."""

import re

from jaxvae.shared.runs.parity_record import number
from parity_tests.harness.findings import Diagnosis, Finding, Report

NO_CAUSE = "no known fault reproduces these numbers"


def verdict(report: Report) -> str:
    """Summarize a report in words.

    Args:
        report: The report.

    Returns:
        Agreement and the level nearest to its tolerance, or the first level that fails and its diagnosis.
    """
    if not report.findings:
        return "Nothing was compared."
    levels = dict.fromkeys(finding.level for finding in report.findings)
    failed = [finding for finding in report.findings if not finding.passed]
    good = f"{len(levels) - len({finding.level for finding in failed})} of {len(levels)} levels"
    if failed:
        text = f"{report.subject} differ: {good} agree; the first that fails is {summary(failed[0])}."
    else:
        nearest = max(report.findings, key=lambda finding: finding.size / finding.tolerance if finding.tolerance else 0)
        text = f"{report.subject} agree: {good}, the nearest to its tolerance {summary(nearest)}."
    return text if report.diagnosis is None else f"{text} {explained(report.diagnosis)}"


def summary(finding: Finding) -> str:
    """Give a finding in a few words."""
    there = f" in {finding.where}" if finding.where else ""
    return (
        f"{finding.level} ({finding.dtype}), {number(finding.size)} {finding.unit}{there}, "
        f"tolerance {number(finding.tolerance)}"
    )


def explained(diagnosis: Diagnosis) -> str:
    """Say where the two first differ, how, and the likely cause."""
    tried = "no known fault reproduces it" if diagnosis.complete else "no fault that was tried in time reproduces it"
    known = f"the likely cause: {diagnosis.cause}" if diagnosis.cause else tried
    backend = f", where {diagnosis.backend} departs from the plain formula" if diagnosis.backend else ""
    difference = diagnosis.difference.removesuffix(".")
    where = diagnosis.where if diagnosis.where.startswith("between ") else f"at {diagnosis.where}"
    return f"They first differ {where} ({difference}){backend}; {known.removesuffix('.')}."


def markdown(text: str) -> str:
    """Escape a text for Markdown, in one line."""
    return re.sub(r"([\\|<>&*`])", r"\\\1", " ".join(text.split()))
