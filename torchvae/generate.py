"""Images out of the model: each pixel is its mean, in [0, 1]."""

import numpy as np
import torch
from torch import Tensor

from jaxvae.shared.analysis import latent_paths
from jaxvae.shared.config.spec import Spec
from jaxvae.shared.model.requirements import require_2d_latent, require_prior
from torchvae import random
from torchvae.devices import device_of
from torchvae.distributions import pixel_means
from torchvae.draws import image_keys
from torchvae.keys import root_key, static_key
from torchvae.nets import VAE, decode, encode
from torchvae.pixels import prepare_pixels


@torch.no_grad()
def sample(
    spec: Spec, model: VAE, key: random.Key, n: int, labels: np.ndarray | None = None, temperature: float = 1.0
) -> np.ndarray:
    """`n` images from the prior: `[n, height, width, channels]`. A model with classes draws them of these labels `[n]`,
    or of each class in turn. Latents have the deviation `temperature`: below 1 images are likelier and more
    alike. Raises InputError for a model without a prior."""
    require_prior(spec)
    labels = np.arange(n) % max(1, spec.model.classes) if labels is None else labels
    key = key.to(device_of(model))
    z = temperature * random.normal(key, (n, spec.model.latent), getattr(torch, spec.training.stored))
    return images_of(spec, model, z, _told(spec, labels, key.device)).cpu().numpy()


@torch.no_grad()
def reconstruct(spec: Spec, model: VAE, images: np.ndarray, labels: np.ndarray | None = None) -> np.ndarray:
    """uint8 test images `[n, height, width, channels]`, with their labels `[n]` for a model with classes, through the
    posterior's mean and back, in the same shape."""
    told = _told(spec, labels, device_of(model))
    posterior = encode(spec, model, seen(spec, images).to(device_of(model)), told)
    return images_of(spec, model, posterior.mean, told).cpu().numpy()


def draw_latents(spec: Spec, key: random.Key, n: int) -> np.ndarray:
    """`n` latents from the prior, `[n, latent]`: those of `sample`."""
    return random.normal(key, (n, spec.model.latent), getattr(torch, spec.training.stored)).cpu().numpy()


@torch.no_grad()
def decode_images(spec: Spec, model: VAE, z: np.ndarray, labels: np.ndarray | None = None) -> np.ndarray:
    """The images of latents `[n, latent]`, of these labels `[n]` for a model with classes:
    `[n, height, width, channels]`."""
    device = device_of(model)
    latents = torch.tensor(z, dtype=getattr(torch, spec.training.stored), device=device)
    return images_of(spec, model, latents, _told(spec, labels, device)).cpu().numpy()


def interpolate(
    spec: Spec,
    model: VAE,
    start: np.ndarray,
    end: np.ndarray,
    steps: int,
    labels: np.ndarray | None = None,
    spherical: bool = False,
) -> np.ndarray:
    """From each latent of `start` to that of `end`, both `[n, latent]`, in so many images, of these labels `[n]` for a
    model with classes: `[n, steps, height, width, channels]`. By a line, or `spherical` by an arc about the origin."""
    z = (latent_paths.spherical if spherical else latent_paths.linear)(start, end, steps)
    return _each(spec, model, z, None if labels is None else np.repeat(labels, steps))


def traverse(
    spec: Spec,
    model: VAE,
    z: np.ndarray,
    dimensions: np.ndarray,
    values: np.ndarray,
    label: int | None = None,
) -> np.ndarray:
    """The latent `z` `[latent]` with one of the `dimensions` `[n]` at a time at each of its `values` `[n, steps]`, of
    this label for a model with classes: `[n, steps, height, width, channels]`."""
    return _each(
        spec, model, latent_paths.along(z, dimensions, values), None if label is None else np.full(values.size, label)
    )


def manifold(spec: Spec, model: VAE, steps: int, label: int | None = None) -> np.ndarray:
    """The plane of two latents through the quantiles of N(0, I), the first rising to the right and the second upwards,
    of this label for a model with classes: `[steps, steps, height, width, channels]`. Raises InputError for a model of
    other than two latents, or without a prior."""
    require_2d_latent(spec)
    return _each(spec, model, latent_paths.plane(steps), None if label is None else np.full(steps**2, label))


def seen(spec: Spec, images: np.ndarray) -> Tensor:
    """The pixels of uint8 test images as evaluation has them, dynamically binarised ones at half: `[n, pixels]`."""
    keys = image_keys(static_key(root_key(spec.training.seed), "test"), torch.arange(len(images)))
    return prepare_pixels(spec, torch.tensor(images), keys, None)


def images_of(spec: Spec, model: VAE, z: Tensor, labels: Tensor | None = None) -> Tensor:
    """What is said of latents `[n, latent]`, as images `[n, height, width, channels]`."""
    means = pixel_means(spec, decode(spec, model, z, labels))
    if spec.images.range == "signed":
        means = (means + 1.0) / 2.0
    return means.reshape(-1, *spec.model.image)


def _each(spec: Spec, model: VAE, z: np.ndarray, labels: np.ndarray | None) -> np.ndarray:
    """The images of latents `[.., .., latent]`."""
    found = decode_images(spec, model, z.reshape(-1, z.shape[-1]), labels)
    return found.reshape(*z.shape[:-1], *found.shape[1:])


def _told(spec: Spec, labels: np.ndarray | None, device: torch.device) -> Tensor | None:
    return None if labels is None or not spec.model.classes else torch.tensor(labels, device=device)
