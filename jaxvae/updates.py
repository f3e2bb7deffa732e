"""What comes before and after an update of Adam: the learning rate of its step, a bound on its gradient, and the
average of the weights."""

import jax
import jax.numpy as jnp
import optax
from jax import Array

from jaxvae.nets import Params, combine, partition
from jaxvae.shared.config.spec import Spec


def learning_rate(spec: Spec, epoch: Array | int, step: Array | int) -> Array | float:
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
    rates, dtype = training.learning_rates(), training.stored
    rate = rates[0] if len(rates) == 1 else jnp.asarray(rates, dtype)[jnp.minimum(epoch, len(rates) - 1)]
    t = jnp.asarray(step).astype(dtype)
    past = jnp.maximum(t - training.rate_warmup, 0)
    match training.schedule:
        case "cosine":
            rate *= (1 + jnp.cos(jnp.pi * jnp.minimum(past / training.stretch, 1))) / 2
        case "steps":
            rate *= training.decay ** jnp.floor(past / training.stretch)
    if training.rate_warmup:
        rate *= jnp.minimum((t + 1) / training.rate_warmup, 1)
    return rate


def clipped(spec: Spec, grads: Params) -> Params:
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
    norm = optax.tree.norm(grads)
    factor = jnp.minimum(most / (norm + 1e-6), 1)
    if spec.training.clip_rule == "optax":
        factor = jnp.where(norm < most, 1, most / norm)
    return jax.tree.map(lambda g: g * factor.astype(g.dtype), grads)


def averaged(spec: Spec, average: Params | None, params: Params, step: Array | int) -> Params | None:
    """Move the average of the weights towards the weights after a step.

    It becomes d * average + (1 - d) * weights, where d = min(ema, (1 + t) / (10 + t)) after t steps. Batch norm's
    running statistics are copied.

    Args:
        spec: The configuration, whose `ema` is the decay.
        average: The average before; None without one.
        params: The model's parameters.
        step: Steps taken, t.

    Returns:
        The average.

    References:
        Polyak & Juditsky 1992 for averaging; TensorFlow's ExponentialMovingAverage for the decay by step, with
        `num_updates`; torch.optim.swa_utils.AveragedModel, which copies buffers too.
    """
    if average is None:
        return None
    networks = sum(spec.phases.values(), ())
    before, after = (partition(spec.model, tree, networks) for tree in (average, params))
    t = jnp.asarray(step).astype(spec.training.stored)
    # 1 - d without its rounding, so that the average of equal weights is equal to them.
    share = jnp.maximum(1 - spec.training.ema, 9 / (10 + t))
    moved = jax.tree.map(lambda old, new: old + share * (new - old), before[0], after[0])
    return combine(after[1], moved)
