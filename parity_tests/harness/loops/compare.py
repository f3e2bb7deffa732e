"""Compare two training runs step by step, and find the first step and the first quantity in which they part."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np
import torch
from torch import nn

from jaxvae.shared.errors import InputError
from parity_tests.harness.findings import Diagnosis, Finding, Layer, Node, Trajectory
from parity_tests.harness.loops import carrying, judging, naming, tree
from parity_tests.harness.loops.carrying import Moving, Side
from parity_tests.harness.loops.causes.find import Parting, cause, difference
from parity_tests.harness.loops.halves import Exact
from parity_tests.harness.loops.judging import EPS, FINITE, OF_STEP, Floor, Parted, Sizes
from parity_tests.harness.loops.naming import QUANTITIES, Record
from parity_tests.harness.loops.records import HALF, LOW, SIDES, Raw, Start, Step
from parity_tests.harness.loops.report import RunsReport
from parity_tests.harness.loops.streaming import restartable
from parity_tests.harness.modules import torch_state, validation
from parity_tests.harness.modules.compare import ParityError
from parity_tests.harness.modules.errors import ModelError
from parity_tests.harness.modules.layers.sources import source
from parity_tests.harness.modules.mapping import MappingLike
from parity_tests.harness.modules.torch_state import whole

Yielded = Step | Start | Mapping[str, Any]
RunLike = Iterable[Yielded] | Callable[..., Iterable[Yielded] | None]
_FAR = 1e-3  # what no rounding of a float32 step is
_FEW = 10  # steps, after which numbers that float32 has are taken to be of float32
_LEAP = 10.0  # times, what no rounding grows in one step
_IN_FLOAT32 = "the runs in half precision, since those in float32, passed as exact, part as well"
_CHAOS = "beyond the tolerance of the run, yet every step from the same state agrees: chaos"


def assert_run_parity(jax_run: RunLike, torch_run: RunLike, **options: Any) -> RunsReport:
    """Assert that two training loops take the same steps.

    Args:
        jax_run: The JAX run, see `compare_runs`.
        torch_run: The torch run.
        **options: The keyword arguments of `compare_runs`.

    Returns:
        The report of the comparison, which passed.

    Raises:
        ParityError: If the runs part; the message names the first step and the first quantity, and the likely cause.
        InputError: If an argument or what a run yields is invalid.
        ModelError: If a run raises an exception, which is its cause.
    """
    __tracebackhide__ = True  # pytest then shows the caller's line
    report = compare_runs(jax_run, torch_run, **options)
    if not report.passed:
        raise ParityError(report)
    return report


def compare_runs(
    jax_run: RunLike,
    torch_run: RunLike,
    *,
    steps: int,
    module: nn.Module | None = None,
    mapping: MappingLike = None,
    exact: tuple[RunLike, RunLike] | None = None,
) -> RunsReport:
    """Compare two training loops of your own step by step.

    Each run yields a `Step` after each of its steps, with what it has of batch, inputs, learning rate, loss, terms,
    gradients, optimizer state, parameters and moving average; what both yield is compared. The first step, and in it
    the first quantity in this order that differs by more than its tolerance, is where the runs part.

    A run that is a function of one argument can be started again: it is called with None to start by itself, yields
    the `Start` of its own before the first step, and is called with a `Start` to take the steps from `start.step` on
    from this state. In float32 one such run at least is needed, to measure the noise floor. A step that differs by more
    than its own rounding is taken again with the state of one run carried to the other, so that the step is found whose
    own work differs, and not the one in which a small difference has grown.

    The two runs advance together, each to its next step in turn. One that calls back does so in a thread of its own.

    Args:
        jax_run: An iterable of steps, or a function that returns one, of no argument or of a `Start` or None; or a
            function with an argument named `on_step`, which it calls with each step in place of yielding it. It is
            ended within that call after the last step.
        torch_run: The same of the torch run.
        steps: Number of steps to compare. Of all of them a few numbers are kept, and the whole states of those about
            the one in which the runs part.
        module: The torch module that is trained, whose layers say how each parameter is laid out. None where the torch
            run yields it as `parameters`, or where both runs have the same names and layouts.
        mapping: Which JAX array is which torch tensor, as in `compare_modules`.
        exact: Of runs in half or mixed precision, the same two in float32 or float64; all of them can be started again.
            They are compared first, and then measure how much each run in half precision rounds in a step.

    Returns:
        The report: the worst difference of each quantity, and where the runs part, how, and the likely cause.

    Raises:
        InputError: If an argument is invalid, a run yields too few steps or anything but steps, the parameters can't be
            paired, or there is nothing that both runs yield.
        ModelError: If a run raises an exception, which is its cause.
    """
    _check(jax_run, torch_run, steps, module)
    if exact is not None:
        _check_exact(exact)
        report = compare_runs(*exact, steps=steps, module=module, mapping=mapping)
        if not report.passed:
            return report._replace(not_compared=(*report.not_compared, _IN_FLOAT32))
    sides = Side(0, jax_run, steps, None), Side(1, torch_run, steps, module)
    comparison = Comparison(sides, mapping, exact and Exact(exact, steps, module, mapping))
    try:
        comparison.run(steps)
    finally:
        comparison.close()
    return comparison.report()


class Comparison:
    """Two runs that advance together, and what is found of them."""

    def __init__(self, sides: tuple[Side, Side], mapping: MappingLike, exact: Exact | None = None):
        self.sides, self.dtype, self.exact = sides, "float64", exact
        self.again: list[Side] = []
        """The runs that can be started from the other's state, and repeat themselves."""
        self.notes: list[str] = []
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
        self._repeated: dict[str, int] = {}
        """The last step that each run was seen to repeat from its own state."""
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
            for side in list(self.again):
                self._check_repeats(side)
        return True

    def _move(self) -> None:
        """Take the step of the runs that measure the noise floor."""
        for moving in list(self._moving):
            try:
                moving.step()
            except (InputError, ModelError):
                if self._check_repeats(moving.side):
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
        self.again = [side for side in reversed(self.sides) if self._carries(side)]
        with judging.quiet():
            if (parted := self._start()) is not None:
                self._beyond = parted
                self._part(parted, (self.sides[0].start, self.sides[1].start), ({}, {}))
            elif self.dtype == "float32":
                self._moving = [Moving(side, self.dtype) for side in self.again]

    def _judge(self, step: int) -> None:
        """Find out whether this step is where the runs part."""
        left, right = self.sides
        at, before = (left.record, right.record), (left.before, right.before)
        apart = self.apart[step]
        with judging.quiet():
            if self.dtype == "float64" and self._beyond is None and (found := judging.first([apart], self.dtype)):
                self._beyond = found._replace(step=step)
                if self.parted is None:
                    self._part(self._beyond, at, before) if not self.again else self._keep()
            if self.parted is not None:
                return
            if self.dtype == "float32":
                data = {q: found for q, found in apart.items() if q in QUANTITIES[:3]}
                parted = judging.beyond(data, self.dtype, step=step)
                if parted is None and not step and not self.again:
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
        for side in list(self.again):
            other = self.sides[1 - side.number]
            if self._doubtful(side) and not self._check_repeats(side):
                continue
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
        for side in list(self.again):
            other = self.sides[1 - side.number]
            if self._doubtful(side) and not self._check_repeats(side):
                continue
            try:
                carried = carrying.step_from(side, other, self.dtype)
            except (InputError, ModelError):
                if self._check_repeats(side):
                    raise
                continue
            if carried.parted is not None:
                if not self._check_repeats(side):
                    continue
                at, before = [s.record for s in self.sides], [s.before for s in self.sides]
                at[side.number], before[side.number] = carried.record, other.before
                self._part(carried.parted, (at[0], at[1]), (before[0], before[1]), same=True)
            return

    def _doubtful(self, side: Side) -> bool:
        """Return whether a run has to repeat this step before what it says of it is believed: now and then, and where
        the difference leaps, as it does by what the state lacks."""
        now, before = (max((size for q in found.values() for size in q.values()), default=0.0) for found in
                       (self.apart[-1], self.apart[-2] if len(self.apart) > 1 else {}))  # fmt: skip
        last = self._repeated.get(side.label)
        return last is None or side.step >= max(2 * last, last + 1) or now > _LEAP * before

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
        self.missing = dict.fromkeys([*naming.uncovered(self.sides[0].names, *self._seen), *once])
        if not any(self.apart):
            why = "; ".join(self.missing) or "their steps are empty"
            raise InputError(
                f"The two runs yield nothing that can be compared: {why}: yield the same fields of Step in both."
            )
        self._moving = [moving for moving in self._moving if moving.side in self.again]
        if self.dtype == "float64":
            if self._beyond is None:
                self.parted, self.at, self.same = None, None, False
            elif self.parted is None:
                self._still(self._beyond)
        elif self.parted is None:
            if not self.again and self.notes:
                raise InputError(
                    f"The noise floor of the {self.dtype} runs can't be measured: {'; '.join(self.notes)}."
                )
            if not self.again and self.exact is not None:
                raise InputError(
                    "Neither run can be started again from the other's state, as is needed in half precision: pass a "
                    "function run(start) that yields its Start and state."
                )
            if not self.again:
                raise InputError(
                    "The runs are in float32, whose rounding grows by training, and neither can be started again to "
                    "measure how fast: pass a function run(start) that yields its Start and state, or compare in "
                    "float64."
                )
            if self.exact is None and judging.first(self.apart, self.dtype, self.floor) is not None:
                self.chaos = _CHAOS

    def _still(self, beyond: Parted) -> None:
        """Find out whether chaos alone took float64 runs apart of which each step from the same state agrees."""
        self.chaos = _CHAOS if self.again else None
        if self.again:
            grown = carrying.floor(self.again[0], self.dtype)
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

    def report(self) -> RunsReport:
        """Return what was found."""
        with judging.quiet():
            return self._report()

    def _report(self) -> RunsReport:
        steps, floor, parted = len(self.apart), self.floor, self.parted
        findings = self._findings(parted, steps, floor)
        diagnosis = None if parted is None else self._diagnosed(parted)
        where = (None, None) if parted is None else (parted.step, parted.quantity)
        about = {
            "jax": jax.__version__,
            "torch": torch.__version__,
            "dtype": self.dtype,
            "steps": steps,
            "states carried": bool(self.again),
        }
        everything = (*self.missing, *self.notes)
        modules = self._tree(parted, floor)
        return RunsReport(about, tuple(findings), *where, diagnosis, everything, self._trajectory(floor), modules)

    def _carries(self, side: Side) -> bool:
        """Return whether a run can be started from the other's state: if the other yields all kinds that it has."""
        if not restartable(side.run) or side.stream.start is None or "parameters" not in side.start:
            return False
        other = self.sides[1 - side.number]
        fields = {*self._seen[other.number], *(other.stream.start or {})}
        return {field for field in self._seen[side.number] if field in Start._fields} - {"scaler"} <= fields

    def _start(self) -> Parted | None:
        """Return where the states before the first step differ."""
        left, right = self.sides
        for quantity, apart in judging.sizes(left.start, right.start).items():
            name = max(apart, key=lambda n: apart[n])
            tolerance = judging.OF_STEP[self.dtype]
            if not apart[name] <= tolerance:
                return Parted(-1, quantity, name, apart[name], tolerance)
        return None

    def _check_repeats(self, side: Side) -> bool:
        """Return whether a run repeats the step from its own state; leave it out and note why if it doesn't."""
        if side not in self.again:
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
        self.again.remove(side)
        self.notes.append(f"the {side.label} run from the other's state, since it, {why}")
        return False

    def _findings(self, parted: Parted | None, steps: int, floor: Floor | None) -> list[Finding]:
        """Return the worst difference of each quantity before the runs part, and that in which they do."""
        apart = self.apart[: steps if parted is None else max(parted.step, 0)]
        if parted is not None and parted.step >= 0:
            earlier = QUANTITIES[: QUANTITIES.index(parted.quantity)]
            apart.append({q: found for q, found in self.apart[parted.step].items() if q in earlier})
        worst = judging.worst(apart)
        findings = []
        for quantity in QUANTITIES:
            if (found := worst.get(quantity)) is None or (parted is not None and quantity == parted.quantity):
                continue
            noise = [sizes.get(quantity, {}).get(found.name, 0.0) for sizes in (floor or [{}])[: found.step + 1]]
            tolerance = judging.allowance(self.dtype, max(noise))
            reason = judging.REASON[self.dtype]
            if not found.size <= tolerance:  # what is chaos, or grew of what an earlier step did
                tolerance, reason = float("inf"), self.chaos or reason
            findings.append(self._finding(found, tolerance, reason))
        if parted is not None:
            reason = judging.OWN if self.same and self.exact is None else judging.REASON[self.dtype]
            findings.append(self._finding(parted, parted.tolerance, reason))
        return findings

    def _finding(self, found: Parted, tolerance: float, reason: str) -> Finding:
        where = ("before the first step" if found.step < 0 else f"step {found.step}") + (
            found.name and f", {found.name}"
        )
        return Finding(found.quantity, self.dtype, found.size, where, tolerance, tree.UNIT, reason)

    def _tree(self, parted: Parted | None, floor: Floor | None) -> Node:
        """Return the difference of each array in the step in which the runs part, or the largest."""
        if parted is None:
            return tree.of_all(self.apart, self.dtype, floor, self.chaos)
        assert self.at is not None
        reason = judging.OWN if self.same and self.exact is None else judging.REASON[self.dtype]
        return tree.of_step(parted, self.at, self.dtype, reason)

    def _diagnosed(self, parted: Parted) -> Diagnosis:
        assert self.at is not None
        runs = self.sides[0].history, self.sides[1].history
        allowed = self.allowed[-1] if self.allowed and self.same else {}
        parting = Parting(parted, self.dtype, self.before, self.at, runs, self.same, allowed)
        step = "The start" if parted.step < 0 else f"Step {parted.step}"
        where = f"{step}, {parted.quantity}" + (parted.name and f", {parted.name}")
        if parted.quantity not in self.at[0]:
            return Diagnosis(where, f"They differ by {parted.size:.1e}; the numbers of this step aren't kept.", None)
        try:
            return Diagnosis(where, difference(parting), cause(parting), layer=self._layer(parted.name))
        except Exception as error:  # whatever goes wrong there, the figures stay
            text = f"They differ by {parted.size:.1e}, and the diagnosis failed: {type(error).__name__}: {error}."
            return Diagnosis(where, text, None)

    def _layer(self, name: str) -> Layer:
        """Return the layer of an array, with the source of both runs."""
        tensor = name.rpartition(" of ")[2]
        pair = next((pair for pair in self.sides[0].names.pairs if pair.name == tensor), None)
        names = (None, None) if pair is None else (pair.path.rpartition("/")[0], whole(tensor).rpartition(".")[0])
        return Layer(*names, *(source(side.run) if callable(side.run) else None for side in self.sides))

    def _trajectory(self, floor: Floor | None) -> Trajectory | None:
        runs = [side.history for side in self.sides]
        steps = range(len(self.apart))
        if not all(run.figure("loss", step) for run in runs for step in steps):
            return None
        losses = {
            side: np.array([float(next(iter(run.figure("loss", step).values()))) for step in steps])
            for side, run in zip(SIDES, runs, strict=True)
        }
        gaps = np.array(
            [max(judging.between("loss", *(run.figure("loss", t) for run in runs)).values()) for t in steps]
        )
        noise = (
            None
            if floor is None or self.exact is not None
            else np.array([max(f.get("loss", {"": 0.0}).values()) for f in floor])
        )
        return Trajectory(self.dtype, losses, gaps, noise)


def _check(jax_run: Any, torch_run: Any, steps: Any, module: Any) -> None:
    if isinstance(steps, bool) or not isinstance(steps, int | np.integer) or steps < 1:
        raise InputError(f"steps: expected a positive integer, found {steps!r}.")
    if module is not None and not isinstance(module, nn.Module):
        raise InputError(f"module: expected the torch.nn.Module that is trained, found {validation.kind(module)}.")
    for name, run in (("jax_run", jax_run), ("torch_run", torch_run)):
        if not callable(run) and not isinstance(run, Iterable):
            raise InputError(
                f"{name}: expected a generator of steps, a function that returns one, or one of on_step, found "
                f"{validation.kind(run)}."
            )


def _check_exact(exact: Any) -> None:
    if not isinstance(exact, tuple | list) or len(exact) != 2 or not all(map(restartable, exact)):
        raise InputError(
            "exact: expected the two runs in float32 or float64, (jax_run, torch_run), as functions run(start) that "
            f"can be started again, found {validation.kind(exact)}."
        )


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
