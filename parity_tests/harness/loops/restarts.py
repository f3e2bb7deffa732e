"""The runs that can be started again from the other's state, and whether they repeat themselves."""

from collections.abc import Sequence

from jaxvae.shared.errors import InputError
from parity_tests.harness.loops import carrying
from parity_tests.harness.loops.carrying import Side
from parity_tests.harness.loops.judging import Sizes
from parity_tests.harness.loops.naming import FIELDS, Seen
from parity_tests.harness.loops.records import Start
from parity_tests.harness.loops.streaming import restartable
from parity_tests.harness.modules.errors import ModelError

_HINT = (
    "a step of both from the same state, which tells a step's own work from what an earlier one left, since {}: pass a "
    "function run(start) that yields its Start and begins from `start`"
)
_LEAP = 10.0  # times, what no rounding grows in one step


class Restarts:
    """The runs that can be started from the other's state, of which each is left out once it doesn't repeat itself."""

    def __init__(self, dtype: str, sides: Sequence[Side] = (), seen: Sequence[Seen] = ()):
        self.dtype = dtype
        lacks = {side.label: _lacks(side, sides[1 - side.number], seen) for side in sides}
        self.sides = [side for side in reversed(sides) if lacks[side.label] is None]
        self.notes: list[str] = []
        """Why a run was left out."""
        without = [side.label for side in sides if side.stream.start is None]
        self.hint = f"step 0 of both from the same state, since the {without[0]} run yields no Start" if without else ""
        """What isn't taken from the same state, why, and what to do."""
        if lacks and not self.sides:
            self.hint = _HINT.format("; ".join(f"the {label} run {why}" for label, why in lacks.items()))
        self._repeated: dict[str, int] = {}
        """The last step that each run was seen to repeat from its own state."""

    def doubtful(self, side: Side, apart: Sequence[Sizes]) -> bool:
        """Return whether a run has to repeat this step before what it says of it is believed: now and then, and where
        the difference leaps, as it does by what the state lacks."""
        now, before = (max((size for q in found.values() for size in q.values()), default=0.0) for found in
                       (apart[-1], apart[-2] if len(apart) > 1 else {}))  # fmt: skip
        last = self._repeated.get(side.label)
        return last is None or side.step >= max(2 * last, last + 1) or now > _LEAP * before

    def repeats(self, side: Side) -> bool:
        """Return whether a run repeats the step from its own state; leave it out and note why if it doesn't."""
        if side not in self.sides:
            return False
        try:
            parted = carrying.repeats(side, self.dtype)
        except (InputError, ModelError) as error:
            why = f"can't be started again from its own state: {str(error).rstrip('.')}"
        else:
            if parted is None:
                self._repeated[side.label] = side.step
                return True
            why = (
                f"started again from its own state before step {parted.step}, differs there in the "
                f"{parted.quantity} by {parted.size:.1e}: a run has to yield its whole state (parameters, "
                "optimizer_state, ema), to set it from the Start, and to draw by the step's number"
            )
        self.sides.remove(side)
        self.notes.append(f"the {side.label} run from the other's state, since it, {why}")
        return False


def _lacks(side: Side, other: Side, seen: Sequence[Seen]) -> str | None:
    """Return, as a predicate, why a run can't be started from the other's state: it takes or yields no start, or the
    other doesn't yield all kinds that it has."""
    if not restartable(side.run):
        return "takes no start"
    if side.stream.start is None:
        return "yields no Start"
    if "parameters" not in side.start:
        return "yields a Start without parameters"
    fields = {*seen[other.number], *(other.stream.start or {})}
    own = {field for field in seen[side.number] if field in Start._fields} - {"scaler"}
    missing = [FIELDS[field] for field in FIELDS if field in own - fields]
    return f"has {' and '.join(missing)}, which the other doesn't yield" if missing else None
