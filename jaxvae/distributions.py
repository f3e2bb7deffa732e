"""The posterior, its reparameterization, the pixel likelihood and the divergence, each per image."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, random


class Posterior(NamedTuple):
    """Diagonal Gaussian q(z | x), each of shape `[batch, latent]`; `logvar` is log sigma^2."""

    mean: Array
    logvar: Array


def reparameterize(key: Array, posterior: Posterior) -> Array:
    """Draws z ~ q(z | x) from `key`, differentiable in the posterior. `[batch, latent]`"""
    return locate(posterior, random.normal(key, posterior.mean.shape, posterior.mean.dtype))


def locate(posterior: Posterior, eps: Array) -> Array:
    """z = mean + sigma * eps (Kingma & Welling 2014, section 2.4). `[batch, latent]`"""
    return posterior.mean + jnp.exp(0.5 * posterior.logvar) * eps


def bernoulli_nll(logits: Array, x: Array) -> Array:
    """-log p(x | logits) summed over pixels, nats per image; x in [0, 1]. `[batch, pixels]` to `[batch]`"""
    # From the logits: by way of probabilities float32 saturates at |logit| = 17, with zero gradient.
    # min(l, -l) is -|l| with slope 0 at 0, as in PyTorch; JAX gives |l| slope 1 there.
    return (jnp.maximum(logits, 0.0) - logits * x + jnp.log1p(jnp.exp(jnp.minimum(logits, -logits)))).sum(-1)


def gaussian_kl(posterior: Posterior) -> Array:
    """KL(q(z | x) || N(0, I)) summed over latents, nats per image (Kingma & Welling 2014, appendix B). `[batch]`"""
    mean, logvar = posterior
    # By expm1, since exp(logvar) - 1 loses the digits of a small KL: a new float32 model's would have five.
    return 0.5 * (mean**2 + jnp.expm1(logvar) - logvar).sum(-1)
