"""Compare one level of two networks, entry by entry with its rounding error, and the levels at other weights."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from parity_tests.harness.findings import Finding
from parity_tests.harness.modules import rounding
from parity_tests.harness.modules.evaluation import Evaluation, Level
from parity_tests.harness.modules.pair import Arrays

ROUGH = {"float32": 1e-3, "float64": 1e-8}
"""Approximations end far from the given weights: torch's softplus is then 2e-9 from its formula."""
ROUGH_REASON = {
    dtype: f"{rounding.REASON}; approximations end at other weights, where {share:g} of the largest counts as rounding"
    for dtype, share in ROUGH.items()
}
_FAR = 1e6
_SATURATED = 1e4
"""Roundings of what a number is at the given weights that are left of it at others, where tanh may be 1 in one network
and the number before 1 in the other."""


class Judged(NamedTuple):
    """A level that was compared."""

    finding: Finding
    sizes: dict[str, float]
    """The largest difference of each array, in rounding errors."""
    evaluation: Evaluation
    """The networks as they were compared: JAX's gradients unfused if its fused ones differ from those."""


def judge(
    name: str,
    level: Level,
    evaluation: Evaluation,
    tolerance: float,
    rough: bool = False,
    given: Mapping[str, float] = {},
) -> Judged:
    """Compare a level.

    Args:
        name: The level's name in the report.
        level: Which numbers are compared.
        evaluation: Both networks.
        tolerance: How many rounding errors an entry may differ by.
        rough: Whether the weights are others than the given ones; what is infinite or NaN in both networks there is
            the same.
        given: The size of each array at the given weights, where it is compared at others.

    Returns:
        The finding, the size of each array's difference, and the networks as they were compared.
    """
    dtype = evaluation.both.dtype

    def numbers() -> tuple[Arrays, Arrays]:
        two = evaluation.jax_numbers(level), evaluation.torch_numbers(level)
        return _finite(*two) if rough else two

    def samples(places: Arrays) -> Iterator[rounding.Sample]:
        return evaluation.samples(level, places)

    least: Mapping[str, float] = {}
    if rough:
        least = _least(level, *numbers(), dtype, tolerance, given)
    elif level == "gradients":
        least = rounding.least_of_gradients(evaluation.torch_numbers(level))
    worst, sizes = rounding.judged(numbers, dtype, tolerance, samples, least)
    if level == "gradients" and worst.size > tolerance and not evaluation.unfused:
        other = evaluation.apart()
        with contextlib.suppress(Exception):  # a model that XLA compiles only fused
            two = other.jax_numbers(level), evaluation.jax_numbers(level)
            if rounding.worst(*two, least, dtype).size > tolerance and not evaluation.contradicts(other):
                return judge(name, level, other, tolerance, rough, given)
    reason = ROUGH_REASON[dtype] if rough else rounding.REASON
    finding = Finding(name, dtype, worst.size, worst.name, tolerance, rounding.UNIT, reason)
    return Judged(finding, sizes, evaluation)


def judge_gradients_lean(name: str, evaluation: Evaluation, tolerance: float, given: Mapping[str, float]) -> Finding:
    """Compare the gradients at other weights as they are, with JAX's weights let go once its gradient is known.

    The two networks at the given weights and at others, with both gradients, are the most memory that a comparison
    takes. A finding that fails is to be judged again with a new evaluation.
    """
    in_jax = evaluation.jax_numbers("gradients")
    evaluation.forget_jax_weights()
    in_torch, dtype = evaluation.torch_numbers("gradients"), evaluation.both.dtype
    least = _least("gradients", in_jax, in_torch, dtype, tolerance, given)
    worst = rounding.worst(*_finite(in_jax, in_torch), least, dtype)
    return Finding(name, dtype, worst.size, worst.name, tolerance, rounding.UNIT, ROUGH_REASON[dtype])


def _least(
    level: Level, in_jax: Arrays, in_torch: Arrays, dtype: str, tolerance: float, given: Mapping[str, float]
) -> Mapping[str, float]:
    """Return the least rounding errors at other weights: a share of the largest gradient, or of each array's largest
    entry but for those that are far larger than most, as of a mask."""
    left = _SATURATED * float(np.finfo(dtype).eps)
    if level == "gradients":
        here = max(map(rounding.largest, (*in_jax.values(), *in_torch.values())), default=0.0)
        least = max(ROUGH[dtype] * here, left * max(given.values(), default=0.0))
        return dict.fromkeys(in_torch, least / tolerance)
    sizes = {name: usual(array) for name, array in in_torch.items() if array.dtype.kind in "fc"}
    return {name: max(ROUGH[dtype] * size, left * given.get(name, 0.0)) / tolerance for name, size in sizes.items()}


def usual(array: np.ndarray) -> float:
    """Return the size of the largest entry that is not far larger than most."""
    sizes = np.abs(array[np.isfinite(array) & (array != 0)])
    return float(sizes[sizes <= _FAR * np.median(sizes)].max()) if sizes.size else 0.0


def _finite(in_jax: Arrays, in_torch: Arrays) -> tuple[Arrays, Arrays]:
    """Return the arrays with zeros where both networks give no finite number."""
    mine, other = dict(in_jax), dict(in_torch)
    for name, array in in_torch.items():
        if array.dtype.kind in "fc" and in_jax[name].shape == array.shape and not np.isfinite(rounding.peak(array)):
            neither = ~(np.isfinite(array) | np.isfinite(in_jax[name]))
            mine[name], other[name] = np.where(neither, 0, in_jax[name]), np.where(neither, 0, array)
    return mine, other
