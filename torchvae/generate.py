"""Images out of the model: each pixel is its Bernoulli mean, in [0, 1]."""

import numpy as np
import torch
from torch import Tensor

from jaxvae.shared.spec import Spec
from torchvae import random
from torchvae.devices import device_of
from torchvae.nets import VAE, decode, encode
from torchvae.pixels import scale


@torch.no_grad()
def sample(spec: Spec, model: VAE, key: random.Key, n: int) -> np.ndarray:
    """`n` images from the prior: `[n, height, width, channels]`."""
    key = key.to(device_of(model))
    return _images(spec, model, random.normal(key, (n, spec.model.latent), getattr(torch, spec.training.dtype)))


@torch.no_grad()
def reconstruct(spec: Spec, model: VAE, images: np.ndarray) -> np.ndarray:
    """uint8 images `[n, height, width, channels]` through the posterior's mean and back, in the same shape."""
    pixels = scale(torch.tensor(images, device=device_of(model)), spec.training.dtype)
    posterior = encode(spec, model, pixels)
    return _images(spec, model, posterior.mean)


def _images(spec: Spec, model: VAE, z: Tensor) -> np.ndarray:
    return torch.sigmoid(decode(spec, model, z)).cpu().numpy().reshape(-1, *spec.model.image)
