"""What comes before and after an update of Adam: the learning rate of its step, a bound on its gradient, and the
average of the weights."""

import math

import torch
from torch import Tensor

from jaxvae.shared.config.spec import Spec
from torchvae.networks import VAE
from torchvae.parallel import own_rows, scaled, total_norm


def learning_rate(spec: Spec, epoch: int, step: int) -> float:
    """Compute the learning rate of a step.

    Args:
        spec: The configuration.
        epoch: The step's epoch, from 0.
        step: The step, counted from the run's beginning.

    Returns:
        The rate.

    Raises:
        InputError: If the schedule is over the whole run, and `TrainingSpec.resolved` hasn't been told its length.

    References:
        Loshchilov & Hutter 2017, "SGDR", equation 5, for the cosine.
    """
    training = spec.training
    rates = training.learning_rates()
    rate, past = rates[min(epoch, len(rates) - 1)], max(step - training.rate_warmup, 0)
    match training.schedule:
        case "cosine":
            rate *= (1 + math.cos(math.pi * min(past / training.stretch, 1))) / 2
        case "steps":
            rate *= training.decay ** (past // training.stretch)
    if training.rate_warmup:
        rate *= min((step + 1) / training.rate_warmup, 1)
    return rate


def clipped(spec: Spec, grads: list[Tensor]) -> list[Tensor]:
    """Scale a gradient down to the configuration's largest norm, if its norm is larger.

    Args:
        spec: The configuration, whose `clip` is the largest norm, or 0 for none.
        grads: The gradient of one update, whose norm is that of all its tensors together.

    Returns:
        The gradient.

    References:
        Pascanu, Mikolov & Bengio 2013, algorithm 1.
    """
    most = spec.training.clip
    if not most:
        return grads
    norm = total_norm(grads)
    factor = (most / (norm + 1e-6)).clamp(max=1)
    if spec.training.clip_rule == "optax":
        factor = torch.where(norm < most, 1, most / norm)
    return scaled(grads, factor)


@torch.no_grad()
def averaged(spec: Spec, average: VAE | None, model: VAE, step: int) -> VAE | None:
    """Move the average of the weights towards the weights after a step.

    It becomes d * average + (1 - d) * weights, where d = min(ema, (1 + t) / (10 + t)) after t steps. Batch norm's
    running statistics are copied.

    Args:
        spec: The configuration, whose `ema` is the decay.
        average: The average before; None without one.
        model: The model.
        step: Steps taken, t.

    Returns:
        The average.

    References:
        Polyak & Juditsky 1992 for averaging; TensorFlow's ExponentialMovingAverage for the decay by step, with
        `num_updates`; torch.optim.swa_utils.AveragedModel, which copies buffers too.
    """
    if average is None:
        return None
    share = max(1 - spec.training.ema, 9 / (10 + step))  # 1 - d
    before, after = ([own_rows(tensor) for tensor in module.parameters()] for module in (average, model))
    torch._foreach_lerp_(before, after, share)
    for old, new in zip(average.buffers(), model.buffers(), strict=True):
        old.copy_(new)
    return average
