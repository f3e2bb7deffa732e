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

_WIDTH, _HEIGHT, _DPI = 3.4, 2.6, 300  # inches, of a paper's column
_SPREAD = 0.5  # of the places of two settings, how much the lines of one take


class RunResult(NamedTuple):
    """A run's."""

    name: str
    spec: Spec
    test: dict[str, Any] | None
    """The last line of its metrics, nats per image; None for a run that left the finite numbers."""


class SweepPoint(NamedTuple):
    """The runs of a setting."""

    beta: float
    learning_rate: float
    tests: list[dict[str, Any]]
    """The last lines of those that stayed with the finite numbers."""
    runs: int
    """How many there are, with those that did not."""

    def mean(self, term: str) -> float | None:
        """Nats per image; None where there is nothing to take it of."""
        return statistics.fmean(test[term] for test in self.tests) if self.tests else None

    def error(self, term: str) -> float | None:
        """The mean's standard error, from the sample standard deviation; None for fewer than two runs."""
        n = len(self.tests)
        return statistics.stdev(test[term] for test in self.tests) / math.sqrt(n) if n > 1 else None


def settings(outcomes: Sequence[RunResult]) -> list[SweepPoint]:
    """The settings in the order of their first runs."""
    found: dict[tuple[float, float], SweepPoint] = {}
    for one in outcomes:
        place = (one.spec.objective.beta, one.spec.training.learning_rate)
        before = found.get(place, SweepPoint(*place, [], 0))
        found[place] = before._replace(tests=before.tests + ([one.test] if one.test else []), runs=before.runs + 1)
    return list(found.values())


def table(outcomes: Sequence[RunResult], images: int, data: str) -> str:
    """The settings as a Markdown table, its columns aligned for a terminal."""
    terms = outcomes[0].spec.terms
    rows = []
    for setting in settings(outcomes):
        n, all_of = len(setting.tests), setting.runs
        counted = f"{n}" if n == all_of else f"{n} of {all_of}"
        told = [f"{_number(setting.mean(term))} ± {_number(setting.error(term))}" for term in terms]
        rows.append([f"{setting.beta:g}", f"{setting.learning_rate:g}", counted, *told])
    caption = (
        f"Nats per image over {images:,} test images of {data} after the last epoch: the mean over the seeds ± its "
        "standard error (the sample standard deviation / sqrt(runs)):"
    )
    return f"{caption}\n\n{markdown_table(['beta', 'learning rate', 'runs', *terms], rows)}"


def to_json(outcomes: Sequence[RunResult]) -> dict[str, Any]:
    """The runs and the settings as plain JSON values; null for what there is none of."""
    terms = outcomes[0].spec.terms
    return {
        "runs": [
            {
                "name": one.name,
                "seed": one.spec.training.seed,
                "beta": one.spec.objective.beta,
                "learning_rate": one.spec.training.learning_rate,
                "test": one.test,
            }
            for one in outcomes
        ],
        "settings": [
            {
                "beta": setting.beta,
                "learning_rate": setting.learning_rate,
                "runs": len(setting.tests),
                "mean": {term: setting.mean(term) for term in terms},
                "standard_error": {term: setting.error(term) for term in terms},
            }
            for setting in settings(outcomes)
        ],
    }


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes it whole or not at all."""
    write_atomically(path, (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())


def picture(outcomes: Sequence[RunResult], data: str) -> bytes:
    """A PNG: the test loss by beta, a colour for each learning rate, or by learning rate where there is one beta: the
    mean over the seeds with its standard error, and each run as a dot."""
    from matplotlib.figure import Figure  # not pyplot, whose state is the process's and whose backend wants a display

    found, loss = settings(outcomes), outcomes[0].spec.terms[0]
    betas, rates = sorted({s.beta for s in found}), sorted({s.learning_rate for s in found})
    by_beta = len(betas) > 1 or len(rates) == 1
    places, lines = (betas, rates) if by_beta else (rates, betas)
    figure = Figure(figsize=(_WIDTH, _HEIGHT), dpi=_DPI, layout="constrained")
    axes = figure.add_subplot()
    for i, line in enumerate(lines):
        shift = _SPREAD * ((i + 0.5) / len(lines) - 0.5)  # beside each other, for all their bars to be seen
        pairs = [((s.beta, s.learning_rate) if by_beta else (s.learning_rate, s.beta), s) for s in found if s.tests]
        mine = {place: s for (place, other), s in pairs if other == line}
        at = {place: n + shift for n, place in enumerate(places) if place in mine}
        dots = [(x, test[loss]) for place, x in at.items() for test in mine[place].tests]
        colour = f"C{i}"
        axes.scatter([x for x, _ in dots], [y for _, y in dots], s=6, color=colour, alpha=0.4, linewidths=0)
        means = [mine[place].mean(loss) or 0.0 for place in at]
        errors = [mine[place].error(loss) or 0.0 for place in at]
        label = f"{'learning rate' if by_beta else 'beta'} {line:g}"
        axes.errorbar(list(at.values()), means, errors, fmt="o-", ms=3, lw=1, capsize=2, color=colour, label=label)
    axes.set_xticks(range(len(places)), [f"{place:g}" for place in places])
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
