"""The posterior, its reparameterization, the likelihoods of pixels and the divergences, each per image.

The file is long, since every formula of the bound stands here with its shapes, units and reference; half of it is
docstrings.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from jaxvae.shared.config.likelihoods import LOWEST_LOGVAR, LikelihoodName, Mean, mean_of, variance_of
from jaxvae.shared.config.spec import Spec, require_spec
from jaxvae.shared.model.argument_checks import require_floats, require_pixels
from jaxvae.shared.model.own_outputs import require_shape
from torchvae import random
from torchvae.checks import require_own

# Series in y^2 up to 4, the highest power first and all positive, so that nothing cancels near y = 0:
# sinh(y) = y + y^3 * the first, y cosh(y) - sinh(y) = y^3 * the second.
_SINH = tuple(1 / math.factorial(2 * k + 3) for k in reversed(range(11)))
_COSH = tuple((2 * k + 2) / math.factorial(2 * k + 3) for k in reversed(range(11)))


class Posterior(NamedTuple):
    """Diagonal Gaussian q(z | x), each of shape `[batch, latent]`; `logvar` is log sigma^2."""

    mean: Tensor
    logvar: Tensor


class ScalePosterior(NamedTuple):
    """Diagonal Gaussian q(z | x) by its standard deviation, which may be 0; each `[batch, latent]`."""

    mean: Tensor
    scale: Tensor


class PointPosterior(NamedTuple):
    """A code, which is not a distribution: `[batch, latent]`."""

    mean: Tensor


AnyPosterior = Posterior | ScalePosterior | PointPosterior


class Decoded(NamedTuple):
    """The decoder's outputs for each pixel."""

    logits: Tensor
    """Of each pixel's mean, before it is bounded: `[batch, pixels]`."""
    logvar: Tensor | None
    """What a learned variance is made of: `[batch, pixels]`, or `[]` where all pixels share one."""


def reparameterize(key: random.Key, posterior: AnyPosterior) -> Tensor:
    """Draw a latent for each image, differentiably in the posterior.

    Args:
        key: The key that the standard normals are drawn from; use it once.
        posterior: q(z | x), each part `[batch, latent]`.

    Returns:
        z ~ q(z | x), `[batch, latent]`; the code itself where there is no distribution.

    References:
        Kingma & Welling 2014, section 2.4.
    """
    return locate(posterior, random.normal(key, posterior.mean.shape, posterior.mean.dtype))


def locate(posterior: AnyPosterior, eps: Tensor) -> Tensor:
    """Compute z = mean + sigma * eps.

    Args:
        posterior: q(z | x), each part `[batch, latent]`.
        eps: Standard normals, `[batch, latent]`.

    Returns:
        Latents, `[batch, latent]`; the code itself where there is no distribution.

    References:
        Kingma & Welling 2014, section 2.4.
    """
    match posterior:
        case Posterior(mean, logvar):
            return mean + torch.exp(0.5 * logvar) * eps
        case ScalePosterior(mean, scale):
            return mean + scale * eps
        case PointPosterior(mean):
            return mean


def kl(posterior: AnyPosterior) -> Tensor:
    """Compute KL(q(z | x) || N(0, I)), summed over latents.

    Args:
        posterior: q(z | x), each part `[batch, latent]`.

    Returns:
        Nats per image, `[batch]`; 0 for a code, which has no divergence.

    References:
        Kingma & Welling 2014, appendix B.
    """
    match posterior:
        case Posterior():
            return gaussian_kl(posterior)
        case ScalePosterior():
            return scale_kl(posterior)
        case PointPosterior(mean):
            return torch.zeros(len(mean), dtype=mean.dtype, device=mean.device)


def gaussian_kl(posterior: Posterior) -> Tensor:
    """Compute KL(q(z | x) || N(0, I)) from mean and log-variance, summed over latents.

    Args:
        posterior: Mean and log-variance, each `[batch, latent]`.

    Returns:
        Nats per image, `[batch]`.

    References:
        Kingma & Welling 2014, appendix B.
    """
    mean, logvar = posterior
    # By expm1, since exp(logvar) - 1 loses the digits of a small KL: a new float32 model's would have five.
    return 0.5 * (mean**2 + torch.expm1(logvar) - logvar).sum(-1)


def scale_kl(posterior: ScalePosterior) -> Tensor:
    """Compute KL(q(z | x) || N(0, I)) from mean and standard deviation, summed over latents.

    The logarithm is log(1e-8 + sigma^2), so that sigma may be 0.

    Args:
        posterior: Mean and standard deviation, each `[batch, latent]`.

    Returns:
        Nats per image, `[batch]`.
    """
    mean, variance = posterior.mean, posterior.scale**2
    return 0.5 * (mean**2 + variance - 1.0 - torch.log(1e-8 + variance)).sum(-1)


def density(posterior: AnyPosterior) -> Posterior:
    """Convert a posterior to one with a density everywhere.

    Args:
        posterior: q(z | x), each part `[batch, latent]`.

    Returns:
        Mean and log-variance. A standard deviation that may be 0 gives log(1e-8 + sigma^2), as in `scale_kl`.

    Raises:
        TypeError: If the posterior is a code, which has no density.
    """
    match posterior:
        case Posterior():
            return posterior
        case ScalePosterior(mean, scale):
            return Posterior(mean, torch.log(1e-8 + scale**2))
        case PointPosterior():
            raise TypeError("A code has no density.")


def log_ratio(posterior: Posterior, eps: Tensor) -> Tensor:
    """Compute log q(z | x) - log p(z) at z = mean + sigma * eps.

    Args:
        posterior: Mean and log-variance, each `[batch, latent]`.
        eps: Standard normals, `[batch, latent]`.

    Returns:
        Nats per image, `[batch]`.
    """
    z = locate(posterior, eps)
    # z^2 - eps^2 in factors: as a difference it loses the digits of a new model's, whose z is next to eps.
    return 0.5 * ((z - eps) * (z + eps) - posterior.logvar).sum(-1)


def nll(spec: Spec, decoded: Decoded, x: Tensor) -> Tensor:
    """Compute -log p(x | z) under the configuration's likelihood, summed over pixels.

    Args:
        spec: The configuration.
        decoded: The decoder's outputs.
        x: Pixels in the configuration's range, `[batch, pixels]`.

    Returns:
        Nats per image, `[batch]`. squared-error omits its constant, see `Likelihood.omitted`.

    Raises:
        InputError: If the pixels are not the configuration's.
    """
    require_spec(spec)
    require_pixels("nll", spec, x)
    require_own("nll", pixels=x)
    if (own := spec.model.parts.nll) is not None:
        return require_shape(spec.model, "nll", own(decoded, x), (decoded.logits.shape[0],), "nats of each image")
    return NLL[spec.model.likelihood](spec, decoded, x)


def bernoulli_nll(logits: Tensor, x: Tensor) -> Tensor:
    """Compute the cross-entropy of pixels and logits, summed over pixels.

    Args:
        logits: The log-odds of each pixel, `[batch, pixels]`.
        x: Pixels in [0, 1], `[batch, pixels]`.

    Returns:
        -log p(x | z), nats per image, `[batch]`.

    Raises:
        InputError: If the pixels are no floats.
    """
    require_floats("bernoulli_nll", x)
    require_own("bernoulli_nll", logits=logits, pixels=x)
    # From the logits: by way of probabilities float32 saturates at |logit| = 17, with zero gradient.
    return F.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(-1)


def continuous_bernoulli_nll(logits: Tensor, x: Tensor) -> Tensor:
    """Compute -log p(x | z) of continuous Bernoulli pixels, summed over pixels.

    log p(x) = x log λ + (1 - x) log(1 - λ) + log C(λ), with λ the sigmoid of the logit, and C such that p has an
    integral of 1 over [0, 1].

    Args:
        logits: The decoder's logits, `[batch, pixels]`.
        x: Pixels in [0, 1], `[batch, pixels]`.

    Returns:
        Nats per image, `[batch]`; below 0 where the density is above 1.

    Raises:
        InputError: If the pixels are no floats.

    References:
        Loaiza-Ganem & Cunningham, "The continuous Bernoulli: fixing a pervasive error in variational autoencoders",
        NeurIPS 2019.
    """
    require_floats("continuous_bernoulli_nll", x)
    require_own("continuous_bernoulli_nll", logits=logits, pixels=x)
    # log((e^l - 1) / l) - l x by halves: near l = 0 the cross-entropy and log C, of log 2 each, would cancel.
    return (_log_sinhc(logits) + (0.5 - x) * logits).sum(-1)


def continuous_bernoulli_mean(logits: Tensor) -> Tensor:
    """Compute the mean of a continuous Bernoulli pixel from its logit l.

    It is 1 / (1 - e^-l) - 1 / l, by a form that does not cancel at l = 0.

    Args:
        logits: Logits of any shape.

    Returns:
        Means in (0, 1), of the same shape.

    References:
        Loaiza-Ganem & Cunningham 2019.
    """
    require_own("continuous_bernoulli_mean", logits=logits)
    low = torch.where(logits < -4.0, -logits, 4.0)
    return torch.where(logits < -4.0, 1.0 / low - _tail(low), 0.5 + _log_sinhc_slope(logits))


def gaussian_nll(mean: Tensor, logvar: Tensor, x: Tensor) -> Tensor:
    """Compute -log N(x; mean, exp(logvar)), summed over pixels.

    Args:
        mean: `[batch, pixels]`.
        logvar: `[batch, pixels]`, or `[]` where all pixels share it.
        x: Pixels, `[batch, pixels]`.

    Returns:
        Nats per image with the Gaussian's constant, `[batch]`.

    Raises:
        InputError: If the pixels are no floats.
    """
    require_floats("gaussian_nll", x)
    require_own("gaussian_nll", mean=mean, logvar=logvar, pixels=x)
    squares, constant = (mean - x) ** 2, math.log(2 * math.pi)
    if not logvar.ndim:
        # The sum over pixels first, and a variance of each image, so that the gradient of the one is a sum over images:
        # not over all pixels of a batch in a row, and one that several devices add up together with the others.
        of_images = logvar.expand(squares.shape[:-1])
        return 0.5 * (squares.sum(-1) * torch.exp(-of_images) + x.shape[-1] * (of_images + constant))
    return 0.5 * (squares * torch.exp(-logvar) + logvar + constant).sum(-1)


def pixel_means(spec: Spec, decoded: Decoded) -> Tensor:
    """Compute the mean of each pixel from the decoder's logits.

    Args:
        spec: The configuration.
        decoded: The decoder's outputs.

    Returns:
        Means in the configuration's pixel range, `[batch, pixels]`; unbounded for a linear output.
    """
    require_spec(spec)
    if (own := spec.model.parts.mean) is not None:
        shape = decoded.logits.shape[0], spec.model.pixels
        return require_shape(spec.model, "mean", own(decoded), shape, "the mean of each pixel")
    return MEANS[mean_of(spec.model.likelihood, spec.model.output, spec.images.range)](decoded.logits)


def pixel_logvar(spec: Spec, decoded: Decoded) -> Tensor | None:
    """Compute the log-variance of each pixel.

    Args:
        spec: The configuration.
        decoded: The decoder's outputs.

    Returns:
        `[batch, pixels]`, or `[]` where all pixels share it; log(1/2) for squared-error. None for a likelihood without
        a variance, and for one of the user's own.
    """
    require_spec(spec)
    if spec.model.parts.nll is not None:
        return None
    variance = variance_of(spec.model.likelihood, spec.model.variance)
    if variance is not None:
        return torch.full((), math.log(variance), dtype=decoded.logits.dtype, device=decoded.logits.device)
    return None if decoded.logvar is None else LOWEST_LOGVAR + _softplus(decoded.logvar - LOWEST_LOGVAR)


def _squared_error(spec: Spec, decoded: Decoded, x: Tensor) -> Tensor:
    return ((pixel_means(spec, decoded) - x) ** 2).sum(-1)


def _gaussian(spec: Spec, decoded: Decoded, x: Tensor) -> Tensor:
    mean, logvar = pixel_means(spec, decoded), pixel_logvar(spec, decoded)
    assert logvar is not None
    return gaussian_nll(mean, logvar, x)


def _softplus(x: Tensor) -> Tensor:
    """log(1 + e^x)."""
    return -F.logsigmoid(-x)  # F.softplus is x itself from 20 on, 2e-9 off, or overflows, in float32 from 89 on


class _LogSinhc(torch.autograd.Function):
    """`_log_sinhc`, with a gradient by its own formula, which autograd derives further."""

    generate_vmap_rule = True

    @staticmethod
    def forward(logits: Tensor) -> Tensor:
        square = (0.25 * logits * logits).clamp(max=4.0)
        size = logits.abs().clamp(min=4.0)
        far = 0.5 * size + torch.log((1.0 - torch.exp(-size)) / size)
        return torch.where(torch.abs(logits) < 4.0, torch.log1p(square * _polynomial(_SINH, square)), far)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * _log_sinhc_slope(*ctx.saved_tensors)

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> Tensor:
        return tangent * _log_sinhc_slope(*ctx.saved_tensors)


def _log_sinhc(logits: Tensor) -> Tensor:
    """log(sinh(l / 2) / (l / 2)) of the logit l: even, and 0 at 0."""
    return _LogSinhc.apply(logits)


def _log_sinhc_slope(logits: Tensor) -> Tensor:
    """(coth(l / 2) - 2 / l) / 2 of the logit l: the pixel's mean less 1/2."""
    is_near = torch.abs(logits) < 4.0
    # Chosen, not clipped: beyond 4 the branch unused has to be finite.
    small, size = torch.where(is_near, logits, 0.0), torch.where(is_near, 4.0, torch.abs(logits))
    square = 0.25 * small * small
    near = 0.25 * small * _polynomial(_COSH, square) / (1.0 + square * _polynomial(_SINH, square))
    far = torch.sign(logits) * (0.5 - 1.0 / size + _tail(size))
    return torch.where(is_near, near, far)


def _tail(size: Tensor) -> Tensor:
    """1 / (e^size - 1), by a form that no size overflows, nor any derivative."""
    inverse = torch.exp(-size)
    return inverse / (1.0 - inverse)


def _polynomial(coefficients: tuple[float, ...], x: Tensor) -> Tensor:
    total = torch.zeros_like(x)
    for coefficient in coefficients:
        total = total * x + coefficient
    return total


NLL: dict[LikelihoodName, Callable[[Spec, Decoded, Tensor], Tensor]] = {
    "bernoulli": lambda spec, decoded, x: bernoulli_nll(decoded.logits, x),
    "continuous-bernoulli": lambda spec, decoded, x: continuous_bernoulli_nll(decoded.logits, x),
    "squared-error": _squared_error,
    "gaussian": _gaussian,
    "gaussian-learned": _gaussian,
    "gaussian-pixel": _gaussian,
}
"""-log p(x | z) of each likelihood."""
MEANS: dict[Mean, Callable[[Tensor], Tensor]] = {
    "identity": lambda logits: logits,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "continuous-bernoulli": continuous_bernoulli_mean,
}
"""The mean of a pixel from its logit."""
