"""Generate images with a model: the value of a pixel is its mean, in [0, 1]."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax, random

from jaxvae.checks import check_images, check_latents, check_params, require_key
from jaxvae.compilation import program
from jaxvae.distributions import Decoded, pixel_means
from jaxvae.draws import image_keys
from jaxvae.keys import root_key, static_key
from jaxvae.nets import Params, decode, encode
from jaxvae.pixels import prepare_pixels
from jaxvae.shared.analysis import latent_paths
from jaxvae.shared.config.spec import Spec, require_spec
from jaxvae.shared.model.argument_checks import require_bytes, require_count, require_labels, require_latents
from jaxvae.shared.model.requirements import require_2d_latent, require_prior

# Images of a part: large enough for products at full speed, small enough that a CPU's cache holds the hidden units.
_PART = 1_000
# Parts in one step of the loop: a CPU writes a part's images by one core, and the other begins the next part meanwhile.
_AT_ONCE = 5


def sample(
    spec: Spec, params: Params, key: Array, n: int, labels: np.ndarray | None = None, temperature: float = 1.0
) -> np.ndarray:
    """Draw images from the prior.

    Args:
        spec: The configuration.
        params: The model's parameters.
        key: The key that the latents are drawn from; use it once.
        n: Number of images.
        labels: Classes, `[n]`, for a model with classes; each class in turn by default.
        temperature: The latents' standard deviation; below 1 images are likelier and more alike.

    Returns:
        Pixel means in [0, 1], `[n, height, width, channels]`.

    Raises:
        InputError: If the model has no prior, or if the model or the labels are not the configuration's.
    """
    require_spec(spec)
    require_key("sample", key)
    require_prior(spec)
    require_count("sample", "n", n)
    labels = np.arange(n) % max(1, spec.model.classes) if labels is None else labels
    check_params("sample", spec.model, params, spec.training.stored)
    require_labels("sample", spec, labels, n)
    return _as_images(spec, _sampled(spec, n, params, key, temperature, _labels_for(spec, labels)))


def reconstruct(
    spec: Spec, params: Params, images: Array | np.ndarray, labels: Array | np.ndarray | None = None
) -> np.ndarray:
    """Reconstruct images through the posterior's mean.

    Args:
        spec: The configuration.
        params: The model's parameters.
        images: uint8 test images, `[n, height, width, channels]`.
        labels: Classes, `[n]`, for a model with classes.

    Returns:
        Pixel means in [0, 1], of the same shape.

    Raises:
        InputError: If the model, the images or the labels are not the configuration's.
    """
    check_images("reconstruct", spec, params, images, labels)
    return _as_images(spec, _reconstructed(spec, params, jnp.asarray(images), _labels_for(spec, labels)))


def draw_latents(spec: Spec, key: Array, n: int) -> np.ndarray:
    """Draw the latents that `sample` draws.

    Args:
        spec: The configuration.
        key: The key; use it once.
        n: Number of latents.

    Returns:
        `[n, latent]`.
    """
    require_spec(spec)
    require_key("draw_latents", key)
    return np.asarray(random.normal(key, (n, spec.model.latent), spec.training.stored))


def decode_images(
    spec: Spec, params: Params, z: Array | np.ndarray, labels: Array | np.ndarray | None = None
) -> np.ndarray:
    """Decode latents to images.

    Args:
        spec: The configuration.
        params: The model's parameters.
        z: Latents, `[n, latent]`.
        labels: Classes, `[n]`, for a model with classes.

    Returns:
        Pixel means in [0, 1], `[n, height, width, channels]`.

    Raises:
        InputError: If the model, the latents or the labels are not the configuration's.
    """
    check_latents("decode_images", spec, params, z, labels)
    return _as_images(spec, _decoded(spec, params, jnp.asarray(z, spec.training.stored), _labels_for(spec, labels)))


def interpolate(
    spec: Spec,
    params: Params,
    start: Array | np.ndarray,
    end: Array | np.ndarray,
    steps: int,
    labels: Array | np.ndarray | None = None,
    spherical: bool = False,
) -> np.ndarray:
    """Decode interpolations between pairs of latents.

    Args:
        spec: The configuration.
        params: The model's parameters.
        start: First latents, `[n, latent]`.
        end: Last latents, `[n, latent]`.
        steps: Images in each interpolation.
        labels: Classes, `[n]`, for a model with classes.
        spherical: Interpolate along an arc about the origin instead of a line.

    Returns:
        Pixel means in [0, 1], `[n, steps, height, width, channels]`.

    Raises:
        InputError: If the model, the latents or the labels are not the configuration's.
    """
    require_count("interpolate", "steps", steps)
    check_latents("interpolate", spec, params, start, labels)
    require_latents("interpolate", spec, end, rows=start.shape[0])
    z = (latent_paths.spherical if spherical else latent_paths.linear)(np.asarray(start), np.asarray(end), steps)
    return _each(spec, params, z, None if labels is None else np.repeat(np.asarray(labels), steps))


def traverse(
    spec: Spec,
    params: Params,
    z: Array | np.ndarray,
    dimensions: Array | np.ndarray,
    values: Array | np.ndarray,
    label: int | None = None,
) -> np.ndarray:
    """Decode a latent with one dimension at a time set to other values.

    Args:
        spec: The configuration.
        params: The model's parameters.
        z: The latent, `[latent]`.
        dimensions: Which dimensions to change, `[n]`.
        values: Their values, `[n, steps]`.
        label: The class, for a model with classes.

    Returns:
        Pixel means in [0, 1], `[n, steps, height, width, channels]`.

    Raises:
        InputError: If the model, the latent, its dimensions or the label are not the configuration's.
    """
    check_latents("traverse", spec, params, z[None], None if label is None else np.array([label]))
    z, dimensions, values = (np.asarray(given) for given in (z, dimensions, values))
    labels = None if label is None else np.full(values.size, label)
    return _each(spec, params, latent_paths.along(z, dimensions, values), labels)


def manifold(spec: Spec, params: Params, steps: int, label: int | None = None) -> np.ndarray:
    """Decode a grid over two latents at the quantiles of N(0, I), the first rising to the right and the second upwards.

    Args:
        spec: The configuration.
        params: The model's parameters.
        steps: Points of the grid along each latent.
        label: The class, for a model with classes.

    Returns:
        Pixel means in [0, 1], `[steps, steps, height, width, channels]`.

    Raises:
        InputError: If the model has other than two latents, or no prior, or if the model or the label are not the
            configuration's.
    """
    require_spec(spec)
    require_2d_latent(spec)
    require_count("manifold", "steps", steps)
    check_params("manifold", spec.model, params, spec.training.stored)
    require_labels("manifold", spec, None if label is None else np.array([label]), 1)
    return _each(spec, params, latent_paths.plane(steps), None if label is None else np.full(steps**2, label))


def seen(spec: Spec, images: Array | np.ndarray) -> Array:
    """Prepare test images as evaluation does, except that dynamic binarisation has the threshold 0.5.

    Args:
        spec: The configuration.
        images: uint8, `[n, height, width, channels]`.

    Returns:
        Pixels, `[n, pixels]`.

    Raises:
        InputError: If the images are not uint8, or not of the model's size.
    """
    require_spec(spec)
    require_bytes("seen", images, spec.model.image)
    keys = image_keys(static_key(root_key(spec.training.seed), "test"), jnp.arange(len(images)))
    return prepare_pixels(spec, jnp.asarray(images), keys, None)


def images_of(spec: Spec, params: Params, z: Array, labels: Array | None = None) -> Array:
    """Decode latents to images, inside a compiled program or without one.

    Args:
        spec: The configuration.
        params: The model's parameters.
        z: Latents, `[n, latent]`.
        labels: Classes, `[n]`, for a model with classes.

    Returns:
        Pixel means in [0, 1], `[n, height, width, channels]`.

    Raises:
        InputError: If the model, the latents or the labels are not the configuration's.
    """
    require_spec(spec)
    check_latents("images_of", spec, params, z, labels, spec.training.stored)
    return means_of(spec, decode(spec, params, z, labels))


def means_of(spec: Spec, decoded: Decoded) -> Array:
    """Compute the pixel means of the decoder's outputs as images, in [0, 1] whatever the configuration's range.

    Args:
        spec: The configuration.
        decoded: The decoder's outputs.

    Returns:
        `[n, height, width, channels]`.
    """
    means = pixel_means(spec, decoded)
    if spec.images.range == "signed":
        means = (means + 1.0) / 2.0
    return means.reshape(-1, *spec.model.image)


@program(["spec", "n"])
def _sampled(spec: Spec, n: int, params: Params, key: Array, temperature: float, labels: Array | None) -> Array:
    z = temperature * random.normal(key, (n, spec.model.latent), spec.training.stored)
    return _in_parts(functools.partial(images_of, spec, params), z, labels)


@program(["spec"])
def _decoded(spec: Spec, params: Params, z: Array, labels: Array | None) -> Array:
    return _in_parts(functools.partial(images_of, spec, params), z, labels)


@program(["spec"])
def _reconstructed(spec: Spec, params: Params, images: Array, labels: Array | None) -> Array:
    def reconstructed(x: Array, labels: Array | None) -> Array:
        return images_of(spec, params, encode(spec, params, x, labels).mean, labels)

    return _in_parts(reconstructed, seen(spec, images), labels)


def _in_parts(images: Callable[[Array, Array | None], Array], rows: Array, labels: Array | None) -> Array:
    """The images of the rows as `[n, pixels]`: on CPUs a part at a time, so that beside them memory doesn't grow with
    n. An accelerator would only launch more kernels for parts."""
    n = len(rows)
    parts = -(-n // _PART)

    def at_once(rows: Array, labels: Array | None) -> Array:
        return images(rows, labels).reshape(len(rows), -1)

    def one_by_one(rows: Array, labels: Array | None) -> Array:
        size = -(-n // parts)

        def part(start: Array | int) -> Array:
            return at_once(*jax.tree.map(lambda a: lax.dynamic_slice_in_dim(a, start, size), (rows, labels)))

        def written(i: Array, out: Array) -> Array:
            start = jnp.minimum(i * size, n - size)  # where parts don't divide the rows, the last one repeats some
            return lax.dynamic_update_slice_in_dim(out, part(start), start, 0)

        first = jax.eval_shape(part, 0)
        return lax.fori_loop(0, parts, written, jnp.zeros((n, first.shape[1]), first.dtype), unroll=_AT_ONCE)

    if parts <= 1:
        return at_once(rows, labels)
    return lax.platform_dependent(rows, labels, cpu=one_by_one, default=at_once)


def _as_images(spec: Spec, rows: Array) -> np.ndarray:
    """Rows of pixels as images; within a program, the last axes' index would slow the decoder's last operations."""
    return np.asarray(rows).reshape(-1, *spec.model.image)


def _each(spec: Spec, params: Params, z: np.ndarray, labels: np.ndarray | None) -> np.ndarray:
    """The images of latents `[.., .., latent]`."""
    images = decode_images(spec, params, z.reshape(-1, z.shape[-1]), labels)
    return images.reshape(*z.shape[:-1], *images.shape[1:])


def _labels_for(spec: Spec, labels: Array | np.ndarray | None) -> Array | None:
    return None if labels is None or not spec.model.classes else jnp.asarray(labels)
