"""Localize a difference and name its cause.

The tensor is the first one of the level, in the order of the computation, that is over its tolerance. The cause is the
known fault whose numbers, computed from the plain formulas, equal the numbers of a backend."""

import contextlib
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import tee
from types import ModuleType

import jax
import numpy as np

from jaxvae.shared.config.parts import ImagesSpec, ModelSpec, ObjectiveSpec, TrainingSpec
from jaxvae.shared.config.spec import Spec
from parity_tests.harness.causes import Cause
from parity_tests.harness.compare import gap
from parity_tests.harness.findings import Diagnosis
from parity_tests.harness.vae import ranges as ends
from parity_tests.harness.vae.hypotheses import networks, randomness, ranges, training, variants
from parity_tests.harness.vae.levels import BACKENDS, Arrays, Case, Level
from parity_tests.harness.vae.places import located

# Largest difference of a reproduced answer, as a share of the tensor's largest. It must also be twenty times smaller
# than the difference from the plain formula.
REPRODUCED = {"float32": 1e-5, "float64": 1e-9}

EXPLAIN: dict[str, Callable[..., randomness.Causes]] = {
    "key streams": randomness.keys,
    "normals": randomness.normals,
    "what a step draws": variants.draws,
    "initial weights": randomness.initial,
    "pixels": randomness.pixels,
    "every layer's output": networks.layers,
    "every loss term": networks.losses,
    "every term and statistic in training": variants.in_training,
    "every gradient": networks.gradients,
    "outputs and losses at both ends of every head": ranges.at_ends,
    "gradients at both ends of every head": ranges.at_ends,
    "the optimizer on given gradients": training.optimizer,
    "weights and optimizer state after a step": training.steps,
    "data order": training.order,
    "evaluation figures": training.evaluation,
    "pictures": training.pictures,
}

# The same of configurations that are not the plain VAE's.
FAMILY: dict[str, Callable[..., randomness.Causes]] = {
    "every layer's output": variants.layers,
    "every loss term": variants.losses,
    "every gradient": variants.gradients,
    "the optimizer on given gradients": variants.optimizer,
    "weights and optimizer state after a step": variants.steps,
    "data order": variants.order,
    "evaluation figures": variants.evaluation,
    "pictures": variants.pictures,
}


def is_plain(spec: Spec) -> bool:
    """Check whether a configuration is of the plain VAE, with any sizes, beta, batches and steps."""
    model, images, training = spec.model, replace(spec.images, train_images=None, resize=False), spec.training
    own = replace(training, epochs=1, max_steps=None, batch_size=1, learning_rate=1.0, seed=0, dtype="float32")
    return (
        model == ModelSpec(model.image, model.hidden, model.latent)
        and spec.objective == ObjectiveSpec(spec.objective.beta)
        and images == ImagesSpec()
        and own == TrainingSpec(epochs=1, batch_size=1, learning_rate=1.0)
    )


def diagnose(
    level: Level,
    case: Case,
    answers: tuple[Arrays, Arrays],
    tolerance: float,
    backends: tuple[ModuleType, ModuleType] = BACKENDS,
    deadline: float = math.inf,
) -> Diagnosis:
    """Find the first tensor of a level that is over its tolerance, and a known cause that reproduces it.

    Args:
        level: The level that failed.
        case: The inputs of the level.
        answers: The arrays of both backends.
        tolerance: The tolerance of the level.
        backends: The backends that computed them.
        deadline: The time of `time.monotonic` after which no other known fault is tried.

    Returns:
        The tensor, its numbers, the cause and the backend that departs, if they are known.
    """
    left, right = answers
    if list(left) != list(right):
        odd = sorted(set(left) ^ set(right))
        difference = f"only one backend has {', '.join(odd) or 'these names in this order'}"
        return Diagnosis(level.name, difference, None, layer=located(level.name))
    name = first_over(level, answers, tolerance)
    here = (left[name], right[name])
    names = tuple(backend.NAME for backend in backends)
    explain = EXPLAIN[level.name]
    if not is_plain(case.spec):
        explain = FAMILY.get(level.name, explain)
    whole = explain in (randomness.keys, networks.layers)
    # Hypotheses that do not depend on the answers are computed once for both backends.
    suspects = [explain(case, name, backend) for backend in answers] if whole else list(tee(explain(case, name)))
    untried: list[str] = []
    suspects = [_until(deadline, candidates, untried) for candidates in suspects]
    cause, culprit, plain = name_cause(here, suspects, case.dtype, tolerance)
    where, backend = f"{level.name} ({case.dtype}): {name}", None if culprit is None else names[culprit]
    layer = located(level.name, name, cause)
    return Diagnosis(where, _numbers(here, plain, names), cause, backend, complete=not untried, layer=layer)


def _until(deadline: float, candidates: randomness.Causes, untried: list[str]) -> randomness.Causes:
    """The plain result, and the known faults' until the deadline; `untried` says whether it came first."""
    yield next(candidates)
    while time.monotonic() < deadline:
        if (candidate := next(candidates, None)) is None:
            return
        yield candidate
    untried.append("the rest")


def first_over(level: Level, answers: tuple[Arrays, Arrays], tolerance: float) -> str:
    """Find the first name, in the order of the computation, whose arrays differ by more than the tolerance."""
    left, right = answers
    if level.measure is ends.measure:
        with contextlib.suppress(ValueError):  # of other shapes
            return ends.first_over(right, left, tolerance)
    for name in left:
        try:
            if not level.measure({name: right[name]}, {name: left[name]}).size <= tolerance:
                return name
        except ValueError:
            return name
    raise ValueError(f"No name of {level.name} is over its tolerance.")


@contextlib.contextmanager
def relaxed() -> Iterator[None]:
    """Allow the reuse of keys, which some hypotheses need, and the rank and dtype promotion of the plain formulas."""
    with jax.debug_key_reuse(False), jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


def name_cause(
    here: tuple[np.ndarray, np.ndarray], suspects: Sequence[randomness.Causes], dtype: str, tolerance: float
) -> tuple[Cause | None, int | None, np.ndarray]:
    """Name the cause that reproduces the array of a backend that departs from the plain formula.

    Args:
        here: The arrays of both backends.
        suspects: For each backend the plain result, with cause None, and then the result of each known fault.
        dtype: The dtype of the comparison.
        tolerance: The tolerance of the level.

    Returns:
        The cause, if one is known; the index of the backend that departs, if only one does; the plain result.
    """
    departs: list[int] = []
    cause, plain = None, np.zeros(())
    with relaxed():
        for i, (actual, candidates) in enumerate(zip(here, suspects, strict=True)):
            plain = np.asarray(next(candidates)[1])
            if not (off := _apart(actual, plain)) <= tolerance:
                departs.append(i)
                cause = cause or _reproduces(actual, plain, candidates, min(REPRODUCED[dtype], off / 20))
    return cause, departs[0] if len(departs) == 1 else None, plain


def _reproduces(
    actual: np.ndarray, plain: np.ndarray, candidates: Iterable[tuple[Cause | None, np.ndarray]], near: float
) -> Cause | None:
    known = next((cause for cause, answer in candidates if _apart(actual, np.asarray(answer)) <= near), None)
    narrow = plain.dtype == np.float64 and actual.any() and _fits_float32(actual) and not _fits_float32(plain)
    return known or (randomness.NARROW if narrow and _apart(actual, plain) <= 1e-5 else None)


def _fits_float32(array: np.ndarray) -> bool:
    return np.array_equal(array.astype(np.float32), array)


def _apart(actual: np.ndarray, expected: np.ndarray) -> float:
    """The difference as a share of the largest; infinite for other shapes, and zero only for equal numbers."""
    if actual.shape != expected.shape:
        return float("inf")
    # The plain formula may overflow too, as may a known fault.
    same = ~np.isfinite(actual) & ((actual == expected) | (np.isnan(actual) & np.isnan(expected)))
    actual, expected = np.where(same, 0, actual), np.where(same, 0, expected)
    return gap({"": actual.astype(np.float64)}, {"": expected.astype(np.float64)}).size


def _numbers(here: tuple[np.ndarray, np.ndarray], plain: np.ndarray, names: tuple[str, ...]) -> str:
    """Both numbers and the plain formula's, at the largest difference."""
    left, right = here
    if left.shape != right.shape:
        return f"{names[0]} gives {list(left.shape)} numbers, {names[1]} {list(right.shape)}"
    apart = np.abs(np.nan_to_num(left.astype(np.float64) - right.astype(np.float64), nan=np.inf))
    at = np.unravel_index(int(apart.argmax()), apart.shape)
    place = f" at [{', '.join(map(str, at))}]" if at else ""
    formula = f", the plain formula {plain[at]:.9g}" if plain.shape == left.shape else ""
    return f"{names[0]} gives {left[at]:.9g}{place}, {names[1]} {right[at]:.9g}{formula}"
