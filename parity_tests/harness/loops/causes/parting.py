"""Where two runs part, and when a formula explains it."""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from parity_tests.harness.causes import Cause
from parity_tests.harness.loops import judging
from parity_tests.harness.loops.history import History
from parity_tests.harness.loops.judging import Parted, Sizes
from parity_tests.harness.loops.naming import STATE, Record
from parity_tests.harness.loops.records import SIDES, Arrays

Causes = Iterator[Cause]

_LEFT_OVER = 1e-3  # of the difference
_ROUNDING = {"float64": 1e-12, "float32": 3e-6}
_NOTHING = 0.3  # of an array's largest number, which is nothing but rounding if it may differ by more
_FAR = 10.0
_LEAST = {"float64": judging.SMALL, "float32": 1.0}  # of the largest array's, below which a number is rounding


class Parting(NamedTuple):
    """Where two runs part, with their numbers."""

    parted: Parted
    dtype: str
    before: tuple[Record, Record]
    """The state before the step."""
    at: tuple[Record, Record]
    """The step."""
    runs: tuple[History, History]
    """What is kept of all steps of both."""
    carried: bool
    """Whether both took the step from the same state."""
    allowed: Sizes = {}  # noqa: RUF012
    """In half precision, how far each array may be apart."""

    @property
    def precision(self) -> str:
        """That in which optimizers and averages compute: float32 in mixed precision, too."""
        return "float64" if self.dtype == "float64" else "float32"

    @property
    def half(self) -> bool:
        return self.dtype not in ("float32", "float64")

    @property
    def step(self) -> int:
        return self.parted.step

    def both(self, quantity: str) -> tuple[Arrays, Arrays]:
        """Return the arrays of a quantity that both have, by the same names."""
        left, right = (record.get(quantity, {}) for record in self.at)
        names = [name for name in left if name in right]
        return {n: _wide(left[n]) for n in names}, {n: _wide(right[n]) for n in names}

    def state(self, quantity: str) -> tuple[Arrays, Arrays]:
        """Return the same of the state before the step."""
        left, right = (record.get(quantity, {}) for record in self.before)
        names = [name for name in left if name in right]
        return {n: _wide(left[n]) for n in names}, {n: _wide(right[n]) for n in names}

    def of(self, tensors: Iterable[str]) -> "Parting":
        """Return the same with the state and the gradients of some tensors alone."""
        chosen = {*tensors}
        return self._restricted(lambda q, name: q not in ("gradients", *STATE) or name.rpartition(" of ")[2] in chosen)

    def of_part(self) -> "Parting":
        """Return the same of the one of several networks in which they part."""
        own = self.parted.part
        several = ("loss", "learning rate", "gradients", *STATE)
        return self._restricted(lambda q, name: not own or q not in several or not name or judging.of_part(name, own))

    def _restricted(self, kept: Callable[[str, str], bool]) -> "Parting":
        def part(record: Record) -> Record:
            return {q: {n: a for n, a in held.items() if kept(q, n)} for q, held in record.items()}

        runs = [copy.copy(run) for run in self.runs]
        for run in runs:
            run.whole = {step: part(record) for step, record in run.whole.items()}
        before, at = map(part, self.before), map(part, self.at)
        return self._replace(before=(*before,), at=(*at,), runs=(*runs,))

    def scalar(self, quantity: str) -> tuple[float, float] | None:
        """Return the first number of a quantity in both, None where it is missing."""
        left, right = self.both(quantity)
        return (
            None
            if not left
            else (float(next(iter(left.values())).ravel()[0]), float(next(iter(right.values())).ravel()[0]))
        )

    def agrees(self, quantity: str) -> bool:
        """Return whether both have a quantity in this step and it is the same."""
        left, right = self.both(quantity)
        least = _LEAST[self.precision] * max((judging.peak(array) for array in left.values()), default=0.0)
        scales = {name: max(judging.peak(array), judging.peak(right[name]), least) for name, array in left.items()}
        apart = {name: judging.difference(left[name], right[name], scale) for name, scale in scales.items()}
        bounds = self.allowed.get(quantity, {})
        return bool(left) and all(size <= max(bounds.get(name, 0.0), self.tolerance) for name, size in apart.items())

    def stands_out(self, quantity: str) -> bool:
        """Return whether the runs part by far more than they may differ in another quantity, which then excludes it."""
        bounds = self.allowed.get(quantity, {}).values() if self.half else ()
        return self.parted.size > _FAR * max(bounds, default=0.0)

    @property
    def tolerance(self) -> float:
        if self.half:
            return max(self.parted.tolerance, judging.OF_STEP[self.dtype])
        return judging.OF_STEP[self.dtype] if self.carried or self.dtype == "float32" else judging.OF_RUN

    def explains(self, made: Mapping[str, np.ndarray], observed: Arrays, other: Arrays) -> bool:
        """Return whether a formula gives what was observed, so far as it differs from `other`.

        Each array has to be explained beyond a thousandth of the difference, or to its rounding.
        """
        peaks = (judging.peak(arrays[name]) for arrays in (observed, other) for name in made)
        least = _LEAST[self.precision] * max(peaks, default=0.0)
        if self.half:
            return all(self._stands_out(name, made[name], observed[name], other[name], least) for name in made)
        return all(self.explained(made[name], observed[name], other[name], least) for name in made)

    def _stands_out(self, name: str, made: np.ndarray, observed: np.ndarray, other: np.ndarray, least: float) -> bool:
        """Return whether an array in half precision is explained; nine tenths of it have to stand out of rounding."""
        if not made.shape == observed.shape == other.shape:
            return False
        bound = self._bound(self.parted.quantity, name)
        if bound >= _NOTHING:
            return True
        peaks = judging.peak(observed), judging.peak(other)
        scale = max(*peaks, 1e-3 * least)
        if min(peaks) > 0:  # of the smaller one, which may be multiplied
            bound *= max(peaks) / min(peaks)
        apart = judging.difference(other, observed, scale)
        left = judging.difference(made, observed, scale)
        return left <= (bound if apart <= bound else min(bound, apart / 10))

    def _bound(self, quantity: str, name: str) -> float:
        for bounds in (self.allowed.get(quantity, {}), *self.allowed.values()):
            for n in (name, *(n for n in bounds if n.endswith(f" of {name}"))):
                if n in bounds:
                    return bounds[n]
        return self.tolerance

    def wrong(self, quantity: str) -> list[str]:
        """Return the arrays of a quantity that differ."""
        sizes = judging.between(quantity, *self.both(quantity))
        if self.half:
            return [n for n, size in sizes.items() if size > self._bound(quantity, n)]
        least = max(self.tolerance, _LEFT_OVER * min(max(sizes.values(), default=0.0), 1.0))
        return [n for n, size in sizes.items() if size > least]

    @property
    def spread(self) -> float:
        """How far the same factor may be off in several arrays."""
        return 0.1 if self.half else 1e-4

    def explained(self, made: np.ndarray, observed: np.ndarray, other: np.ndarray, least: float = 0.0) -> bool:
        """Return the same of one array, whose numbers below `least` are rounding."""
        if made.shape != observed.shape:
            return False
        scale = max(judging.peak(observed), judging.peak(other), least)
        left = judging.difference(made, observed, scale)
        apart = judging.difference(other, observed, scale) if other.shape == observed.shape else 1.0
        if self.half:
            return left <= (self.tolerance if apart <= self.tolerance else min(self.tolerance, apart / 10))
        rounding = self.tolerance if apart <= self.tolerance else _ROUNDING[self.precision]
        return left <= max(_LEFT_OVER * min(apart, 1.0), rounding)


def each_way(p: Parting, quantity: str) -> Iterable[tuple[str, str, Arrays, Arrays]]:
    """Yield both runs as (this, the other), their names and their arrays of a quantity."""
    left, right = p.both(quantity)
    yield SIDES[0], SIDES[1], left, right
    yield SIDES[1], SIDES[0], right, left


def joined(arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return all numbers as one vector."""
    return np.concatenate([array.ravel() for array in arrays.values()]) if arrays else np.zeros(0)


def factor(numerator: np.ndarray, denominator: np.ndarray) -> float:
    """Return the factor that comes nearest to making the first vector of the second."""
    size = float(denominator @ denominator)
    return float(numerator @ denominator) / size if size else float("nan")


def sided(side: int, mine: Any, other: Any) -> tuple[Any, Any]:
    """Return the settings of JAX and of PyTorch, of which `mine` is that of a run by its number."""
    return (other, mine) if side else (mine, other)


def several(names: Iterable[str], limit: int = 4) -> str:
    """List names, shortened."""
    names = list(names)
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def figure(value: float) -> str:
    """Write a number shortly."""
    return f"1 {'+' if value > 1 else '-'} {abs(value - 1):.2g}" if 0 < abs(value - 1) < 1e-5 else f"{value:.6g}"


def _wide(array: np.ndarray) -> np.ndarray:
    return array.astype(np.complex128 if array.dtype.kind == "c" else np.float64)
