"""The curves command: the terms of runs' losses by step, in training and on the test images."""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxvae.shared import safe_io
from jaxvae.shared.backend import Backend
from jaxvae.shared.commands.common import RunPaths
from jaxvae.shared.errors import InputError
from jaxvae.shared.runs import metrics, run_folder
from jaxvae.shared.runs.find_runs import chosen_runs
from jaxvae.shared.text import LONGEST, printable, say

_KINDS = ("png", "pdf", "svg")
_WIDTH, _PANEL_HEIGHT, _LEGEND_LINE = 7.0, 2.1, 0.16  # inches; the width is that of a paper's two columns
_DPI, _FONT_SIZE = 300, 8  # dots per inch; points
_LETTER_WIDTH = 0.065  # inches, at that font size
_MAX_NAME = 90  # characters
_MAX_RUNS = 24  # more colours look alike
_MAX_DOTS = 20  # of a test curve
_NARROW = 20  # ratio of the largest to the least value
_TRAIN: dict[str, Any] = {"ls": "-", "lw": 0.8, "ms": 3, "alpha": 0.6}
_TEST: dict[str, Any] = {"ls": (0, (3, 1.5)), "lw": 0.8, "marker": "o", "ms": 3, "mfc": "white", "mew": 0.8}
# Distinct for the colour-blind too, and in grey (Okabe & Ito 2008).
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


@dataclass(frozen=True)
class Curves:
    """Plot the learning curves of runs: each term of the loss by step, in nats per image; a line for training, dashes
    with dots for the test images. Terms that not all of the runs have are left out.

    For example, two runs, on logarithmic axes:

        curves runs/jaxvae-1 runs/torchvae-1 --log --out curves.png"""

    run: RunPaths
    out: Path
    """The PNG, PDF or SVG to write."""
    log: bool = False
    """Use logarithmic axes, except for a term that reaches 0 or less."""


def run(backend: Backend, command: Curves) -> None:
    """Write the picture.

    Args:
        backend: Unused but for its name: curves need no framework.
        command: The parsed flags.

    Raises:
        InputError: If the request is invalid.
    """
    kind = command.out.suffix.lower().removeprefix(".")
    if kind not in _KINDS:
        raise InputError(f"Curves are written as PNG, PDF or SVG: {command.out} should end in .png, .pdf or .svg.")
    runs = [run_folder.read(path) for path in chosen_runs(backend.__name__, command.run, _why_not)]
    content = picture(runs, kind, command.log)
    try:
        safe_io.write_atomically(command.out, content)
    except OSError as error:
        raise InputError(f"{command.out} can't be written ({error.strerror}); give another --out.") from None
    say(f"learning curves of {len(runs)} run{'s' * (len(runs) > 1)} in {command.out}")


def picture(runs: Sequence[run_folder.Run], kind: str = "png", log: bool = False) -> bytes:
    """Draw the learning curves of runs, 7 inches wide: a panel for each term that all have, the loss first.

    Args:
        runs: The runs.
        kind: `png`, `pdf` or `svg`.
        log: Use logarithmic axes.

    Returns:
        The content of the file; the same curves give the same bytes.

    Raises:
        InputError: If there is no run or too many, or if one has no metrics yet.
    """
    import matplotlib
    from matplotlib.figure import Figure  # pyplot would have global state and want a display

    if not 1 <= len(runs) <= _MAX_RUNS:
        raise InputError(f"Curves show 1 to {_MAX_RUNS} runs, found {len(runs)}; give {'fewer' if runs else 'some'}.")
    records = [_records(run) for run in runs]
    terms = [term for term in runs[0].spec.terms if all(term in run.spec.terms for run in runs)]
    columns = min(len(terms), 3) if len(terms) != 4 else 2
    rows = math.ceil(len(terms) / columns)
    names = [*_names([run.path for run in runs]), "training", "test"]
    across = max(1, min(len(names), int(_WIDTH / (_LETTER_WIDTH * (max(map(len, names)) + 6)))))
    height = rows * _PANEL_HEIGHT + _LEGEND_LINE * math.ceil(len(names) / across)
    # No date and no random names, so that the same curves give the same file; journals require TrueType in a PDF.
    dates = {"pdf": "CreationDate", "svg": "Date"}
    with matplotlib.rc_context({"font.size": _FONT_SIZE, "pdf.fonttype": 42, "svg.hashsalt": "curves"}):
        figure = Figure(figsize=(_WIDTH, height), dpi=_DPI, layout="constrained")
        panels = figure.subplots(rows, columns, squeeze=False).ravel()
        lines = [
            _panel(axes, term, records, _colours(len(runs)), log) for axes, term in zip(panels, terms, strict=True)
        ]
        for i, axes in enumerate(panels):
            _label(axes, i < columns, i >= len(panels) - columns, _epoch_steps(runs))
        _legend(figure, lines[0], names, across)
        buffer = io.BytesIO()
        figure.savefig(buffer, format=kind, metadata={dates[kind]: None} if kind in dates else None)
    return buffer.getvalue()


def _why_not(path: Path) -> str | None:
    """Why a run has no curves, in a few words; None if it has some."""
    run = run_folder.read(path)
    if "imported" in run.config:
        return "imported"
    return "no metrics yet" if metrics.last(run) is None else None


def _records(run: run_folder.Run) -> list[dict[str, Any]]:
    if "imported" in run.config:
        raise InputError(f"{run.path} was imported, so its training was not recorded; give trained runs.")
    records = metrics.to_draw(run)
    if not records:
        raise InputError(f"{run.path} has no metrics yet; the first ones are written after its first epoch.")
    return records


def _names(paths: Sequence[Path]) -> list[str]:
    """The folders' names, with as many parent folders as make them distinct."""
    parts = [path.absolute().parts for path in paths]
    depth = next((n for n in range(1, max(map(len, parts))) if len({p[-n:] for p in parts}) == len(set(parts))), 0)
    names = [printable("/".join(p[-depth:]), LONGEST) for p in parts]
    return [name if len(name) <= _MAX_NAME else f"...{name[3 - _MAX_NAME :]}" for name in names]


def _epoch_steps(runs: Sequence[run_folder.Run]) -> int | None:
    """Steps in an epoch, if the runs agree on that."""
    steps = {run.spec.training.epoch_steps(run.config["data"]["train"]) for run in runs}
    return steps.pop() if len(steps) == 1 else None


def _colours(n: int) -> list[Any]:
    from matplotlib import colormaps

    return list(_COLOURS[:n]) if n <= len(_COLOURS) else list(colormaps["turbo"]([i / (n - 1) for i in range(n)]))


def _panel(axes: Any, term: str, records: list[list[dict[str, Any]]], colours: list[Any], log: bool) -> list[Any]:
    """Draw a term's curves; return the legend's handles for each run, for training and for test."""
    values = [record[term] for run_records in records for record in run_records]
    least, linear = min(values), "" if not log or min(values) > 0 else f",\nlinear, as it reaches {min(values):.3g}"
    axes.set_ylabel(f"{term}\n(nats per image{linear})")
    if log and not linear:
        from matplotlib.ticker import LogFormatter, MaxNLocator, NullLocator, ScalarFormatter

        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(LogFormatter())
        if max(values) < _NARROW * least:  # hardly any power of ten lies within
            axes.yaxis.set_major_locator(MaxNLocator(5))
            axes.yaxis.set_major_formatter(ScalarFormatter())
            axes.yaxis.set_minor_locator(NullLocator())
    dot = {}
    for run_records, colour in zip(records, colours, strict=True):
        train, test = (
            [(r["step"], r[term]) for r in run_records if r["split"] == split] for split in ("train", "test")
        )
        dot = {"marker": "s"} if len(train) == 1 else {}  # one point makes no line
        axes.plot(*_columns(train), color=colour, **_TRAIN, **dot)
        axes.plot(*_columns(test), color=colour, markevery=max(1, len(test) // _MAX_DOTS), **_TEST)
    styles = [{"color": colour, "lw": 1.5} for colour in colours]
    styles += [{"color": "0.4", **_TRAIN, **dot}, {"color": "0.4", **_TEST}]
    return [axes.plot([], [], **style)[0] for style in styles]


def _columns(points: list[tuple[int, float]]) -> tuple[list[int], list[float]]:
    return [x for x, _ in points], [y for _, y in points]


def _label(axes: Any, top: bool, bottom: bool, epoch: int | None) -> None:
    from matplotlib.ticker import EngFormatter, MaxNLocator

    axes.grid(True, lw=0.3, color="0.85")
    axes.spines[["right"] if epoch is not None and top else ["right", "top"]].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set_xlim(left=0)
    if bottom:
        axes.set_xlabel("step")
    if epoch is not None and top:
        above = axes.secondary_xaxis("top", functions=(lambda step: step / epoch, lambda epochs: epochs * epoch))
        above.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        above.set_xlabel("epoch")


def _legend(figure: Any, handles: list[Any], names: list[str], across: int) -> None:
    legend = figure.legend(
        handles, [str(i) for i in range(len(names))], loc="outside lower center", ncols=across, frameon=False
    )
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set_parse_math(False)
        text.set_text(name)  # only now: a legend leaves out labels that begin with an underscore
