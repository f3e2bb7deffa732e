"""What is minimized. Losses are nats per image: summed over pixels and latents, so that beta keeps its meaning whatever
the batch size or the image size."""

from typing import NamedTuple

from torch import Tensor

from jaxvae.shared.spec import Spec
from torchvae.distributions import bernoulli_nll, gaussian_kl, locate
from torchvae.nets import VAE, decode, encode


class Terms(NamedTuple):
    """loss = reconstruction + beta * kl, each of shape `[batch]`, or scalars once averaged; nats per image."""

    loss: Tensor
    reconstruction: Tensor
    kl: Tensor


def negative_elbo(spec: Spec, model: VAE, x: Tensor, eps: Tensor) -> Terms:
    """The negative evidence lower bound of each image, its expectation estimated at one latent z = mean + sigma * eps
    (Kingma & Welling 2014, equation 10), its KL weighted by beta (Higgins et al. 2017). x: `[batch, pixels]` in [0, 1];
    eps: standard normals `[batch, latent]`."""
    posterior = encode(spec, model, x)
    reconstruction = bernoulli_nll(decode(spec, model, locate(posterior, eps)), x)
    kl = gaussian_kl(posterior)
    return Terms(reconstruction + spec.objective.beta * kl, reconstruction, kl)
