"""Formats of a parity report: a verdict in words, a table, JSON, JUnit XML and a self-contained HTML page."""

import html
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast
from xml.etree import ElementTree

import numpy as np

from jaxvae.shared.config.choices import Stored
from jaxvae.shared.config.spec import Spec
from jaxvae.shared.report import neighbours
from jaxvae.shared.runs import parity_record
from jaxvae.shared.runs.parity_record import Agreement, Level, brief, number
from jaxvae.shared.text import markdown_table
from parity_tests.harness import plot
from parity_tests.harness.findings import Diagnosis, Finding, Report

VERSION = 2
_COLUMNS = ("level", "dtype", "worst difference", "where", "tolerance", "verdict")
_ILLEGAL = re.compile(
    "[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]"
)  # characters that XML 1.0 does not allow
_STYLE = """
:root { color-scheme: light dark; --line: #8886; --pass: #1a7f37; --fail: #cf222e; }
@media (prefers-color-scheme: dark) { :root { --pass: #4ac26b; --fail: #ff7b72; } }
body { margin: 0 auto; max-width: 60rem; padding: 1rem; font: 1rem/1.5 system-ui, sans-serif; }
h1 { line-height: 1.2; } .pass { color: var(--pass); } .fail { color: var(--fail); font-weight: bold; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
thead th { white-space: nowrap; } td { overflow-wrap: anywhere; min-width: 4rem; } small { display: block; }
@media (max-width: 48rem) {
  .cards thead { display: none; } .cards, .cards tbody, .cards tr, .cards th, .cards td { display: block; }
  .cards tr { border-bottom: 1px solid var(--line); padding: .5rem 0; }
  .cards :is(th, td) { border: 0; padding: .1rem 0; overflow-wrap: anywhere; }
  .cards td[data-head] { display: grid; grid-template-columns: 7rem minmax(0, 1fr); gap: .75rem; }
  .cards td::before { content: attr(data-head); }
}
figure { margin: 1rem 0; max-width: 42rem; } svg { width: 100%; height: auto; }
"""


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
        text = f"jaxvae and torchvae differ: {good} agree; the first that fails is {_summary(failed[0])}."
    else:
        nearest = max(report.findings, key=lambda finding: finding.size / finding.tolerance if finding.tolerance else 0)
        text = f"jaxvae and torchvae agree: {good}, the nearest to its tolerance {_summary(nearest)}."
    return text if report.diagnosis is None else f"{text} {_cause(report.diagnosis)}"


def to_markdown(report: Report) -> str:
    """Format the findings as a Markdown table, one row for each."""
    return _table(_COLUMNS, [_cells(finding) for finding in report.findings])


def to_brief(report: Report) -> str:
    """Format the findings as a Markdown table, one row for each level: its worst difference and tolerance by dtype."""
    return _table(*brief(_levels(report)))


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


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table of any texts, escaped."""
    head, *body = ([_markdown(cell) for cell in row] for row in (columns, *rows))
    return markdown_table(head, body, numbers=False) + "\n"


def to_json(report: Report) -> dict[str, Any]:
    """Convert a report to plain JSON values.

    Args:
        report: The report.

    Returns:
        A dict for `json.dumps(.., allow_nan=False)`. Floats that are not finite are the strings `NaN`, `Infinity` and
        `-Infinity`, which `float` reads; a missing value is null.
    """
    return plain(
        {
            "version": VERSION,
            "passed": report.passed,
            "verdict": verdict(report),
            "findings": [{**finding._asdict(), "passed": finding.passed} for finding in report.findings],
            "trajectories": [trajectory._asdict() for trajectory in report.trajectories],
            "diagnosis": report.diagnosis and report.diagnosis._asdict(),
            "about": report.about,
        }
    )


def to_junit(report: Report) -> bytes:
    """Format the findings as JUnit XML, UTF-8, with a test case for each level and dtype."""
    failed = sum(not finding.passed for finding in report.findings)
    counts = {"tests": str(len(report.findings)), "failures": str(failed), "errors": "0", "skipped": "0"}
    root = ElementTree.Element("testsuites", counts)
    suite = ElementTree.SubElement(root, "testsuite", {"name": "parity", **counts})
    for finding in report.findings:
        about = {"classname": f"parity.{finding.dtype}", "name": _legal(finding.level)}
        case = ElementTree.SubElement(suite, "testcase", about)
        if not finding.passed:
            failure = ElementTree.SubElement(
                case, "failure", {"message": _legal(_summary(finding)), "type": "difference"}
            )
            failure.text = _legal(finding.reason)
    ElementTree.SubElement(suite, "system-out").text = _legal(verdict(report))
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)


def to_html(report: Report) -> str:
    """Format the report as one HTML page that loads nothing from the network."""
    passed = bool(report.findings) and report.passed
    title = "jaxvae and torchvae " + ("agree" if passed else "differ" if report.findings else "were not compared")
    head = "".join(f'<th scope="col">{column}</th>' for column in _COLUMNS)
    figures = "".join(
        f"<figure>{plot.to_svg(run, f'run{i}')}<figcaption>{_html(plot.caption(run))}</figcaption></figure>\n"
        for i, run in enumerate(report.trajectories)
    )
    about = "".join(f'<tr><th scope="row">{_html(k)}</th><td>{_html(v)}</td></tr>' for k, v in _flat(report.about))
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
{neighbours.GENERATOR}
<title>{title}</title>
<style>{_STYLE}</style>
</head>
<body>
<main>
<h1 class="{"pass" if passed else "fail"}">{title}</h1>
<p>{_html(verdict(report))}</p>
{neighbours.PLACE}
<h2>Levels</h2>
<div class="wide" role="region" aria-label="Levels" tabindex="0">
<table class="cards"><thead><tr>{head}</tr></thead>
<tbody>
{"".join(_row(finding) for finding in report.findings)}</tbody></table>
</div>
{"<h2>Runs from the same seed</h2>" if figures else ""}
{figures}
{"" if report.diagnosis is None else f"<h2>First difference</h2><p>{_html(_cause(report.diagnosis))}</p>"}
<h2>About this comparison</h2>
<div class="wide" role="region" aria-label="About" tabindex="0">
<table class="cards"><tbody>{about}</tbody></table>
</div>
</main>
</body>
</html>
"""


def _summary(finding: Finding) -> str:
    there = f" in {finding.where}" if finding.where else ""
    return (
        f"{finding.level} ({finding.dtype}), {number(finding.size)} {finding.unit}{there}, "
        f"tolerance {number(finding.tolerance)}"
    )


def _cause(diagnosis: Diagnosis) -> str:
    tried = "no known fault reproduces it" if diagnosis.complete else "no fault that was tried in time reproduces it"
    known = f"the likely cause: {diagnosis.cause}" if diagnosis.cause else tried
    backend = f", where {diagnosis.backend} departs from the plain formula" if diagnosis.backend else ""
    return f"They first differ at {diagnosis.where} ({diagnosis.difference}){backend}; {known.removesuffix('.')}."


def _cells(finding: Finding) -> tuple[str, ...]:
    size = f"{number(finding.size)} {finding.unit}"
    return (
        *(finding.level, finding.dtype, size, finding.where),
        *(number(finding.tolerance), "pass" if finding.passed else "FAIL"),
    )


def _row(finding: Finding) -> str:
    level, *cells, passed = map(_html, _cells(finding))
    cells[-1] += f"<small>{_html(finding.reason)}</small>"
    inner = "".join(
        f'<td data-head="{head}"><div>{cell}</div></td>' for head, cell in zip(_COLUMNS[1:], cells, strict=False)
    )
    last = f'<td data-head="{_COLUMNS[-1]}" class="{passed.lower()}">{passed}</td>'
    return f'<tr><th scope="row">{level}</th>{inner}{last}</tr>\n'


def _levels(report: Report) -> tuple[Level, ...]:
    return tuple(
        Level(f.level, cast(Stored, f.dtype), float(f.size), float(f.tolerance), f.unit, f.passed)
        for f in report.findings
    )


def _flat(value: object, name: str = "") -> Iterator[tuple[str, str]]:
    """The leaves of nested mappings, each with its dotted path."""
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _flat(inner, f"{name}.{key}" if name else str(key))
    else:
        yield name, value if isinstance(value, str) else json.dumps(plain(value))


def plain(value: Any) -> Any:
    """Convert a value to plain JSON values; floats that are not finite become strings."""
    match value:
        case np.ndarray() | np.generic():
            return plain(value.tolist())
        case float() if not np.isfinite(value):
            return "NaN" if np.isnan(value) else "Infinity" if value > 0 else "-Infinity"
        case Mapping():
            return {str(key): plain(inner) for key, inner in value.items()}
        case list() | tuple():
            return [plain(inner) for inner in value]
    return value


def _legal(text: str) -> str:
    return _ILLEGAL.sub("\N{REPLACEMENT CHARACTER}", text)


def _html(text: str) -> str:
    return html.escape(_legal(text))


def _markdown(text: str) -> str:
    return re.sub(r"([\\|<>&*`])", r"\\\1", " ".join(text.split()))
