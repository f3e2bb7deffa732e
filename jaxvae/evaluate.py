"""How good a model is, in nats per image."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax, random

from jaxvae.nets import Params
from jaxvae.objectives import negative_elbo
from jaxvae.pixels import scale
from jaxvae.shared.spec import Spec

_BATCH = 500


def average_terms(spec: Spec, params: Params, images: Array | np.ndarray, key: Array) -> np.ndarray:
    """The mean of each term of the objective over uint8 images `[n, height, width, channels]`: `[3]`, float64. One
    latent is drawn for each image, all of them from `key`."""
    terms = _terms(spec, params, jnp.asarray(images), key)
    return np.asarray(terms).astype(np.float64).mean(0)


@functools.partial(jax.jit, static_argnums=0)
def _terms(spec: Spec, params: Params, images: Array, key: Array) -> Array:
    """The terms of each image, `[n, 3]`."""
    eps = random.normal(key, (len(images), spec.model.latent), spec.training.dtype)

    def one(inputs: tuple[Array, Array]) -> Array:
        image, eps = inputs
        terms = negative_elbo(spec, params, scale(image[None], spec.training.dtype), eps[None])
        return jnp.concatenate(terms)

    return lax.map(one, (images, eps), batch_size=_BATCH)
