"""The figure: the training loops beside their limit, and how their cost grows."""

import io
from pathlib import Path

import numpy as np

from benchmarks import sections
from benchmarks.timing import Timed
from jaxvae.shared.errors import InputError
from jaxvae.shared.runs import write_atomically

_COLOURS = {sections.MEMORY: "#888888", sections.TORCHVAE: "#d9730d", sections.JAXVAE: "#3b82c4"}
_MARKS = {sections.MEMORY: "s", sections.TORCHVAE: "^", sections.JAXVAE: "o"}
_BARS = ("#3b82c4", "#9dc3e6", "#d0d0d0", "#888888")  # one for each batch
_AXES = {"hidden": "hidden units", "batch": "batch", "images": "images in an epoch", "samples": "samples $k$"}
_KINDS = (".png", ".pdf", ".svg")
_WIDTH = 3.4  # inches: a column of a paper's two


def require(path: Path) -> None:
    """Raises InputError unless a figure can be written there."""
    if path.suffix.lower() not in _KINDS:
        raise InputError(f"The figure is written as one of {', '.join(_KINDS)}, found --out {path}.")


def save(times: list[Timed], path: Path) -> None:
    """Draws what there is of training and scaling. Raises InputError if it can't be written."""
    import matplotlib
    from matplotlib.figure import Figure

    training = [timed for timed in times if timed.section == "training"]
    curves = [timed for timed in times if timed.section == "scaling"]
    axes = list(dict.fromkeys(timed.where["axis"] for timed in curves))
    heights = [*([0.19 * len(training) + 0.7] if training else []), *[1.45] * ((len(axes) + 1) // 2)]
    with matplotlib.rc_context(
        {"font.size": 7, "axes.linewidth": 0.6, "axes.spines.top": False, "axes.spines.right": False}
    ):
        figure = Figure(figsize=(_WIDTH, sum(heights)), layout="constrained")
        grid = figure.add_gridspec(len(heights), 2, height_ratios=heights)
        if training:
            _bars(figure.add_subplot(grid[0, :]), training)
        for i, axis in enumerate(axes):
            row, column = divmod(i, 2)
            plot = figure.add_subplot(grid[row + bool(training), column])
            _curve(plot, axis, [timed for timed in curves if timed.where["axis"] == axis], legend=i == 0)
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
        spans = np.array([mine[name].span for name in there]).T
        gaps = np.abs(spans - rates)
        colour = _BARS[i % len(_BARS)]
        plot.barh(places, rates, height, color=colour, xerr=gaps, error_kw={"lw": 0.7}, label=f"batch {batch:,}")
        limit = max(mine[name].rate for name in limits if name in mine)
        plot.axvline(limit, color=colour, linestyle="--", linewidth=1)
        plot.annotate("limit", (limit, -0.6), fontsize=6, ha="right", va="bottom", rotation=90)
    plot.set_yticks(range(len(names)), names)
    plot.invert_yaxis()
    plot.set_xlabel("images per second in training")
    plot.xaxis.set_major_formatter(lambda x, _: f"{x:,.0f}")
    plot.legend(frameon=False, fontsize=6, loc="best")


def _curve(plot, axis: str, curves: list[Timed], legend: bool) -> None:
    for name in dict.fromkeys(timed.name for timed in curves):
        mine = [timed for timed in curves if timed.name == name]
        places, costs = [timed.where[axis] for timed in mine], np.array([1e6 / timed.rate for timed in mine])
        least, most = 1e6 / np.array([timed.span for timed in mine]).T[::-1]
        look = {"color": _COLOURS[name], "marker": _MARKS[name], "label": name, "markersize": 3}
        plot.errorbar(places, costs, [costs - least, most - costs], linewidth=1, elinewidth=0.6, **look)
    plot.set(xscale="log", yscale="log", xlabel=_AXES[axis], ylabel="µs per image")
    places = sorted({timed.where[axis] for timed in curves})
    plot.set_xticks(places[:: max(1, len(places) // 3)], minor=False)
    plot.xaxis.set_minor_locator(_none())
    for side in (plot.xaxis, plot.yaxis):
        side.set_major_formatter(lambda x, _: f"{x:g}" if x < 1e4 else f"{x / 1e3:g}k")
    if legend:
        plot.legend(frameon=False, fontsize=5.5)


def _none():
    from matplotlib.ticker import NullLocator

    return NullLocator()
