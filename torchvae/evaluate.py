"""How good a model is, in nats per image."""

import numpy as np
import torch
from torch import Tensor

from jaxvae.shared.spec import Spec
from torchvae import random
from torchvae.devices import device_of
from torchvae.nets import VAE
from torchvae.objectives import negative_elbo
from torchvae.pixels import scale

_BATCH = 500


def average_terms(spec: Spec, model: VAE, images: Tensor | np.ndarray, key: random.Key) -> np.ndarray:
    """The mean of each term of the objective over uint8 images `[n, height, width, channels]`: `[3]`, float64. One
    latent is drawn for each image, all of them from `key`."""
    device = device_of(model)
    terms = _terms(spec, model, torch.as_tensor(images, device=device), key.to(device))
    return terms.cpu().numpy().astype(np.float64).mean(0)


@torch.no_grad()
def _terms(spec: Spec, model: VAE, images: Tensor, key: random.Key) -> Tensor:
    """The terms of each image, `[n, 3]`."""
    eps = random.normal(key, (len(images), spec.model.latent), getattr(torch, spec.training.dtype))

    def some(images: Tensor, eps: Tensor) -> Tensor:
        return torch.stack(negative_elbo(spec, model, scale(images, spec.training.dtype), eps), dim=-1)

    return torch.cat([some(*inputs) for inputs in zip(images.split(_BATCH), eps.split(_BATCH), strict=True)])
