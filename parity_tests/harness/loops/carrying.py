"""Start a run again from a state: from its own, moved by an ulp, and from the other run's."""

import contextlib
from typing import Any, NamedTuple

from torch import nn

from parity_tests.harness.loops import judging, naming
from parity_tests.harness.loops.history import History
from parity_tests.harness.loops.judging import Floor, Parted, Sizes
from parity_tests.harness.loops.naming import STATE, Names, Record
from parity_tests.harness.loops.records import SIDES, Raw, Start
from parity_tests.harness.loops.streaming import Stream, collect

_DRAWS = 2


class Side:
    """One of the two runs, at the step that was taken last, with what is needed to start it again there."""

    def __init__(self, number: int, run: Any, steps: int, module: nn.Module | None):
        self.number, self.run, self.steps = number, run, steps
        """0 for JAX, 1 for PyTorch."""
        self.stream = Stream(run, self.label, steps, module)
        self.names = Names((), frozenset())
        self.start: Record = {}
        self.before: Record = {}
        """The state before the step, in torch's names and layout."""
        self.record: Record = {}
        """The step."""
        self.history = History({})
        self._raw: Raw = {}
        self._raw_before: Raw | None = None
        self._right: Record = {}

    @property
    def label(self) -> str:
        return SIDES[self.number]

    @property
    def step(self) -> int:
        """Return the number of the step that was taken last."""
        return len(self.history) - 1

    def named(self, names: Names) -> None:
        """Name the arrays, once a step was taken."""
        self.names = names
        if self.history.digests:
            return
        self._raw_before = self.stream.start
        self.start = {} if self.stream.start is None else names.record(self.stream.start, self.label)
        self.before = _state(self.start)
        self.history = History(self.start)

    def took(self, raw: Raw, record: Record, right: Record) -> None:
        """Take over a step.

        Args:
            raw: As the run yielded it.
            record: In torch's names and layout.
            right: The torch run's step, as whose batches and terms this one's are laid out.
        """
        if self.history.digests:
            self.before, self._raw_before = _state(self.record), self._raw
        self._raw, self.record, self._right = raw, record, right
        self.history.add(record)

    def again(self, state: Record) -> Record:
        """Take the step again from a state. What it lacks, such as an optimizer's count of steps, is the run's own."""
        start = self._start(self._raw_before, state, self.step)
        return self.laid_out(collect(self.run, self.label, 1, self.stream.module, start)[0])

    def moved(self, draw: int, dtype: str) -> Stream:
        """Begin the run again from its own start, with its parameters moved by an ulp."""
        state = _state(self.start)
        state["parameters"] = judging.nudged(state["parameters"], dtype, draw)
        start = self._start(self.stream.start, state, 0)
        return Stream(self.run, self.label, self.steps, self.stream.module, start)

    def laid_out(self, raw: Raw) -> Record:
        """Return a step in torch's names and layout."""
        record = self.names.record(raw, self.label)
        return record if self.number else naming.aligned(record, self._right)[1]

    def _start(self, raw: Raw | None, state: Record, step: int) -> Start:
        assert raw is not None
        return Start(**self.names.written(raw, state, self.label), step=step)  # type: ignore[arg-type]


class Moving:
    """A run beside itself, begun with every parameter moved by an ulp: how fast its rounding grows."""

    def __init__(self, side: Side, dtype: str):
        self.side = side
        self.floor: Floor = []
        self._streams = [side.moved(draw, dtype) for draw in range(_DRAWS)]

    def step(self) -> None:
        """Take the next step, which the run itself has taken."""
        with judging.quiet():
            found = [[judging.sizes(self.side.laid_out(stream.step()), self.side.record)] for stream in self._streams]
            self.floor += judging.merged(found)

    def close(self) -> None:
        for stream in self._streams:
            stream.close()


def floor(side: Side, dtype: str) -> Floor:
    """Measure how far a run that was taken goes from itself with its first parameters moved by an ulp."""
    with contextlib.ExitStack() as stack:
        streams = [
            stack.enter_context(contextlib.closing(Stream(side.run, side.label, side.steps, side.stream.module)))
        ]
        streams += [stack.enter_context(contextlib.closing(side.moved(draw, dtype))) for draw in range(_DRAWS)]
        found: Floor = []
        for _ in range(len(side.history)):
            own, *moved = (side.names.record(stream.step(), side.label) for stream in streams)
            found += judging.merged([[judging.sizes(one, own)] for one in moved])
        return found


def repeats(side: Side, dtype: str) -> Parted | None:
    """Take a step again from the run's own state, and return where it differs from what it was."""
    return judging.own(side.record, side.again(side.before), dtype, step=side.step)


class Carried(NamedTuple):
    """A step that both runs take from the same state."""

    parted: Parted | None
    record: Record
    """The step of the run that was given the other's state."""


def step_from(side: Side, other: Side, dtype: str) -> Carried:
    """Take the step of `side` from the other run's state, and compare it with the other's.

    Beyond the rounding of a step, the tolerance is what moving the parameters by an ulp does to this step.
    """
    record = side.again(other.before)
    parted = judging.own(other.record, record, dtype, step=side.step)
    if parted is not None:
        noise: list[list[Sizes]] = []
        for draw in range(_DRAWS):
            moved = {**other.before, "parameters": judging.nudged(other.before["parameters"], dtype, draw)}
            noise.append([judging.sizes(side.again(moved), record)])
        parted = judging.own(other.record, record, dtype, judging.merged(noise)[0], side.step)
    return Carried(parted, record)


def _state(record: Record) -> Record:
    return {quantity: record[quantity] for quantity in STATE if quantity in record}
