"""A self-contained HTML page: its frame and its parts. All given text is printable and escaped."""

import base64
import hashlib
import html
import importlib.resources
import json
import re
from collections.abc import Mapping, Sequence
from string import Template
from typing import Any, NamedTuple

import numpy as np

from jaxvae.shared.report import neighbours
from jaxvae.shared.report.explorer import png
from jaxvae.shared.text import LONGEST, printable


class Article(NamedTuple):
    """The part of the page about one run."""

    name: str
    lead: str
    """HTML."""
    sections: dict[str, str]
    """HTML by heading; empty for what a run doesn't have."""


def page(
    title: str,
    heading: str,
    lead: str,
    articles: Sequence[Article],
    data: Sequence[Mapping[str, Any]],
    overview: str = "",
) -> bytes:
    """Assemble the page.

    Args:
        title: The title of the window.
        heading: The page's first heading.
        lead: The sentence below it.
        articles: The runs.
        data: The data of each run's explorer, as JSON values.
        overview: What compares the runs, HTML.

    Returns:
        The content of the HTML file.
    """
    # Those that any run has, so that the sections of several stand side by side.
    headings = [name for name in articles[0].sections if any(article.sections[name] for article in articles)]
    folder = importlib.resources.files("jaxvae.shared.report") / "static"
    frame, style, script = (folder.joinpath(name).read_text("utf-8") for name in _FILES)
    text = Template(frame).substitute(
        title=_text(title),
        heading=_text(heading),
        lead=_text(lead),
        style=style,
        script=script,
        digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),  # the only script that may run
        generator=neighbours.GENERATOR,
        beside=neighbours.PLACE,
        overview=_overview(overview, articles),
        sections=1 + len(headings),
        articles="".join(_article(i, article, headings) for i, article in enumerate(articles)),
        # A script element has no entities, and `</script>` or `<!--` would end or change it.
        data=json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c"),
    )
    return text.encode()


def paragraph(text: str, kind: str = "") -> str:
    """Format a paragraph of text, of a style."""
    return f"<p{_class(kind)}>{_text(text)}</p>"


def command(text: str) -> str:
    """Format a command line."""
    return f"<pre><code>{_text(text, _COMMAND)}</code></pre>"


def facts(pairs: Mapping[str, str]) -> str:
    """Format terms and their values as a definition list."""
    inner = "".join(f"<dt>{_text(k)}</dt><dd>{_text(v)}</dd>" for k, v in pairs.items())
    return f'<dl class="facts">{inner}</dl>'


def figures(rows: Sequence[tuple[str, str, str]]) -> str:
    """Format a few results in large type: name, value, unit."""
    inner = "".join(
        f"<div><dt>{_text(name)}</dt><dd>{_text(value)}<small>{_text(unit)}</small></dd></div>"
        for name, value, unit in rows
    )
    return f'<dl class="figures">{inner}</dl>'


def table(head: Sequence[str], rows: Sequence[Sequence[str]], name: str, numbers: Sequence[int] = ()) -> str:
    """Format a table, which scrolls if it is too wide.

    Args:
        head: The column heads.
        rows: The rows' cells.
        name: The table's name, for screen readers.
        numbers: The columns to align to the right.

    Returns:
        HTML.
    """
    kinds = [_class("number" if i in numbers else "") for i in range(len(head))]
    top = "".join(f'<th scope="col"{kind}>{_text(cell)}</th>' for cell, kind in zip(head, kinds, strict=True))
    lines = []
    for first, *rest in rows:
        cells = "".join(f"<td{kind}>{_text(cell)}</td>" for cell, kind in zip(rest, kinds[1:], strict=True))
        lines.append(f'<tr><th scope="row">{_text(first)}</th>{cells}</tr>')
    body = f"<table><thead><tr>{top}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
    return f'<div class="wide" role="region" aria-label="{_text(name)}" tabindex="0">{body}</div>'


def picture(pixels: np.ndarray, alt: str, caption: str = "") -> str:
    """Format a picture `[height, width, channels]`, as wide as the page allows, with its alternative text."""
    below = f"<figcaption>{_text(caption)}</figcaption>" if caption else ""
    return f'<figure class="picture">{_image(pixels, alt)}{below}</figure>'


def strips(rows: Sequence[tuple[str, str, np.ndarray, str]]) -> str:
    """Format pictures below each other, each with a name, a value and an alternative text."""
    inner = "".join(
        f"<span>{_text(name)}<small>{_text(value)}</small></span>{_image(pixels, alt)}"
        for name, value, pixels, alt in rows
    )
    return f'<div class="strips">{inner}</div>'


def comparison(names: Sequence[str], rows: Sequence[Mapping[str, str]]) -> str:
    """Format a table that compares runs, which a narrow window shows as a card for each of its rows.

    Args:
        names: The runs' names, each a link to its part of the page.
        rows: The values of each run by their names. Each run is a row, or a column where these are fewer.

    Returns:
        HTML.
    """
    links = [f'<a href="#run-{i}">{_text(name)}</a>' for i, name in enumerate(names)]
    heads, cells = list(rows[0]), [list(row.values()) for row in rows]
    columns, lines = [(head, _text(head)) for head in heads], list(zip(links, cells, strict=True))
    if len(rows) < len(heads):
        columns = list(zip(names, links, strict=True))
        lines = [(_text(head), [row[head] for row in rows]) for head in heads]
    top = "".join(f'<th scope="col">{html}</th>' for _, html in columns)
    body = ""
    for head, values in lines:
        pairs = zip(columns, values, strict=True)
        inner = "".join(f'<td data-head="{_text(name)}">{_text(value)}</td>' for (name, _), value in pairs)
        body += f'<tr><th scope="row">{head}</th>{inner}</tr>'
    whole = f'<table class="cards"><thead><tr><th></th>{top}</tr></thead><tbody>{body}</tbody></table>'
    return f'<div class="wide" role="region" aria-label="What differs" tabindex="0">{whole}</div>'


def curves(
    charts: Mapping[str, str], names: Sequence[str], styles: Sequence[str] = (), title: str = "", key: str = ""
) -> str:
    """Format charts by name, with the names of their lines, or of the runs whose lines have a style, what else a line
    tells, and a heading."""
    kinds = styles or [f"line-{i}" for i in range(len(names))]
    keys = "".join(f'<span class="key {kind}">{_text(name)}</span>' for name, kind in zip(names, kinds, strict=True))
    keys += f"<span>{_text(key)}</span>" if key else ""
    above = f"<h3>{_text(title)}</h3>" if title else ""
    inner = "".join(
        f"<figure>{svg}<figcaption>{_text(name)}, nats per image</figcaption></figure>" for name, svg in charts.items()
    )
    return f'{above}<p class="soft keys">{keys}</p><div class="curves">{inner}</div>'


def disclosure(summary: str, inner: str) -> str:
    """Format HTML that is hidden until its summary is clicked."""
    return f"<details><summary>{_text(summary)}</summary>{inner}</details>"


def explorer(number: int) -> str:
    """Format the element that the explorer of run `number` of the page fills."""
    return f'<div data-explorer="{number}"><noscript>The explorer needs JavaScript.</noscript></div>'


_COMMAND = 20_000  # characters; paths take up to 4,096 each
_FILES = ("page.html", "style.css", "explorer.js")


def _overview(inner: str, articles: Sequence[Article]) -> str:
    """What compares the runs, below links to each of them; nothing for a single run."""
    if not inner:
        return ""
    links = "".join(f'<a href="#run-{i}">{_text(article.name)}</a>' for i, article in enumerate(articles))
    jump = f'<nav class="jump" aria-label="Runs">{links}</nav>'
    return f'<section class="overview">{jump}<h2>What differs</h2>{inner}</section>'


def _article(number: int, article: Article, headings: Sequence[str]) -> str:
    sections, links = "", ""
    for row, heading in enumerate(headings, 2):
        if inner := article.sections[heading]:
            kind = re.sub("[^a-z]+", "-", heading.lower())
            place = f'id="run-{number}-{kind}" class="{kind}" style="--row: {row}"'
            sections += f"<section {place}>\n<h3>{_text(heading)}</h3>\n{inner}\n</section>\n"
            links += f'<a href="#run-{number}-{kind}">{_text(heading)}</a>'
    jump = f'<nav class="jump" aria-label="Sections">{links}</nav>'
    head = f'<header>\n<h2 id="run-{number}">{_text(article.name)}</h2>\n{article.lead}\n{jump}\n</header>\n'
    return f'<article class="run" aria-labelledby="run-{number}">\n{head}{sections}</article>\n'


def _image(pixels: np.ndarray, alt: str) -> str:
    height, width = pixels.shape[:2]
    return f'<img class="pixels" width="{width}" height="{height}" alt="{_text(alt)}" src="{png(pixels)}">'


def _text(text: str, longest: int = LONGEST) -> str:
    return html.escape(printable(text, longest))


def _class(kind: str) -> str:
    return f' class="{kind}"' if kind else ""
