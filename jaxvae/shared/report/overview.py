"""What a report on several runs starts with: the settings that differ, the headline numbers, and all curves."""

from collections.abc import Sequence

from jaxvae.shared.model import description
from jaxvae.shared.plotting import svg_charts
from jaxvae.shared.plotting.figure_flags import data_name
from jaxvae.shared.plotting.loss_scales import common_terms, scales
from jaxvae.shared.report import webpage
from jaxvae.shared.runs import best_epoch, metrics
from jaxvae.shared.runs.command_line import flag_words, flags_of
from jaxvae.shared.runs.run_folder import Run

_COLOURS = 8  # in style.css; further runs have them again, dashed

Row = tuple[str, str, str]
"""A headline number: name, value, unit."""


def overview(runs: Sequence[Run], names: Sequence[str], highlights: Sequence[Sequence[Row]]) -> str:
    """Compare runs.

    Args:
        runs: The runs.
        names: What the page calls each.
        highlights: The headline numbers of each.

    Returns:
        HTML.
    """
    cells = [numbers | differing for numbers, differing in zip(_numbers(highlights), differences(runs), strict=True)]
    html = webpage.comparison(names, cells) + "".join(_charts(runs, names))
    if len(scales(runs)) > 1:
        html += webpage.paragraph(
            "Losses of runs with another likelihood, variance, size or range of images have another scale; only those "
            "in the same chart can be compared.",
            "soft",
        )
    return html


def differences(runs: Sequence[Run]) -> list[dict[str, str]]:
    """List the settings of each run that are not the same in all of them, by the names of their flags."""
    settings = [_settings(run) for run in runs]
    differ = [name for name in settings[0] if len({own[name] for own in settings}) > 1]
    return [{name: own[name] for name in differ} for own in settings]


def _settings(run: Run) -> dict[str, str]:
    flags = {name.replace("_", " "): flag_words(value) for name, value in flags_of(run.spec).items()}
    step, _ = best_epoch.steps_and_epochs(run)
    about = {"package": run.config["framework"], "preset": run.config["preset"]}
    about |= {**flags, "data": data_name(run.spec.data), "steps taken": f"{step:,}" if step else "unknown"}
    return about | {"parameters": f"{sum(size for *_, size in description.layers(run.spec)):,}"}


def _numbers(highlights: Sequence[Sequence[Row]]) -> list[dict[str, str]]:
    """The headline numbers of each run, in the order of their names; the unit is in the name where all have one."""
    units: dict[str, set[str]] = {}
    for rows in highlights:
        for name, _, unit in rows:
            units.setdefault(name, set()).add(unit)
    heads = {name: f"{name}, {own.copy().pop()}" if len(own) == 1 else name for name, own in units.items()}
    cells = []
    for rows in highlights:
        values = {name: value if len(units[name]) == 1 else f"{value} {unit}" for name, value, unit in rows}
        cells.append({head: values.get(name, "") for name, head in heads.items()})
    return cells


def _charts(runs: Sequence[Run], names: Sequence[str]) -> list[str]:
    """For each scale of losses, the curves of its runs, with their legend."""
    styles = [f"run-{i % _COLOURS} dash-{i // _COLOURS % 3}" for i in range(len(runs))]
    records = [[] if "imported" in run.config else metrics.to_draw(run) for run in runs]
    parts = []
    for scale, some in scales(runs):
        some = [i for i in some if records[i]]
        if not some:
            continue
        called, own = [names[i] for i in some], [styles[i] for i in some]
        terms = common_terms([runs[i] for i in some])
        charts = svg_charts.curves_of_runs([records[i] for i in some], called, own, terms)
        held = any(record["split"] == "validation" for i in some for record in records[i])
        key = f"Thin: training. Bold: test images.{' Dotted: validation images.' if held else ''}"
        parts.append(webpage.curves(charts, called, own, f"Losses, {scale}" if scale else "Losses", key))
    return parts
