"""What the networks compute between their layers: labels, activations, dropout and the posterior."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxvae.distributions import AnyPosterior, PointPosterior, Posterior, ScalePosterior
from jaxvae.shared.config.parts import ModelSpec


class Training(NamedTuple):
    """What the networks are given in training only."""

    weights: Array
    """The share of each image in the batch, `[batch]`; 0 for images that only fill it up."""
    masks: tuple[Array, ...] = ()
    """Factors on the hidden units, shaped as `layout.hidden_units`; empty without dropout."""


def activate(spec: ModelSpec, x: Array) -> Array:
    """Apply the activation that follows a hidden layer."""
    match spec.activation:
        case "relu":
            return jax.nn.relu(x)
        case "tanh":
            return jnp.tanh(x)
        case "leaky-relu":
            return jnp.where(x > 0, x, spec.slope * x)  # this slope at 0 too, where JAX's own has 1
        case "leaky-relu-0.2":
            return jnp.where(x > 0, x, 0.2 * x)
        case "softplus":
            return jax.nn.softplus(full(x)).astype(x.dtype)
        case "elu":
            return jax.nn.elu(x)


def full(x: Array) -> Array:
    """Cast bfloat16 numbers to float32, for what is not computed in bfloat16."""
    return x.astype(jnp.float32) if x.dtype == jnp.bfloat16 else x


def one_hot(spec: ModelSpec, labels: Array | None, dtype: jnp.dtype) -> Array:
    """Encode labels one-hot.

    Args:
        spec: The model.
        labels: Classes from 0, `[batch]`.
        dtype: The dtype of the result.

    Returns:
        Ones and zeros, `[batch, classes]`.

    Raises:
        ValueError: If there are no labels.
    """
    if labels is None:
        raise ValueError(f"A model of {spec.classes} classes requires labels.")
    return (labels.astype(jnp.int32)[:, None] == jnp.arange(spec.classes, dtype=jnp.int32)[None]).astype(dtype)


def with_labels(spec: ModelSpec, x: Array, labels: Array | None) -> Array:
    """Append the one-hot labels to the input `[batch, features]` of a model with classes."""
    return jnp.concatenate([x, one_hot(spec, labels, x.dtype)], -1) if spec.classes else x


def maps(spec: ModelSpec, x: Array, labels: Array | None) -> Array:
    """Make images of pixels `[batch, pixels]`, with the one-hot labels of a model with classes as channels."""
    # By its shape: len() would have to be a number, which an exported program's batch size is not.
    x = x.reshape(x.shape[0], *spec.image)
    if spec.classes:  # each class is a plane of ones or zeros
        planes = one_hot(spec, labels, x.dtype)[:, None, None]
        x = jnp.concatenate([x, jnp.broadcast_to(planes, (*x.shape[:3], spec.classes))], -1)
    return x


def dropped(x: Array, training: Training | None, layer: int) -> Array:
    """Apply the mask of a hidden layer, counted through encoder and decoder, where there is dropout."""
    return x if training is None or not training.masks else x * training.masks[layer].astype(x.dtype)


def posterior(spec: ModelSpec, parts: list[Array]) -> AnyPosterior:
    """Build the posterior from the outputs of the encoder's heads, each `[batch, latent]`."""
    parts = [full(part) for part in parts]
    match spec.posterior:
        case "gaussian":
            return Posterior(*parts)
        case "log-sigma":
            return Posterior(parts[0], 2.0 * parts[1])
        case "relu-sigma":
            return ScalePosterior(*map(jax.nn.relu, parts))
        case "point":
            return PointPosterior(*parts)
        case "relu-point":
            return PointPosterior(*map(jax.nn.relu, parts))
