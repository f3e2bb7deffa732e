"""Where two programs first part, and why: the place by walking a level in the order of the computation, the cause by
computing what each known fault would answer and seeing which answer it is."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import tee
from types import ModuleType

import jax
import numpy as np

from jaxvae.shared.config.parts import ImagesSpec, ModelSpec, ObjectiveSpec, TrainingSpec
from jaxvae.shared.config.spec import Spec
from parity_tests.harness.compare import gap
from parity_tests.harness.findings import Diagnosis
from parity_tests.harness.vae.hypotheses import networks, randomness, training, variants
from parity_tests.harness.vae.levels import BACKENDS, Arrays, Case, Level

# How near an answer must come to count as reproduced, as a share of the tensor's largest, where it isn't to the bit. It
# must also come twenty times nearer than the plain formula does.
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
    """Whether a configuration is of the plain VAE, whatever its sizes, beta, batches and steps."""
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
) -> Diagnosis:
    """The first place of a level that is over its tolerance, and the cause if one is known that reproduces it."""
    ours, theirs = answers
    if list(ours) != list(theirs):
        odd = sorted(set(ours) ^ set(theirs))
        return Diagnosis(
            level.name, f"only one backend answers for {', '.join(odd) or 'these names in this order'}", None
        )
    name = first_over(level, answers, tolerance)
    here = (ours[name], theirs[name])
    names = tuple(backend.NAME for backend in backends)
    explain = EXPLAIN[level.name]
    if not is_plain(case.spec):
        explain = FAMILY.get(level.name, explain)
    whole = explain in (randomness.keys, networks.layers)
    # What hangs on no backend's answers is computed once for both.
    suspects = [explain(case, name, backend) for backend in answers] if whole else list(tee(explain(case, name)))
    cause, culprit, plain = name_cause(here, suspects, case.dtype, tolerance)
    where = f"{level.name} ({case.dtype}): {name}"
    return Diagnosis(where, _numbers(here, plain, names), cause, None if culprit is None else names[culprit])


def first_over(level: Level, answers: tuple[Arrays, Arrays], tolerance: float) -> str:
    """The first name, in the order of the computation, whose answers differ by more than the tolerance."""
    ours, theirs = answers
    for name in ours:
        try:
            if not level.measure({name: theirs[name]}, {name: ours[name]}).size <= tolerance:
                return name
        except ValueError:
            return name
    raise ValueError(f"No name of {level.name} is over its tolerance.")


@contextlib.contextmanager
def relaxed() -> Iterator[None]:
    """A suspect may well draw twice from one key, and the formulas are written as on paper."""
    with jax.debug_key_reuse(False), jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


def name_cause(
    here: tuple[np.ndarray, np.ndarray], suspects: Sequence[randomness.Causes], dtype: str, tolerance: float
) -> tuple[str | None, int | None, np.ndarray]:
    """The cause that reproduces the answer of a backend that departs from the plain formula; which backend departs, if only
    one does; and what the plain formula gives."""
    departs: list[int] = []
    cause, plain = None, np.zeros(())
    with relaxed():
        for i, (found, candidates) in enumerate(zip(here, suspects, strict=True)):
            plain = np.asarray(next(candidates)[1])
            if not (off := _apart(found, plain)) <= tolerance:
                departs.append(i)
                cause = cause or _reproduces(found, plain, candidates, min(REPRODUCED[dtype], off / 20))
    return cause, departs[0] if len(departs) == 1 else None, plain


def _reproduces(
    found: np.ndarray, plain: np.ndarray, candidates: Iterable[tuple[str | None, np.ndarray]], near: float
) -> str | None:
    known = next((cause for cause, answer in candidates if _apart(found, np.asarray(answer)) <= near), None)
    narrow = plain.dtype == np.float64 and found.any() and _fits_float32(found) and not _fits_float32(plain)
    return known or ("float32 slipped into float64" if narrow and _apart(found, plain) <= 1e-5 else None)


def _fits_float32(array: np.ndarray) -> bool:
    return np.array_equal(array.astype(np.float32), array)


def _apart(found: np.ndarray, expected: np.ndarray) -> float:
    """As a share of the largest; infinite for other shapes, and zero only for equal numbers."""
    if found.shape != expected.shape:
        return float("inf")
    return gap({"": found.astype(np.float64)}, {"": expected.astype(np.float64)}).size


def _numbers(here: tuple[np.ndarray, np.ndarray], plain: np.ndarray, names: tuple[str, ...]) -> str:
    """Both answers, and the plain formula's, where they are furthest apart."""
    ours, theirs = here
    if ours.shape != theirs.shape:
        return f"{names[0]} gives {list(ours.shape)} numbers, {names[1]} {list(theirs.shape)}"
    apart = np.abs(np.nan_to_num(ours.astype(np.float64) - theirs.astype(np.float64), nan=np.inf))
    at = np.unravel_index(int(apart.argmax()), apart.shape)
    place = f" at [{', '.join(map(str, at))}]" if at else ""
    formula = f", the plain formula {plain[at]:.9g}" if plain.shape == ours.shape else ""
    return f"{names[0]} gives {ours[at]:.9g}{place}, {names[1]} {theirs[at]:.9g}{formula}"
