"""One step of a run: its inputs, and its result by the plain formulas and under faults that depend on the step."""

from dataclasses import replace
from itertools import tee

import numpy as np

from jaxvae.shared.config.spec import Spec, resolved
from jaxvae.shared.data.dataset import Dataset
from jaxvae.shared.model import layout
from parity_tests.harness.causes import Cause
from parity_tests.harness.compare import gap
from parity_tests.harness.findings import Diagnosis
from parity_tests.harness.vae import reference
from parity_tests.harness.vae.batches import places, rows_batch
from parity_tests.harness.vae.diagnose import name_cause, relaxed
from parity_tests.harness.vae.hypotheses import randomness, training
from parity_tests.harness.vae.hypotheses.kinds import named
from parity_tests.harness.vae.levels import Arrays
from parity_tests.harness.vae.places import located


def bounded(spec: Spec, steps: int, images: int) -> Spec:
    """Make the configuration of a run of `steps` steps."""
    epochs = -(-steps // spec.training.epoch_steps(images))
    return replace(spec, training=replace(spec.training, epochs=epochs, max_steps=steps))


def untrained(spec: Spec, arrays: Arrays) -> Arrays:
    """Make Adam's state before the first step, and the average of the weights if there is one."""
    state: Arrays = {}
    for phase, networks in spec.phases.items():
        prefix = phase and f"{phase}."
        names = [p.name for p in layout.table(spec.model) if p.trained and p.network in networks]
        state |= {f"{prefix}{m}.{n}": np.zeros_like(arrays[n]) for m in ("exp_avg", "exp_avg_sq") for n in names}
        state[f"{prefix}step"] = np.asarray(0, np.int32)
    if spec.training.ema:
        state |= {f"average.{name}": array for name, array in arrays.items()}
    return state


def explain(
    spec: Spec,
    data: Dataset,
    before: tuple[Arrays, Arrays],
    t: int,
    answers: tuple[Arrays, Arrays],
    tolerance: float,
    names: tuple[str, ...],
) -> Diagnosis | None:
    """Explain the difference of two backends after one step from the same state.

    Args:
        spec: The configuration.
        data: The images.
        before: The weights and Adam's state before the step.
        t: The step, from 0.
        answers: For each backend the mean loss, as `loss`, and the weights after the step.
        tolerance: The tolerance of the step.
        names: The backends' names.

    Returns:
        The diagnosis; None if the answers agree.
    """
    left, right = answers
    name = next((n for n in left if not gap({n: right[n]}, {n: left[n]}).size <= tolerance), None)
    if name is None:
        return None
    here = (left[name], right[name])
    suspects = tee(step_causes(spec, data, before, t, name))
    cause, culprit, _ = name_cause(here, suspects, spec.training.dtype, tolerance)
    if cause is None and name != "loss":
        with relaxed():
            cause, culprit = _by_ratio(spec, data, before, t, name, here)
    at = np.unravel_index(int(np.abs(here[0] - here[1]).argmax()), here[0].shape)
    numbers = " and ".join(f"{float(array[at]):.9g} by {n}" for array, n in zip(here, names, strict=True))
    place = f"the run ({spec.training.dtype}): step {t}, {name}"
    layer = located("", "" if name == "loss" else name, cause)
    return Diagnosis(place, numbers, cause, None if culprit is None else names[culprit], layer=layer)


def step_causes(spec: Spec, data: Dataset, before: tuple[Arrays, Arrays], t: int, name: str) -> randomness.Causes:
    """Compute the result of step `t` from the state before it, by the plain formulas and under each known fault."""
    per_epoch = spec.training.epoch_steps(len(data.train))
    rate = _rate(spec, data, t)

    def loss(rows: np.ndarray, t: int) -> np.ndarray:
        batch = rows_batch(spec, data, rows, t)
        return reference.averaged(spec, reference.losses(spec, before[0], batch, training=True), batch)["loss"][None]

    mine = places(spec, len(data.train), t)
    if name == "loss":
        yield None, loss(mine, t)
        for other in [*range(t - 1, -1, -1), t + 1]:
            reused = f"key reused: step {t} draws the noise of step {other}"
            yield named("key-reused", reused, f"step {other}", f"step {t}"), loss(mine, other)
            sentence = f"step {t} is given the images of step {other}"
            cause = named("data-order", sentence, f"the images of step {other}", f"the images of step {t}")
            yield cause, loss(places(spec, len(data.train), other)[: len(mine)], t)
        if t >= per_epoch:
            early = places(spec, len(data.train), t % per_epoch)
            yield training.SAME_ORDER, loss(early, t)
        return
    batch = rows_batch(spec, data, mine, t)
    grads = reference.first_gradients(spec, before[0], batch)
    hows: dict[Cause | None, reference.Adam] = {None: reference.usual(spec), **training.adams(spec)}
    for cause, how in hows.items():
        yield cause, reference.step(spec, before[0], batch, rate, before[1], how, grads)[0][name]


def _rate(spec: Spec, data: Dataset, t: int) -> float:
    epoch = t // spec.training.epoch_steps(len(data.train))
    return reference.learning_rate(resolved(spec, len(data.train)), epoch, t)


def _by_ratio(
    spec: Spec, data: Dataset, before: tuple[Arrays, Arrays], t: int, name: str, here: tuple
) -> tuple[Cause | None, int | None]:
    """Name another learning rate if every weight's step is the same multiple of the correct one."""
    plain = np.asarray(next(step_causes(spec, data, before, t, name))[1]) - before[0][name]
    moving = np.abs(plain) > 1e-2 * np.abs(plain).max()
    exact = {"float32": 1e-2, "float64": 1e-6}[spec.training.dtype]  # float32 weights keep few digits of their step
    for i, moved in enumerate(here):
        ratios = (moved - before[0][name])[moving] / plain[moving]
        if ratios.size and np.ptp(ratios) < exact * abs(ratios.mean()) and abs(ratios.mean() - 1) > 10 * exact:
            ratio, right = float(ratios.mean()), _rate(spec, data, t)
            sentence = f"learning rate {ratio:.4g} times as large from step {t} on"
            return named("learning-rate", sentence, ratio * right, right), i
    return None, None
