"""How good a model is, in nats per image."""

import math
from collections.abc import Callable
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
from jax import Array, lax, random

from jaxvae.checks import check_images, check_latents, require_key
from jaxvae.compilation import program
from jaxvae.distributions import Decoded, Posterior, density, locate, log_ratio, nll, pixel_logvar, pixel_means
from jaxvae.draws import draw, image_keys
from jaxvae.keys import root_key, static_key
from jaxvae.nets import Params, decode, encode
from jaxvae.objectives import capacity_loss, image_terms
from jaxvae.pixels import prepare_pixels
from jaxvae.shared.backend import Latents, Likelihood, Pixels
from jaxvae.shared.config.likelihoods import likelihood_of
from jaxvae.shared.config.spec import Spec, require_spec
from jaxvae.shared.model.argument_checks import require_bytes
from jaxvae.shared.model.requirements import require_density

_BATCH = 500
_BLOCK = 100  # samples of an image that are drawn from one key, which decides the figures, and decoded together
_IMAGES = 5  # whose blocks are decoded together, which changes none: the logits should fit a core's cache
_PART = 20  # images between two looks at the progress


def average_terms(
    spec: Spec,
    params: Params,
    images: Array | np.ndarray,
    key: Array,
    labels: Array | np.ndarray | None = None,
    split: str = "test",
) -> np.ndarray:
    """Average the objective's terms over images that are not trained on.

    Beta and capacity are those that training ends with, and nothing is corrupted.

    Args:
        spec: The configuration.
        params: The model's parameters.
        images: uint8, `[n, height, width, channels]`.
        key: The key that latents and binarised pixels are drawn from.
        labels: Classes, `[n]`, for a model with classes.
        split: `test` or `validation`: what the images are, for static binarisation.

    Returns:
        The mean terms, `[terms]`, float64, nats per image.

    Raises:
        InputError: If the model, the images or the labels are not the configuration's.
    """
    require_key("average_terms", key)
    check_images("average_terms", spec, params, images, labels)
    labels = None if labels is None else jnp.asarray(labels)
    terms = np.asarray(_terms(spec, split, params, jnp.asarray(images), key, labels)).astype(np.float64).mean(0)
    if spec.objective.form == "capacity":
        terms[0] = np.float64(capacity_loss(spec, terms[1], terms[2], None))
    return terms


def log_likelihood(
    spec: Spec,
    params: Params,
    images: Array | np.ndarray,
    key: Array,
    labels: Array | np.ndarray | None = None,
    samples: int = 5000,
    on_images: Callable[[int], None] = lambda images: None,
) -> Likelihood:
    """Estimate log p(x) by importance sampling: log 1/k sum p(x, z) / q(z | x) over k samples z of q(z | x).

    squared-error counts as a Gaussian of variance 1/2 with its constant; relu-sigma's posterior has the variance of its
    KL, 1e-8 + sigma^2. Memory does not grow with `samples`.

    Args:
        spec: The configuration.
        params: The model's parameters.
        images: uint8, `[n, height, width, channels]`, binarised as `average_terms` does under this key.
        key: The key that latents and binarised pixels are drawn from.
        labels: Classes, `[n]`, for a model with classes.
        samples: Latents for each image.
        on_images: Called with the number of images that were finished.

    Returns:
        The estimates and the effective samples of each image.

    Raises:
        InputError: If the posterior has no density, or if the model, the images or the labels are not the
            configuration's.

    References:
        Burda, Grosse & Salakhutdinov 2016, equation 8.
    """
    require_spec(spec)
    require_key("log_likelihood", key)
    require_density(spec)
    check_images("log_likelihood", spec, params, images, labels)
    images, labels = jnp.asarray(images), None if labels is None else jnp.asarray(labels)
    n, parts = len(images), []
    for start in range(0, n, _PART):
        # The last part is filled up with its last image, or it would be compiled again.
        places = jnp.minimum(jnp.arange(start, start + min(_PART, n)), n - 1)
        part = _weigh(spec, samples, params, images, key, labels, places)
        parts.append([np.asarray(figures, np.float64)[: n - start] for figures in part])
        on_images(len(parts[-1][0]))
    return Likelihood(*map(np.concatenate, zip(*parts, strict=True)))


def see_images(spec: Spec, images: Array | np.ndarray, key: Array) -> np.ndarray:
    """Prepare test images as `average_terms` does.

    Args:
        spec: The configuration.
        images: uint8, `[n, height, width, channels]`.
        key: The key that binarised pixels are drawn from.

    Returns:
        Pixels, `[n, pixels]`, float64.

    Raises:
        InputError: If the images are not uint8, or not of the model's size.
    """
    require_spec(spec)
    require_key("see_images", key)
    require_bytes("see_images", images, spec.model.image)
    return np.asarray(_pixels(spec, jnp.asarray(images), key, jnp.arange(len(images))), np.float64)


def encode_images(
    spec: Spec, params: Params, images: Array | np.ndarray, key: Array, labels: Array | np.ndarray | None = None
) -> Latents:
    """Encode test images, prepared as `average_terms` does.

    Args:
        spec: The configuration.
        params: The model's parameters.
        images: uint8, `[n, height, width, channels]`.
        key: The key that latents and binarised pixels are drawn from.
        labels: Classes, `[n]`, for a model with classes.

    Returns:
        The posteriors, and a draw from each, `[n, latent]`, float64.

    Raises:
        InputError: If the model, the images or the labels are not the configuration's.
    """
    require_key("encode_images", key)
    check_images("encode_images", spec, params, images, labels)
    labels = None if labels is None else jnp.asarray(labels)
    mean, logvar, z = _encode(spec, params, jnp.asarray(images), key, labels)
    if logvar is None:
        return Latents(np.asarray(mean, np.float64), None, None)
    return Latents(*(np.asarray(part, np.float64) for part in (mean, logvar, z)))


def decode_latents(spec: Spec, params: Params, z: np.ndarray, labels: Array | np.ndarray | None = None) -> Pixels:
    """Decode latents to the parameters of the pixels' distribution.

    Args:
        spec: The configuration.
        params: The model's parameters.
        z: Latents, `[n, latent]`.
        labels: Classes, `[n]`, for a model with classes.

    Returns:
        Logits or means, see `Likelihood.located_by`, and log-variances, computed in the configuration's precision and
        given as float64.

    Raises:
        InputError: If the model, the latents or the labels are not the configuration's.
    """
    check_latents("decode_latents", spec, params, z, labels)
    labels = None if labels is None else jnp.asarray(labels)
    location, logvar = _decode(spec, params, jnp.asarray(z, spec.training.stored), labels)
    return Pixels(np.asarray(location, np.float64), None if logvar is None else np.asarray(logvar, np.float64))


@program(["spec", "split"])
def _terms(spec: Spec, split: str, params: Params, images: Array, key: Array, labels: Array | None) -> Array:
    """The terms of each image, `[n, terms]`."""
    places = jnp.arange(len(images))
    clean = replace(spec, images=replace(spec.images, corruption="none", corruption_level=0.0))
    draws = draw(clean, key, len(images))
    static = image_keys(static_key(root_key(spec.training.seed), split), places)
    dynamic = image_keys(random.fold_in(key, 0), places)

    def one(given: tuple) -> Array:
        image, eps, prior, label, keys = given
        x = prepare_pixels(spec, image[None], *(key[None] for key in keys))
        mine = draws._replace(eps=eps[..., None, :], prior=None if prior is None else prior[None])
        return jnp.concatenate(image_terms(spec, params, x, mine, None if label is None else label[None]))

    eps = jnp.moveaxis(draws.eps, -2, 0)
    return lax.map(one, (images, eps, draws.prior, labels, (static, dynamic)), batch_size=_BATCH)


@program(["spec", "samples"])
def _weigh(
    spec: Spec, samples: int, params: Params, images: Array, key: Array, labels: Array | None, places: Array
) -> tuple[Array, Array]:
    """The estimate and the effective samples of the images at these places, each `[places]`."""
    dtype = spec.training.stored
    constant = spec.model.pixels * likelihood_of(spec.model).omitted

    def one(given: tuple) -> tuple[Array, Array]:
        x, label, noise = given
        block_labels = None if label is None else jnp.broadcast_to(label, _BLOCK)
        posterior = density(encode(spec, params, x[None], None if label is None else label[None]))

        def block(i: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            eps = random.normal(random.fold_in(noise, i), (_BLOCK, spec.model.latent), dtype)
            error = nll(spec, decode(spec, params, locate(posterior, eps), block_labels), x[None])
            log_w = -(error + constant + log_ratio(posterior, eps))
            log_w = jnp.where(i * _BLOCK + jnp.arange(_BLOCK) < samples, log_w, -jnp.inf)
            return _add(carry, log_w)

        start = (jnp.full((), -jnp.inf, dtype), jnp.zeros((), dtype), jnp.zeros((), dtype))
        most, total, squares = lax.fori_loop(0, -(-samples // _BLOCK), block, start)
        return most + jnp.log(total) - math.log(samples), total**2 / squares

    labels = None if labels is None else labels[places]
    noise = image_keys(random.fold_in(key, 1), places)
    return lax.map(one, (_pixels(spec, images[places], key, places), labels, noise), batch_size=_IMAGES)


def _add(carry: tuple[Array, Array, Array], log_w: Array) -> tuple[Array, Array, Array]:
    """The largest of the logarithms so far, the sum of the weights and that of their squares, both over the largest."""
    most, total, squares = carry
    now = jnp.maximum(most, log_w.max())
    shrunk, w = jnp.exp(most - now), jnp.exp(log_w - now)
    return now, total * shrunk + w.sum(), squares * shrunk**2 + (w**2).sum()


@program(["spec"])
def _encode(spec: Spec, params: Params, images: Array, key: Array, labels: Array | None) -> tuple:
    places = jnp.arange(len(images))

    def one(given: tuple) -> tuple:
        image, label, place = given
        x = _pixels(spec, image[None], key, place[None])
        posterior = encode(spec, params, x, None if label is None else label[None])
        return posterior.mean[0], density(posterior).logvar[0] if spec.model.samples_latents else None

    mean, logvar = lax.map(one, (images, labels, places), batch_size=_BATCH)
    if logvar is None:
        return mean, None, None
    return mean, logvar, locate(Posterior(mean, logvar), random.normal(random.fold_in(key, 2), mean.shape, mean.dtype))


@program(["spec"])
def _decode(spec: Spec, params: Params, z: Array, labels: Array | None) -> tuple[Array, Array | None]:
    decoded = decode(spec, params, z, labels)
    return _location(spec, decoded), pixel_logvar(spec, decoded)


def _location(spec: Spec, decoded: Decoded) -> Array:
    match likelihood_of(spec.model).located_by:
        case "logits":
            return decoded.logits
        case "means":
            return pixel_means(spec, decoded)


def _pixels(spec: Spec, images: Array, key: Array, places: Array) -> Array:
    """uint8 images as `average_terms` sees those at these places: `[n, pixels]`."""
    static = image_keys(static_key(root_key(spec.training.seed), "test"), places)
    return prepare_pixels(spec, images, static, image_keys(random.fold_in(key, 0), places))
