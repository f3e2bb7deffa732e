"""Faults that show at the ends of a layer's range: clips, floors, added epsilons and cut formulas."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
from scipy import special

from jaxvae.shared.config.likelihoods import mean_of
from parity_tests.harness.causes import Cause
from parity_tests.harness.vae import ranges, reference
from parity_tests.harness.vae.hypotheses.kinds import named
from parity_tests.harness.vae.hypotheses.networks import (
    LATENT,
    RECONSTRUCTIONS,
    clipped,
    linear_softplus,
    padded,
    padded_kl,
    padded_sigma,
)
from parity_tests.harness.vae.hypotheses.randomness import Causes
from parity_tests.harness.vae.levels import Case

CLIPS = (10, 20, 30, 5, 6, 15, 50, 1, 2, 3, 4, 7, 8, 12, 14, 16, 18, 25, 40, 60, 70, 80, 85, 87, 88, 100, 200, 500, 700)
EPSILONS = (1e-6, 1e-7, 1e-8, 1e-5, 1e-4, 1e-3, 1e-10, 1e-12)
NOUNS = {
    "encoder.mean": "posterior's mean",
    "encoder.logvar": "log-variance",
    "encoder.logscale": "log sigma",
    "encoder.scale": "sigma",
    "decoder.logits": "logits",
    "decoder.logvar": "a pixel's log-variance",
}
CODE = {
    **dict.fromkeys(("encoder.mean", "encoder.logvar", "encoder.logscale", "encoder.scale"), "operations.posterior"),
    "decoder.logits": "distributions.bernoulli_nll",
    "decoder.logvar": "distributions.pixel_logvar",
}
"""The function that first takes what a layer gives."""
Parts = dict[str, Any]
"""Arguments of `reference.losses` that a fault changes."""


def at_ends(case: Case, name: str) -> Causes:
    """Compute hypotheses for a name `OUTPUT with LAYER at VALUE`, where OUTPUT may also be a term or an array whose
    gradient it is."""
    label, _, at = name.partition(" with ")
    state = case.ranges[f"with {at}"]
    with np.errstate(all="ignore"):
        yield None, _answer(state, label, {})
        for cause, parts in faults(state, label):
            yield cause, _answer(state, label, parts)
        if label == "pixel means":
            means = _answer(state, label, {})
            for eps in EPSILONS:
                found = f"[{eps:g}, 1 - {eps:g}]"
                cause = named("clipped", f"pixel means cut to {found}", found, "no clip", "distributions.pixel_means")
                yield cause, means.clip(eps, 1 - eps)


def faults(state: ranges.State, label: str) -> Iterator[tuple[Cause, Parts]]:
    """List the faults that may show first in this output, where this layer is driven to this number."""
    layer, value, likelihood = state.layer, state.value, state.spec.model.likelihood
    noun = NOUNS.get(layer, layer)
    limits = [float(np.copysign(size, value)) for size in CLIPS if size < abs(value) + 1]
    if label != "z":  # or the layer's own output would be over its tolerance first
        for limit in limits:
            cause = clipped(noun, limit, code=CODE.get(layer, "operations.activate"))
            yield cause, {"change": partial(_changed, layer, partial(_clip, limit))}
    if layer == "encoder.logvar":
        for limit in limits:
            cause = clipped(noun, limit, " in the KL", "distributions.gaussian_kl")
            yield cause, {"kl": partial(_clipped_kl, limit)}
            cause = clipped(noun, limit, " in the latent", "distributions.locate")
            yield cause, {"locate": partial(_clipped_latent, limit)}
        for eps in EPSILONS:
            found = f"mean + (exp(logvar / 2) + {eps:g}) * eps"
            cause = named("latent", f"{eps:g} added to sigma in the latent", found, LATENT)
            yield cause, {"locate": partial(padded_sigma, eps)}
            found = f"mean + sqrt(exp(logvar) + {eps:g}) * eps"
            cause = named("latent", f"{eps:g} added to the variance in the latent", found, LATENT)
            yield cause, {"locate": partial(_padded_variance, eps)}
            yield padded(eps), {"kl": partial(padded_kl, eps)}
    elif layer == "encoder.scale":
        for eps in EPSILONS:
            cause = named("epsilon-added", f"{eps:g} added to sigma", eps, 0, "operations.posterior")
            yield cause, {"change": partial(_changed, layer, partial(_padded_scale, eps))}
    elif layer == "decoder.logits" and likelihood == "bernoulli":
        known = {c: formula for c, formula in RECONSTRUCTIONS.items() if "probabilities" in c or "softplus" in c}
        yield from ((cause, {"bernoulli": formula}) for cause, formula in known.items())
        sentence = "softplus of the logits overflows"
        cause = named("softplus", sentence, "log(1 + exp(x))", "one that doesn't overflow", "distributions._softplus")
        yield cause, {"bernoulli": _overflowing_bernoulli}
    elif layer == "decoder.logits" and likelihood == "continuous-bernoulli":
        for near in (1e-3, 1e-2, 1e-4, 2e-2, 5e-2, 1e-1):
            sentence = f"log C taken for log 2 within {near:g} of 1/2"
            cause = named("normalizer", sentence, f"log 2 within {near:g} of 1/2", "its series near 1/2")
            yield cause, {"likelihood": partial(_cut_constant, near)}
    elif layer == "decoder.logvar":
        sentence = "softplus of a pixel's log-variance taken for its argument from 20 on"
        linear = named("softplus", sentence, "x from 20 on", "log(1 + e^x) for every x", "distributions._softplus")
        yield linear, _variance_by(_linear_bound)
        for limit in limits:
            cause = clipped(noun, limit, " after its bound", CODE[layer])
            yield cause, _variance_by(partial(_clipped_bound, limit))
        for eps in EPSILONS:
            cause = named("clipped", f"a pixel's variance floored at {eps:g}", eps, "no clip", CODE[layer])
            yield cause, _variance_by(partial(_clipped_bound, float(np.log(eps))))
            cause = named("epsilon-added", f"{eps:g} added to a pixel's variance", eps, 0, CODE[layer])
            yield cause, _variance_by(partial(_padded_bound, eps))


def _answer(state: ranges.State, label: str, parts: Parts) -> np.ndarray:
    spec, arrays, batch = state.spec, state.arrays, state.batch
    if label in spec.terms:
        return reference.losses(spec, arrays, batch, **parts)[label]
    if label not in (*ranges.OUTPUTS, "pixel logvar"):
        return reference.gradients(spec, arrays, batch, **parts)[label]
    made = {name: part for name, part in parts.items() if name in ("change", "locate")}
    out = reference.forward(spec, arrays, batch, **made)
    if label in ("z", "logits"):
        return getattr(out, label)[0]
    if label == "pixel means":
        by_sigmoid = mean_of(spec.model.likelihood, spec.model.output, spec.images.range) == "sigmoid"
        return special.expit(out.logits[0]) if by_sigmoid else reference.pixel_means(spec, out.logits[0], np)
    if label == "pixel logvar":
        bound = parts["likelihood"].args[0] if "likelihood" in parts else _bounded
        return bound(out.logvar, np).reshape(np.shape(out.logvar)[1:])
    return out.posterior[0 if label == "mean" else 1]


def _xp(array: Any) -> Any:
    return np if isinstance(array, np.ndarray | np.generic) else jnp


def _changed(layer: str, how: Callable, name: str, gave: Any) -> Any:
    return how(gave, _xp(gave)) if name == layer else gave


def _clip(limit: float, x: Any, xp: Any) -> Any:
    return xp.minimum(x, limit) if limit > 0 else xp.maximum(x, limit)


def _padded_scale(eps: float, x: Any, xp: Any) -> Any:
    return reference.relu(x) + eps


def _clipped_kl(limit: float, mean: Any, logvar: Any, xp: Any) -> Any:
    return reference.kl(mean, _clip(limit, logvar, xp), xp)


def _clipped_latent(limit: float, mean: Any, logvar: Any, eps: Any, xp: Any) -> Any:
    return reference.locate(mean, _clip(limit, logvar, xp), eps, xp)


def _padded_variance(added: float, mean: Any, logvar: Any, eps: Any, xp: Any) -> Any:
    return mean + xp.sqrt(xp.exp(logvar) + added) * eps


def _overflowing_bernoulli(logits: Any, x: Any, xp: Any) -> Any:
    return (xp.log(1 + xp.exp(logits)) - logits * x).sum(-1)


def _cut_constant(near: float, spec: Any, out: reference.Outputs, x: Any, xp: Any, bernoulli: Any) -> Any:
    """-log C is log 2 less where p is next to 1/2, where it should be a series: C(1/2) = 2."""
    each = reference.continuous_bernoulli(spec, out._replace(logits=out.logits[..., None]), x[..., None], xp)
    cut = bernoulli(out.logits[..., None], x[..., None], xp) - np.log(2)
    p = 1 / (1 + xp.exp(-out.logits))
    return xp.where(xp.abs(p - 0.5) < near, cut, each).sum(-1)


def _bounded(logvar: Any, xp: Any) -> Any:
    return -12 + xp.logaddexp(xp.zeros_like(logvar), logvar + 12)


def _linear_bound(logvar: Any, xp: Any) -> Any:
    return -12 + linear_softplus(logvar + 12, xp)


def _clipped_bound(limit: float, logvar: Any, xp: Any) -> Any:
    return _clip(limit, _bounded(logvar, xp), xp)


def _padded_bound(eps: float, logvar: Any, xp: Any) -> Any:
    return xp.logaddexp(_bounded(logvar, xp), xp.full_like(logvar, np.log(eps)))


def _variance_by(bound: Callable) -> Parts:
    """The likelihood of pixels whose log-variance follows from the decoder's number by another formula."""
    return {"likelihood": partial(_bounded_otherwise, bound)}


def _bounded_otherwise(bound: Callable, spec: Any, out: reference.Outputs, x: Any, xp: Any, bernoulli: Any) -> Any:
    variance = xp.exp(bound(out.logvar, xp))
    return reference.gaussian(reference.pixel_means(spec, out.logits, xp), variance, x, xp)
