"""How good a model is, in nats per image."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax, random

from jaxvae.draws import draw, image_keys
from jaxvae.keys import root_key, static_key
from jaxvae.nets import Params
from jaxvae.objectives import capacity_loss, image_terms
from jaxvae.pixels import prepare_pixels
from jaxvae.shared.spec import Spec

_BATCH = 500


def average_terms(
    spec: Spec, params: Params, images: Array | np.ndarray, key: Array, labels: Array | np.ndarray | None = None
) -> np.ndarray:
    """The mean of each term of the objective over uint8 test images `[n, height, width, channels]`, their labels `[n]`
    for a model with classes: `[terms]`, float64. What is drawn for each image is drawn from `key`; beta and capacity
    are those that training ends with, and nothing is corrupted."""
    told = None if labels is None else jnp.asarray(labels)
    terms = np.asarray(_terms(spec, params, jnp.asarray(images), key, told)).astype(np.float64).mean(0)
    if spec.objective.form == "capacity":
        terms[0] = np.float64(capacity_loss(spec, terms[1], terms[2], None))
    return terms


@functools.partial(jax.jit, static_argnums=0)
def _terms(spec: Spec, params: Params, images: Array, key: Array, labels: Array | None) -> Array:
    """The terms of each image, `[n, terms]`."""
    places = jnp.arange(len(images))
    clean = replace(spec, images=replace(spec.images, corruption="none", corruption_level=0.0))
    draws = draw(clean, key, len(images))
    static = image_keys(static_key(root_key(spec.training.seed), "test"), places)
    dynamic = image_keys(random.fold_in(key, 0), places)

    def one(given: tuple) -> Array:
        image, eps, prior, label, keys = given
        x = prepare_pixels(spec, image[None], *(key[None] for key in keys))
        mine = draws._replace(eps=eps[..., None, :], prior=None if prior is None else prior[None])
        told = None if label is None else label[None]
        return jnp.concatenate(image_terms(spec, params, x, mine, told))

    eps = jnp.moveaxis(draws.eps, -2, 0)
    return lax.map(one, (images, eps, draws.prior, labels, (static, dynamic)), batch_size=_BATCH)
