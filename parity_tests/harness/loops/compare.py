"""Compare two training runs step by step, and find the first step and the first quantity in which they part."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
import torch
from torch import nn

from jaxvae.shared.errors import InputError
from parity_tests.harness.findings import Diagnosis, Finding, Layer, Node, Trajectory
from parity_tests.harness.loops import carrying, judging, naming, tree
from parity_tests.harness.loops.carrying import Side
from parity_tests.harness.loops.causes.find import Parting, cause, difference
from parity_tests.harness.loops.judging import Floor, Parted, Sizes
from parity_tests.harness.loops.naming import QUANTITIES, Record
from parity_tests.harness.loops.records import SIDES, Start, Step, collect, restartable
from parity_tests.harness.loops.report import RunsReport
from parity_tests.harness.modules import torch_state, validation
from parity_tests.harness.modules.compare import ParityError
from parity_tests.harness.modules.errors import ModelError
from parity_tests.harness.modules.layers.sources import source
from parity_tests.harness.modules.mapping import MappingLike
from parity_tests.harness.modules.torch_state import whole

Yielded = Step | Start | Mapping[str, Any]
RunLike = Iterable[Yielded] | Callable[..., Iterable[Yielded] | None]
_FAR = 1e-3  # what no rounding of a float32 step is
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
) -> RunsReport:
    """Compare two training loops of your own step by step.

    Each run yields a `Step` after each of its steps, with what it has of batch, inputs, learning rate, loss, terms,
    gradients, optimizer state, parameters and moving average; what both yield is compared. The first step, and in it
    the first quantity in this order that differs by more than its tolerance, is where the runs part.

    A run that is a function of one argument can be started again: it is called with None to start by itself, yields
    the `Start` of its own before the first step, and is called with a `Start` to take the steps from `start.step` on
    from this state. In float32 one such run at least is needed, to measure the noise floor, and each step is then also
    compared from the same state. Where runs part, the steps are bisected with the state of one carried to the other, so
    that the step is found whose own work differs, and not the one in which a small difference has grown.

    Args:
        jax_run: An iterable of steps, or a function that returns one, of no argument or of a `Start` or None; or a
            function with an argument named `on_step`, which it calls with each step in place of yielding it. It is
            ended within that call after the last step.
        torch_run: The same of the torch run.
        steps: Number of steps to compare. All of them are kept in memory.
        module: The torch module that is trained, whose layers say how each parameter is laid out. None where the torch
            run yields it as `parameters`, or where both runs have the same names and layouts.
        mapping: Which JAX array is which torch tensor, as in `compare_modules`.

    Returns:
        The report: the worst difference of each quantity, and where the runs part, how, and the likely cause.

    Raises:
        InputError: If an argument is invalid, a run yields too few steps or anything but steps, the parameters can't be
            paired, or there is nothing that both runs yield.
        ModelError: If a run raises an exception, which is its cause.
    """
    _check(jax_run, torch_run, steps, module)
    taken = collect(jax_run, SIDES[0], steps, None), collect(torch_run, SIDES[1], steps, module)
    module = taken[1].module and torch_state.plain(taken[1].module)
    names = naming.names(*taken, module, mapping)
    dtype = naming.dtype(*taken)
    runs = [[names.record(raw, side) for raw in run.steps] for run, side in zip(taken, SIDES, strict=True)]
    missing, runs[0] = naming.aligned(*runs)
    missing = list(dict.fromkeys([*naming.uncovered(names, *taken), *missing]))
    starts = [
        {} if run.start is None else names.record(run.start, side) for run, side in zip(taken, SIDES, strict=True)
    ]
    if not any(judging.sizes(a, b) for a, b in zip(*runs, strict=True)):
        why = "; ".join(missing) or "their steps are empty"
        raise InputError(
            f"The two runs yield nothing that can be compared: {why}: yield the same fields of Step in both."
        )
    sides = tuple(
        Side(i, run, taken[i], runs[i], starts[i], names, module, _aligner(i, runs[1]))
        for i, run in enumerate((jax_run, torch_run))
    )
    comparison = Comparison(sides, dtype)  # type: ignore[arg-type]
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return comparison.report(missing)


class Comparison:
    """Two runs that were taken, and what is asked of them."""

    def __init__(self, sides: tuple[Side, Side], dtype: str):
        self.sides, self.dtype = sides, dtype
        self.again = [side for side in reversed(sides) if self._carries(side)]
        self.notes: list[str] = []
        self.apart: list[Sizes] = []
        """The differences of each step that was compared."""

    def report(self, missing: list[str]) -> RunsReport:
        """Find where the runs part, and why."""
        left, right = self.sides
        steps = self._finite(missing)
        parted = self._start() or self._unmeasured(steps)
        floor = self._floor() if self.dtype == "float32" and parted is None else None
        if parted is None:
            parted = judging.first(left.records[:steps], right.records[:steps], self.dtype, floor)
            if parted is not None and floor is None:
                self._drop_unrepeated()
        record, note = None, None
        if self.again and (floor is not None or (parted is not None and self.dtype == "float64" and parted.step >= 0)):
            parted, record, note = self._settled(parted, steps, floor)
        findings = self._findings(parted, steps, floor, note, record is not None)
        diagnosis = None if parted is None else self._diagnosed(parted, record)
        where = (None, None) if parted is None else (parted.step, parted.quantity)
        about = {
            "jax": jax.__version__,
            "torch": torch.__version__,
            "dtype": self.dtype,
            "steps": steps,
            "states carried": bool(self.again),
        }
        everything = (*missing, *self.notes)
        modules = self._tree(parted, record, floor, note)
        return RunsReport(
            about, tuple(findings), *where, diagnosis, everything, self._trajectory(steps, floor), modules
        )

    def _carries(self, side: Side) -> bool:
        """Return whether a run can be started from the other's state: if the other yields all kinds that it has."""
        if not restartable(side.run) or side.taken.start is None or "parameters" not in side.start:
            return False
        other = self.sides[1 - side.number]
        yielded = {naming.FIELDS[field] for field in side.taken.steps[0] if field in Start._fields}
        return yielded <= {*other.start, *(quantity for record in other.records for quantity in record)}

    def _finite(self, missing: list[str]) -> int:
        """Return how many steps there are before both runs become NaN."""
        left, right = (side.records for side in self.sides)
        for i, (a, b) in enumerate(zip(left, right, strict=True)):
            if (quantity := judging.nonfinite(a)) and quantity == judging.nonfinite(b):
                if not i:
                    raise InputError(
                        f"The {quantity} of both runs is NaN or infinite at step 0, so nothing can be compared: "
                        "correct both."
                    )
                missing.append(f"step {i} and all after it, since the {quantity} of both is NaN or infinite there")
                return i
        return len(left)

    def _floor(self) -> Floor:
        if not self.again:
            raise InputError(
                "The runs are in float32, whose rounding grows by training, and neither can be started again to "
                "measure how fast: pass a function run(start) that yields its Start and state, or compare in float64."
            )
        self._drop_unrepeated()
        if not self.again:
            raise InputError(f"The noise floor of the float32 runs can't be measured: {'; '.join(self.notes)}.")
        return judging.merged([carrying.floor(side, self.dtype) for side in self.again])

    def _start(self) -> Parted | None:
        """Return where the states before the first step differ."""
        left, right = self.sides
        for quantity, apart in judging.sizes(left.start, right.start).items():
            name = max(apart, key=lambda n: apart[n])
            tolerance = judging.OF_STEP[self.dtype]
            if not apart[name] <= tolerance:
                return Parted(-1, quantity, name, apart[name], tolerance)
        return None

    def _unmeasured(self, steps: int) -> Parted | None:
        """Return where float32 runs part in what doesn't depend on their rounding: the data, the rates, and by far more
        than it the first step, if it can't be measured."""
        if self.dtype == "float64":
            return None
        left, right = (
            [{q: array for q, array in record.items() if q in QUANTITIES[:3]} for record in side.records[:steps]]
            for side in self.sides
        )
        parted = judging.first(left, right, self.dtype)
        if parted is None and not self.again:
            parted = judging.first(self.sides[0].records[:1], self.sides[1].records[:1], self.dtype)
            return parted if parted is not None and parted.size > _FAR else None
        return parted

    def _settled(
        self, parted: Parted | None, steps: int, floor: Floor | None
    ) -> tuple[Parted | None, Record | None, str | None]:
        """Find the first step whose own work differs.

        Returns:
            Where the runs part, the torch or JAX run's step there from the other's state, and why runs beyond their
            tolerance agree, if they do.
        """
        side = self.again[0]
        other = self.sides[1 - side.number]
        if parted is not None:
            for step in self._suspects(parted, side, other, floor):
                carried = carrying.step_from(side, other, step, self.dtype)
                if carried.parted is not None:
                    return carried.parted, carried.record, None
        for step in range(steps):
            carried = carrying.step_from(side, other, step, self.dtype)
            if carried.parted is not None:
                return carried.parted, carried.record, None
        if parted is None or self.dtype == "float32":
            return None, None, _CHAOS
        grown = carrying.floor(side, self.dtype)
        left, right = (s.records[:steps] for s in self.sides)
        still = judging.first(left, right, self.dtype, grown[:steps])
        return still, None, _CHAOS

    def _drop_unrepeated(self) -> None:
        """Leave out the runs that don't repeat themselves, and note why."""
        for side in list(self.again):
            try:
                parted = carrying.repeats(side, self.dtype)
            except (InputError, ModelError) as error:
                why = f"can't be started again from its own state: {str(error).rstrip('.')}"
            else:
                if parted is None:
                    continue
                why = (
                    f"started again from its own state before step {parted.step}, differs there in the "
                    f"{parted.quantity} by {parted.size:.1e}: a run has to yield its whole state (parameters, "
                    "optimizer_state, ema), to set it from the Start, and to draw by the step's number"
                )
            self.again.remove(side)
            self.notes.append(f"the {side.label} run from the other's state, since it, {why}")

    def _suspects(self, parted: Parted, side: Side, other: Side, floor: Floor | None) -> Iterator[int]:
        """Yield the steps whose own work may differ: the first beyond the rounding of a step, then by bisection."""
        pairs = zip(*(s.records[: parted.step] for s in self.sides), strict=True)
        first = next((i for i, (a, b) in enumerate(pairs) if judging.own(a, b, self.dtype)), parted.step)
        yield first
        yield carrying.bisected(side, other, parted.step, self.dtype, floor)

    def _findings(
        self, parted: Parted | None, steps: int, floor: Floor | None, chaos: str | None, same: bool
    ) -> list[Finding]:
        """Return the worst difference of each quantity before the runs part, and that in which they do.

        same: whether this one is of a step from the same state.
        """
        records = [list(side.records[: steps if parted is None else max(parted.step, 0)]) for side in self.sides]
        if parted is not None and parted.step >= 0:
            earlier = QUANTITIES[: QUANTITIES.index(parted.quantity)]
            for side, held in zip(self.sides, records, strict=True):
                held.append({q: array for q, array in side.records[parted.step].items() if q in earlier})
        self.apart = [judging.sizes(a, b) for a, b in zip(*records, strict=True)]
        worst = judging.worst(self.apart)
        findings = []
        for quantity in QUANTITIES:
            if (found := worst.get(quantity)) is None or (parted is not None and quantity == parted.quantity):
                continue
            noise = [sizes.get(quantity, {}).get(found.name, 0.0) for sizes in (floor or [{}])[: found.step + 1]]
            tolerance = judging.allowance(self.dtype, max(noise))
            reason = judging.REASON[self.dtype]
            if not found.size <= tolerance:  # what is chaos, or grew of what an earlier step did
                tolerance, reason = float("inf"), chaos or reason
            findings.append(self._finding(found, tolerance, reason))
        if parted is not None:
            findings.append(
                self._finding(parted, parted.tolerance, judging.OWN if same else judging.REASON[self.dtype])
            )
        return findings

    def _finding(self, found: Parted, tolerance: float, reason: str) -> Finding:
        where = ("before the first step" if found.step < 0 else f"step {found.step}") + (
            found.name and f", {found.name}"
        )
        return Finding(found.quantity, self.dtype, found.size, where, tolerance, tree.UNIT, reason)

    def _at(self, parted: Parted, carried: Record | None) -> tuple[list[Record], list[Record]]:
        """Return the step in which the runs part, and the states before it."""
        start = parted.step < 0
        at = [side.start if start else side.records[parted.step] for side in self.sides]
        before = [{} if start else side.before(parted.step) for side in self.sides]
        if carried is not None:
            side = self.again[0].number
            at[side], before[side] = carried, before[1 - side]
        return at, before

    def _tree(self, parted: Parted | None, carried: Record | None, floor: Floor | None, chaos: str | None) -> Node:
        """Return the difference of each array in the step in which the runs part, or the largest."""
        if parted is None:
            return tree.of_all(self.apart, self.dtype, floor, chaos)
        at, _ = self._at(parted, carried)
        return tree.of_step(parted, at, self.dtype, judging.REASON[self.dtype] if carried is None else judging.OWN)

    def _diagnosed(self, parted: Parted, carried: Record | None) -> Diagnosis:
        left, right = self.sides
        start = parted.step < 0
        at, before = self._at(parted, carried)
        runs = left.records, right.records
        parting = Parting(parted, self.dtype, (before[0], before[1]), (at[0], at[1]), runs, carried is not None)
        step = "The start" if start else f"Step {parted.step}"
        where = f"{step}, {parted.quantity}" + (parted.name and f", {parted.name}")
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

    def _trajectory(self, steps: int, floor: Floor | None) -> Trajectory | None:
        left, right = (side.records[:steps] for side in self.sides)
        if not steps or "loss" not in left[0] or "loss" not in right[0]:
            return None
        losses = {
            side: np.array([float(next(iter(record["loss"].values()))) for record in records])
            for side, records in zip(SIDES, (left, right), strict=True)
        }
        gaps = np.array(
            [max(judging.between("loss", a["loss"], b["loss"]).values()) for a, b in zip(left, right, strict=True)]
        )
        noise = None if floor is None else np.array([max(f.get("loss", {"": 0.0}).values()) for f in floor[:steps]])
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


def _aligner(side: int, right: list[Record]) -> Callable[[list[Record], int], list[Record]]:
    if side:
        return lambda records, step: records
    return lambda records, step: naming.aligned(records, right[step : step + len(records)])[1]
