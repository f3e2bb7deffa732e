"""Measure the rounding of runs in half precision, each against the same run in float32."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from parity_tests.harness.loops import judging, naming
from parity_tests.harness.loops.carrying import Side
from parity_tests.harness.loops.judging import EPS, OF_STEP, TIMES_FLOOR, Sizes
from parity_tests.harness.loops.naming import QUANTITIES, Record
from parity_tests.harness.loops.records import Arrays
from parity_tests.harness.modules import torch_state
from parity_tests.harness.modules.mapping import MappingLike


class Exact:
    """The two runs in float32 or float64, which advance beside those in half precision."""

    def __init__(self, runs: Sequence[Any], steps: int, module: nn.Module | None, mapping: MappingLike):
        self.sides = Side(0, runs[0], steps, None), Side(1, runs[1], steps, module)
        self._mapping = mapping

    def step(self) -> None:
        """Take the next step of both, which hold what no state has, such as an optimizer's count of steps."""
        raws = [side.stream.step() for side in self.sides]
        if not self.sides[0].names.pairs:
            held = [
                [raw for raw in (s.stream.start, raw) if raw is not None]
                for s, raw in zip(self.sides, raws, strict=True)
            ]
            module = self.sides[1].stream.module
            names = naming.names(held[0], held[1], module and torch_state.plain(module), self._mapping)
            for side in self.sides:
                side.named(names or naming.Names((), frozenset()))
        records = [side.names.record(raw, side.label) for side, raw in zip(self.sides, raws, strict=True)]
        records[0] = naming.aligned(*records)[1]
        for side, raw, record in zip(self.sides, raws, records, strict=True):
            side.took(raw, record, records[1])

    def close(self) -> None:
        for side in self.sides:
            side.stream.close()

    def allowed(self, low: Sequence[Record], state: Record, dtype: str) -> Sizes:
        """Return how far one step of both in half precision may be apart.

        They are at most as far apart as what each is from its step in float32, together, and these from each other. So
        that what half precision alone does otherwise doesn't pass for its rounding, this is bounded: by ten times what
        moving the parameters by a unit in half precision's last place does in float32, or ten such units of the largest
        array of its kind.

        Args:
            low: The step of both in half precision, from the same state.
            state: This state.
            dtype: The half precision.
        """
        exact = [side.again(state) for side in self.sides]
        noise = self._noise(exact, state, dtype)
        result = _sum(low, exact, noise, dtype, {})
        if judging.within(judging.sizes(low[0], low[1]), result) is not None:  # is it what float32 rounds?
            result = _sum(low, exact, noise, dtype, self._noise(exact, state, "float32"))
        return result

    def _noise(self, exact: Sequence[Record], state: Record, dtype: str) -> Sizes:
        """Return what moving the parameters by a unit in a precision's last place does to a step in float32."""
        if "parameters" not in state:
            return {}
        found = []
        for draw, (side, record) in enumerate(zip(self.sides, exact, strict=True)):
            after = judging.nudged(state["parameters"], dtype, draw)
            moved = side.again({**state, "parameters": after})
            found.append([_response(moved, record, after, state["parameters"])])
        return judging.merged(found)[0]


def _sum(low: Sequence[Record], exact: Sequence[Record], noise: Sizes, dtype: str, single: Sizes) -> Sizes:
    """Add up what each run in half precision is from its step in float32, and what these are apart.

    Args:
        low: The step of both in half precision.
        exact: The same in float32.
        noise: What moving the parameters by a unit in half precision's last place does to the latter.
        dtype: The half precision.
        single: What moving them by a unit in float32's last place does.
    """
    result: Sizes = {}
    for quantity in QUANTITIES:
        records = [record.get(quantity, {}) for record in (*low, *exact)]
        for name, scale in judging.scales(quantity, *records[:2]).items():
            if name not in records[2] or name not in records[3]:
                continue
            low0, low1, exact0, exact1 = (record[name] for record in records)
            apart = judging.difference(low0, exact0, scale) + judging.difference(low1, exact1, scale)
            unit = max(map(judging.peak, records[2].values())) / scale if scale else 1.0
            bound = TIMES_FLOOR * max(noise.get(quantity, {}).get(name, 0.0), EPS[dtype] * unit)
            between = judging.difference(exact0, exact1, scale)
            least = min(between, TIMES_FLOOR * single.get(quantity, {}).get(name, 0.0))
            result.setdefault(quantity, {})[name] = OF_STEP[dtype] * max(unit, 1.0) + least + min(apart, bound)
    return result


def _response(moved: Record, exact: Record, after: Arrays, before: Arrays) -> Sizes:
    """Return what moving the parameters does to a step; to the parameters, beyond that they were moved."""
    if "parameters" in moved:
        held = {n: a - (after[n] - before[n]) if n in before else a for n, a in moved["parameters"].items()}
        moved = {**moved, "parameters": held}
    return judging.sizes(moved, exact)
