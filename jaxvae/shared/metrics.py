"""What a run reports: the lines of metrics.jsonl, made from the terms of single steps, which `Spec.terms` names. Nats
per image throughout."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxvae.shared.errors import NonFiniteError
from jaxvae.shared.spec import Spec, TrainingSpec


def train_records(terms: np.ndarray, done: int, images: int, spec: Spec, log_every: int | None) -> list[dict[str, Any]]:
    """Lines for the steps after step `done`, all of one epoch, whose mean terms are `terms` `[steps, terms]`: one for
    every `log_every`-th step, or one with the mean over the images seen if `log_every` is None."""
    per_epoch = spec.training.epoch_steps(images)
    steps = np.arange(done + 1, done + 1 + len(terms))
    epoch = done // per_epoch + 1
    if log_every is not None:
        chosen = steps % log_every == 0
        return [record(spec, step, epoch, "train", row) for step, row in zip(steps[chosen], terms[chosen], strict=True)]
    return [record(spec, steps[-1], epoch, "train", mean(terms, done, images, spec.training))]


def mean(terms: np.ndarray, done: int, images: int, spec: TrainingSpec) -> np.ndarray:
    """The mean over the images seen, float64 `[terms]`: an epoch's last batch holds fewer, and counts for less."""
    steps, per_epoch = np.arange(done + 1, done + 1 + len(terms)), spec.epoch_steps(images)
    sizes = np.where(steps % per_epoch == 0, images - (per_epoch - 1) * spec.batch_size, spec.batch_size)
    return np.average(terms.astype(np.float64), axis=0, weights=sizes)


def record(spec: Spec, step: int, epoch: int, split: str, terms: np.ndarray) -> dict[str, Any]:
    """One line: after `step` steps, in epoch `epoch` (from 1), the terms."""
    values = {name: float(value) for name, value in zip(spec.terms, terms, strict=True)}
    return {"step": int(step), "epoch": int(epoch), "split": split, **values}


def sentence(spec: Spec, record: dict[str, Any]) -> str:
    """A line's terms in words."""
    loss, *parts = spec.terms
    told = ", ".join(f"{name} {record[name]:.3f}" for name in parts)
    return f"loss {record[loss]:.3f} nats per image ({told})"


def first_bad(spec: Spec, terms: np.ndarray, arrays: Mapping[str, np.ndarray]) -> str | None:
    """What of a step's terms `[terms]`, or else of the weights and moments after it, is not finite, in words; None if
    all is. Weights and moments leave the finite numbers by their gradient."""
    wrong = {name: value for name, value in zip(spec.terms, terms, strict=True) if not np.isfinite(value)}
    if wrong:
        # The loss is the sum of the others, so that one of them says more.
        name = next((name for name in wrong if name != spec.terms[0]), spec.terms[0])
        return f"the {name} became {wrong[name]}"
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            if ".running_" in name:
                return f"the statistic {name} became {array[~np.isfinite(array)][0]}"
            weight = re.sub(r"^(.*\.)?exp_avg(_sq)?\.", "", name)
            return f"the gradient of {weight}, or what Adam made of it, became {array[~np.isfinite(array)][0]}"
    return None


def require_finite(spec: Spec, evaluated: np.ndarray, step: int) -> None:
    """Raises NonFiniteError unless the terms `[terms]` of an evaluation after `step` steps are finite."""
    if (bad := first_bad(spec, evaluated, {})) is not None:
        raise stopped(f"in the evaluation {bad}", step, step - 1, step)


def stopped(bad: str, step: int, since: int, until: int) -> NonFiniteError:
    """Says what went wrong in `step`, of the steps after `since` to `until` that were looked at together."""
    return NonFiniteError(
        f"Training stopped: {bad} at step {step}, of steps {since + 1} to {until}; try a smaller --learning-rate."
    )
