"""What is minimized. Losses are nats per image: summed over pixels and latents, so that beta keeps its meaning whatever
the batch size or the image size."""

from typing import NamedTuple

from jax import Array

from jaxvae.distributions import bernoulli_nll, gaussian_kl, locate
from jaxvae.nets import Params, decode, encode
from jaxvae.shared.spec import Spec


class Terms(NamedTuple):
    """loss = reconstruction + beta * kl, each of shape `[batch]`, or scalars once averaged; nats per image."""

    loss: Array
    reconstruction: Array
    kl: Array


def negative_elbo(spec: Spec, params: Params, x: Array, eps: Array) -> Terms:
    """The negative evidence lower bound of each image, its expectation estimated at one latent z = mean + sigma * eps
    (Kingma & Welling 2014, equation 10), its KL weighted by beta (Higgins et al. 2017). x: `[batch, pixels]` in [0, 1];
    eps: standard normals `[batch, latent]`."""
    posterior = encode(spec, params, x)
    reconstruction = bernoulli_nll(decode(spec, params, locate(posterior, eps)), x)
    kl = gaussian_kl(posterior)
    return Terms(reconstruction + spec.objective.beta * kl, reconstruction, kl)
