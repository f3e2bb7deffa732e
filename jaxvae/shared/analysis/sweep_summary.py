"""A sweep's results: mean and standard error for each setting, as a table, a file and a picture."""

import io
import json
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxvae.shared.config.spec import Spec
from jaxvae.shared.safe_io import write_atomically
from jaxvae.shared.text import markdown_table

_WIDTH, _HEIGHT, _DPI = 3.4, 2.6, 300  # inches; the width is that of a paper's column
_SPREAD = 0.5  # of the distance between two ticks; lines that share a tick are spread over this much
_BESIDE = 0.3  # of a line's share of that, from its error bar to the dots of its runs


class RunResult(NamedTuple):
    """The result of one run."""

    name: str
    spec: Spec
    test: dict[str, Any] | None
    """Last line of its metrics, nats per image; None for a diverged run."""


class SweepPoint(NamedTuple):
    """The results of the runs that differ only in their seed."""

    beta: float
    learning_rate: float
    tests: list[dict[str, Any]]
    """Last lines of the metrics of the runs that did not diverge."""
    runs: int
    """Number of runs, with the diverged ones."""

    def mean(self, term: str) -> float | None:
        """Return the mean of a term in nats per image; None if all runs diverged."""
        return statistics.fmean(test[term] for test in self.tests) if self.tests else None

    def error(self, term: str) -> float | None:
        """Return the standard error of the mean, from the sample standard deviation; None for fewer than two runs."""
        n = len(self.tests)
        return statistics.stdev(test[term] for test in self.tests) / math.sqrt(n) if n > 1 else None


def points(results: Sequence[RunResult]) -> list[SweepPoint]:
    """Group runs that differ only in their seed, in the order of their first runs."""
    groups: dict[tuple[float, float], SweepPoint] = {}
    for result in results:
        setting = (result.spec.objective.beta, result.spec.training.learning_rate)
        group = groups.get(setting, SweepPoint(*setting, [], 0))
        tests = group.tests + ([result.test] if result.test else [])
        groups[setting] = group._replace(tests=tests, runs=group.runs + 1)
    return list(groups.values())


def table(results: Sequence[RunResult], images: int, data: str) -> str:
    """Format the mean and standard error for each setting as a Markdown table, aligned for a terminal.

    Args:
        results: The runs.
        images: The number of test images.
        data: The name of the data set.

    Returns:
        The table, below its caption.
    """
    terms = results[0].spec.terms
    rows = []
    for point in points(results):
        n = len(point.tests)
        counted = f"{n}" if n == point.runs else f"{n} of {point.runs}"
        means = [f"{_number(point.mean(term))} ± {_number(point.error(term))}" for term in terms]
        rows.append([f"{point.beta:g}", f"{point.learning_rate:g}", counted, *means])
    epoch = "best epoch by validation loss" if results[0].spec.images.validation else "last epoch"
    caption = (
        f"Nats per image over {images:,} test images of {data} after the {epoch}: the mean over the seeds ± its "
        "standard error (the sample standard deviation / sqrt(runs)):"
    )
    return f"{caption}\n\n{markdown_table(['beta', 'learning rate', 'runs', *terms], rows)}"


def to_json(results: Sequence[RunResult]) -> dict[str, Any]:
    """Return the runs and the mean and standard error for each setting as plain JSON values; null where undefined."""
    terms = results[0].spec.terms
    return {
        "runs": [
            {
                "name": result.name,
                "seed": result.spec.training.seed,
                "beta": result.spec.objective.beta,
                "learning_rate": result.spec.training.learning_rate,
                "test": result.test,
            }
            for result in results
        ],
        "settings": [
            {
                "beta": point.beta,
                "learning_rate": point.learning_rate,
                "runs": len(point.tests),
                "mean": {term: point.mean(term) for term in terms},
                "standard_error": {term: point.error(term) for term in terms},
            }
            for point in points(results)
        ],
    }


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write JSON, whole or not at all."""
    write_atomically(path, (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())


def picture(results: Sequence[RunResult], data: str) -> bytes:
    """Plot the test loss by beta with a line for each learning rate, or by learning rate if there is one beta.

    Each line shows the mean over the seeds with its standard error, and to its right each run as a dot.

    Args:
        results: The runs.
        data: The name of the data set.

    Returns:
        A PNG.
    """
    from matplotlib.figure import Figure  # pyplot would have global state and want a display

    all_points, loss = points(results), results[0].spec.terms[0]
    betas, rates = sorted({p.beta for p in all_points}), sorted({p.learning_rate for p in all_points})
    by_beta = len(betas) > 1 or len(rates) == 1
    ticks, lines = (betas, rates) if by_beta else (rates, betas)
    figure = Figure(figsize=(_WIDTH, _HEIGHT), dpi=_DPI, layout="constrained")
    axes = figure.add_subplot()
    for i, line in enumerate(lines):
        shift = _SPREAD * ((i + 0.5) / len(lines) - 0.5)  # side by side, so that no error bar hides another
        settings = [(p.beta, p.learning_rate) if by_beta else (p.learning_rate, p.beta) for p in all_points]
        on_line = {tick: p for (tick, other), p in zip(settings, all_points, strict=True) if other == line and p.tests}
        at = {tick: n + shift for n, tick in enumerate(ticks) if tick in on_line}
        beside = _BESIDE * _SPREAD / len(lines)  # or an error bar would hide the dots
        dots = [(x + beside, test[loss]) for tick, x in at.items() for test in on_line[tick].tests]
        colour = f"C{i}"
        axes.scatter([x for x, _ in dots], [y for _, y in dots], s=6, color=colour, alpha=0.4, linewidths=0)
        means = [on_line[tick].mean(loss) or 0.0 for tick in at]
        errors = [on_line[tick].error(loss) or 0.0 for tick in at]
        label = f"{'learning rate' if by_beta else 'beta'} {line:g}"
        axes.errorbar(list(at.values()), means, errors, fmt="o-", ms=3, lw=1, capsize=2, color=colour, label=label)
    axes.set_xticks(range(len(ticks)), [f"{tick:g}" for tick in ticks])
    axes.set_xlabel("beta" if by_beta else "learning rate", fontsize=8)
    axes.set_ylabel(f"test {loss} on {data}\n(nats per image)", fontsize=8)
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)
    if len(lines) > 1:
        axes.legend(fontsize=7, frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
