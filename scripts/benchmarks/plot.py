"""The figure of the benchmark: training loops with their limit, and how their cost grows."""

import io
import math
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from benchmarks import sections
from benchmarks.timing import Timed
from jaxvae.shared.errors import InputError
from jaxvae.shared.safe_io import write_atomically

_COLOURS = {sections.MEMORY: "#888888", sections.TORCHVAE: "#d9730d", sections.JAXVAE: "#3b82c4"}
_MARKS = {sections.MEMORY: "s", sections.TORCHVAE: "^", sections.JAXVAE: "o"}
_BARS = ("#3b82c4", "#9dc3e6", "#d0d0d0", "#888888")  # one for each batch
_AXES = {"hidden": "hidden units", "batch": "batch", "images": "images in an epoch", "samples": "samples $k$"}
_KINDS = (".png", ".pdf", ".svg")
_WIDTH = 3.4  # inches: a column of a paper's two


def require(path: Path) -> None:
    """Check the name of the file. Raises InputError for another kind than .png, .pdf or .svg."""
    if path.suffix.lower() not in _KINDS:
        raise InputError(f"The figure is written as one of {', '.join(_KINDS)}, found --out {path}.")


def save(times: list[Timed], path: Path) -> None:
    """Draw the times of training and scaling. Raises InputError if the file can't be written."""
    training = [timed for timed in times if timed.section == "training"]
    curves = [timed for timed in times if timed.section == "scaling"]
    axes = list(dict.fromkeys(timed.where["axis"] for timed in curves))
    rows = (len(axes) + 1) // 2
    heights = [0.17 * len({timed.name for timed in training}) + 0.6 if training else 0.0, 1.3 * rows]
    with matplotlib.rc_context(
        {"font.size": 7, "axes.linewidth": 0.6, "axes.spines.top": False, "axes.spines.right": False}
    ):
        figure = Figure(figsize=(_WIDTH, sum(heights)), layout="constrained")
        parts: Any = figure.subfigures(2, height_ratios=heights) if all(heights) else (figure, figure)
        if training:
            _bars(parts[0].add_subplot(), training)
        for i, axis in enumerate(axes):
            plot = parts[1].add_subplot(rows, 2, i + 1)
            _curve(plot, axis, [timed for timed in curves if timed.where["axis"] == axis])
            if i % 2 == 0:
                plot.set_ylabel("µs per image")
        if curves:
            plots = parts[1].axes
            parts[1].legend(*plots[0].get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False)
        buffer = io.BytesIO()
        figure.savefig(buffer, format=path.suffix[1:].lower(), dpi=300)
    try:
        write_atomically(path, buffer.getvalue())
    except OSError as error:
        raise InputError(f"The figure {path} can't be written ({error.strerror}); give another --out.") from None


def _bars(plot, training: list[Timed]) -> None:
    limits = (sections.LIMIT, sections.LIMIT_TORCH)
    batches = list(dict.fromkeys(timed.where["batch"] for timed in training))
    names = list(dict.fromkeys(timed.name for timed in training if timed.name not in limits))
    height = 0.8 / len(batches)
    for i, batch in enumerate(batches):
        mine = {timed.name: timed for timed in training if timed.where["batch"] == batch}
        there = [name for name in names if name in mine]
        places = [names.index(name) + (i - (len(batches) - 1) / 2) * height for name in there]
        rates = np.array([mine[name].rate for name in there])
        gaps = np.abs(np.array([mine[name].span for name in there]).T - rates)
        colour = _BARS[i % len(_BARS)]
        plot.barh(places, rates, height, color=colour, xerr=gaps, error_kw={"lw": 0.7}, label=f"batch {batch:,}")
        plot.axvline(
            mine[sections.LIMIT].rate, color=colour, linestyle="--", linewidth=1, label="the products alone, XLA"
        )
    plot.set_yticks(range(len(names)), names)
    plot.invert_yaxis()
    plot.set_xlim(left=0)
    plot.set_xlabel("images per second in training")
    plot.xaxis.set_major_locator(MaxNLocator(4))
    plot.xaxis.set_major_formatter(lambda x, _: f"{x:,.0f}")
    plot.figure.legend(loc="outside upper center", ncols=min(2, len(batches)), frameon=False)


def _curve(plot, axis: str, curves: list[Timed]) -> None:
    for name in dict.fromkeys(timed.name for timed in curves):
        mine = [timed for timed in curves if timed.name == name]
        places, costs = [timed.where[axis] for timed in mine], np.array([1e6 / timed.rate for timed in mine])
        least, most = 1e6 / np.array([timed.span for timed in mine]).T[::-1]
        look = {"color": _COLOURS[name], "marker": _MARKS[name], "label": name, "markersize": 3}
        plot.errorbar(places, costs, [costs - least, most - costs], linewidth=1, elinewidth=0.6, **look)
    plot.set(xscale="log", yscale="log", xlabel=_AXES[axis])
    places = sorted({timed.where[axis] for timed in curves})
    plot.set_xticks([*dict.fromkeys([places[0], places[len(places) // 2], places[-1]])])
    plot.set_yticks(_ticks([1e6 / timed.rate for timed in curves]))
    for each in (plot.xaxis, plot.yaxis):
        each.set_minor_locator(NullLocator())
        each.set_major_formatter(lambda x, _: f"{x:,g}" if x < 1e4 else f"{x / 1e3:,g}k")


def _ticks(costs: list[float]) -> list[float]:
    """A few round numbers in their range, by decades if that is wide."""
    low, high = min(costs) / 1.1, max(costs) * 1.1
    leading = (1,) if high > 100 * low else (1, 2, 5)
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)))
    ticks = [digit * 10.0**decade for decade in decades for digit in leading if low <= digit * 10.0**decade <= high]
    return ticks if len(ticks) > 1 else [tick for tick in MaxNLocator(3).tick_values(low, high) if low <= tick <= high]
