"""Judge the harness: its verdict on a random pair as it is and with one edit."""

import re
import signal
import time
import warnings
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from jaxvae.shared.errors import InputError
from jaxvae.shared.text import markdown_table
from parity_tests.harness.findings import Report
from parity_tests.harness.modules.compare import compare_modules
from parity_tests.support.pairs.case import Case
from parity_tests.support.pairs.draw import blocks, draw
from parity_tests.support.pairs.edits import Edit
from parity_tests.support.pairs.generic import gap
from parity_tests.support.time_limit import time_limit

AGREE, DIFFER, EXCEPTION = "agree", "differ", "exception"
LIMIT = 30.0
"""Seconds of the processor that one comparison may take; most take one or two."""


@dataclass(frozen=True)
class Outcome:
    """The verdicts on one pair."""

    seed: int
    edit: str
    kind: str
    known: bool
    """Whether the harness has a written cause for the edit."""
    framework: str
    """The framework that was edited."""
    flavour: str
    blocks: list[str]
    train: bool
    plain: str
    """The verdict on the pair as it is: agree, differ or exception."""
    plain_text: str
    """What came instead of agree."""
    plain_gap: float | None
    """The difference of the pair as it is at random weights, where the verdict is wrong."""
    edited: str
    """The verdict on the edited pair."""
    edited_text: str
    places: list[str] | None
    """The layers of which one must be named; None where the place is undefined."""
    found: bool | None
    """Whether one of them was named."""
    named: bool
    """Whether a cause was named."""
    plain_seconds: float = 0.0
    """Seconds of the processor that the comparison of the pair as it is took."""
    edited_seconds: float = 0.0
    """Seconds that the comparison of the edited pair took, with its diagnosis."""

    @property
    def false(self) -> tuple[str, ...]:
        """What is wrong with the verdicts."""
        wrong = {
            "false differ": self.plain == DIFFER,
            "false agree": self.edited == AGREE,
            "exception": EXCEPTION in (self.plain, self.edited),
        }
        return tuple(name for name, is_wrong in wrong.items() if is_wrong)

    def json(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        return asdict(self)


def judge(seed: int, edit: Edit | None = None, dtype: str = "float64") -> Outcome:
    """Compare the pair of a seed as it is and with one edit.

    Args:
        seed: Any whole number from 0.
        edit: The edit; None takes that of the seed.
        dtype: The precision of the comparison.

    Returns:
        The verdicts, and whether the place of the edit was found and a cause named.
    """
    drawn = draw(seed, edit)
    net = drawn.plain.in_jax
    start = time.process_time()
    plain, plain_text, _ = _verdict(drawn.plain, dtype)
    middle = time.process_time()
    edited, edited_text, report = _verdict(drawn.edited, dtype)
    end = time.process_time()
    diagnosis = report.diagnosis if report else None
    places, found = drawn.places, None
    if places is not None and edited == DIFFER:
        found = any(_names(one.where, places) for one in (diagnosis, *diagnosis.more)) if diagnosis else False
        found = found or (report is None and _names(edited_text, places))
    return Outcome(
        seed=seed,
        edit=drawn.edit.name,
        kind=drawn.edit.kind,
        known=drawn.edit.known,
        framework=drawn.framework,
        flavour=net.flavour,
        blocks=blocks(net),
        train=drawn.plain.train,
        plain=plain,
        plain_text="" if plain == AGREE else plain_text,
        plain_gap=None if plain == AGREE else gap(drawn.plain),
        edited=edited,
        edited_text=edited_text,
        places=None if places is None else list(places),
        found=found,
        named=bool(diagnosis and diagnosis.cause),
        plain_seconds=middle - start,
        edited_seconds=end - middle,
    )


def _verdict(case: Case, dtype: str) -> tuple[str, str, Report | None]:
    model, variables, module = case.models()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with time_limit(LIMIT, f"no verdict after {LIMIT:.0f} s of the processor", signal.ITIMER_PROF):
                options = {"losses": case.losses, "train": case.train, "outputs": case.outputs, "dtype": dtype}
                report = compare_modules(model, variables, module, case.mapping, case.inputs, **options)
            return AGREE if report.passed else DIFFER, str(report), report
        except InputError as error:  # an edit that takes an array away is refused by a sentence that names it
            places = case.in_jax != case.in_torch and str(error).startswith("mapping: ")
            return DIFFER if places else EXCEPTION, f"InputError: {error}", None
        except Exception as error:  # whatever it is, a user would see it instead of a verdict
            return EXCEPTION, f"{type(error).__name__}: {error}", None


def _names(text: str, places: Iterable[str]) -> bool:
    return any(re.search(rf"(?<![\w.]){re.escape(place)}(?!\w)", text) for place in places)


def table(outcomes: Iterable[Outcome]) -> str:
    """Format the verdicts by kind of edit, and the seeds of the wrong ones."""
    outcomes = list(outcomes)
    rows = []
    for kind in [*sorted({outcome.kind for outcome in outcomes}), "all"]:
        some = [outcome for outcome in outcomes if kind in ("all", outcome.kind)]
        wrong = Counter(name for outcome in some for name in outcome.false)
        places = Counter(outcome.found for outcome in some)
        counts = [len(some), wrong["false agree"], wrong["false differ"], wrong["exception"], places[False],
                  places[True], sum(outcome.named for outcome in some)]  # fmt: skip
        rows.append([kind, *(f"{count:,}" for count in counts)])
    head = ["kind", "pairs", "false agree", "false differ", "exception", "wrong place", "place right", "named"]
    lines = [markdown_table(head, rows)]
    if ratios := [o.edited_seconds / o.plain_seconds for o in outcomes if o.plain_seconds and o.edited == DIFFER]:
        middle, high = np.percentile(ratios, (50, 95))
        lines.append(f"a comparison that differs, with its diagnosis, takes {middle:.2g} times the seconds of one that "
                     f"agrees (the median; 95 of 100 take at most {high:.2g} times)")  # fmt: skip
    for wrong_kind in ("false agree", "false differ", "exception"):
        for outcome in outcomes:
            if wrong_kind in outcome.false:
                lines.append(_line(wrong_kind, outcome))
    return "\n".join(lines)


def _line(wrong: str, outcome: Outcome) -> str:
    text = ""
    if wrong == "exception":
        text = ": " + (outcome.plain_text or outcome.edited_text).splitlines()[0][:160]
    elif wrong == "false differ":
        text = ": " + next((line for line in outcome.plain_text.splitlines() if "FAILS" in line), "").strip()[:160]
    where = f"seed {outcome.seed}, {outcome.edit} in {outcome.framework}, {outcome.flavour}"
    return f"{wrong}: {where}, {' '.join(outcome.blocks)}{text}"
