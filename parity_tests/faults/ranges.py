"""Faults at the ends of a layer's range: clips, floors, added epsilons and cut formulas, and the cause the comparison
should name for each."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import torch
import torch.nn.functional as F
from torch import Tensor

import jaxvae.distributions
import jaxvae.operations
import torchvae.distributions
import torchvae.operations
from parity_tests.faults.inject import UNKNOWN, Fault, during

J, T = jaxvae.operations, torchvae.operations
jdist, dist = jaxvae.distributions, torchvae.distributions
Replacement = Callable[[Any], Any]


def head(change: Callable[[Any], Any]) -> Replacement:
    """Make the replacement of `posterior` that changes its last part: logvar, or scale."""

    def replacement(posterior: Callable[..., Any]) -> Callable[..., Any]:
        def wrong(spec: Any, parts: list[Any]) -> Any:
            *mean, last = posterior(spec, parts)
            return type(posterior(spec, parts))(*mean, change(last))

        return wrong

    return replacement


def of_logvar(change: Callable[[Any], Any]) -> Replacement:
    """Make the replacement of a function of the posterior that changes the log-variance that it is given."""
    return lambda right: lambda q, *rest: right(q._replace(logvar=change(q.logvar)), *rest)


def of_logits(change: Callable[[Any], Any]) -> Replacement:
    return lambda nll: lambda logits, x: nll(change(logits), x)


def of_result(change: Callable[[Any], Any]) -> Replacement:
    """Make the replacement of a function that changes what it returns, unless that is None."""

    def replacement(right: Callable[..., Any]) -> Callable[..., Any]:
        def wrong(*args: Any) -> Any:
            result = right(*args)
            return None if result is None else change(result)

        return wrong

    return replacement


def clamped_probabilities(logits: Tensor, x: Tensor) -> Tensor:
    p = torch.sigmoid(logits).clamp(1e-6, 1 - 1e-6)
    return -(x * torch.log(p) + (1 - x) * torch.log1p(-p)).sum(-1)


def padded_sigma(posterior: Any, eps: Tensor) -> Tensor:
    return posterior.mean + (torch.exp(0.5 * posterior.logvar) + 1e-6) * eps


def padded_kl(posterior: Any) -> jax.Array:
    mean, logvar = posterior
    return 0.5 * (mean**2 + jnp.expm1(logvar) - jnp.log(jnp.exp(logvar) + 1e-8)).sum(-1)


def cut_constant(nll: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """log C is log 2 where the probability is within 0.001 of 1/2."""

    def wrong(logits: Tensor, x: Tensor) -> Tensor:
        cut = dist.bernoulli_nll(logits[..., None], x[..., None]) - math.log(2)
        each = nll(logits[..., None], x[..., None])
        return torch.where((torch.sigmoid(logits) - 0.5).abs() < 1e-3, cut, each).sum(-1)

    return wrong


def overflowing(x: jax.Array) -> jax.Array:
    return jnp.log(1.0 + jnp.exp(x))


FAULTS = [
    # The posterior.
    Fault(T, "posterior", "`Posterior(*parts)` becomes `Posterior(parts[0], parts[1].clamp(max=10))`",
          head(lambda logvar: logvar.clamp(max=10)), "log-variance clipped at 10"),
    Fault(T, "posterior", "`Posterior(*parts)` becomes `Posterior(parts[0], parts[1].clamp(min=-10))`",
          head(lambda logvar: logvar.clamp(min=-10)), "log-variance clipped at -10"),
    Fault(T, "posterior", "`Posterior(*parts)` becomes `Posterior(parts[0], parts[1].clamp(-30, 30))`",
          head(lambda logvar: logvar.clamp(-30, 30)), "log-variance clipped at 30", dtype="float32"),
    Fault(J, "posterior", "`Posterior(*parts)` becomes `Posterior(parts[0], jnp.clip(parts[1], -30, 30))`",
          head(lambda logvar: jnp.clip(logvar, -30, 30)), "log-variance clipped at 30"),
    Fault(J, "posterior", "`Posterior(*parts)` becomes `Posterior(parts[0], jnp.clip(parts[1], max=10))`",
          head(lambda logvar: jnp.clip(logvar, max=10)), "log-variance clipped at 10"),
    Fault(T, "posterior", "`Posterior(*parts)` becomes `Posterior(parts[0], parts[1].clamp(max=88))`",
          head(lambda logvar: logvar.clamp(max=88)), "log-variance clipped at 88", ground="iwae"),
    Fault(dist, "gaussian_kl", "`mean, logvar = posterior` becomes `logvar = logvar.clamp(max=10)`",
          of_logvar(lambda logvar: logvar.clamp(max=10)), "log-variance clipped at 10 in the KL"),
    Fault(jdist, "gaussian_kl", "`mean, logvar = posterior` becomes `logvar = jnp.clip(logvar, min=-10)`",
          of_logvar(lambda logvar: jnp.clip(logvar, min=-10)), "log-variance clipped at -10 in the KL"),
    Fault(jdist, "gaussian_kl", "`- logvar)` becomes `- jnp.log(jnp.exp(logvar) + 1e-8))`",
          lambda _: padded_kl, "1e-08 added to the variance inside the KL's logarithm"),
    Fault(dist, "locate", "`torch.exp(0.5 * logvar)` becomes `torch.exp(0.5 * logvar.clamp(max=10))`",
          of_logvar(lambda logvar: logvar.clamp(max=10)), "log-variance clipped at 10 in the latent"),
    Fault(dist, "locate", "`torch.exp(0.5 * logvar)` becomes `(torch.exp(0.5 * logvar) + 1e-6)`",
          lambda _: padded_sigma, "1e-06 added to sigma in the latent"),
    Fault(T, "posterior", "`ScalePosterior(*map(torch.relu, parts))` becomes `ScalePosterior(.., scale + 1e-6)`",
          head(lambda scale: scale + 1e-6), UNKNOWN, ground="conditional"),
    Fault(T, "posterior", "`ScalePosterior(*map(torch.relu, parts))` becomes `ScalePosterior(.., scale.clamp(max=30))`",
          head(lambda scale: scale.clamp(max=30)), "sigma clipped at 30", ground="conditional"),
    # The likelihoods.
    Fault(dist, "bernoulli_nll", "`logits, x` becomes `logits.clamp(-10, 10), x`",
          of_logits(lambda logits: logits.clamp(-10, 10)), "logits clipped at 10"),
    Fault(jdist, "bernoulli_nll", "`_softplus(logits)` becomes `_softplus(jnp.clip(logits, -100, 100))`",
          of_logits(lambda logits: jnp.clip(logits, -100, 100)), "logits clipped at 100"),
    Fault(dist, "bernoulli_nll", "`logits` becomes `torch.logit(torch.sigmoid(logits).clamp(1e-6, 1 - 1e-6))`",
          lambda _: clamped_probabilities, "cross-entropy from probabilities cut to [1e-06, 1 - 1e-06]"),
    Fault(dist, "bernoulli_nll", "`F.binary_cross_entropy_with_logits(` becomes `F.softplus(logits) - logits * x`",
          lambda _: lambda logits, x: (F.softplus(logits) - logits * x).sum(-1),
          "softplus taken for its argument from 20 on"),
    Fault(jdist, "_softplus", "`jnp.maximum(x, 0.0) + ..` becomes `jnp.log(1.0 + jnp.exp(x))`",
          lambda _: overflowing, "softplus of the logits overflows", dtype="float32"),
    Fault(dist, "pixel_means", "`(decoded.logits)` becomes `(decoded.logits).clamp(1e-6, 1 - 1e-6)`",
          of_result(lambda means: means.clamp(1e-6, 1 - 1e-6)), "pixel means cut to [1e-06, 1 - 1e-06]"),
    Fault(dist, "continuous_bernoulli_nll", "`_log_sinhc(logits)` becomes `log 2 within 0.001 of 1/2`",
          cut_constant, UNKNOWN, ground="continuous"),
    Fault(dist, "_softplus", "`-F.logsigmoid(-x)` becomes `F.softplus(x)`", lambda _: F.softplus,
          "softplus of a pixel's log-variance taken for its argument from 20 on", ground="conditional"),
    Fault(dist, "_softplus", "`-F.logsigmoid(-x)` becomes `F.softplus(x, threshold=700)`",
          lambda _: lambda x: F.softplus(x, threshold=700), UNKNOWN, dtype="float32", ground="conditional"),
    Fault(dist, "pixel_logvar", "`LOWEST_LOGVAR + _softplus(` becomes `(LOWEST_LOGVAR + _softplus(..)).clamp(min=-6)`",
          of_result(lambda logvar: logvar.clamp(min=-6)), "a pixel's log-variance clipped at -6 after its bound",
          ground="conditional"),
    Fault(jdist, "pixel_logvar", "`LOWEST_LOGVAR + _softplus(` becomes `logaddexp(log(1e-6), LOWEST_LOGVAR + ..)`",
          of_result(lambda logvar: jnp.logaddexp(logvar, jnp.full_like(logvar, math.log(1e-6)))),
          UNKNOWN, ground="learned"),
    Fault(T, "activate", "`torch.relu(x)` becomes `F.relu6(x)`", lambda _: lambda spec, x: F.relu6(x),
          "encoder.hidden.0 clipped at 6"),
    Fault(T, "activate", "`torch.tanh(x)` becomes `(e^x - e^-x) / (e^x + e^-x)`",
          during(torch, tanh=lambda x: (torch.exp(x) - torch.exp(-x)) / (torch.exp(x) + torch.exp(-x))), UNKNOWN,
          ground="iwae"),
]  # fmt: skip
