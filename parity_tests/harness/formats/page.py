"""A report as one self-contained HTML page, from its JSON values."""

import html
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from jaxvae.shared.report import neighbours
from parity_tests.harness import plot
from parity_tests.harness.findings import Trajectory
from parity_tests.harness.formats import text
from parity_tests.harness.formats.document import plain, shown

Json = dict[str, Any]

_ILLEGAL = re.compile(
    "[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]"
)  # characters that XML 1.0 does not allow
_STYLE = """
:root { color-scheme: light dark; --line: #8886; --pass: #1a7f37; --fail: #cf222e; --after: #9a6700; }
@media (prefers-color-scheme: dark) { :root { --pass: #4ac26b; --fail: #ff7b72; --after: #d9a020; } }
body { margin: 0 auto; max-width: 60rem; padding: 1rem; font: 1rem/1.5 system-ui, sans-serif; }
h1 { line-height: 1.2; }
.pass, .agrees { color: var(--pass); } .fail, .differs { color: var(--fail); font-weight: bold; }
.follows { color: var(--after); } .unmeasured { opacity: .75; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
thead th { white-space: nowrap; } td { overflow-wrap: anywhere; min-width: 4rem; } small { display: block; }
p, li, dd, summary { overflow-wrap: anywhere; }
dl { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: .1rem .75rem; margin: .25rem 0 1rem; }
dd { margin: 0; } dt { opacity: .75; }
.tree, .tree ul { list-style: none; margin: 0; padding-left: 1.1rem; } .tree { padding-left: 0; }
.tree ul { border-left: 1px solid var(--line); } summary { cursor: pointer; padding: .1rem 0; }
.leaf { padding: .1rem 0 .1rem 1rem; } .kind { opacity: .75; font-weight: normal; color: CanvasText; }
.figure { font-size: .875rem; font-variant-numeric: tabular-nums; }
@media (max-width: 48rem) {
  .cards thead { display: none; } .cards, .cards tbody, .cards tr, .cards th, .cards td { display: block; }
  .cards tr { border-bottom: 1px solid var(--line); padding: .5rem 0; }
  .cards :is(th, td) { border: 0; padding: .1rem 0; overflow-wrap: anywhere; }
  .cards td[data-head] { display: grid; grid-template-columns: 7rem minmax(0, 1fr); gap: .75rem; }
  .cards td::before { content: attr(data-head); }
  .tree ul { padding-left: .7rem; }
}
figure { margin: 1rem 0; max-width: 42rem; } svg { width: 100%; height: auto; } svg text { fill: currentColor; }
"""


def to_html(document: Json) -> str:
    """Format a report as one HTML page that loads nothing from the network."""
    title = escaped(text.title(document))
    head = "".join(f'<th scope="col">{column}</th>' for column in text.COLUMNS)
    unit, first = ("nats per image", 1) if document["compared"] == "presets" else ("", 0)
    figures = "".join(
        f"<figure>{plot.to_svg(run, f'run{i}', unit, first)}<figcaption>{escaped(plot.caption(run, unit))}</figcaption>"
        "</figure>\n"
        for i, run in enumerate(map(_trajectory, document["trajectories"]))
    )
    about = "".join(
        f'<tr><th scope="row">{escaped(k)}</th><td>{escaped(v)}</td></tr>' for k, v in flat(document["about"])
    )
    lists = "".join(
        f"<p>{words}: {escaped(', '.join(document[name]))}.</p>\n"
        for name, words in text.LISTS.items()
        if document[name]
    )
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
<h1 class="{"pass" if document["passed"] else "fail"}">{title}</h1>
<p>{escaped(document["verdict"])}</p>
{neighbours.PLACE}
{_causes(document["causes"])}{_modules(document)}<h2>Levels</h2>
<div class="wide" role="region" aria-label="Levels" tabindex="0">
<table class="cards"><thead><tr>{head}</tr></thead>
<tbody>
{"".join(map(_row, document["findings"]))}</tbody></table>
</div>
{_distances(document["distances"])}{lists}{"<h2>Losses of the two runs</h2>" if figures else ""}
{figures}
<h2>About this comparison</h2>
<div class="wide" role="region" aria-label="About" tabindex="0">
<table class="cards"><tbody>{about}</tbody></table>
</div>
</main>
</body>
</html>
"""


def _causes(causes: list[Json]) -> str:
    if not causes:
        return ""
    return "<h2>Causes</h2>\n<ol>\n" + "".join(_cause(i, cause) for i, cause in enumerate(causes, 1)) + "</ol>\n"


def _cause(number: int, cause: Json) -> str:
    layer, rows = cause["layer"], {"Difference": cause["difference"], "Cause": cause["cause"] or "none is known"}
    rows |= {"To repair": cause["backend"]}
    for framework, side in (("JAX", layer["jax"]), ("PyTorch", layer["torch"])):
        if side:
            file = f"{side['file']}:{side['line']}" if side["file"] else None
            rows[framework] = ", ".join(filter(None, (side["name"], side["class"], file))) or None
    rows |= {"Expected": cause["expected"], "Found": cause["found"], "Remedy": cause["remedy"]}
    listed = "".join(f"<dt>{k}</dt><dd>{escaped(shown(v))}</dd>" for k, v in rows.items() if v is not None)
    return f'<li id="cause{number}"><strong>{escaped(cause["where"])}</strong><dl>{listed}</dl></li>\n'


def _row(finding: Json) -> str:
    level, *cells, passed = map(escaped, text.cells(finding))
    cells[-1] += f"<small>{escaped(finding['reason'])}</small>"
    inner = "".join(
        f'<td data-head="{head}"><div>{cell}</div></td>' for head, cell in zip(text.COLUMNS[1:], cells, strict=False)
    )
    last = f'<td data-head="{text.COLUMNS[-1]}" class="{passed.lower()}">{passed}</td>'
    return f'<tr><th scope="row">{level}</th>{inner}{last}</tr>\n'


def _distances(distances: list[Json]) -> str:
    """How far each framework is from its own float64, where they are compared in fewer bits."""
    if not distances:
        return ""
    head = "".join(f'<th scope="col">{column}</th>' for column in text.DISTANCE_COLUMNS)
    rows = []
    for name, *cells in (map(escaped, text.distance_cells(one)) for one in distances):
        columns = zip(text.DISTANCE_COLUMNS[1:], cells, strict=True)
        inner = "".join(f'<td data-head="{head}"><div>{cell}</div></td>' for head, cell in columns if cell)
        rows.append(f'<tr><th scope="row">{name}</th>{inner}</tr>\n')
    return f"""<h2>{text.DISTANCES}</h2>
<div class="wide" role="region" aria-label="Distances" tabindex="0">
<table class="cards"><thead><tr>{head}</tr></thead>
<tbody>
{"".join(rows)}</tbody></table>
</div>
"""


def _modules(document: Json) -> str:
    """The tree, whose branch with the first difference is open, and the reasons of its tolerances."""
    if not document["tree"]:
        return ""
    numbered = text.reasons(document)
    items = "".join(f'<li id="reason{i}">{escaped(reason)}.</li>' for reason, i in numbered.items())
    listed = f"<p>Why these tolerances:</p>\n<ol>{items}</ol>\n" if items else ""
    tree = _branch(document["tree"], document, numbered, root=True)
    return f'<h2>{text.heading(document)}</h2>\n<ul class="tree">{tree}</ul>\n{listed}'


def _branch(node: Json, document: Json, numbered: dict[str, int], root: bool = False) -> str:
    mark, word = text.MARKS[node["status"]]
    names = text.names(node)
    kind = f' <span class="kind">{escaped(names)}</span>' if names else ""
    first = ": the first difference" if node["first"] and not any(child["first"] for child in node["children"]) else ""
    line = f'<span class="{node["status"]}">{mark} {escaped(node["name"])}</span>{kind} '
    line += f'<span class="{node["status"]}">{word}{first}</span>'
    inner = "".join(f"<li>{_figure(figure, numbered)}</li>" for figure in node["figures"])
    inner += "".join(
        f'<li class="figure"><a href="#cause{i + 1}">Cause {i + 1}</a>: {_brief(document["causes"][i])}</li>'
        for i in node["causes"]
    )
    inner += "".join(_branch(child, document, numbered) for child in node["children"])
    if not inner:
        return f'<li class="leaf">{line}</li>\n'
    is_open = " open" if node["first"] or root else ""
    return f"<li><details{is_open}><summary>{line}</summary><ul>{inner}</ul></details></li>\n"


def _brief(cause: Json) -> str:
    return escaped(cause["cause"] or "no known fault reproduces these numbers")


def _figure(figure: Json, numbered: dict[str, int]) -> str:
    status = "agrees" if figure["passed"] else "follows" if figure["follows"] else "differs"
    i = numbered[figure["reason"]]
    return (
        f'<span class="figure"><span class="{status}">{text.MARKS[status][0]}</span> {escaped(text.in_words(figure))} '
        f'(<a href="#reason{i}">reason {i}</a>)</span>'
    )


def _trajectory(run: Json) -> Trajectory:
    losses = {name: np.array(loss, float) for name, loss in run["losses"].items()}
    floor = None if run["floor"] is None else np.array(run["floor"], float)
    return Trajectory(run["dtype"], losses, np.array(run["gaps"], float), floor, run["name"])


def flat(value: object, name: str = "") -> Iterator[tuple[str, str]]:
    """Yield the leaves of nested mappings, each with its dotted path."""
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from flat(inner, f"{name}.{key}" if name else str(key))
    else:
        yield name, value if isinstance(value, str) else json.dumps(plain(value))


def legal(text: str) -> str:
    """Replace the characters that XML does not allow."""
    return _ILLEGAL.sub("\N{REPLACEMENT CHARACTER}", text)


def escaped(text: str) -> str:
    """Escape a text for HTML."""
    return html.escape(legal(text))
