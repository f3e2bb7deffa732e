"""The learning rate of a step as a number, for charts; the packages compute it where they train."""

import math

from jaxvae.shared.config.parts import TrainingSpec


def learning_rate(training: TrainingSpec, epoch: int, step: int) -> float:
    """Return the learning rate of a step.

    Args:
        training: The configuration, resolved for the number of training images.
        epoch: The step's epoch, from 0.
        step: The step, counted from the run's beginning, from 0.

    Returns:
        The rate, as the packages' `learning_rate` computes it.
    """
    rates = training.learning_rates()
    rate, past = rates[min(epoch, len(rates) - 1)], max(step - training.rate_warmup, 0)
    match training.schedule:
        case "cosine":
            rate *= (1 + math.cos(math.pi * min(past / training.stretch, 1))) / 2
        case "steps":
            rate *= training.decay ** (past // training.stretch)
    return rate * min((step + 1) / training.rate_warmup, 1) if training.rate_warmup else rate
