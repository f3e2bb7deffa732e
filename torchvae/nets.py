"""The networks as ordinary `torch.nn` modules."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jaxvae.shared import layout
from jaxvae.shared.spec import ModelSpec, Spec
from torchvae import random
from torchvae.distributions import Posterior, reparameterize


class Encoder(nn.Module):
    """`[batch, pixels]` to the posterior's mean and logvar, each `[batch, latent]`."""

    def __init__(self, spec: ModelSpec):
        super().__init__()
        widths = (spec.pixels, *spec.hidden)
        self.hidden = nn.ModuleList([nn.Linear(widths[i], widths[i + 1]) for i in range(len(spec.hidden))])
        self.mean = nn.Linear(widths[-1], spec.latent)
        self.logvar = nn.Linear(widths[-1], spec.latent)

    def forward(self, x: Tensor) -> Posterior:
        for layer in self.hidden:
            x = F.relu(layer(x))
        return Posterior(self.mean(x), self.logvar(x))


class Decoder(nn.Module):
    """`[batch, latent]` to Bernoulli logits `[batch, pixels]`, never probabilities."""

    def __init__(self, spec: ModelSpec):
        super().__init__()
        widths = (spec.latent, *reversed(spec.hidden))
        self.hidden = nn.ModuleList([nn.Linear(widths[i], widths[i + 1]) for i in range(len(spec.hidden))])
        self.logits = nn.Linear(widths[-1], spec.pixels)

    def forward(self, z: Tensor) -> Tensor:
        for layer in self.hidden:
            z = F.relu(layer(z))
        return self.logits(z)


class VAE(nn.Module):
    """The autoencoder alone. Images are `[batch, pixels]`, flattened in height, width, channel order, in [0, 1]."""

    def __init__(self, spec: ModelSpec):
        super().__init__()
        self.encoder = Encoder(spec)
        self.decoder = Decoder(spec)

    def encode(self, x: Tensor) -> Posterior:
        return self.encoder(x)

    def decode(self, z: Tensor) -> Tensor:
        return self.decoder(z)

    def forward(self, x: Tensor, key: random.Key) -> tuple[Tensor, Posterior]:
        """The logits at a latent drawn from `key`, and the posterior it was drawn from."""
        posterior = self.encode(x)
        return self.decode(reparameterize(key, posterior)), posterior


def init(spec: Spec, key: random.Key) -> VAE:
    """The model at the start of a run, from its initialization key: U(-1/sqrt(fan_in), 1/sqrt(fan_in)), PyTorch's own
    distribution. Array i of `layout.table` is drawn from fold_in(key, i)."""
    dtype = getattr(torch, spec.training.dtype)
    params = {}
    for i, parameter in enumerate(layout.table(spec.model)):
        unit = random.uniform(random.fold_in(key, i), parameter.shape, dtype)
        # 2u - 1 is exact, so that the product is rounded once.
        params[parameter.name] = (2.0 * unit - 1.0) * (1.0 / math.sqrt(parameter.fan_in))
    return bind(spec.model, params)


def encode(spec: Spec, model: VAE, x: Tensor) -> Posterior:
    """The posterior of images `[batch, pixels]` in [0, 1]."""
    return model.encode(x)


def decode(spec: Spec, model: VAE, z: Tensor) -> Tensor:
    """The logits `[batch, pixels]` of latents `[batch, latent]`."""
    return model.decode(z)


def bind(spec: ModelSpec, params: dict[str, Tensor]) -> VAE:
    """The module over a state_dict, which it takes as its own."""
    with torch.device("meta"):  # no numbers drawn that are not used
        model = VAE(spec)
    model.load_state_dict(params, assign=True)
    return model.requires_grad_()
