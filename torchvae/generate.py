"""Images out of the model: each pixel is its mean, in [0, 1]."""

import numpy as np
import torch
from torch import Tensor

from jaxvae.shared.needs import require_prior
from jaxvae.shared.spec import Spec
from torchvae import random
from torchvae.devices import device_of
from torchvae.distributions import pixel_means
from torchvae.draws import image_keys
from torchvae.keys import root_key, static_key
from torchvae.nets import VAE, decode, encode
from torchvae.pixels import prepare_pixels


@torch.no_grad()
def sample(spec: Spec, model: VAE, key: random.Key, n: int, labels: np.ndarray | None = None) -> np.ndarray:
    """`n` images from the prior: `[n, height, width, channels]`. A model with classes draws them of these labels `[n]`,
    or of each class in turn. Raises InputError for a model without a prior."""
    require_prior(spec)
    labels = np.arange(n) % max(1, spec.model.classes) if labels is None else labels
    key = key.to(device_of(model))
    z = random.normal(key, (n, spec.model.latent), getattr(torch, spec.training.stored))
    return images_of(spec, model, z, _told(spec, labels, key.device)).cpu().numpy()


@torch.no_grad()
def reconstruct(spec: Spec, model: VAE, images: np.ndarray, labels: np.ndarray | None = None) -> np.ndarray:
    """uint8 test images `[n, height, width, channels]`, with their labels `[n]` for a model with classes, through the
    posterior's mean and back, in the same shape."""
    told = _told(spec, labels, device_of(model))
    posterior = encode(spec, model, seen(spec, images).to(device_of(model)), told)
    return images_of(spec, model, posterior.mean, told).cpu().numpy()


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


def _told(spec: Spec, labels: np.ndarray | None, device: torch.device) -> Tensor | None:
    return None if labels is None or not spec.model.classes else torch.tensor(labels, device=device)
