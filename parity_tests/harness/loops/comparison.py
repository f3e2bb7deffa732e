"""Two runs that advance together, step by step, and are compared as they go."""

from jaxvae.shared.errors import InputError
from parity_tests.harness.loops import carrying, judging, naming
from parity_tests.harness.loops.carrying import Moving, Side
from parity_tests.harness.loops.halves import Exact
from parity_tests.harness.loops.judging import EPS, FINITE, OF_STEP, Floor, Parted, Sizes
from parity_tests.harness.loops.naming import QUANTITIES, Record
from parity_tests.harness.loops.records import HALF, LOW, Raw
from parity_tests.harness.loops.restarts import Restarts
from parity_tests.harness.modules import torch_state
from parity_tests.harness.modules.errors import ModelError
from parity_tests.harness.modules.mapping import MappingLike

_FAR = 1e-3  # what no rounding of a float32 step is
_FEW = 10  # steps, after which numbers that float32 has are taken to be of float32
_CHAOS = "beyond the tolerance of the run, yet every step from the same state agrees: chaos"


class Comparison:
    """Two runs that advance together, and what is found of them."""

    def __init__(self, sides: tuple[Side, Side], mapping: MappingLike, exact: Exact | None = None):
        self.sides, self.dtype, self.exact = sides, "float64", exact
        self.restarts = Restarts(self.dtype)
        self.missing: dict[str, None] = {}
        self.apart: list[Sizes] = []
        """The differences of each step."""
        self.parted: Parted | None = None
        """Where the runs part."""
        self.at: tuple[Record, Record] | None = None
        """What both have of that step, from the same state if `same`."""
        self.before: tuple[Record, Record] = {}, {}
        """The states before it."""
        self.same = False
        self.allowed: list[Sizes] = []
        """In half precision, how far both may be apart in each step from the same state."""
        self.chaos: str | None = None
        self._mapping = mapping
        self._moving: list[Moving] = []
        self._beyond: Parted | None = None
        """The first step beyond the tolerance of the run."""
        self._seen: tuple[naming.Seen, naming.Seen] = {}, {}

    def run(self, steps: int) -> None:
        """Take the steps of both runs."""
        first = [self._taken()]
        while (dtype := naming.dtype(raw for pair in first for raw in pair)) is None and len(first) < min(steps, _FEW):
            first.append(self._taken())
        figures = any(field in raw for pair in first for raw in pair for field in ("loss", "terms", "evaluation"))
        self.dtype = dtype or ("float32" if figures else "float64")
        if self.exact is not None:
            self.dtype = dtype if dtype in HALF else "mixed"
        elif self.dtype in LOW:
            what = "mixed precision" if self.dtype == "mixed" else self.dtype
            raise InputError(
                f"The runs are in {what}, in which two right runs differ in the third digit: pass the same two in "
                "float32 as exact=(jax_run, torch_run), which measure its rounding."
            )
        if why := naming.beside_float64(first):
            self.missing[why] = None
        for step in range(steps):
            if not self._step(first.pop(0) if first else self._taken(), step):
                break
        self._ended()

    def close(self) -> None:
        """End both runs."""
        for side in self.sides:
            side.stream.close()
        self._settle()
        if self.exact is not None:
            self.exact.close()

    def _taken(self) -> tuple[Raw, Raw]:
        left, right = self.sides
        return left.stream.step(), right.stream.step()

    def _step(self, raws: tuple[Raw, Raw], step: int) -> bool:
        """Take over a step; return whether to go on."""
        for held, raw in zip(self._seen, raws, strict=True):
            held.update({field: paths for field, paths in naming.seen(raw).items() if field not in held})
        if not self.sides[0].names.pairs:
            self._name(raws)
        records = [side.names.record(raw, side.label) for side, raw in zip(self.sides, raws, strict=True)]
        missing, records[0] = naming.aligned(*records)
        self.missing |= dict.fromkeys(missing)
        overflow = "loss scale" in records[0]  # which makes a step of gradients that aren't finite a usual one
        kinds = [judging.nonfinite(record, ("loss", "parameters") if overflow else FINITE) for record in records]
        if (quantity := kinds[0]) and quantity == kinds[1]:
            if not step:
                raise InputError(
                    f"The {quantity} of both runs is NaN or infinite at step 0, so nothing can be compared: "
                    "correct both."
                )
            why = f"step {step} and all after it, since the {quantity} of both is NaN or infinite there"
            self.missing[why] = None
            return False
        for side, raw, record in zip(self.sides, raws, records, strict=True):
            side.took(raw, record, records[1])
        with judging.quiet():
            self.apart.append(judging.sizes(*records))
        if self.exact is not None:
            self.exact.step()
        if not step:
            self._begin()
        self._move()
        self._judge(step)
        if step == self.sides[0].steps // 2 and self._moving:
            for side in list(self.restarts.sides):
                self.restarts.repeats(side)
        return True

    def _move(self) -> None:
        """Take the step of the runs that measure the noise floor."""
        for moving in list(self._moving):
            try:
                moving.step()
            except (InputError, ModelError):
                if self.restarts.repeats(moving.side):
                    raise
                self._moving.remove(moving)

    def _name(self, raws: tuple[Raw, Raw]) -> None:
        """Pair the arrays of both runs."""
        held = [
            [raw for raw in (side.stream.start, raw) if raw is not None]
            for side, raw in zip(self.sides, raws, strict=True)
        ]
        module = self.sides[1].stream.module
        found = naming.names(held[0], held[1], module and torch_state.plain(module), self._mapping)
        for side in self.sides:
            side.named(found or naming.Names((), frozenset()))

    def _begin(self) -> None:
        """Judge what the runs start from, and begin what goes beside them."""
        self.restarts = Restarts(self.dtype, self.sides, self._seen)
        with judging.quiet():
            if (parted := self._start()) is not None:
                self._beyond = parted
                self._part(parted, (self.sides[0].start, self.sides[1].start), ({}, {}))
            elif self.dtype == "float32":
                self._moving = [Moving(side, self.dtype) for side in self.restarts.sides]

    def _judge(self, step: int) -> None:
        """Find out whether this step is where the runs part."""
        left, right = self.sides
        at, before = (left.record, right.record), (left.before, right.before)
        apart = self.apart[step]
        with judging.quiet():
            if self.dtype == "float64" and self._beyond is None and (found := judging.first([apart], self.dtype)):
                self._beyond = found._replace(step=step)
                if self.parted is None:
                    self._part(self._beyond, at, before) if not self.restarts.sides else self._keep()
            if self.parted is not None:
                return
            if self.dtype == "float32":
                data = {q: found for q, found in apart.items() if q in QUANTITIES[:3]}
                parted = judging.beyond(data, self.dtype, step=step)
                if parted is None and not step and not self.restarts.sides:
                    parted = judging.beyond(apart, self.dtype)
                    parted = parted if parted is not None and parted.size > _FAR else None
                if parted is not None:
                    self._part(parted, at, before)
                    return
            if self.exact is not None:
                self._round(step, at, before)
            elif judging.beyond(apart, self.dtype) is not None:
                self._carry()

    def _round(self, step: int, at: tuple[Record, Record], before: tuple[Record, Record]) -> None:
        """Compare a step in half precision beside the rounding that is measured of it."""
        assert self.exact is not None
        apart = self.apart[step]
        data = {q: found for q, found in apart.items() if q in QUANTITIES[:4]}
        least = {q: (EPS if q == "inputs" else OF_STEP)[self.dtype] for q in data}
        parted = judging.within(data, {q: dict.fromkeys(found, least[q]) for q, found in data.items()})
        if parted is None:
            parted = _skipped(self.sides, apart)
        if parted is not None:
            self._part(parted._replace(step=step), at, before)
            return
        for side in list(self.restarts.sides):
            other = self.sides[1 - side.number]
            if self.restarts.doubtful(side, self.apart) and not self.restarts.repeats(side):
                continue
            if "parameters" not in other.before:
                raise InputError(
                    f"The {other.label} run yields no Start, so that step 0 can't be taken from its state, as is "
                    "needed in half precision: yield Start(parameters=...) before the first step."
                )
            low = [s.record for s in self.sides]
            low[side.number] = side.again(other.before)
            if all(judging.nonfinite(record, ("gradients",)) for record in low):  # both leave the step out
                low = [{q: a for q, a in record.items() if q != "gradients"} for record in low]
            self.allowed.append(self.exact.allowed(low, other.before, self.dtype))
            self.apart[step] = judging.sizes(low[0], low[1])
            if (parted := judging.within(self.apart[step], self.allowed[-1])) is not None:
                states = [s.before for s in self.sides]
                states[side.number] = other.before
                self._part(parted._replace(step=step), (low[0], low[1]), (states[0], states[1]), same=True)
            return

    def _carry(self) -> None:
        """Take the step from the same state in both, and part there if its own work differs."""
        for side in list(self.restarts.sides):
            other = self.sides[1 - side.number]
            if "parameters" not in other.before:  # it yields no Start, and this is step 0
                continue
            if self.restarts.doubtful(side, self.apart) and not self.restarts.repeats(side):
                continue
            try:
                carried = carrying.step_from(side, other, self.dtype)
            except (InputError, ModelError):
                if self.restarts.repeats(side):
                    raise
                continue
            if carried.parted is not None:
                if not self.restarts.repeats(side):
                    continue
                at, before = [s.record for s in self.sides], [s.before for s in self.sides]
                at[side.number], before[side.number] = carried.record, other.before
                self._part(carried.parted, (at[0], at[1]), (before[0], before[1]), same=True)
            return

    def _part(
        self, parted: Parted, at: tuple[Record, Record], before: tuple[Record, Record], same: bool = False
    ) -> None:
        """Note where the runs part, and keep the steps about it."""
        self.parted, self.at, self.before, self.same = parted, at, before, same
        self._keep()
        self._settle()

    def _keep(self) -> None:
        for side in self.sides:
            side.history.keep()

    def _settle(self) -> None:
        """End the runs that measure the noise floor."""
        for moving in self._moving:
            moving.close()
        if self.parted is not None:
            self._moving = []

    def _ended(self) -> None:
        """Decide what the steps come to, once all are taken."""
        compared = {f"{quantity}, which only" for apart in self.apart for quantity in apart}
        once = [why for why in self.missing if not any(why.startswith(start) for start in compared)]
        uncovered = naming.uncovered(self.sides[0].names, *self._seen)
        if any(why.startswith("optimizer state of the") for why in uncovered):  # both yield it, to no avail
            once = [why for why in once if not why.startswith("optimizer state, which only")]
        self.missing = dict.fromkeys([*uncovered, *once])
        if not any(self.apart):
            why = "; ".join(self.missing) or "their steps are empty"
            raise InputError(
                f"The two runs yield nothing that can be compared: {why}: yield the same fields of Step in both."
            )
        self._moving = [moving for moving in self._moving if moving.side in self.restarts.sides]
        if self.dtype == "float64":
            if self._beyond is None:
                self.parted, self.at, self.same = None, None, False
            elif self.parted is None:
                self._still(self._beyond)
        elif self.parted is None:
            if not self.restarts.sides and self.restarts.notes:
                raise InputError(
                    f"The noise floor of the {self.dtype} runs can't be measured: {'; '.join(self.restarts.notes)}."
                )
            if not self.restarts.sides and self.exact is not None:
                raise InputError(
                    "Neither run can be started again from the other's state, as is needed in half precision: pass a "
                    "function run(start) that yields its Start and state."
                )
            if not self.restarts.sides:
                raise InputError(
                    "The runs are in float32, whose rounding grows by training, and neither can be started again to "
                    "measure how fast: pass a function run(start) that yields its Start and state, or compare in "
                    "float64."
                )
            if self.exact is None and judging.first(self.apart, self.dtype, self.floor) is not None:
                self.chaos = _CHAOS

    def _still(self, beyond: Parted) -> None:
        """Find out whether chaos alone took float64 runs apart of which each step from the same state agrees."""
        self.chaos = _CHAOS if self.restarts.sides else None
        if self.restarts.sides:
            grown = carrying.floor(self.restarts.sides[0], self.dtype)
            found = judging.first(self.apart, self.dtype, grown)
        else:
            found = beyond
        if found is not None:
            self.parted = found
            whole = [side.history.get(found.step) for side in self.sides]
            before = [side.history.get(found.step - 1) if found.step else side.start for side in self.sides]
            self.at = (whole[0] or {}, whole[1] or {})
            self.before = (before[0] or {}, before[1] or {})

    @property
    def floor(self) -> Floor | None:
        """The noise floor of each step, if it was measured."""
        if self.allowed and self.parted is None:
            return [
                {q: {n: size / judging.TIMES_FLOOR for n, size in found.items()} for q, found in allowed.items()}
                for allowed in self.allowed
            ]
        return judging.merged([moving.floor for moving in self._moving]) if self._moving else None

    def _start(self) -> Parted | None:
        """Return where the states before the first step differ."""
        left, right = self.sides
        for quantity, apart in judging.sizes(left.start, right.start).items():
            name = max(apart, key=lambda n: apart[n])
            tolerance = judging.OF_STEP[self.dtype]
            if not apart[name] <= tolerance:
                return Parted(-1, quantity, name, apart[name], tolerance)
        return None


def _skipped(sides: tuple[Side, Side], apart: Sizes) -> Parted | None:
    """Return that one run alone leaves the parameters as they are, or has gradients that aren't finite."""
    infinite = [judging.nonfinite(side.record, ("gradients",)) for side in sides]
    changed = [side.history.digests[-1].changed for side in sides]
    if infinite[0] == infinite[1] and (changed[0] == changed[1] or None in changed):
        return None
    moved = [
        q
        for q in ("optimizer state", "parameters")
        if any(size > OF_STEP["float32"] for size in apart.get(q, {}).values())
    ]
    quantity = "gradients" if infinite[0] != infinite[1] and "gradients" in apart else next(iter(moved), "")
    if not quantity:
        return None
    name = max(apart[quantity], key=lambda n: apart[quantity][n])
    return Parted(0, quantity, name, apart[quantity][name], 0.0)
