"""How far the records of two runs are apart, and how far they may be."""

import contextlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from parity_tests.harness.loops.naming import QUANTITIES, Record
from parity_tests.harness.loops.records import LOW, Arrays

EPS = {
    "float32": float(np.finfo(np.float32).eps),
    "float64": float(np.finfo(np.float64).eps),
    **dict.fromkeys(LOW, 2**-7),
}
# A step's rounding is 1e-15 of a number in float64, and 1e-7 in float32; what a batch norm, a softmax and sums in
# another order make of it is a hundred times that. The smallest known mistake, the 1e-6 that torch's clipping adds to a
# norm, is 1e-7 of a gradient.
OF_STEP = {"float64": 1e-11, **dict.fromkeys(("float32", *LOW), 1e-5)}
# In a float64 run the rounding of all steps before adds up and grows.
OF_RUN = 1e-9
TIMES_FLOOR = (
    10.0  # as of the VAEs' runs: two programs round at every operation, a run moved by an ulp is disturbed once
)
REASON = {
    "float64": f"a rounding of 1e-16 grows as training goes, and the smallest known mistake is 1e-7; {OF_RUN:g} is "
    "between",
    **dict.fromkeys(
        LOW, "both from the same state: the rounding of both, each measured against the same run in float32"
    ),
    "float32": f"{TIMES_FLOOR:g} times the noise floor, each run against itself with its first parameters moved by an "
    f"ulp; but {OF_STEP['float32']:g}, a step's own rounding, at least",
}
OWN = "both from the same state: a step's own rounding, or ten times what moving the parameters by an ulp changes there"
# A gradient that is zero but for rounding, as of a bias before a batch norm, is compared beside the others.
SMALL = 1e-3
_FIGURES = ("loss in evaluation", "loss", "terms")
_TURN = ("loss", "gradients", "optimizer state", "parameters")
_ULPS = 4  # of a figure: a mean over a batch is rounded more than once
FINITE = ("loss", "gradients", "parameters")
"""What ends a comparison where it is NaN or infinite in both runs."""

Sizes = dict[str, dict[str, float]]
"""The difference of each array, by quantity and name, as a share of its largest entry."""
Floor = list[Sizes]
"""The noise floor of each step."""


class Parted(NamedTuple):
    """The first quantity in which two runs part."""

    step: int
    quantity: str
    name: str
    size: float
    tolerance: float
    part: str = ""
    """Of several networks that each step trains in turn, the one in which they part."""


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Compare numbers without warnings of those that are NaN or infinite."""
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def sizes(left: Record, right: Record) -> Sizes:
    """Measure the difference of each array that both records have."""
    apart = {q: between(q, left[q], right[q]) for q in QUANTITIES if q in left and q in right}
    return {quantity: found for quantity, found in apart.items() if found}


def between(quantity: str, left: Arrays, right: Arrays) -> dict[str, float]:
    """Measure the difference of each array, as a share of its largest entry, or of the larger arrays of its kind."""
    of = scales(quantity, left, right)
    apart = {name: difference(left[name], right[name], of[name]) for name in left if name in right}
    if quantity in _FIGURES:  # one in float32 shows no more than that, whatever the runs are in
        for name, size in apart.items():
            if size <= _ULPS * EPS["float32"] and np.float32 in (left[name].dtype, right[name].dtype):
                apart[name] = 0.0
    return apart


def difference(left: np.ndarray, right: np.ndarray, scale: float) -> float:
    """Return the largest difference as a share of `scale`; infinite where shapes, or entries that are NaN or infinite,
    differ."""
    if left.shape != right.shape:
        return float("inf")
    if not left.size or np.array_equal(left, right, equal_nan=left.dtype.kind in "fc"):
        return 0.0
    wide = np.complex128 if "c" in left.dtype.kind + right.dtype.kind else np.float64
    a, b = left.astype(wide), right.astype(wide)
    known = np.isfinite(a)
    if not np.array_equal(known, np.isfinite(b)):
        return float("inf")
    with np.errstate(all="ignore"):
        same = known | (a == b) | (np.isnan(a) & np.isnan(b))
        size = float(np.abs(a - b)[known].max(initial=0.0)) / scale if scale else float("inf")
    return size if same.all() else float("inf")


def worst_index(left: np.ndarray, right: np.ndarray) -> tuple[int, ...]:
    """Return the entry of the largest difference; the first that only one array has finite, if there is any."""
    with np.errstate(all="ignore"):
        apart = np.where(
            np.isfinite(left) != np.isfinite(right), np.inf, np.abs(left.astype(float) - right.astype(float))
        )
    return tuple(map(int, np.unravel_index(int(np.nan_to_num(apart, nan=0.0, posinf=np.inf).argmax()), left.shape)))


def first(steps: Sequence[Sizes], dtype: str, floor: Floor | None = None) -> Parted | None:
    """Find the first step, and in it the first quantity, beyond its tolerance.

    Args:
        steps: The difference of each array in each step.
        dtype: The precision of the runs.
        floor: The noise floor of each step; None to allow a step's own rounding, or in float64 what grows of it.
    """
    grown: dict[tuple[str, str], float] = {}
    for i, step in enumerate(steps):
        for quantity, apart in step.items():
            worst = None
            for name, size in apart.items():
                noise = floor[i].get(quantity, {}).get(name, 0.0) if floor else 0.0
                grown[quantity, name] = max(noise, grown.get((quantity, name), 0.0))  # chaos shrinks by chance, too
                allowed = allowance(dtype, grown[quantity, name])
                if not size <= allowed and (worst is None or size / allowed > worst.size / worst.tolerance):
                    worst = Parted(i, quantity, name, size, allowed)
            if worst is not None:
                return worst
    return None


def allowance(dtype: str, noise: float = 0.0) -> float:
    """Return the tolerance of a run's array beside its noise floor."""
    least = OF_RUN if dtype == "float64" else OF_STEP[dtype]
    return max(least, TIMES_FLOOR * noise)


def own(left: Record, right: Record, dtype: str, noise: Sizes | None = None, step: int = 0) -> Parted | None:
    """Find the first quantity in which one step from the same state differs."""
    return beyond(sizes(left, right), dtype, noise, step)


def beyond(step_sizes: Sizes, dtype: str, noise: Sizes | None = None, step: int = 0) -> Parted | None:
    """Return the first quantity of one step that differs by more than a step's own rounding."""
    for quantity, apart in step_sizes.items():
        allowed = {n: max(OF_STEP[dtype], TIMES_FLOOR * (noise or {}).get(quantity, {}).get(n, 0.0)) for n in apart}
        name = max(apart, key=lambda n: apart[n] / allowed[n])
        if not apart[name] <= allowed[name]:
            return Parted(step, quantity, name, apart[name], allowed[name])
    return None


def of_part(name: str, part: str) -> bool:
    """Return whether an array, by its name in a record, is of one of several networks."""
    return name.rpartition(" of ")[2].startswith((f"{part}.", f"{part}/")) or name == part


def in_turn(parted: Parted, step_sizes: Sizes) -> Parted:
    """Return where one of several networks with a loss each parts first: one that is updated otherwise, before another
    whose loss then differs."""
    losses = step_sizes.get("loss", {})
    if parted.step < 0 or parted.quantity not in _TURN or len(losses) < 2:
        return parted
    found: list[tuple[int, Parted]] = []
    for part in losses:
        for i, quantity in enumerate(_TURN):
            apart = {name: size for name, size in step_sizes.get(quantity, {}).items() if of_part(name, part)}
            name = max(apart, key=lambda n: apart[n], default="")
            if name and not apart[name] <= parted.tolerance:
                found.append((i, Parted(parted.step, quantity, name, apart[name], parted.tolerance, part)))
                break
    return max(found, key=lambda one: (one[0], one[1].size), default=(0, parted))[1]


def within(step_sizes: Sizes, allowed: Sizes) -> Parted | None:
    """Return the first quantity of one step with an array that differs by more than it may."""
    for quantity, apart in step_sizes.items():
        bounds = {name: allowed.get(quantity, {}).get(name, OF_STEP["float32"]) for name in apart}
        name = max(apart, key=lambda n: apart[n] / bounds[n])
        if not apart[name] <= bounds[name]:
            return Parted(0, quantity, name, apart[name], bounds[name])
    return None


def worst(steps: Sequence[Sizes]) -> dict[str, Parted]:
    """Find the worst difference of each quantity over all steps; its tolerance is left 0."""
    found: dict[str, Parted] = {}
    for i, step in enumerate(steps):
        for quantity, apart in step.items():
            for name, size in apart.items():
                if quantity not in found or size > found[quantity].size:
                    found[quantity] = Parted(i, quantity, name, size, 0.0)
    return found


def merged(floors: Sequence[Floor]) -> Floor:
    """Return the larger of several noise floors."""
    result: Floor = []
    for several in zip(*floors, strict=True):
        step: Sizes = {}
        for one in several:
            for quantity, apart in one.items():
                for name, size in apart.items():
                    held = step.setdefault(quantity, {})
                    held[name] = max(held.get(name, 0.0), size if np.isfinite(size) else 0.0)
        result.append(step)
    return result


def nonfinite(record: Record, quantities: Sequence[str] = FINITE) -> str | None:
    """Return the first quantity that holds NaN or an infinite number in every array that has any, or None."""
    for quantity in quantities:
        if any(a.dtype.kind in "fc" and not np.isfinite(a).all() for a in record.get(quantity, {}).values()):
            return quantity
    return None


def nudged(arrays: Mapping[str, np.ndarray], dtype: str, draw: int) -> Arrays:
    """Return the arrays with every number moved by a unit in its last place, up or down as `draw` has it."""
    random = np.random.default_rng(draw)
    return {
        name: (array * (1 + EPS[dtype] * random.choice([-1.0, 1.0], array.shape))).astype(array.dtype)
        for name, array in arrays.items()
    }


def scales(quantity: str, left: Arrays, right: Arrays) -> dict[str, float]:
    """Return what the difference of each array that both have is a share of."""
    peaks = {n: max(peak(left[n]), peak(right[n])) for n in left if n in right}
    if quantity in ("batch", "inputs", "terms", "learning rate", "loss scale"):
        return peaks
    least: dict[str, float] = {}
    for name, size in peaks.items():
        kind = _kind(quantity, name)
        share = SMALL**2 if kind == "second moment" else SMALL
        least[kind] = max(least.get(kind, 0.0), share * size)
    return {name: max(size, least[_kind(quantity, name)]) for name, size in peaks.items()}


def _kind(quantity: str, name: str) -> str:
    """Return which arrays are compared beside each other: the same slot of an optimizer's state, a quantity else."""
    return name.partition(" of ")[0] if quantity == "optimizer state" else ""


def peak(array: np.ndarray) -> float:
    """Return the size of the largest finite entry."""
    if array.dtype.kind not in "fc":
        return float(np.abs(array.astype(np.float64)).max(initial=0.0))
    known = np.isfinite(array)
    return float(np.abs(array[known]).max(initial=0.0))
