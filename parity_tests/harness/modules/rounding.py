"""Measure differences entry by entry, against what rounding can do to each entry."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

Arrays = dict[str, np.ndarray]

UNIT = "times its rounding error"
REASON = "an entry's rounding error is what units in the last place of itself, of inputs and of weights change there"
# optax computes 1 - 0.999 in float32, to 3e-05: Adam's corrected second moment has that error, a step half of it.
STEP_ERROR = {"float32": 1e-4, "float64": 1e-12}
STEP_REASON = {
    "float64": REASON + "; a step may also differ by 1e-12 of itself",
    "float32": REASON + "; Adam's first steps are divided by 1 - 0.999, which float32 gives to 3e-05",
}
# The measured error is the largest of a few samples of one rounding per number, where a network rounds at every step,
# and a sum of n numbers in another order may differ by sqrt(n) roundings of its parts.
_ROUNDINGS, _OF_SUM = 64.0, 0.25
_DOUBLE = (np.float64, np.complex128)
_WORSE = 4.0  # a correct implementation may round so much worse than another, by sums in another order
_TILE = 1_000_003  # a prime, so that rows of a usual length differ
SAMPLES = 8
"""How many samples of inputs and weights are drawn before an entry counts as different."""
_BEYOND = 1e3  # tolerances: what is left so large by samples of inputs and weights is not drawn within the networks

Sample = tuple[str, Arrays]
"""The framework in which a sample was drawn, and how far each entry moved."""


class Worst(NamedTuple):
    """The entry that differs most."""

    size: float
    """The difference, in rounding errors of the entry; infinite where shapes or non-finite entries differ."""
    name: str
    index: tuple[int, ...] = ()


def tolerance(terms: int) -> float:
    """Return how many rounding errors two correct implementations may differ by, if their longest sum has `terms`."""
    return _ROUNDINGS + _OF_SUM * terms**0.5


def unit(dtype: str) -> float:
    """Return the relative size of a unit in the last place of `dtype`."""
    return float(np.finfo(dtype).eps)


def tile(size: int) -> int:
    """Return how many random numbers an array of this size repeats: all but those of a large one are different."""
    return min(size, _TILE)


def scaled(array: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """Return the array times these factors, which are repeated in its order."""
    result = np.array(array, order="C")
    flat = result.reshape(-1)
    for start in range(0, flat.size, max(1, factors.size)):
        part = flat[start : start + factors.size]
        part *= factors[: part.size].astype(array.dtype)
    return result


def jitter(seed: int) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function that moves each float of an array by a unit in its last place, up or down as drawn."""
    rng = np.random.default_rng(seed)

    def change(array: np.ndarray) -> np.ndarray:
        if array.dtype.kind not in "fc":
            return array
        factors = 1 + (rng.integers(0, 2, tile(array.size)) * 2 - 1) * np.finfo(array.dtype).eps
        return scaled(array, factors)

    return change


def peak(array: np.ndarray) -> float:
    """Return the size of the largest entry; not finite where one isn't."""
    if array.dtype.kind != "f":
        return float(np.abs(array).max(initial=0.0))
    return float(max(array.max(initial=0.0), -array.min(initial=0.0)))  # without a copy of a large array


def largest(array: np.ndarray) -> float:
    """Return the size of the largest finite entry."""
    size = peak(array)
    return size if np.isfinite(size) else peak(array[np.isfinite(array)])


def excess(actual: np.ndarray, expected: np.ndarray, floor: np.ndarray | float, dtype: str) -> np.ndarray:
    """Divide the difference of each entry by its rounding error.

    Args:
        actual: Any array.
        expected: An array of the same shape.
        floor: The measured rounding error of each entry, of the same shape; 0 where none was measured.
        dtype: The precision of the comparison.

    Returns:
        The quotients. NaN and infinities that are the same on both sides are 0; others are infinite.
    """
    if actual.dtype == expected.dtype == np.float64 and np.isfinite(actual).all() and np.isfinite(expected).all():
        error = np.asarray(np.maximum(np.abs(actual), np.abs(expected)))
        error *= unit(dtype)  # in place, since a gradient may hold 100 million numbers
        error += floor + np.finfo(dtype).tiny
        return np.abs(actual - expected) / error
    if actual.dtype.kind in "biu" and expected.dtype.kind in "biu":
        difference = (actual != expected) * np.maximum(np.abs(actual.astype(float) - expected.astype(float)), 1)
        return difference / unit(dtype)  # integers are not rounded, however large they are
    difference = _apart(actual, expected)
    scale = np.maximum(np.abs(_wide(actual)), np.abs(_wide(expected)))
    with np.errstate(all="ignore"):
        error = unit(dtype) * scale + floor + np.finfo(dtype).tiny
        return np.where(difference == 0, 0.0, np.where(np.isfinite(difference), difference / error, np.inf))


def worst(in_jax: Arrays, in_torch: Arrays, floors: Mapping[str, Any], dtype: str) -> Worst:
    """Find the entry with the largest difference in rounding errors."""
    each = (_of(name, in_jax, in_torch, floors, dtype) for name in in_torch)
    return max(each, key=lambda one: one.size, default=Worst(0.0, ""))


def _of(name: str, in_jax: Arrays, in_torch: Arrays, floors: Mapping[str, Any], dtype: str) -> Worst:
    return _worst_entry(in_jax[name], in_torch[name], floors.get(name, 0.0), dtype)._replace(name=name)


def spread(sample: Arrays, base: Arrays) -> Arrays:
    """Return how far each entry of a sample lies from the unperturbed one; 0 where either is not finite."""
    result = {}
    for name, array in base.items():
        if sample[name].shape != array.shape:
            result[name] = np.zeros(array.shape)
            continue
        difference = _apart(sample[name], array)
        result[name] = np.where(np.isfinite(difference), difference, 0.0)
    return result


def judged(
    numbers: Callable[[], tuple[Arrays, Arrays]],
    dtype: str,
    allowed: float,
    samples: Callable[[Arrays], Iterator[Sample]],
    least: Mapping[str, float] = {},
) -> tuple[Worst, dict[str, float]]:
    """Find the worst entry, and sample the rounding errors only as long as an entry is over the tolerance.

    Args:
        numbers: Returns the arrays of JAX and of torch, by name. They may be as large as the parameters, so that only
            their entries over the tolerance are kept.
        dtype: The precision of the comparison.
        allowed: The tolerance, in rounding errors.
        samples: Maps the places of some entries, as indices of flattened arrays by name, to samples of these entries.
        least: The smallest rounding error of any entry of an array, by name; 0 where there is none.

    Returns:
        The worst entry, and the size of that of each array, by name.
    """
    in_jax, in_torch = numbers()
    each = {name: _of(name, in_jax, in_torch, least, dtype) for name in in_torch}
    found = max(each.values(), key=lambda one: one.size, default=Worst(0.0, ""))
    if allowed < found.size < np.inf:
        over = [name for name, one in each.items() if one.size > allowed]
        places = {n: np.flatnonzero(excess(in_jax[n], in_torch[n], least.get(n, 0.0), dtype) > allowed) for n in over}
        ours, theirs = entries(in_jax, places), entries(in_torch, places)
        del in_jax, in_torch
        measured: dict[str, Arrays] = {}
        for drawn, (framework, sample) in enumerate(samples(places), 1):
            before = measured.get(framework, {})
            measured[framework] = {n: np.maximum(before.get(n, 0.0), sample[n]) for n in over if n in sample}
            moved = combined(list(measured.values()))
            floors = {name: np.maximum(array, least.get(name, 0.0)) for name, array in moved.items()}
            each |= {name: _of(name, ours, theirs, floors, dtype) for name in over}
            found = max(each.values(), key=lambda one: one.size)
            if found.size <= allowed or (drawn > SAMPLES and found.size > _BEYOND * allowed):
                break
    return found, {name: one.size for name, one in each.items()}


def least_of_gradients(gradients: Arrays) -> dict[str, float]:
    """Return the smallest rounding error of a gradient in float64: a unit in the last place of its largest entry.

    A slope such as the `1 - y * y` of tanh cancels where it saturates: 0 in one framework and a unit in the other. No
    unit in an input moves a saturated output, so samples don't show it. In float32 so much would hide small entries.
    """
    return {name: unit("float64") * largest(array) for name, array in gradients.items() if array.dtype in _DOUBLE}


def entries(arrays: Arrays, places: Arrays) -> Arrays:
    """Return the entries at these indices of flattened arrays, by name."""
    return {name: arrays[name].flat[index] for name, index in places.items() if name in arrays}


def combined(measured: list[Arrays]) -> Arrays:
    """Return the larger rounding error of the two frameworks, as far as an array's is at most four times the other's.

    A formula that cancels where the other does not is a difference: so is dropout in one of them.
    """
    if len(measured) == 1:
        return measured[0]
    one, other = measured
    both = {}
    for name in one.keys() & other.keys():
        smaller, larger = sorted((one[name], other[name]), key=_mean_square)
        most = _WORSE * _mean_square(smaller) ** 0.5
        share = min(1.0, most / size) if (size := _mean_square(larger) ** 0.5) else 1.0
        both[name] = np.maximum(smaller, share * larger)
    return both


def _mean_square(array: np.ndarray) -> float:
    return float(np.mean(np.square(array))) if array.size else 0.0


def _worst_entry(actual: np.ndarray, expected: np.ndarray, floor: np.ndarray | float, dtype: str) -> Worst:
    if actual.shape != expected.shape:
        return Worst(np.inf, "")
    if not expected.size:
        return Worst(0.0, "")
    if not np.isfinite(_wide(expected)).any() and not np.isfinite(_wide(actual)).any():
        return Worst(np.inf, "")  # nothing was compared
    if np.ndim(floor) == 0 and floor and (bound := _gap(actual, expected) / float(floor)) <= 1:
        return Worst(bound, "")  # an entry is less than its rounding error away, whatever its size adds to that
    sizes = excess(actual, expected, floor, dtype)
    at = np.unravel_index(int(sizes.argmax()), sizes.shape)
    return Worst(float(sizes[at]), "", tuple(map(int, at)))


def _gap(actual: np.ndarray, expected: np.ndarray) -> float:
    """Return the largest difference, a part at a time: memory for all of them would take longer than they do."""
    with np.errstate(all="ignore"):  # of infinities
        if actual.size <= _TILE or not actual.ndim:
            return peak(np.asarray(actual - expected))
        rows = max(1, _TILE // (actual.size // len(actual)))
        parts = [peak(actual[i : i + rows] - expected[i : i + rows]) for i in range(0, len(actual), rows)]
        return float(np.max(parts))


def _apart(actual: np.ndarray, expected: np.ndarray) -> np.ndarray:
    actual, expected = _wide(actual), _wide(expected)
    with np.errstate(all="ignore"):
        difference = np.abs(actual - expected)
    same = (actual == expected) | (np.isnan(actual) & np.isnan(expected))
    return np.where(same, 0.0, np.where(np.isnan(difference), np.inf, difference))


def _wide(array: np.ndarray) -> np.ndarray:
    return array.astype(np.complex128 if array.dtype.kind == "c" else np.float64, copy=False)
