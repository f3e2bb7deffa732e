"""The objectives. Losses are nats per image: summed over pixels and latents, so that beta keeps its meaning whatever
the batch size or the image size."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from jaxvae.shared.config.spec import Spec, require_spec
from jaxvae.shared.model.argument_checks import require_kind, require_labels, require_noise, require_pixels
from jaxvae.shared.model.own_outputs import require_terms
from jaxvae.shared.model.requirements import require_one_phase, require_weights
from torchvae.checks import check_params, check_pixels, require_own
from torchvae.distributions import Posterior, bernoulli_nll, kl, locate, log_ratio, nll
from torchvae.draws import Draws
from torchvae.networks import VAE
from torchvae.operations import Training
from torchvae.parallel import processes, summed
from torchvae.pixels import corrupt
from torchvae.products import in_precision


class Terms(NamedTuple):
    """The terms of a loss, nats per image: each `[batch]`, or a scalar once averaged."""

    loss: Tensor
    reconstruction: Tensor
    kl: Tensor


class AdversarialTerms(NamedTuple):
    """The terms of an adversarial autoencoder's loss, which is reconstruction + generator."""

    loss: Tensor
    reconstruction: Tensor
    discriminator: Tensor
    generator: Tensor


AnyTerms = Terms | AdversarialTerms


class Inputs(NamedTuple):
    """A batch as an objective takes it."""

    x: Tensor
    """The pixels to be reconstructed `[batch, pixels]`."""
    seen: Tensor
    """The pixels the encoder sees: these, or these corrupted."""
    labels: Tensor | None
    """`[batch]`, for a model with classes."""
    draws: Draws
    training: Training | None
    """None in evaluation."""
    step: int | Tensor | None
    """Training steps taken before, in a compiled step as a tensor `[]`; None: beta and capacity have their final
    values."""


class Phase(NamedTuple):
    """One update of a training step."""

    name: str
    """The name of its optimizer; empty if a step has only one."""
    networks: tuple[str, ...]
    """The networks that it trains."""
    terms: Callable[[Spec, VAE, Inputs], dict[str, Tensor]]
    """Computes the terms of each image, `[batch]` each; the first is minimized."""
    share: float
    """The factor by which the minimized term, in nats per image, is multiplied for the optimizer."""


def inputs(
    spec: Spec, x: Tensor, draws: Draws, labels: Tensor | None = None, weights: Tensor | None = None, step=None
) -> Inputs:
    """Build a batch for an objective.

    Args:
        spec: The configuration.
        x: Pixels in its range, `[batch, pixels]`.
        draws: The random numbers of the step.
        labels: Classes, `[batch]`, for a model with classes.
        weights: Each image's share of the batch, `[batch]`, for training; None for evaluation.
        step: Training steps taken before.

    Returns:
        The batch; in evaluation nothing is corrupted or dropped.

    Raises:
        InputError: If pixels, draws or labels are not those of one batch of the configuration.
    """
    require_spec(spec)
    require_pixels("inputs", spec, x)
    require_kind("inputs", "pixels", x, Tensor)
    require_own("inputs", labels=labels)
    require_noise("inputs", spec, draws.eps, x.shape[0])
    require_labels("inputs", spec, labels, x.shape[0])
    if weights is None:
        return Inputs(x, x, labels, draws, None, step)
    return Inputs(x, corrupt(spec, x, draws.corruption), labels, draws, Training(weights, draws.masks), step)


def image_terms(spec: Spec, model: VAE, x: Tensor, draws: Draws, labels: Tensor | None = None) -> AnyTerms:
    """Compute the objective's terms of each image, as evaluation does.

    Args:
        spec: The configuration.
        model: The model.
        x: Pixels in the configuration's range, `[batch, pixels]`.
        draws: The random numbers, of `draw`.
        labels: Classes, `[batch]`, for a model with classes.

    Returns:
        The terms, each `[batch]`, nats per image.

    Raises:
        InputError: If the model, the pixels, the draws or the labels are not the configuration's.
    """
    check_pixels("image_terms", spec, model, x, labels)
    require_noise("image_terms", spec, draws.eps, x.shape[0])
    batch, terms = inputs(spec, x, draws, labels), {}
    model.eval()
    for phase in phases(spec):
        terms |= phase.terms(spec, model, batch)
    return collect(spec, terms)


def phases(spec: Spec) -> tuple[Phase, ...]:
    """List the updates of a training step, in their order.

    Args:
        spec: The configuration.

    Returns:
        The phases, under the names that `Spec.phases` gives them.
    """
    require_spec(spec)
    share = spec.minimized
    terms = {
        "elbo": [(negative_elbo if spec.model.parts.objective is None else own_objective, share)],
        "capacity": [(capacity, share)],
        "iwae": [(importance_weighted, share)],
        "reconstruction": [(reconstruction, share)],
        "adversarial": [(adversarial_reconstruction, share), (discriminator, 1.0), (generator, 1.0)],
    }[spec.objective.form]
    return tuple(Phase(*phase, *updates) for phase, updates in zip(spec.phases.items(), terms, strict=True))


def training_loss(
    spec: Spec, model: VAE, batch: Inputs, phase: Phase | None = None
) -> tuple[Tensor, tuple[dict[str, Tensor], VAE]]:
    """Compute what a training step minimizes, and update batch norm's running statistics.

    A step of the package takes the gradient of this for each of its phases.

    Args:
        spec: The configuration.
        model: The model, whose running statistics are updated in place.
        batch: The batch, of `inputs` with `weights` and `step`.
        phase: One of `phases`; by default the only one.

    Returns:
        The loss, the mean terms, nats per image, and the model. Gradients reach all parameters; the optimizers of
        `init_optimizers` update those that the phase trains.

    Raises:
        InputError: If the model is not the configuration's, if the batch was built for evaluation, or if the
            objective has several phases and none is given.
    """
    require_spec(spec)
    check_params("training_loss", spec.model, model, spec.training.stored)
    if phase is None:
        require_one_phase(spec)
    require_weights("training_loss", batch.training)
    was_training = model.training
    model.train()
    result = minimized(spec, model, batch, phases(spec)[0] if phase is None else phase)
    model.train(was_training)
    return result


def minimized(spec: Spec, model: VAE, batch: Inputs, phase: Phase) -> tuple[Tensor, tuple[dict[str, Tensor], VAE]]:
    """Compute what `training_loss` returns; in PyTorch of a model in training mode."""
    assert batch.training is not None
    autocast = torch.autocast(batch.x.device.type, torch.bfloat16, spec.training.dtype == "bfloat16")
    with autocast, in_precision(spec.training.precision):
        terms = average(spec, phase.terms(spec, model, batch), batch.training.weights, batch.step)
    return next(iter(terms.values())) * phase.share, (terms, model)


def collect(spec: Spec, terms: dict[str, Tensor]) -> AnyTerms:
    """Collect the terms that all phases give."""
    if spec.objective.form == "adversarial":
        return AdversarialTerms(loss=terms["reconstruction"] + terms["generator"], **terms)
    return Terms(**terms)


def average(spec: Spec, terms: dict[str, Tensor], weights: Tensor, step: int | Tensor | None) -> dict[str, Tensor]:
    """Average the terms of a phase over the batch."""
    means = {name: (term * weights).sum() for name, term in terms.items()}
    if processes() > 1:  # in one message
        means = dict(zip(means, summed(torch.stack(list(means.values()))), strict=True))
    if spec.objective.form == "capacity":  # of the mean divergence: the mean of the distances is another
        means["loss"] = capacity_loss(spec, means["reconstruction"], means["kl"], step)
    return means


def negative_elbo(spec: Spec, model: VAE, batch: Inputs) -> dict[str, Tensor]:
    """The negative evidence lower bound of each image, its expectation estimated at latents z = mean + sigma * eps
    (Kingma & Welling 2014, equation 10), its KL weighted by beta (Higgins et al. 2017), which may rise with the steps
    (Bowman et al. 2016)."""
    posterior, errors = encode_decode(spec, model, batch)
    error, divergence = errors.mean(0), kl(posterior)
    beta = spec.effective_beta * ramp(batch.step, spec.objective.warmup, batch.x.dtype)
    return {"loss": error + beta * divergence, "reconstruction": error, "kl": divergence}


def capacity(spec: Spec, model: VAE, batch: Inputs) -> dict[str, Tensor]:
    """reconstruction + gamma * |kl - C|, with C rising linearly to the capacity (Burgess et al. 2018, equation 8)."""
    posterior, errors = encode_decode(spec, model, batch)
    error, divergence = errors.mean(0), kl(posterior)
    loss = capacity_loss(spec, error, divergence, batch.step)
    return {"loss": loss, "reconstruction": error, "kl": divergence}


def capacity_loss(spec: Spec, reconstruction: Tensor, kl: Tensor, step: int | Tensor | None) -> Tensor:
    """Compute the capacity objective from means over a batch, or from the terms of each image."""
    reached = spec.objective.capacity * ramp(step, spec.objective.capacity_steps, kl.dtype)
    return reconstruction + spec.effective_beta * torch.abs(kl - reached)


def importance_weighted(spec: Spec, model: VAE, batch: Inputs) -> dict[str, Tensor]:
    """-log of the mean of k importance weights p(x, z) / q(z | x) (Burda, Grosse & Salakhutdinov 2016, equation 8),
    whose gradient goes through the normalized weights. `kl` is the samples' mean of log q(z | x) - log p(z)."""
    posterior, errors = encode_decode(spec, model, batch)
    assert isinstance(posterior, Posterior)
    eps = batch.draws.eps.reshape(len(errors), *posterior.mean.shape)
    ratio = log_ratio(posterior, eps)
    bound = torch.logsumexp(-(errors + ratio), 0) - math.log(len(errors))
    return {"loss": -bound, "reconstruction": errors.mean(0), "kl": ratio.mean(0)}


def reconstruction(spec: Spec, model: VAE, batch: Inputs) -> dict[str, Tensor]:
    """The reconstruction error alone, for an autoencoder without a prior; its kl is 0."""
    posterior, errors = encode_decode(spec, model, batch)
    error = errors.mean(0)
    return {"loss": error, "reconstruction": error, "kl": kl(posterior)}


def own_objective(spec: Spec, model: VAE, batch: Inputs) -> dict[str, Tensor]:
    """The terms of the user's own objective, checked."""
    assert spec.model.parts.objective is not None
    return require_terms(spec, spec.model.parts.objective(spec, model, batch), batch.x.shape[0])


def adversarial_reconstruction(spec: Spec, model: VAE, batch: Inputs) -> dict[str, Tensor]:
    """The reconstruction phase of an adversarial autoencoder (Makhzani et al. 2015, section 2)."""
    return {"reconstruction": encode_decode(spec, model, batch)[1].mean(0)}


def discriminator(spec: Spec, model: VAE, batch: Inputs) -> dict[str, Tensor]:
    """The first half of the regularization phase, nats per image: the discriminator's error in telling draws of N(0, I)
    from the encoder's latents."""
    assert batch.draws.prior is not None
    real, fake = model.discriminate(batch.draws.prior), model.discriminate(encoded(model, batch))
    return {"discriminator": bernoulli_nll(real, torch.ones_like(real)) + bernoulli_nll(fake, torch.zeros_like(fake))}


def generator(spec: Spec, model: VAE, batch: Inputs) -> dict[str, Tensor]:
    """The second half, nats per image: the encoder's loss for making its latents pass for draws of N(0, I)."""
    fake = model.discriminate(encoded(model, batch))
    return {"generator": bernoulli_nll(fake, torch.ones_like(fake))}


def encode_decode(spec: Spec, model: VAE, batch: Inputs) -> tuple:
    """Encode a batch, draw its latents and decode them: the first half of an objective.

    Args:
        spec: The configuration.
        model: The model, as an objective is given it.
        batch: The batch.

    Returns:
        The posterior, and the reconstruction error of every sample of every image in nats, `[samples, batch]`.
    """
    posterior = model.encode(batch.seen, batch.labels, batch.training)
    eps = batch.draws.eps
    k = len(eps) if eps.ndim == 3 else 1
    z = locate(posterior, eps).reshape(-1, eps.shape[-1])
    labels, training, x = batch.labels, batch.training, batch.x
    if k > 1:  # the samples stand one below the other, and share labels, pixels, weights and masks
        x = x.repeat(k, 1)
        labels = None if labels is None else labels.repeat(k)
        if training is not None:
            masks = tuple(mask.repeat(k, *[1] * (mask.ndim - 1)) for mask in training.masks)
            training = Training(training.weights.repeat(k) / k, masks)
    return posterior, nll(spec, model.decode(z, labels, training), x).reshape(k, -1)


def encoded(model: VAE, batch: Inputs) -> Tensor:
    """The latents that a discriminator is shown: `[batch, latent]`."""
    return locate(model.encode(batch.seen, batch.labels, batch.training), batch.draws.eps)


def ramp(step: int | Tensor | None, steps: int, dtype: torch.dtype) -> float | Tensor:
    """The share of its final value that a weight rising over `steps` steps has at `step`: from 1 / steps to 1."""
    if step is None or steps == 0:
        return 1.0
    share = (step + 1) / steps
    return share.clamp(max=1.0).to(dtype) if isinstance(share, Tensor) else min(share, 1.0)
