"""What a run reports: the lines of metrics.jsonl, made from the terms of single steps, which `Spec.terms` names. Nats
per image throughout."""

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


def require_finite(names: tuple[str, ...], terms: np.ndarray, done: int) -> None:
    """Raises NonFiniteError naming the first step after `done` whose terms, a row of `[steps, terms]`, aren't so."""
    bad = np.argwhere(~np.isfinite(terms))
    if len(bad):
        row = bad[0, 0]
        wrong = [name for name, value in zip(names, terms[row], strict=True) if not np.isfinite(value)]
        term = wrong[-1] if wrong == [names[0]] else next(name for name in wrong if name != names[0])
        raise NonFiniteError(
            f"Training stopped: the {term} became {terms[row][names.index(term)]} at step {done + row + 1}; what was "
            "written after the epochs before it stays; try a smaller --learning-rate."
        )
