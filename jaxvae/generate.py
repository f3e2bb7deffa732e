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
from jaxvae.shared.analysis import latent_paths
from jaxvae.shared.config.spec import Spec
from jaxvae.shared.model.requirements import require_2d_latent, require_prior


def sample(
    spec: Spec, params: Params, key: Array, n: int, labels: np.ndarray | None = None, temperature: float = 1.0
) -> np.ndarray:
    """`n` images from the prior: `[n, height, width, channels]`. A model with classes draws them of these labels `[n]`,
    or of each class in turn. Latents have the deviation `temperature`: below 1 images are likelier and more
    alike. Raises InputError for a model without a prior."""
    require_prior(spec)
    labels = np.arange(n) % max(1, spec.model.classes) if labels is None else labels
    return np.asarray(_sampled(spec, n, params, key, temperature, _told(spec, labels)))


def reconstruct(spec: Spec, params: Params, images: np.ndarray, labels: np.ndarray | None = None) -> np.ndarray:
    """uint8 test images `[n, height, width, channels]`, with their labels `[n]` for a model with classes, through the
    posterior's mean and back, in the same shape."""
    return np.asarray(_reconstructed(spec, params, jnp.asarray(images), _told(spec, labels)))


def draw_latents(spec: Spec, key: Array, n: int) -> np.ndarray:
    """`n` latents from the prior, `[n, latent]`: those of `sample`."""
    return np.asarray(random.normal(key, (n, spec.model.latent), spec.training.stored))


def decode_images(spec: Spec, params: Params, z: np.ndarray, labels: np.ndarray | None = None) -> np.ndarray:
    """The images of latents `[n, latent]`, of these labels `[n]` for a model with classes:
    `[n, height, width, channels]`."""
    return np.asarray(_decoded(spec, params, jnp.asarray(z, spec.training.stored), _told(spec, labels)))


def interpolate(
    spec: Spec,
    params: Params,
    start: np.ndarray,
    end: np.ndarray,
    steps: int,
    labels: np.ndarray | None = None,
    spherical: bool = False,
) -> np.ndarray:
    """From each latent of `start` to that of `end`, both `[n, latent]`, in so many images, of these labels `[n]` for a
    model with classes: `[n, steps, height, width, channels]`. By a line, or `spherical` by an arc about the origin."""
    z = (latent_paths.spherical if spherical else latent_paths.linear)(start, end, steps)
    return _each(spec, params, z, None if labels is None else np.repeat(labels, steps))


def traverse(
    spec: Spec,
    params: Params,
    z: np.ndarray,
    dimensions: np.ndarray,
    values: np.ndarray,
    label: int | None = None,
) -> np.ndarray:
    """The latent `z` `[latent]` with one of the `dimensions` `[n]` at a time at each of its `values` `[n, steps]`, of
    this label for a model with classes: `[n, steps, height, width, channels]`."""
    return _each(
        spec, params, latent_paths.along(z, dimensions, values), None if label is None else np.full(values.size, label)
    )


def manifold(spec: Spec, params: Params, steps: int, label: int | None = None) -> np.ndarray:
    """The plane of two latents through the quantiles of N(0, I), the first rising to the right and the second upwards,
    of this label for a model with classes: `[steps, steps, height, width, channels]`. Raises InputError for a model of
    other than two latents, or without a prior."""
    require_2d_latent(spec)
    return _each(spec, params, latent_paths.plane(steps), None if label is None else np.full(steps**2, label))


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
def _sampled(spec: Spec, n: int, params: Params, key: Array, temperature: float, labels: Array | None) -> Array:
    z = temperature * random.normal(key, (n, spec.model.latent), spec.training.stored)
    return images_of(spec, params, z, labels)


@functools.partial(jax.jit, static_argnums=0)
def _decoded(spec: Spec, params: Params, z: Array, labels: Array | None) -> Array:
    return images_of(spec, params, z, labels)


@functools.partial(jax.jit, static_argnums=0)
def _reconstructed(spec: Spec, params: Params, images: Array, labels: Array | None) -> Array:
    posterior = encode(spec, params, seen(spec, images), labels)
    return images_of(spec, params, posterior.mean, labels)


def _each(spec: Spec, params: Params, z: np.ndarray, labels: np.ndarray | None) -> np.ndarray:
    """The images of latents `[.., .., latent]`."""
    found = decode_images(spec, params, z.reshape(-1, z.shape[-1]), labels)
    return found.reshape(*z.shape[:-1], *found.shape[1:])


def _told(spec: Spec, labels: np.ndarray | None) -> Array | None:
    return None if labels is None or not spec.model.classes else jnp.asarray(labels)
