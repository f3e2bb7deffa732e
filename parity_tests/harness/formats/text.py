"""A report as Markdown, from its JSON values."""

from collections.abc import Iterator
from typing import Any

from jaxvae.shared.runs.parity_record import number
from jaxvae.shared.text import markdown_table
from parity_tests.harness.formats.words import markdown

Json = dict[str, Any]

DISTANCES = "Distances from each framework's own float64"
DISTANCE_COLUMNS = ("tensor or place", "JAX", "PyTorch", "what is computed otherwise")
COLUMNS = ("level", "dtype", "worst difference", "where", "tolerance", "verdict")
MARKS = {
    "agrees": ("✓", "agrees"),
    "differs": ("✗", "differs"),
    "follows": ("→", "differs as what it is given does"),
    "unmeasured": ("·", "not compared by itself"),
}
"""How a status of the tree is marked, and in words."""
LISTS = {
    "drawn": "Drawn for the comparison, since they were constant",
    "unexercised": "Not exercised",
    "left_out": "Not compared, since torch gives no finite number there",
    "not_compared": "Not compared",
}


def to_markdown(document: Json) -> str:
    """Format a report as Markdown."""
    parts = [f"# {title(document)}", markdown(document["verdict"])]
    if document["causes"]:
        items = [f"{i}. {markdown(cause['sentence'])}" for i, cause in enumerate(document["causes"], 1)]
        parts += ["## Causes", "\n".join(items)]
    if document["tree"]:
        parts += [f"## {heading(document)}", "\n".join(_branch(document["tree"], reasons(document), 0))]
    if listed := reasons(document):
        parts.append("\n".join(f"- Reason {i}: {markdown(reason)}." for reason, i in listed.items()))
    parts += ["## Levels", findings_table(document["findings"]).rstrip()]
    if document["distances"]:
        parts += [f"## {DISTANCES}", table(DISTANCE_COLUMNS, map(distance_cells, document["distances"])).rstrip()]
    parts += [f"{text}: {', '.join(map(markdown, document[name]))}." for name, text in LISTS.items() if document[name]]
    return "\n\n".join(parts) + "\n"


def title(document: Json) -> str:
    """Say what was compared, and whether it agrees."""
    end = "agree" if document["passed"] else "differ" if document["findings"] else "were not compared"
    return f"{document['subject']} {end}"


def heading(document: Json) -> str:
    """The heading of the tree."""
    return "Quantities" if document["compared"] == "runs" else "Modules"


def distance_cells(distance: Json) -> tuple[str, ...]:
    """The cells of a row of the distances from float64."""
    numbers = (f"{float(distance[name]):.1e}" for name in ("in_jax", "in_torch"))
    return (f"{distance['level']}: {distance['name']}", *numbers, distance["note"])


def findings_table(findings: list[Json]) -> str:
    """Format findings as a Markdown table, one row for each."""
    return table(COLUMNS, [cells(finding) for finding in findings])


def table(columns: Any, rows: Any) -> str:
    """Format a Markdown table of any texts, escaped."""
    head, *body = ([markdown(cell) for cell in row] for row in (columns, *rows))
    return markdown_table(head, body, numbers=False) + "\n"


def cells(finding: Json) -> tuple[str, ...]:
    """The row of a finding."""
    size, tolerance = (number(float(finding[name])) for name in ("size", "tolerance"))
    return (
        *(finding["level"], finding["dtype"], f"{size} {finding['unit']}", finding["where"]),
        *(tolerance, "pass" if finding["passed"] else "FAIL"),
    )


def reasons(document: Json) -> dict[str, int]:
    """Number the reasons of the tolerances in the tree."""
    return {reason: i for i, reason in enumerate(dict.fromkeys(_reasons(document["tree"])), 1)}


def _reasons(node: Json | None) -> Iterator[str]:
    if node:
        yield from (figure["reason"] for figure in node["figures"])
        for child in node["children"]:
            yield from _reasons(child)


def in_words(figure: Json) -> str:
    """A figure of the tree, without its reason."""
    size, tolerance = (number(float(figure[name])) for name in ("size", "tolerance"))
    parts = [figure["direction"], figure["of"], figure["dtype"]]
    follows = ", and what it is given differs already" if figure["follows"] and not figure["passed"] else ""
    return f"{', '.join(filter(None, parts))}: {size} {figure['unit']}, tolerance {tolerance}{follows}"


def names(node: Json) -> str:
    """A module's class, and its path in JAX where it has another name there."""
    named = node["torch"] is not None and (node["jax"] or "").replace("/", ".") not in ("", node["torch"])
    elsewhere = f"{node['jax']} in JAX" if named else ""
    return ", ".join(filter(None, (node["class"], elsewhere)))


def _branch(node: Json, numbered: dict[str, int], depth: int) -> Iterator[str]:
    mark, word = MARKS[node["status"]]
    more = f" ({markdown(names(node))})" if names(node) else ""
    first = ", first" if node["first"] and not any(child["first"] for child in node["children"]) else ""
    yield f"{'  ' * depth}- {mark} **{markdown(node['name'])}**{more}: {word}{first}"
    for figure in node["figures"]:
        sign = "✓" if figure["passed"] else "✗"
        reason = f" (reason {numbered[figure['reason']]})"
        yield f"{'  ' * (depth + 1)}- {sign} {markdown(in_words(figure))}{reason}"
    for child in node["children"]:
        yield from _branch(child, numbered, depth + 1)
