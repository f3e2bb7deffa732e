"""The curves command: the terms of runs' losses by step, in training and on the test images."""

import functools
import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxvae.shared.backend import Backend
from jaxvae.shared.commands.common import RunPaths
from jaxvae.shared.errors import InputError
from jaxvae.shared.plotting import figure_file
from jaxvae.shared.plotting.figure_flags import FigurePath, FigureTitle, RunNames, require_figure, run_names
from jaxvae.shared.plotting.loss_scales import common_terms, scales
from jaxvae.shared.runs import metrics, run_folder
from jaxvae.shared.runs.find_runs import chosen_runs
from jaxvae.shared.runs.metrics_parts import SPLITS
from jaxvae.shared.text import say, shown

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_WIDTH, _WIDTHS = 7.0, (3.0, 14.0)  # inches: that of a paper's two columns, the least and the largest
_PANEL_WIDTH, _PANEL_HEIGHT, _LEGEND_LINE = 2.2, 2.1, 0.16  # inches
_DPI, _FONT_SIZE = 300, 8  # dots per inch; points
_LETTER_WIDTH = 0.065  # inches, at that font size
_TITLE_LETTERS, _LABEL_LETTERS = 12, 25  # in an inch of a title; in a line of a label
_MAX_RUNS = 24  # more colours look alike
_MAX_DOTS = 20  # of a test curve
_NARROW = 20  # ratio of the largest to the least value
_TRAIN: dict[str, Any] = {"ls": "-", "lw": 0.8, "ms": 3, "alpha": 0.6}
_TEST: dict[str, Any] = {"ls": (0, (3, 1.5)), "lw": 0.8, "marker": "o", "ms": 3, "mfc": "white", "mew": 0.8}
_VALIDATION: dict[str, Any] = {"ls": (0, (1, 1)), "lw": 1.0, "marker": "^", "ms": 3, "mfc": "white", "mew": 0.8}
# Distinct for the colour-blind too, and in grey (Okabe & Ito 2008).
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


@dataclass(frozen=True)
class Curves:
    """Plot the learning curves of runs: each term of the loss by step, in nats per image; a line for training, dashes
    with circles for the test images, dots with triangles for those held out for validation. Runs whose losses have
    other scales, by the likelihood, the size or the range of the images, have axes of their own. Terms that not all of
    the runs on the same axes have are left out.

    For example, two runs, on logarithmic axes:

        curves runs/jaxvae-1 runs/torchvae-1 --log --out curves.png"""

    run: RunPaths
    out: FigurePath
    title: FigureTitle = ""
    names: RunNames = ()
    log: bool = False
    """Use logarithmic axes, except for a term that reaches 0 or less."""
    from_step: int = 0
    """Leave out what was recorded before this step, so that the axes show how a loss ends that began far above."""
    width: float = _WIDTH
    """Width of the picture in inches, whose letters have 8 points: 7 for a page of a paper, 3.3 for a column."""


def run(backend: Backend, command: Curves) -> None:
    """Write the picture.

    Args:
        backend: Unused but for its name: curves need no framework.
        command: The parsed flags.

    Raises:
        InputError: If the request is invalid.
    """
    require_figure(command.out, command.title)
    why_not = functools.partial(_why_not, from_step=command.from_step)
    runs = [run_folder.read(path) for path in chosen_runs(backend.__name__, command.run, why_not)]
    drawn = figure(runs, command.log, command.names, command.title, command.from_step, command.width)
    figure_file.save(drawn, command.out)
    say(f"learning curves of {len(runs)} run{'s' * (len(runs) > 1)} in {command.out}")


def picture(
    runs: Sequence[run_folder.Run], kind: str = "png", log: bool = False, names: Sequence[str] = (), title: str = ""
) -> bytes:
    """Return the content of a file with the learning curves of runs, as `figure` draws them; the same curves give the
    same bytes. `kind` is one of `figure_file.KINDS`."""
    return figure_file.packed(figure(runs, log, names, title), kind)


def figure(
    runs: Sequence[run_folder.Run],
    log: bool = False,
    names: Sequence[str] = (),
    title: str = "",
    from_step: int = 0,
    width: float = _WIDTH,
) -> "Figure":
    """Draw the learning curves of runs: for runs of one scale a panel for each term that all have, the loss first.

    Args:
        runs: The runs.
        log: Use logarithmic axes.
        names: What to call each run; by default as its folder.
        title: Above the panels.
        from_step: The first step that is drawn.
        width: That of the figure, in inches.

    Returns:
        The figure.

    Raises:
        InputError: If there is no run or too many, if one has no metrics yet, or none from that step on, or if that is
            no step, or the width none.
    """
    import matplotlib

    if not 1 <= len(runs) <= _MAX_RUNS:
        raise InputError(f"Curves show 1 to {_MAX_RUNS} runs, found {len(runs)}; give {'fewer' if runs else 'some'}.")
    if not isinstance(from_step, int) or from_step < 0:
        raise InputError(f"Curves start at a step of at least 0, an integer, found {shown(from_step)}; give another.")
    if not isinstance(width, int | float) or not _WIDTHS[0] <= width <= _WIDTHS[1]:
        raise InputError(
            f"Curves are {_WIDTHS[0]:g} to {_WIDTHS[1]:g} inches wide, found {shown(width)}; give another."
        )
    names = run_names([run.path for run in runs], names)
    records = [_records(run, from_step) for run in runs]
    blocks = [(name, some, common_terms([runs[i] for i in some])) for name, some in scales(runs)]
    most = max(len(terms) for _, _, terms in blocks)
    columns = min(most, 3 if most != 4 else 2, int(width / _PANEL_WIDTH))
    rows = sum(math.ceil(len(terms) / columns) for _, _, terms in blocks)
    held = any(record["split"] == "validation" for run_records in records for record in run_records)
    names = [*names, "training", "test", *(["validation"] if held else [])]
    across = max(1, min(len(names), int(width / (_LETTER_WIDTH * (max(map(len, names)) + 6)))))
    height = rows * _PANEL_HEIGHT + _LEGEND_LINE * math.ceil(len(names) / across)
    with matplotlib.rc_context({"font.size": _FONT_SIZE}):
        drawn = figure_file.new(
            style={"font.size": _FONT_SIZE}, figsize=(width, height), dpi=_DPI, layout="constrained"
        )
        panels, colours = list(drawn.subplots(rows, columns, squeeze=False).ravel()), _colours(len(runs))
        single = False
        for name, some, terms in blocks:
            block, panels = panels[: len(terms)], panels[columns * math.ceil(len(terms) / columns) :]
            for i, (axes, term) in enumerate(zip(block, terms, strict=True)):
                single |= _panel(axes, term, name, [records[j] for j in some], [colours[j] for j in some], log)
                _label(axes, i < columns, i >= len(terms) - columns, _epoch_steps([runs[j] for j in some]), from_step)
        for axes in drawn.axes:
            if not axes.lines:  # no term is left for it
                axes.remove()
        _legend(drawn, _handles(drawn.axes[0], colours, single, held), names, across, width)
        if title:
            drawn.suptitle(
                textwrap.fill(title, int(_TITLE_LETTERS * width)),
                x=0.07 / width,
                ha="left",
                weight="bold",
                size=_FONT_SIZE + 1,
                parse_math=False,
            )
        return drawn


def _why_not(path: Path, from_step: int) -> str | None:
    """Why a run has no curves from a step on, in a few words; None if it has some."""
    run = run_folder.read(path)
    if "imported" in run.config:
        return "imported"
    if (last := metrics.last(run)) is None:
        return "no metrics yet"
    return f"ends after step {last['step']:,}" if last["step"] < from_step else None


def _records(run: run_folder.Run, from_step: int) -> list[dict[str, Any]]:
    if "imported" in run.config:
        raise InputError(f"{run.path} was imported, so its training was not recorded; give trained runs.")
    records = metrics.to_draw(run)
    if not records:
        raise InputError(f"{run.path} has no metrics yet; the first ones are written after its first epoch.")
    later = [record for record in records if record["step"] >= from_step]
    if not later:
        raise InputError(f"{run.path} ends after step {records[-1]['step']:,}; give a smaller --from-step.")
    return later


def _epoch_steps(runs: Sequence[run_folder.Run]) -> int | None:
    """Steps in an epoch, if the runs agree on that."""
    steps = {run.spec.training.epoch_steps(run.config["data"]["train"]) for run in runs}
    return steps.pop() if len(steps) == 1 else None


def _colours(n: int) -> list[Any]:
    from matplotlib import colormaps

    return list(_COLOURS[:n]) if n <= len(_COLOURS) else list(colormaps["turbo"]([i / (n - 1) for i in range(n)]))


def _panel(
    axes: Any, term: str, scale: str, records: list[list[dict[str, Any]]], colours: list[Any], log: bool
) -> bool:
    """Draw a term's curves; return whether a line for training is a single point."""
    values = [record[term] for run_records in records for record in run_records]
    least, linear = min(values), "" if not log or min(values) > 0 else f",\nlinear, as it reaches {min(values):.3g}"
    axes.set_ylabel("\n".join([term, *textwrap.wrap(scale, _LABEL_LETTERS), f"(nats per image{linear})"]))
    if log and not linear:
        from matplotlib.ticker import MaxNLocator, NullLocator, ScalarFormatter, StrMethodFormatter

        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        if max(values) < _NARROW * least:  # hardly any power of ten lies within
            axes.yaxis.set_major_locator(MaxNLocator(5))
            axes.yaxis.set_major_formatter(ScalarFormatter())
            axes.yaxis.set_minor_locator(NullLocator())
    single = False
    for run_records, colour in zip(records, colours, strict=True):
        train, test, validation = (
            [(r["step"], r[term]) for r in run_records if r["split"] == split] for split in SPLITS
        )
        single |= len(train) == 1  # one point makes no line
        axes.plot(*_columns(train), color=colour, **_TRAIN, **({"marker": "s"} if len(train) == 1 else {}))
        every = max(1, len(test) // _MAX_DOTS)
        axes.plot(*_columns(test), color=colour, markevery=every, **_TEST)
        if validation:
            axes.plot(*_columns(validation), color=colour, markevery=every, **_VALIDATION)
    return single


def _handles(axes: Any, colours: list[Any], single: bool, held: bool) -> list[Any]:
    """The legend's lines: for each run, for training, for test, and for validation if a run has it."""
    dot, styles = {"marker": "s"} if single else {}, [{"color": colour, "lw": 1.5} for colour in colours]
    styles += [
        {"color": "0.4", **_TRAIN, **dot},
        {"color": "0.4", **_TEST},
        *([{"color": "0.4", **_VALIDATION}] if held else []),
    ]
    return [axes.plot([], [], **style)[0] for style in styles]


def _columns(points: list[tuple[int, float]]) -> tuple[list[int], list[float]]:
    return [x for x, _ in points], [y for _, y in points]


def _label(axes: Any, top: bool, bottom: bool, epoch: int | None, from_step: int) -> None:
    from matplotlib.ticker import EngFormatter, MaxNLocator

    axes.grid(True, lw=0.3, color="0.85")
    axes.spines[["right"] if epoch is not None and top else ["right", "top"]].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set_xlim(left=max(0, from_step))
    if bottom:
        axes.set_xlabel("step")
    if epoch is not None and top:
        above = axes.secondary_xaxis("top", functions=(lambda step: step / epoch, lambda epochs: epochs * epoch))
        above.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        above.set_xlabel("epoch")


def _legend(figure: Any, handles: list[Any], names: list[str], across: int, width: float) -> None:
    legend = figure.legend(
        handles, [str(i) for i in range(len(names))], loc="outside lower center", ncols=across, frameon=False
    )
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set_parse_math(False)
        text.set_text(
            textwrap.fill(name, int(width / _LETTER_WIDTH) - 8)
        )  # only now: a legend leaves out labels that begin with an underscore
