"""Plot of a trajectory: the losses above, their difference below."""

import html
import io
import re

import numpy as np

from parity_tests.harness.findings import Trajectory

_COLOURS = ("#3b82c4", "#d9730d")  # legible on white and on black, and to the colour-blind
_STYLES = ("solid", (0, (4, 3)))  # both runs stay visible where they coincide
_FLOOR = "#888888"
_DRAWN = (1e-30, 1e30)  # differences are clipped to these: the ticks of the axis would overflow
_FEW = 40  # up to this number of steps each has a dot: a line of one step would be invisible


def caption(trajectory: Trajectory, unit: str = "nats per image") -> str:
    """Describe the plot in words, for its caption and for screen readers."""
    gaps, steps = trajectory.gaps, len(trajectory.gaps)
    if not steps:
        return f"{trajectory.dtype}: no steps were taken."
    ends = ", ".join(f"{name} {loss[-1]:.6g}" for name, loss in trajectory.losses.items() if len(loss))
    finite = gaps[np.isfinite(gaps)]
    run = ", ".join(filter(None, (trajectory.name, trajectory.dtype)))
    sentences = [
        f"{run}, {steps:,} steps. Above, the loss of each{unit and f' in {unit}'}, at the end {ends}.",
        "Below, the difference of their terms, the worst as a share of itself"
        + (f", {finite.max():.1e} at most." if len(finite) else ", nowhere finite."),
    ]
    if trajectory.floor is not None:
        sentences.append("Dotted, the difference of either framework from itself when its weights move by one ulp.")
    if zeros := int((gaps == 0).sum()):
        sentences.append(f"{zeros:,} steps do not differ at all and are drawn on the line marked 0.")
    if missing := steps - len(finite):
        sentences.append(f"{missing:,} steps have no finite difference and are left out.")
    return " ".join(sentences)


def to_svg(trajectory: Trajectory, name: str, unit: str = "nats per image") -> str:
    """Draw a trajectory as an `svg` element of an HTML page, in the text colour of the page.

    Args:
        trajectory: The two runs.
        name: The prefix of all ids, unique on the page.
        unit: That of the losses; empty if it is not known.

    Returns:
        The element; empty if there are no steps.
    """
    import matplotlib
    from matplotlib.figure import Figure

    if not len(trajectory.gaps):
        return ""
    with matplotlib.rc_context(
        {
            "svg.fonttype": "none",  # text stays text
            "svg.hashsalt": "parity",  # the same plot is the same bytes
            "font.size": 8.5,
            "axes.spines.top": False,
            "axes.spines.right": False,
        }
    ):
        figure = Figure(figsize=(5.2, 4.2), layout="constrained")
        above, below = figure.subplots(2, sharex=True)
        _losses(above, trajectory, unit)
        _gaps(below, trajectory)
        buffer = io.StringIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    label = f"{trajectory.dtype}: the losses of both at each step, and their difference"
    return _inline(buffer.getvalue(), name, label)


def _losses(axes, trajectory: Trajectory, unit: str) -> None:
    styles = zip(_COLOURS, _STYLES, strict=True)
    for (name, loss), (colour, style) in zip(trajectory.losses.items(), styles, strict=False):
        _draw(axes, loss, label=name, color=colour, linestyle=style)
    axes.set_ylabel(", ".join(filter(None, ("loss", unit))))
    for text in axes.legend(frameon=False).get_texts():
        text.set_parse_math(False)


def _gaps(axes, trajectory: Trajectory) -> None:
    lines = [trajectory.gaps] if trajectory.floor is None else [trajectory.gaps, trajectory.floor]
    lines = [np.where(line == 0, 0, line.clip(*_DRAWN)) for line in lines]
    every = np.concatenate(lines)
    positive = every[np.isfinite(every) & (every > 0)]
    zero = positive.min() / 10 if len(positive) else 1e-17
    axes.set_yscale("log")
    axes.set_ylim(zero / 2, positive.max() * 3 if len(positive) else 1e-15)
    axes.yaxis.set_major_formatter(lambda y, _: f"{y:.0e}")
    for line, (label, colour, style) in zip(
        lines, [("difference", _COLOURS[0], "solid"), ("one ulp", _FLOOR, (0, (1, 1)))], strict=False
    ):
        _draw(axes, np.where(line == 0, zero, line), label=label, color=colour, linestyle=style)
    if (every == 0).any():
        axes.axhline(zero, color=_FLOOR, linewidth=0.5)
        axes.annotate("0", (1, zero), xycoords=("axes fraction", "data"), xytext=(3, -3), textcoords="offset points")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set(xlabel="step", ylabel="difference, share of the loss")
    axes.legend(frameon=False)


def _draw(axes, y: np.ndarray, **style) -> None:
    finite = np.where(np.isfinite(y), y, np.nan)
    axes.plot(1 + np.arange(len(y)), finite, linewidth=1.2, marker="." if len(y) <= _FEW else None, **style)


def _inline(svg: str, name: str, label: str) -> str:
    """The SVG without what only a separate file needs (prologue, namespaces, size), ids prefixed with `name`, and black
    replaced by the text colour of the page."""
    head, body = svg[svg.index("<svg") :].split(">", 1)
    head = re.sub(r'\s(xmlns[:\w]*|width|height|version)="[^"]*"', "", head)
    body = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", body).replace("#000000", "currentColor")
    return f'{head} role="img" aria-label="{html.escape(label)}">{body}'
