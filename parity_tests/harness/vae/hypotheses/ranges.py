"""Faults that show at the ends of a layer's range: clips, floors, added epsilons and cut formulas."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
from scipy import special

from jaxvae.shared.config.likelihoods import mean_of
from parity_tests.harness.vae import ranges, reference
from parity_tests.harness.vae.hypotheses.networks import RECONSTRUCTIONS, linear_softplus, padded_kl, padded_sigma
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
            yield from ((f"pixel means cut to [{eps:g}, 1 - {eps:g}]", means.clip(eps, 1 - eps)) for eps in EPSILONS)


def faults(state: ranges.State, label: str) -> Iterator[tuple[str, Parts]]:
    """List the faults that may show first in this output, where this layer is driven to this number."""
    layer, value, likelihood = state.layer, state.value, state.spec.model.likelihood
    noun = NOUNS.get(layer, layer)
    limits = [float(np.copysign(size, value)) for size in CLIPS if size < abs(value) + 1]
    if label != "z":  # or the layer's own output would be over its tolerance first
        for limit in limits:
            yield f"{noun} clipped at {limit:g}", {"change": partial(_changed, layer, partial(_clip, limit))}
    if layer == "encoder.logvar":
        for limit in limits:
            yield f"{noun} clipped at {limit:g} in the KL", {"kl": partial(_clipped_kl, limit)}
            yield f"{noun} clipped at {limit:g} in the latent", {"locate": partial(_clipped_latent, limit)}
        for eps in EPSILONS:
            yield f"{eps:g} added to sigma in the latent", {"locate": partial(padded_sigma, eps)}
            yield f"{eps:g} added to the variance in the latent", {"locate": partial(_padded_variance, eps)}
            yield f"{eps:g} added to the variance inside the KL's logarithm", {"kl": partial(padded_kl, eps)}
    elif layer == "encoder.scale":
        for eps in EPSILONS:
            yield f"{eps:g} added to sigma", {"change": partial(_changed, layer, partial(_padded_scale, eps))}
    elif layer == "decoder.logits" and likelihood == "bernoulli":
        known = {c: formula for c, formula in RECONSTRUCTIONS.items() if "probabilities" in c or "softplus" in c}
        yield from ((cause, {"bernoulli": formula}) for cause, formula in known.items())
        yield "softplus of the logits overflows", {"bernoulli": _overflowing_bernoulli}
    elif layer == "decoder.logits" and likelihood == "continuous-bernoulli":
        for near in (1e-3, 1e-2, 1e-4, 2e-2, 5e-2, 1e-1):
            yield f"log C taken for log 2 within {near:g} of 1/2", {"likelihood": partial(_cut_constant, near)}
    elif layer == "decoder.logvar":
        yield "softplus of a pixel's log-variance taken for its argument from 20 on", _variance_by(_linear_bound)
        for limit in limits:
            yield f"{noun} clipped at {limit:g} after its bound", _variance_by(partial(_clipped_bound, limit))
        for eps in EPSILONS:
            yield f"a pixel's variance floored at {eps:g}", _variance_by(partial(_clipped_bound, float(np.log(eps))))
            yield f"{eps:g} added to a pixel's variance", _variance_by(partial(_padded_bound, eps))


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
