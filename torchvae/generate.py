"""Generate images with a model: the value of a pixel is its mean, in [0, 1]."""

import functools
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from jaxvae.shared.analysis import latent_paths
from jaxvae.shared.config.spec import Spec, require_spec
from jaxvae.shared.model.argument_checks import require_bytes, require_count, require_labels, require_latents
from jaxvae.shared.model.requirements import require_2d_latent, require_prior
from torchvae import random
from torchvae.checks import check_images, check_latents, check_params, require_key
from torchvae.devices import device_of, to_tensor
from torchvae.distributions import Decoded, pixel_means
from torchvae.draws import image_keys
from torchvae.keys import root_key, static_key
from torchvae.nets import decode, encode
from torchvae.networks import VAE
from torchvae.pixels import prepare_pixels

# Images of a part: large enough for products at full speed, small enough that a CPU's cache holds the hidden units.
_PART = 1_000


@torch.no_grad()
def sample(
    spec: Spec, model: VAE, key: random.Key, n: int, labels: np.ndarray | None = None, temperature: float = 1.0
) -> np.ndarray:
    """Draw images from the prior.

    Args:
        spec: The configuration.
        model: The model.
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
    check_params("sample", spec.model, model, spec.training.stored)
    require_labels("sample", spec, labels, n)
    key = key.to(device_of(model))
    z = temperature * random.normal(key, (n, spec.model.latent), getattr(torch, spec.training.stored))
    return _in_parts(functools.partial(images_of, spec, model), z, _labels_for(spec, labels, key.device))


@torch.no_grad()
def reconstruct(
    spec: Spec, model: VAE, images: Tensor | np.ndarray, labels: Tensor | np.ndarray | None = None
) -> np.ndarray:
    """Reconstruct images through the posterior's mean.

    Args:
        spec: The configuration.
        model: The model.
        images: uint8 test images, `[n, height, width, channels]`.
        labels: Classes, `[n]`, for a model with classes.

    Returns:
        Pixel means in [0, 1], of the same shape.

    Raises:
        InputError: If the model, the images or the labels are not the configuration's.
    """
    check_images("reconstruct", spec, model, images, labels)
    classes = _labels_for(spec, labels, device_of(model))

    def reconstructed(x: Tensor, labels: Tensor | None) -> Tensor:
        return images_of(spec, model, encode(spec, model, x, labels).mean, labels)

    return _in_parts(reconstructed, seen(spec, images).to(device_of(model)), classes)


def draw_latents(spec: Spec, key: random.Key, n: int) -> np.ndarray:
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
    return random.normal(key, (n, spec.model.latent), getattr(torch, spec.training.stored)).cpu().numpy()


@torch.no_grad()
def decode_images(
    spec: Spec, model: VAE, z: Tensor | np.ndarray, labels: Tensor | np.ndarray | None = None
) -> np.ndarray:
    """Decode latents to images.

    Args:
        spec: The configuration.
        model: The model.
        z: Latents, `[n, latent]`.
        labels: Classes, `[n]`, for a model with classes.

    Returns:
        Pixel means in [0, 1], `[n, height, width, channels]`.

    Raises:
        InputError: If the model, the latents or the labels are not the configuration's.
    """
    check_latents("decode_images", spec, model, z, labels)
    device = device_of(model)
    latents = to_tensor(z, device, getattr(torch, spec.training.stored))
    return _in_parts(functools.partial(images_of, spec, model), latents, _labels_for(spec, labels, device))


def interpolate(
    spec: Spec,
    model: VAE,
    start: Tensor | np.ndarray,
    end: Tensor | np.ndarray,
    steps: int,
    labels: Tensor | np.ndarray | None = None,
    spherical: bool = False,
) -> np.ndarray:
    """Decode interpolations between pairs of latents.

    Args:
        spec: The configuration.
        model: The model.
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
    check_latents("interpolate", spec, model, start, labels)
    require_latents("interpolate", spec, end, rows=start.shape[0])
    z = (latent_paths.spherical if spherical else latent_paths.linear)(_numpy(start), _numpy(end), steps)
    return _each(spec, model, z, None if labels is None else np.repeat(_numpy(labels), steps))


def traverse(
    spec: Spec,
    model: VAE,
    z: Tensor | np.ndarray,
    dimensions: Tensor | np.ndarray,
    values: Tensor | np.ndarray,
    label: int | None = None,
) -> np.ndarray:
    """Decode a latent with one dimension at a time set to other values.

    Args:
        spec: The configuration.
        model: The model.
        z: The latent, `[latent]`.
        dimensions: Which dimensions to change, `[n]`.
        values: Their values, `[n, steps]`.
        label: The class, for a model with classes.

    Returns:
        Pixel means in [0, 1], `[n, steps, height, width, channels]`.

    Raises:
        InputError: If the model, the latent, its dimensions or the label are not the configuration's.
    """
    check_latents("traverse", spec, model, z[None], None if label is None else np.array([label]))
    z, dimensions, values = (_numpy(given) for given in (z, dimensions, values))
    labels = None if label is None else np.full(values.size, label)
    return _each(spec, model, latent_paths.along(z, dimensions, values), labels)


def manifold(spec: Spec, model: VAE, steps: int, label: int | None = None) -> np.ndarray:
    """Decode a grid over two latents at the quantiles of N(0, I), the first rising to the right and the second upwards.

    Args:
        spec: The configuration.
        model: The model.
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
    check_params("manifold", spec.model, model, spec.training.stored)
    require_labels("manifold", spec, None if label is None else np.array([label]), 1)
    return _each(spec, model, latent_paths.plane(steps), None if label is None else np.full(steps**2, label))


def seen(spec: Spec, images: Tensor | np.ndarray) -> Tensor:
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
    keys = image_keys(static_key(root_key(spec.training.seed), "test"), torch.arange(len(images)))
    return prepare_pixels(spec, to_tensor(images, torch.device("cpu")), keys, None)


def images_of(spec: Spec, model: VAE, z: Tensor, labels: Tensor | None = None) -> Tensor:
    """Decode latents to images, inside a compiled program or without one.

    Args:
        spec: The configuration.
        model: The model.
        z: Latents, `[n, latent]`.
        labels: Classes, `[n]`, for a model with classes.

    Returns:
        Pixel means in [0, 1], `[n, height, width, channels]`.

    Raises:
        InputError: If the model, the latents or the labels are not the configuration's.
    """
    require_spec(spec)
    check_latents("images_of", spec, model, z, labels, spec.training.stored)
    return means_of(spec, decode(spec, model, z, labels))


def means_of(spec: Spec, decoded: Decoded) -> Tensor:
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


def _in_parts(images: Callable[[Tensor, Tensor | None], Tensor], rows: Tensor, labels: Tensor | None) -> np.ndarray:
    """The images of the rows, a part at a time, so that beside them memory doesn't grow with n."""
    starts = range(0, max(1, len(rows)), _PART)
    cuts = (slice(start, start + _PART) for start in starts)
    parts = (images(rows[cut], None if labels is None else labels[cut]) for cut in cuts)
    out = first = next(parts)
    if len(starts) > 1:
        out = first.new_empty(len(rows), *first.shape[1:])
        out[:_PART] = first
    for start, part in zip(starts[1:], parts, strict=True):
        out[start : start + _PART] = part
    return out.cpu().numpy()


def _each(spec: Spec, model: VAE, z: np.ndarray, labels: np.ndarray | None) -> np.ndarray:
    """The images of latents `[.., .., latent]`."""
    images = decode_images(spec, model, z.reshape(-1, z.shape[-1]), labels)
    return images.reshape(*z.shape[:-1], *images.shape[1:])


def _numpy(given: Tensor | np.ndarray) -> np.ndarray:
    return given.detach().cpu().numpy() if isinstance(given, Tensor) else np.asarray(given)


def _labels_for(spec: Spec, labels: Tensor | np.ndarray | None, device: torch.device) -> Tensor | None:
    return None if labels is None or not spec.model.classes else to_tensor(labels, device)
