"""The best epoch of a run by its validation loss, whose weights are kept, and when that loss ends the training."""

from collections.abc import Sequence
from typing import Any

from jaxvae.shared.runs import metrics
from jaxvae.shared.runs.run_folder import Run


def best_epoch(losses: Sequence[float]) -> int:
    """The number, from 1, of the epoch with the lowest validation loss; the first of equal ones."""
    return 1 + losses.index(min(losses))


def is_over(losses: Sequence[float], patience: int) -> bool:
    """Check whether the training has to end.

    Args:
        losses: The validation losses of all epochs so far.
        patience: The number of epochs without a lower loss after which it ends; 0 for any number.

    Returns:
        Whether there were as many since the best epoch.
    """
    return patience > 0 and len(losses) > 0 and len(losses) - best_epoch(losses) >= patience


def validation_losses(run: Run) -> list[float]:
    """Read the validation losses of a run's epochs. Raises InputError if its metrics are corrupt."""
    return [record[run.spec.terms[0]] for record in metrics.of_split(run, "validation")]


def ended_early(run: Run) -> bool:
    """Whether a run's patience has ended it. Raises InputError if its metrics are corrupt."""
    return run.spec.training.patience > 0 and is_over(validation_losses(run), run.spec.training.patience)


def kept(run: Run) -> dict[str, Any] | None:
    """Read the test record of the epoch whose weights a run keeps: the best one with validation, or else the last.

    Args:
        run: The run, which may be training.

    Returns:
        The record; None if there is none yet.

    Raises:
        InputError: If its metrics are corrupt.
    """
    if not run.spec.images.validation:
        return metrics.last_test(run)
    tested = metrics.of_split(run, "test")  # written with the validation's, last
    losses = validation_losses(run)[: len(tested)]
    return tested[best_epoch(losses) - 1] if losses else None


def steps_and_epochs(run: Run) -> tuple[int, int]:
    """The steps and epochs that the weights of a run were trained for; 0 steps and all epochs for a run without any
    records, such as an imported one."""
    record = kept(run) if run.spec.images.validation else metrics.last(run)
    return (0, run.spec.training.epochs) if record is None else (record["step"], record["epoch"])
