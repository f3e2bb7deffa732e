"""The numbers that one step, or one evaluation, draws from its key."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, random

from jaxvae.shared.config.spec import Spec, require_spec
from jaxvae.shared.model import layout


class Draws(NamedTuple):
    """The random numbers of one step, for `rows` images."""

    eps: Array
    """Standard normals of the latents: `[rows, latent]`, or `[samples, rows, latent]` for several samples."""
    prior: Array | None
    """Latents from N(0, I) for a discriminator: `[rows, latent]`."""
    corruption: Array | None
    """Standard normals, or the factors of dropout, of the encoder's pixels: `[rows, pixels]`."""
    masks: tuple[Array, ...]
    """The factors of dropout of the hidden units: `[rows, *units]` of `layout.hidden_units`."""


def draw(spec: Spec, key: Array, rows: int) -> Draws:
    """Draw all the random numbers of a step.

    Args:
        spec: The configuration.
        key: The key of the step; use it once.
        rows: Number of images.

    Returns:
        The draws that the configuration needs; None or empty for the others.
    """
    require_spec(spec)
    dtype, latent, level = spec.training.stored, spec.model.latent, spec.images.corruption_level
    samples = () if spec.objective.samples == 1 else (spec.objective.samples,)
    eps = random.normal(key, (*samples, rows, latent), dtype)
    prior = corruption = None
    masks: tuple[Array, ...] = ()
    if spec.objective.form == "adversarial":
        prior = random.normal(random.fold_in(key, 1), (rows, latent), dtype)
    match spec.images.corruption:
        case "gaussian":
            corruption = random.normal(random.fold_in(key, 2), (rows, spec.model.pixels), dtype)
        case "dropout":
            corruption = keep(random.fold_in(key, 2), (rows, spec.model.pixels), level, dtype)
        case "hidden-dropout":
            units = enumerate(layout.hidden_units(spec.model))
            masks = tuple(keep(random.fold_in(key, 3 + i), (rows, *shape), level, dtype) for i, shape in units)
    return Draws(eps, prior, corruption, masks)


def image_keys(key: Array, places: Array) -> Array:
    """Derive a key for each image, from which it is binarised.

    Args:
        key: The key of a step, or of a data set for static binarisation.
        places: The images' indices, `[n]`.

    Returns:
        Keys, `[n]`.
    """
    return jax.vmap(lambda place: random.fold_in(key, place))(places)


def keep(key: Array, shape: tuple[int, ...], level: float, dtype: str) -> Array:
    """Draw the factors of dropout: 0 with probability `level`, else 1 / (1 - level), so that the mean is 1."""
    # The uniforms are float32 always, so that a float64 run drops the same ones.
    kept = random.uniform(key, shape, "float32") >= jnp.float32(level)
    return kept.astype(dtype) * (1.0 / (1.0 - level))
