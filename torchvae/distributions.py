"""The posterior, its reparameterization, the pixel likelihood and the divergence, each per image."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from torchvae import random


class Posterior(NamedTuple):
    """Diagonal Gaussian q(z | x), each of shape `[batch, latent]`; `logvar` is log sigma^2."""

    mean: Tensor
    logvar: Tensor


def reparameterize(key: random.Key, posterior: Posterior) -> Tensor:
    """Draws z ~ q(z | x) from `key`, differentiable in the posterior. `[batch, latent]`"""
    return locate(posterior, random.normal(key, posterior.mean.shape, posterior.mean.dtype))


def locate(posterior: Posterior, eps: Tensor) -> Tensor:
    """z = mean + sigma * eps (Kingma & Welling 2014, section 2.4). `[batch, latent]`"""
    return posterior.mean + torch.exp(0.5 * posterior.logvar) * eps


def bernoulli_nll(logits: Tensor, x: Tensor) -> Tensor:
    """-log p(x | logits) summed over pixels, nats per image; x in [0, 1]. `[batch, pixels]` to `[batch]`"""
    # From the logits: by way of probabilities float32 saturates at |logit| = 17, with zero gradient.
    return F.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(-1)


def gaussian_kl(posterior: Posterior) -> Tensor:
    """KL(q(z | x) || N(0, I)) summed over latents, nats per image (Kingma & Welling 2014, appendix B). `[batch]`"""
    mean, logvar = posterior
    # By expm1, since exp(logvar) - 1 loses the digits of a small KL: a new float32 model's would have five.
    return 0.5 * (mean**2 + torch.expm1(logvar) - logvar).sum(-1)
