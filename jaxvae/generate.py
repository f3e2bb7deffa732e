"""Images out of the model: each pixel is its mean, in [0, 1]."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, random

from jaxvae.distributions import pixel_means
from jaxvae.draws import image_keys
from jaxvae.keys import root_key, static_key
from jaxvae.nets import Params, decode, encode
from jaxvae.pixels import prepare_pixels
from jaxvae.shared.needs import require_prior
from jaxvae.shared.spec import Spec


def sample(spec: Spec, params: Params, key: Array, n: int, labels: np.ndarray | None = None) -> np.ndarray:
    """`n` images from the prior: `[n, height, width, channels]`. A model with classes draws them of these labels `[n]`,
    or of each class in turn. Raises InputError for a model without a prior."""
    require_prior(spec)
    labels = np.arange(n) % max(1, spec.model.classes) if labels is None else labels
    return np.asarray(_sampled(spec, n, params, key, _told(spec, labels)))


def reconstruct(spec: Spec, params: Params, images: np.ndarray, labels: np.ndarray | None = None) -> np.ndarray:
    """uint8 test images `[n, height, width, channels]`, with their labels `[n]` for a model with classes, through the
    posterior's mean and back, in the same shape."""
    return np.asarray(_reconstructed(spec, params, jnp.asarray(images), _told(spec, labels)))


def seen(spec: Spec, images: Array | np.ndarray) -> Array:
    """The pixels of uint8 test images as evaluation has them, dynamically binarised ones at half: `[n, pixels]`."""
    keys = image_keys(static_key(root_key(spec.training.seed), "test"), jnp.arange(len(images)))
    return prepare_pixels(spec, jnp.asarray(images), keys, None)


def images_of(spec: Spec, params: Params, z: Array, labels: Array | None = None) -> Array:
    """What is said of latents `[n, latent]`, as images `[n, height, width, channels]`."""
    means = pixel_means(spec, decode(spec, params, z, labels))
    if spec.images.range == "signed":
        means = (means + 1.0) / 2.0
    return means.reshape(-1, *spec.model.image)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _sampled(spec: Spec, n: int, params: Params, key: Array, labels: Array | None) -> Array:
    z = random.normal(key, (n, spec.model.latent), spec.training.stored)
    return images_of(spec, params, z, labels)


@functools.partial(jax.jit, static_argnums=0)
def _reconstructed(spec: Spec, params: Params, images: Array, labels: Array | None) -> Array:
    posterior = encode(spec, params, seen(spec, images), labels)
    return images_of(spec, params, posterior.mean, labels)


def _told(spec: Spec, labels: np.ndarray | None) -> Array | None:
    return None if labels is None or not spec.model.classes else jnp.asarray(labels)
