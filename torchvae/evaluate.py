"""How good a model is, in nats per image."""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from jaxvae.shared.spec import Spec
from torchvae import random
from torchvae.devices import device_of
from torchvae.draws import draw, image_keys
from torchvae.keys import root_key, static_key
from torchvae.nets import VAE
from torchvae.objectives import capacity_loss, image_terms
from torchvae.pixels import prepare_pixels

_BATCH = 500


def average_terms(
    spec: Spec, model: VAE, images: Tensor | np.ndarray, key: random.Key, labels: Tensor | np.ndarray | None = None
) -> np.ndarray:
    """The mean of each term of the objective over uint8 test images `[n, height, width, channels]`, their labels `[n]`
    for a model with classes: `[terms]`, float64. What is drawn for each image is drawn from `key`; beta and capacity
    are those that training ends with, and nothing is corrupted."""
    device = device_of(model)
    told = None if labels is None else torch.as_tensor(labels, device=device)
    found = _terms(spec, model, torch.as_tensor(images, device=device), key.to(device), told)
    terms = found.cpu().numpy().astype(np.float64).mean(0)
    if spec.objective.form == "capacity":
        reconstruction, kl = torch.tensor(terms[1:])
        terms[0] = capacity_loss(spec, reconstruction, kl, None).item()
    return terms


@torch.no_grad()
def _terms(spec: Spec, model: VAE, images: Tensor, key: random.Key, labels: Tensor | None) -> Tensor:
    """The terms of each image, `[n, terms]`."""
    places = torch.arange(len(images), device=images.device)
    clean = replace(spec, images=replace(spec.images, corruption="none", corruption_level=0.0))
    draws = draw(clean, key, len(images))
    static = static_key(root_key(spec.training.seed, images.device), "test")

    def some(rows: Tensor) -> Tensor:
        dynamic = image_keys(random.fold_in(key, 0), rows)
        x = prepare_pixels(spec, images[rows], image_keys(static, rows), dynamic)
        mine = draws._replace(eps=draws.eps[..., rows, :], prior=None if draws.prior is None else draws.prior[rows])
        told = None if labels is None else labels[rows]
        return torch.stack(image_terms(spec, model, x, mine, told), dim=-1)

    return torch.cat([some(rows) for rows in places.split(_BATCH)])
