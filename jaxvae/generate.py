"""Images out of the model: each pixel is its Bernoulli mean, in [0, 1]."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, random

from jaxvae.nets import Params, decode, encode
from jaxvae.pixels import scale
from jaxvae.shared.spec import Spec


def sample(spec: Spec, params: Params, key: Array, n: int) -> np.ndarray:
    """`n` images from the prior: `[n, height, width, channels]`."""
    return _images(spec, params, random.normal(key, (n, spec.model.latent), spec.training.dtype))


def reconstruct(spec: Spec, params: Params, images: np.ndarray) -> np.ndarray:
    """uint8 images `[n, height, width, channels]` through the posterior's mean and back, in the same shape."""
    posterior = encode(spec, params, scale(jnp.asarray(images), spec.training.dtype))
    return _images(spec, params, posterior.mean)


def _images(spec: Spec, params: Params, z: Array) -> np.ndarray:
    return np.asarray(jax.nn.sigmoid(decode(spec, params, z))).reshape(-1, *spec.model.image)
