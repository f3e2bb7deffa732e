"""Start a run again from a state: from its own, moved by an ulp, and from the other run's."""

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import nn

from parity_tests.harness.loops import judging
from parity_tests.harness.loops.judging import Floor, Parted, Sizes
from parity_tests.harness.loops.naming import STATE, Names, Record
from parity_tests.harness.loops.records import SIDES, Run, Start, collect

_DRAWS = 2


class Side(NamedTuple):
    """One of the two runs, with what is needed to start it again."""

    number: int
    """0 for JAX, 1 for PyTorch."""
    run: Any
    taken: Run
    records: list[Record]
    """Its steps, in torch's names and layout."""
    start: Record
    names: Names
    module: nn.Module | None
    align: Callable[[list[Record], int], list[Record]]
    """Lays records from a step on out as `records` are."""

    @property
    def label(self) -> str:
        return SIDES[self.number]

    def before(self, step: int) -> Record:
        """Return the state before a step."""
        record = self.records[step - 1] if step else self.start
        return {quantity: record[quantity] for quantity in STATE if quantity in record}

    def again(self, step: int, steps: int, state: Record) -> list[Record]:
        """Return the records of `steps` steps from `step` on, started from a state.

        What the state lacks, such as an optimizer's count of steps, is the run's own.
        """
        raw = self.taken.steps[step - 1] if step else self.taken.start
        assert raw is not None
        start = Start(**self.names.written(raw, state, self.label), step=step)  # type: ignore[arg-type]
        found = collect(self.run, self.label, steps, self.module, start)
        return self.align([self.names.record(raw, self.label) for raw in found.steps], step)


def repeats(side: Side, dtype: str) -> Parted | None:
    """Start a run again from its own state in the middle, and return where that step differs from what it was."""
    middle = len(side.records) // 2
    return judging.own(side.records[middle], side.again(middle, 1, side.before(middle))[0], dtype, step=middle)


def floor(side: Side, dtype: str) -> Floor:
    """Measure how far a run goes from itself with its first parameters moved by an ulp."""
    found = []
    for draw in range(_DRAWS):
        state = side.before(0)
        state["parameters"] = judging.nudged(state["parameters"], dtype, draw)
        moved = side.again(0, len(side.records), state)
        found.append([judging.sizes(a, b) for a, b in zip(moved, side.records, strict=True)])
    return judging.merged(found)


class Carried(NamedTuple):
    """A step that both runs take from the same state."""

    parted: Parted | None
    record: Record
    """The step of the run that was given the other's state."""


def step_from(side: Side, other: Side, step: int, dtype: str) -> Carried:
    """Take one step of `side` from the other run's state, and compare it with the other's.

    Beyond the rounding of a step, the tolerance is what moving the parameters by an ulp does to this step.
    """
    state = other.before(step)
    record = side.again(step, 1, state)[0]
    parted = judging.own(other.records[step], record, dtype, step=step)
    if parted is not None:
        noise: list[list[Sizes]] = []
        for draw in range(_DRAWS):
            moved = {**state, "parameters": judging.nudged(state["parameters"], dtype, draw)}
            noise.append([judging.sizes(side.again(step, 1, moved)[0], record)])
        parted = judging.own(other.records[step], record, dtype, judging.merged(noise)[0], step)
    return Carried(parted, record)


def bisected(side: Side, other: Side, last: int, dtype: str, floor: Floor | None) -> int:
    """Find the last step from which `side`, started in the other run's state, still parts from it by step `last`."""
    low, high = 0, last
    while low < high:
        middle = (low + high + 1) // 2
        records = side.again(middle, last - middle + 1, other.before(middle))
        noise = floor[middle : last + 1] if floor else None
        if judging.first(other.records[middle : last + 1], records, dtype, noise) is None:
            high = middle - 1
        else:
            low = middle
    return low
