"""Learning curves as SVG, in the colours of the page, the same bytes each time."""

import html
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxvae.shared.runs.metrics_parts import SPLITS

_WIDTH, _HEIGHT = 340, 200
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 16, 10, 36
_TICKS, _PAD, _FLAT = 5, 0.06, 1e-6  # ticks; padding as a share of the range, and of a constant curve's value
_DRAWN = 1e200  # larger numbers are drawn here
_MOST = 300  # points of a line; of more, the ends and the extremes of neighbours are drawn
_FEW = 40  # points up to which each has its dot
_EARLY, _LITTLE, _LEFT_SHARE = 0.25, 0.1, 0.05  # shares: first steps, too little of an axis, of it what is then left


class Line(NamedTuple):
    """A curve `[n]` over `[n]`, at least one point."""

    name: str
    x: np.ndarray
    y: np.ndarray
    style: str = ""
    """Its classes in the page's style sheet; by default those of its number."""


def learning_curves(records: Sequence[dict[str, Any]], terms: Sequence[str]) -> dict[str, str]:
    """Draw a chart of each term of the loss.

    Args:
        records: A run's lines of metrics.
        terms: The names of the terms, nats per image.

    Returns:
        An `svg` element for each term by its name: training, test and validation images by step.
    """
    splits = {split: [record for record in records if record["split"] == split] for split in SPLITS}
    charts = {}
    for term in terms:
        lines = [
            Line(split, *np.array([(record["step"], record[term]) for record in some]).T)
            for split, some in splits.items()
            if some
        ]
        if lines:
            charts[term] = chart(lines, term, "nats per image")
    return charts


def curves_of_runs(
    records: Sequence[Sequence[dict[str, Any]]], names: Sequence[str], styles: Sequence[str], terms: Sequence[str]
) -> dict[str, str]:
    """Draw a chart of each term of the losses of several runs.

    Args:
        records: Each run's lines of metrics.
        names: What to call each run.
        styles: The classes of each run's curves in the page's style sheet.
        terms: The names of the terms, nats per image.

    Returns:
        An `svg` element for each term by its name: training, test and validation images of all runs by step.
    """
    charts = {}
    for term in terms:
        lines = [
            Line(f"{name}, {split}", *np.array(points).T, style=f"{style} {split}")
            for split in SPLITS
            for own, name, style in zip(records, names, styles, strict=True)
            if (points := [(record["step"], record[term]) for record in own if record["split"] == split])
        ]
        if lines:
            charts[term] = chart(lines, term, "nats per image")
    return charts


def chart(lines: Sequence[Line], what: str, unit: str) -> str:
    """Draw an `svg` element of a quantity by step.

    If the steps after the first quarter would have less than a tenth of the axis, it ends below the first steps, and
    says so.

    Args:
        lines: The curves; curve i has the class `line-i` unless it has its own.
        what: The name of the quantity.
        unit: Its unit.
    """
    lines = [line._replace(y=line.y.clip(-_DRAWN, _DRAWN)) for line in lines]
    x, y = (np.concatenate([line[i] for line in lines]) for i in (1, 2))
    left, right = 0.0, max(float(x.max()), 1.0)
    low, high = float(y.min()), float(y.max())
    later = max(float(line.y[line.x >= _EARLY * line.x[-1]].max()) for line in lines)
    begun, cut = _label(float(f"{high:.3g}")), later - low < _LITTLE * (high - low)
    high = max(later, low + _LEFT_SHARE * (high - low)) if cut else high
    pad = max(_PAD * (high - low), _FLAT * abs(high)) or 1.0
    low, high = low - pad, high + pad

    def place(at: float, value: float) -> tuple[str, str]:
        wide, tall = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
        return (
            f"{_LEFT + (at - left) / (right - left) * wide:.1f}",
            f"{_TOP + (high - value) / (high - low) * tall:.1f}",
        )

    parts = []
    for value in _ticks(low, high):
        _, at = place(left, value)
        parts.append(f'<path class="grid" d="M{_LEFT} {at}H{_WIDTH - _RIGHT}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{at}" dy=".35em" text-anchor="end">{_label(value)}</text>')
    for value in _ticks(left, right):
        at, _ = place(value, low)
        parts.append(f'<text x="{at}" y="{_HEIGHT - _BOTTOM + 15}" text-anchor="middle">{_label(value)}</text>')
    parts.append(f'<text x="{_WIDTH - _RIGHT}" y="{_HEIGHT - 4}" text-anchor="end">step</text>')
    ends = []
    for i, line in enumerate(lines):
        style = line.style or f"line-{i}"
        pieces = [[place(*point) for point in piece] for piece in _below(_thinned(line), high)]
        path = "".join("M" + "L".join(" ".join(point) for point in piece) for piece in pieces)
        parts.append(f'<path class="line {style}" d="{path}"/>')
        if len(line.x) <= _FEW:
            points = [place(*point) for point in zip(line.x, line.y, strict=True) if point[1] <= high]
            parts += [f'<circle class="{style}" cx="{at}" cy="{value}" r="2.2"/>' for at, value in points]
        ends.append(f"{line.name} from {line.y[0]:.4g} at step {line.x[0]:.0f} to {line.y[-1]:.4g} at {line.x[-1]:.0f}")
    if cut:
        parts.append(
            f'<text x="{_WIDTH - _RIGHT}" y="{_TOP}" text-anchor="end">not shown: first steps, up to {begun}</text>'
        )
    label = html.escape(f"{what}, {unit}: {'; '.join(ends)}")
    return f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{label}">{"".join(parts)}</svg>'


def _thinned(line: Line) -> list[tuple[float, float]]:
    n = len(line.x)
    kept = set(range(n)) if n <= _MOST else {0, n - 1}
    for part in np.array_split(np.arange(n), _MOST // 2 - 1) if n > _MOST else ():
        kept |= {int(part[line.y[part].argmin()]), int(part[line.y[part].argmax()])}
    return [(float(line.x[i]), float(line.y[i])) for i in sorted(kept)]


def _below(points: list[tuple[float, float]], top: float) -> list[list[tuple[float, float]]]:
    """The pieces of a line that are not above `top`, up to where it crosses it."""
    pieces: list[list[tuple[float, float]]] = [[]]
    for i, (x, y) in enumerate(points):
        if i and (y > top) != (points[i - 1][1] > top):
            before, value = points[i - 1]
            crossing = (before + (x - before) * (top - value) / (y - value), top)
            pieces = [*pieces, [crossing]] if y <= top else [*pieces[:-1], [*pieces[-1], crossing]]
        if y <= top:
            pieces[-1].append((x, y))
    return [piece for piece in pieces if piece]


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers from `low` to `high`, about five."""
    span = high - low
    power = 10.0 ** math.floor(math.log10(span / _TICKS))
    step = next(f * power for f in (1, 2, 5, 10) if f * power * _TICKS >= span)
    return [n * step for n in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _label(value: float) -> str:
    if abs(value) >= 1e4:
        return f"{value / 1000:.6g}k"
    return f"{0.0 if abs(value) < 1e-12 else value:.6g}"
