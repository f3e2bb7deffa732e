"""How good a model is, in nats per image."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from jaxvae.shared.backend import Latents, Likelihood, Pixels
from jaxvae.shared.config.likelihoods import likelihood_of
from jaxvae.shared.config.spec import Spec, require_spec
from jaxvae.shared.model.argument_checks import require_bytes
from jaxvae.shared.model.requirements import require_density
from torchvae import random
from torchvae.checks import check_images, check_latents, require_key
from torchvae.devices import device_of, to_tensor
from torchvae.distributions import Decoded, Posterior, density, locate, log_ratio, nll, pixel_logvar, pixel_means
from torchvae.draws import draw, image_keys
from torchvae.keys import root_key, static_key
from torchvae.nets import decode, encode
from torchvae.networks import VAE
from torchvae.objectives import capacity_loss, image_terms
from torchvae.pixels import prepare_pixels

_BATCH = 500
_BLOCK = 100  # samples of an image that are drawn from one key, which decides the figures, and decoded together
_IMAGES = 5  # whose blocks are decoded together, which changes none: the logits should fit a core's cache
_DRAWN = 10  # blocks drawn together, since a draw costs hundreds of calls


def average_terms(
    spec: Spec,
    model: VAE,
    images: Tensor | np.ndarray,
    key: random.Key,
    labels: Tensor | np.ndarray | None = None,
    split: str = "test",
) -> np.ndarray:
    """Average the objective's terms over images that are not trained on.

    Beta and capacity are those that training ends with, and nothing is corrupted.

    Args:
        spec: The configuration.
        model: The model.
        images: uint8, `[n, height, width, channels]`.
        key: The key that latents and binarised pixels are drawn from.
        labels: Classes, `[n]`, for a model with classes.
        split: `test` or `validation`: what the images are, for static binarisation.

    Returns:
        The mean terms, `[terms]`, float64, nats per image.

    Raises:
        InputError: If the model, the images or the labels are not the configuration's.
    """
    require_key("average_terms", key)
    check_images("average_terms", spec, model, images, labels)
    device = device_of(model)
    labels = None if labels is None else to_tensor(labels, device)
    per_image = _terms(spec, split, model, to_tensor(images, device), key.to(device), labels)
    terms = per_image.cpu().numpy().astype(np.float64).mean(0)
    if spec.objective.form == "capacity":
        reconstruction, kl = torch.tensor(terms[1:])
        terms[0] = capacity_loss(spec, reconstruction, kl, None).item()
    return terms


@torch.no_grad()
def log_likelihood(
    spec: Spec,
    model: VAE,
    images: Tensor | np.ndarray,
    key: random.Key,
    labels: Tensor | np.ndarray | None = None,
    samples: int = 5000,
    on_images: Callable[[int], None] = lambda images: None,
) -> Likelihood:
    """Estimate log p(x) by importance sampling: log 1/k sum p(x, z) / q(z | x) over k samples z of q(z | x).

    squared-error counts as a Gaussian of variance 1/2 with its constant; relu-sigma's posterior has the variance of its
    KL, 1e-8 + sigma^2. Memory does not grow with `samples`.

    Args:
        spec: The configuration.
        model: The model.
        images: uint8, `[n, height, width, channels]`, binarised as `average_terms` does under this key.
        key: The key that latents and binarised pixels are drawn from.
        labels: Classes, `[n]`, for a model with classes.
        samples: Latents for each image.
        on_images: Called with the number of images that were finished.

    Returns:
        The estimates and the effective samples of each image.

    Raises:
        InputError: If the posterior has no density, or if the model, the images or the labels are not the
            configuration's.

    References:
        Burda, Grosse & Salakhutdinov 2016, equation 8.
    """
    require_spec(spec)
    require_key("log_likelihood", key)
    require_density(spec)
    check_images("log_likelihood", spec, model, images, labels)
    device = device_of(model)
    images, key = to_tensor(images, device), key.to(device)
    labels = None if labels is None else to_tensor(labels, device)
    parts = []
    for places in torch.arange(len(images), device=device).split(_IMAGES):
        part_labels = None if labels is None else labels[places]
        part = _weigh(spec, samples, model, _pixels(spec, images[places], key, places), part_labels, key, places)
        parts.append([figures.cpu().numpy().astype(np.float64) for figures in part])
        on_images(len(places))
    return Likelihood(*map(np.concatenate, zip(*parts, strict=True)))


def see_images(spec: Spec, images: Tensor | np.ndarray, key: random.Key) -> np.ndarray:
    """Prepare test images as `average_terms` does.

    Args:
        spec: The configuration.
        images: uint8, `[n, height, width, channels]`.
        key: The key that binarised pixels are drawn from.

    Returns:
        Pixels, `[n, pixels]`, float64.

    Raises:
        InputError: If the images are not uint8, or not of the model's size.
    """
    require_spec(spec)
    require_key("see_images", key)
    require_bytes("see_images", images, spec.model.image)
    places = torch.arange(len(images), device=key.device)
    return _pixels(spec, to_tensor(images, key.device), key, places).cpu().numpy().astype(np.float64)


@torch.no_grad()
def encode_images(
    spec: Spec, model: VAE, images: Tensor | np.ndarray, key: random.Key, labels: Tensor | np.ndarray | None = None
) -> Latents:
    """Encode test images, prepared as `average_terms` does.

    Args:
        spec: The configuration.
        model: The model.
        images: uint8, `[n, height, width, channels]`.
        key: The key that latents and binarised pixels are drawn from.
        labels: Classes, `[n]`, for a model with classes.

    Returns:
        The posteriors, and a draw from each, `[n, latent]`, float64.

    Raises:
        InputError: If the model, the images or the labels are not the configuration's.
    """
    require_key("encode_images", key)
    check_images("encode_images", spec, model, images, labels)
    device = device_of(model)
    images, key = to_tensor(images, device), key.to(device)
    labels = None if labels is None else to_tensor(labels, device)
    posteriors = [
        encode(spec, model, _pixels(spec, images[places], key, places), None if labels is None else labels[places])
        for places in torch.arange(len(images), device=device).split(_BATCH)
    ]
    mean = torch.cat([posterior.mean for posterior in posteriors])
    if not spec.model.samples_latents:
        return Latents(mean.cpu().numpy().astype(np.float64), None, None)
    logvar = torch.cat([density(posterior).logvar for posterior in posteriors])
    z = locate(Posterior(mean, logvar), random.normal(random.fold_in(key, 2), mean.shape, mean.dtype))
    return Latents(*(part.cpu().numpy().astype(np.float64) for part in (mean, logvar, z)))


@torch.no_grad()
def decode_latents(spec: Spec, model: VAE, z: np.ndarray, labels: Tensor | np.ndarray | None = None) -> Pixels:
    """Decode latents to the parameters of the pixels' distribution.

    Args:
        spec: The configuration.
        model: The model.
        z: Latents, `[n, latent]`.
        labels: Classes, `[n]`, for a model with classes.

    Returns:
        Logits or means, see `Likelihood.located_by`, and log-variances, computed in the configuration's precision and
        given as float64.

    Raises:
        InputError: If the model, the latents or the labels are not the configuration's.
    """
    check_latents("decode_latents", spec, model, z, labels)
    device = device_of(model)
    labels = None if labels is None else to_tensor(labels, device)
    decoded = decode(spec, model, to_tensor(z, device, getattr(torch, spec.training.stored)), labels)
    location = _location(spec, decoded)
    logvar = pixel_logvar(spec, decoded)
    return Pixels(
        location.cpu().numpy().astype(np.float64), None if logvar is None else logvar.cpu().numpy().astype(np.float64)
    )


@torch.no_grad()
def _terms(spec: Spec, split: str, model: VAE, images: Tensor, key: random.Key, labels: Tensor | None) -> Tensor:
    """The terms of each image, `[n, terms]`."""
    places = torch.arange(len(images), device=images.device)
    clean = replace(spec, images=replace(spec.images, corruption="none", corruption_level=0.0))
    draws = draw(clean, key, len(images))
    static = static_key(root_key(spec.training.seed, images.device), split)

    def some(rows: Tensor) -> Tensor:
        dynamic = image_keys(random.fold_in(key, 0), rows)
        x = prepare_pixels(spec, images[rows], image_keys(static, rows), dynamic)
        mine = draws._replace(eps=draws.eps[..., rows, :], prior=None if draws.prior is None else draws.prior[rows])
        row_labels = None if labels is None else labels[rows]
        return torch.stack(image_terms(spec, model, x, mine, row_labels), dim=-1)

    return torch.cat([some(rows) for rows in places.split(_BATCH)])


def _weigh(
    spec: Spec, samples: int, model: VAE, x: Tensor, labels: Tensor | None, key: random.Key, places: Tensor
) -> tuple[Tensor, Tensor]:
    """The estimate and the effective samples of the images `[n, pixels]` at these places, each `[n]`."""
    posterior = density(encode(spec, model, x, labels))
    posterior = Posterior(*(part[:, None] for part in posterior))
    block_labels = None if labels is None else labels.repeat_interleave(_BLOCK)
    noise = image_keys(random.fold_in(key, 1), places)
    blocks = torch.arange(-(-samples // _BLOCK), device=x.device)
    most, total = torch.full((len(x),), -math.inf, dtype=x.dtype, device=x.device), x.new_zeros(len(x))
    squares = total
    for some in blocks.split(_DRAWN):
        draws = random.normal(random.fold_in(noise, some), (_BLOCK, spec.model.latent), x.dtype)
        for i, eps in zip(some.tolist(), draws.unbind(1), strict=True):
            decoded = decode(spec, model, locate(posterior, eps).flatten(0, 1), block_labels)
            log_w = -(_nll(spec, decoded, x) + log_ratio(posterior, eps))
            log_w[:, max(0, samples - i * _BLOCK) :] = -math.inf
            # The largest of the logarithms so far, the sum of the weights and that of their squares over the largest.
            now = torch.maximum(most, log_w.amax(1))
            shrunk, w = torch.exp(most - now), torch.exp(log_w - now[:, None])
            most, total, squares = now, total * shrunk + w.sum(1), squares * shrunk**2 + (w**2).sum(1)
    return most + torch.log(total) - math.log(samples), total**2 / squares


def _nll(spec: Spec, decoded: Decoded, x: Tensor) -> Tensor:
    """-log p(x | z) of `_BLOCK` latents of each image, `[n, _BLOCK]`, from the decoder's outputs for all of them,
    `[n * _BLOCK, pixels]`, whose logits it overwrites."""
    if spec.model.parts.nll is None and spec.model.likelihood in _FASTER:
        return _FASTER[spec.model.likelihood](decoded.logits.unflatten(0, (len(x), _BLOCK)), x)
    constant = spec.model.pixels * likelihood_of(spec.model).omitted
    return nll(spec, decoded, x.repeat_interleave(_BLOCK, 0)).unflatten(0, (len(x), _BLOCK)) + constant


def _bernoulli(logits: Tensor, x: Tensor) -> Tensor:
    """`bernoulli_nll` of logits `[n, _BLOCK, pixels]`, which it overwrites: `[n, _BLOCK]`."""
    # softplus(l) - x l = log(1 + e^-|l|) + |l| / 2 + (1/2 - x) l, and the logarithm of a product of sixteen factors, of
    # 1 to 2 each, is one logarithm: in a third of the time of binary_cross_entropy_with_logits.
    linear = torch.bmm(logits, (0.5 - x)[..., None])[..., 0]
    size = logits.abs_()
    linear.add_(size.sum(-1), alpha=0.5)
    factors = size.neg_().exp_().add_(1.0).unflatten(-1, (math.gcd(16, x.shape[-1]), -1))
    return linear.add_(factors.prod(-2).log_().sum(-1))


_FASTER = {"bernoulli": _bernoulli}  # than what `nll` computes for one batch


def _location(spec: Spec, decoded: Decoded) -> Tensor:
    match likelihood_of(spec.model).located_by:
        case "logits":
            return decoded.logits
        case "means":
            return pixel_means(spec, decoded)


def _pixels(spec: Spec, images: Tensor, key: random.Key, places: Tensor) -> Tensor:
    """uint8 images as `average_terms` sees those at these places: `[n, pixels]`."""
    static = image_keys(static_key(root_key(spec.training.seed, images.device), "test"), places)
    return prepare_pixels(spec, images, static, image_keys(random.fold_in(key, 0), places))
