"""The runs that can be started again from the other's state, and whether they repeat themselves."""

from collections.abc import Sequence

from jaxvae.shared.errors import InputError
from parity_tests.harness.loops import carrying
from parity_tests.harness.loops.carrying import Side
from parity_tests.harness.loops.judging import Sizes
from parity_tests.harness.loops.naming import Seen
from parity_tests.harness.loops.records import Start
from parity_tests.harness.loops.streaming import restartable
from parity_tests.harness.modules.errors import ModelError

_LEAP = 10.0  # times, what no rounding grows in one step


class Restarts:
    """The runs that can be started from the other's state, of which each is left out once it doesn't repeat itself."""

    def __init__(self, dtype: str, sides: Sequence[Side] = (), seen: Sequence[Seen] = ()):
        self.dtype = dtype
        self.sides = [side for side in reversed(sides) if _carries(side, sides[1 - side.number], seen)]
        self.notes: list[str] = []
        """Why a run was left out."""
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


def _carries(side: Side, other: Side, seen: Sequence[Seen]) -> bool:
    """Return whether a run can be started from the other's state: if the other yields all kinds that it has."""
    if not restartable(side.run) or side.stream.start is None or "parameters" not in side.start:
        return False
    fields = {*seen[other.number], *(other.stream.start or {})}
    return {field for field in seen[side.number] if field in Start._fields} - {"scaler"} <= fields
