"""What is kept of a run: a few numbers of each step, and the whole records of the steps about one that is looked at."""

import hashlib
from typing import NamedTuple

import numpy as np

from parity_tests.harness.loops.naming import Record
from parity_tests.harness.loops.records import Arrays

AFTER = 2
"""How many steps after the one that is looked at are kept whole: a moment shows its decay when it has one before it."""
_SMALL = 64  # numbers, as of the learning rates of groups
_FIGURES = ("learning rate", "loss scale", "loss in evaluation", "loss", "terms")


class Digest(NamedTuple):
    """What is kept of every step."""

    figures: Record
    """Learning rates, losses and terms."""
    rows: dict[str, dict[str, np.ndarray]]
    """Of each array of the batch and the inputs a number for each row, equal where the row is but for rounding."""
    norm: float | None
    """The norm of the gradients."""
    changed: bool | None
    """Whether the parameters changed; None where the step before or this one doesn't have them."""


class History:
    """The steps of a run, of which those about one are whole."""

    def __init__(self, start: Record):
        self.digests: list[Digest] = []
        self.whole: dict[int, Record] = {}
        self._last = start
        self._focus: int | None = None

    def add(self, record: Record) -> None:
        """Add the next step."""
        step, before = len(self), self._last.get("parameters")
        if "parameters" not in record:
            changed = None
        else:
            after = record["parameters"]
            changed = before is None or any(not np.array_equal(after[n], before[n]) for n in after if n in before)
        self.digests.append(_digest(record, changed))
        if self._focus is None or step <= self._focus + AFTER:
            self.whole[step] = record
        if self._focus is None:
            self.whole.pop(step - 2, None)
        self._last = (
            record
            if self._focus is None or step <= self._focus + AFTER
            else {q: a for q, a in record.items() if q == "parameters"}
        )

    def keep(self, step: int | None = None) -> None:
        """Keep the steps about one, in place of any others; the last one that was added, if none is given."""
        self._focus = len(self) - 1 if step is None else step
        self.whole = {t: record for t, record in self.whole.items() if self._focus - 1 <= t <= self._focus + AFTER}

    def get(self, step: int) -> Record | None:
        """Return a step's record if it is kept whole."""
        return self.whole.get(step)

    def figure(self, quantity: str, step: int) -> Arrays:
        """Return a learning rate, loss or terms."""
        return self.digests[step].figures.get(quantity, {})

    def rows(self, quantity: str) -> list[list[bytes] | None]:
        """Return the rows of a batch as keys, of each step."""
        return [_joined(digest.rows.get(quantity, {})) for digest in self.digests]

    def __len__(self) -> int:
        return len(self.digests)


def rows(arrays: Arrays) -> list[bytes] | None:
    """Return the rows of a batch as keys: all arrays with as many rows as the first."""
    return _joined({name: keys(array) for name, array in arrays.items() if getattr(array, "ndim", 0)})


def keys(array: np.ndarray) -> np.ndarray:
    """Return a number for each row, in which rounding doesn't show."""
    wide = array.astype(np.float64).reshape(len(array), -1)
    with np.errstate(all="ignore"):
        grain = 10.0 ** (np.floor(np.log10(np.abs(wide).max(initial=1e-300))) - 5)
        found = [hashlib.blake2b(row.tobytes(), digest_size=8).digest() for row in np.rint(wide / grain) + 0.0]
    return np.frombuffer(b"".join(found), np.uint64)


def _joined(columns: dict[str, np.ndarray]) -> list[bytes] | None:
    held = list(columns.values())
    if not held:
        return None
    return [row.tobytes() for row in np.stack([column for column in held if len(column) == len(held[0])], 1)]


def _digest(record: Record, changed: bool | None) -> Digest:
    figures = {q: {n: a for n, a in record[q].items() if a.size <= _SMALL} for q in _FIGURES if q in record}
    held = {q: {n: keys(a) for n, a in record[q].items() if a.ndim} for q in ("batch", "inputs") if q in record}
    squares = [float(np.square(a.astype(np.float64)).sum()) for a in record.get("gradients", {}).values()]
    return Digest(figures, held, float(np.sqrt(sum(squares))) if squares else None, changed)
