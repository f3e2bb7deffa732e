"""The losses by their plain formulas: likelihoods, divergences and objectives, nats per image."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from jaxvae.shared.config.likelihoods import LikelihoodName
from jaxvae.shared.config.spec import Spec
from parity_tests.harness.vae.batch import Batch
from parity_tests.harness.vae.reference.networks import Arrays, Outputs, forward, judge, locate

Terms = dict[str, Any]
"""Each `[batch]`, nats per image, in the order of `Spec.terms`."""


def bernoulli(logits: Any, x: Any, xp: Any) -> Any:
    # log(1 + e^l) by logaddexp, which neither package uses.
    return (xp.logaddexp(xp.zeros_like(logits), logits) - logits * x).sum(-1)


def kl(mean: Any, logvar: Any, xp: Any) -> Any:
    return (xp.expm1(logvar) - logvar + mean * mean).sum(-1) / 2


def combine(reconstruction: Any, kl: Any, beta: float) -> Any:
    return reconstruction + beta * kl


def pixel_means(spec: Spec, logits: Any, xp: Any) -> Any:
    if spec.model.output == "linear":
        return logits
    if spec.model.output == "tanh" or spec.images.range == "signed":
        return xp.tanh(logits)
    if spec.model.likelihood == "continuous-bernoulli":  # the slope of log((e^l - 1) / l)
        half, near = logits / 2, xp.abs(logits) < 0.5
        far = xp.where(near, 1.0, half)
        return 0.5 + xp.where(near, _langevin_near_0(half), 1 / xp.tanh(far) - 1 / far) / 2
    return 0.5 * (1 + xp.tanh(logits / 2))


def nll(spec: Spec, out: Outputs, x: Any, xp: Any, bernoulli: Callable = bernoulli) -> Any:
    """-log p(x | z), `[samples, batch]`."""
    if spec.model.likelihood == "bernoulli":  # of which a caller may have another
        return bernoulli(out.logits, x, xp)
    return NLL[spec.model.likelihood](spec, out, x, xp)


def squared_error(spec: Spec, out: Outputs, x: Any, xp: Any) -> Any:
    return ((pixel_means(spec, out.logits, xp) - x) ** 2).sum(-1)


def given_variance(spec: Spec, out: Outputs, x: Any, xp: Any) -> Any:
    return gaussian(pixel_means(spec, out.logits, xp), spec.model.variance, x, xp)


def learned_variance(spec: Spec, out: Outputs, x: Any, xp: Any) -> Any:
    variance = xp.exp(-12 + xp.logaddexp(0.0, out.logvar + 12))
    return gaussian(pixel_means(spec, out.logits, xp), variance, x, xp)


def continuous_bernoulli(spec: Spec, out: Outputs, x: Any, xp: Any) -> Any:
    """log((e^l - 1) / l) - l x = log(sinh(h) / h) + (1/2 - x) l with h = l / 2, near 0 by its Taylor series."""
    half = xp.abs(out.logits) / 2
    near = half < 0.25
    far = xp.where(near, 1.0, half)
    square = half * half
    series = (1 / 6, -1 / 180, 1 / 2835, -1 / 37800, 1 / 467775, -691 / 3831077250, 2 / 127702575)
    log_sinhc = sum(c * square ** (i + 1) for i, c in enumerate(series))
    log_sinhc = xp.where(near, log_sinhc, far + xp.log1p(-xp.exp(-2 * far)) - xp.log(2 * far))
    return (log_sinhc + (0.5 - x) * out.logits).sum(-1)


def _langevin_near_0(h: Any) -> Any:
    """coth(h) - 1 / h for |h| < 1/4."""
    series = (1 / 3, -1 / 45, 2 / 945, -1 / 4725, 2 / 93555, -1382 / 638512875, 4 / 18243225)
    return sum(c * h ** (2 * i + 1) for i, c in enumerate(series))


def gaussian(means: Any, variance: Any, x: Any, xp: Any) -> Any:
    variance = variance + xp.zeros_like(means)
    return (xp.log(2 * math.pi * variance) / 2 + (means - x) ** 2 / (2 * variance)).sum(-1)


NLL: dict[LikelihoodName, Callable] = {
    "bernoulli": lambda spec, out, x, xp: bernoulli(out.logits, x, xp),
    "continuous-bernoulli": continuous_bernoulli,
    "squared-error": squared_error,
    "gaussian": given_variance,
    "gaussian-learned": learned_variance,
    "gaussian-pixel": learned_variance,
}


def losses(
    spec: Spec,
    arrays: Arrays,
    batch: Batch,
    *,
    xp: Any = np,
    training: bool = False,
    locate: Callable = locate,
    detach: bool = False,
    bernoulli: Callable = bernoulli,
    kl: Callable = kl,
    combine: Callable = combine,
    change: Callable[[str, Any], Any] = lambda name, gave: gave,
    likelihood: Callable = nll,
) -> Terms:
    """Compute the objective of each image and its terms, in evaluation or training."""
    out = forward(spec, arrays, batch, xp=xp, training=training, locate=locate, detach=detach, change=change)
    error = likelihood(spec, out, batch.x, xp, bernoulli)
    mean, *scale = out.posterior
    objective = spec.objective
    if objective.form == "adversarial":
        real, fake = judge(spec, arrays, batch.prior), judge(spec, arrays, out.z[0])
        deceived = xp.logaddexp(xp.zeros_like(fake), -fake).sum(-1)
        discriminated = (xp.logaddexp(xp.zeros_like(real), -real) + xp.logaddexp(xp.zeros_like(fake), fake)).sum(-1)
        return {
            "loss": error[0] + deceived,
            "reconstruction": error[0],
            "discriminator": discriminated,
            "generator": deceived,
        }
    if spec.model.has_logvar:
        divergence = kl(mean, scale[0], xp)
    elif scale:
        divergence = (mean**2 + scale[0] ** 2 - 1 - xp.log(1e-8 + scale[0] ** 2)).sum(-1) / 2
    else:
        divergence = xp.zeros(len(mean), mean.dtype)
    reconstruction = error.mean(0)
    done = batch.step + 1 if training else math.inf
    loss = reconstruction
    if objective.form == "elbo":
        risen = _at_most_one(done / objective.warmup, xp) if objective.warmup else 1.0
        loss = combine(reconstruction, divergence, spec.effective_beta * risen)
    elif objective.form == "capacity":
        loss = distance(spec, reconstruction, divergence, done, xp)
    elif objective.form == "iwae":
        density = ((-(batch.eps.reshape(out.z.shape) ** 2) - scale[0]) / 2 + out.z**2 / 2).sum(-1)
        log_weights = -error - density
        top = log_weights.max(0)
        loss = -(top + xp.log(xp.exp(log_weights - top).mean(0)))
        divergence = density.mean(0)
    return {"loss": loss, "reconstruction": reconstruction, "kl": divergence}


def distance(spec: Spec, reconstruction: Any, kl: Any, done: float, xp: Any) -> Any:
    reached = spec.objective.capacity * _at_most_one(done / spec.objective.capacity_steps, xp)
    return reconstruction + spec.effective_beta * xp.abs(kl - reached)


def _at_most_one(share: Any, xp: Any) -> Any:
    return min(1.0, share) if xp is np else xp.minimum(1.0, share)  # a float, or traced


def averaged(spec: Spec, terms: Terms, batch: Batch, xp: Any = np) -> Terms:
    """Average the terms over a training batch."""
    means = {name: term.mean() for name, term in terms.items()}
    if spec.objective.form == "capacity":
        means["loss"] = distance(spec, means["reconstruction"], means["kl"], batch.step + 1, xp)
    return means
