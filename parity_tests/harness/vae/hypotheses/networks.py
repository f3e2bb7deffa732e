"""Faults of the networks, the losses and the gradients."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
from scipy import special

from parity_tests.harness.vae import reference
from parity_tests.harness.vae.hypotheses.randomness import Causes
from parity_tests.harness.vae.levels import Arrays, Case


def layers(case: Case, name: str, answers: Arrays) -> Causes:
    """Compute hypotheses from the outputs of the layers before, in `answers`."""
    names = list(answers)
    layer, _, kind = name.partition(", ")
    if name in ("mean", "logvar"):
        other = {"mean": "logvar", "logvar": "mean"}[name]
        yield None, answers[f"encoder.{name}, output"]
        yield "mean and logvar swapped", answers[f"encoder.{other}, output"]
    elif name == "z" or name == next(n for n in names if n.startswith("decoder")):
        mean, logvar = answers["encoder.mean, output"], answers["encoder.logvar, output"]
        yield None, reference.locate(mean, logvar, case.batch.eps, np)
        yield from ((cause, at(mean, logvar, case.batch.eps, np)) for cause, at in LOCATIONS.items())
    elif kind == "input":
        before = answers[names[names.index(name) - 1]]
        if layer == "encoder.logvar":
            before = answers["encoder.mean, input"]
        if names.index(name) == 0:
            yield None, case.batch.x
            yield "pixels in [-1, 1], not [0, 1]", 2 * case.batch.x - 1
            return
        yield None, before if layer == "encoder.logvar" else reference.relu(before)
        yield from ((cause, f(before)) for cause, f in ACTIVATIONS.items())
        low = before[before < 0]
        if low.size and (slope := float(np.median(answers[name][before < 0] / low))):
            yield f"LeakyReLU with slope {slope:.4g} for ReLU", np.where(before > 0, before, before * slope)
    else:
        x = answers[f"{layer}, input"]
        weight, bias = case.start[f"{layer}.weight"], case.start[f"{layer}.bias"]
        yield None, x @ weight.T + bias
        yield from products(x, weight, bias)
        if layer in ("encoder.mean", "encoder.logvar"):
            other = {"mean": "logvar", "logvar": "mean"}[layer.removeprefix("encoder.")]
            yield (
                "mean and logvar swapped",
                x @ case.start[f"encoder.{other}.weight"].T + case.start[f"encoder.{other}.bias"],
            )


def products(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> Causes:
    """Compute the known faults of x @ weight.T + bias."""
    yield "bias missing", x @ weight.T
    yield "bias added twice", x @ weight.T + 2 * bias
    if weight.shape[0] == weight.shape[1]:
        yield "kernel transposed", x @ weight + bias
    yield "output columns reversed, bias not", x @ weight[::-1].T + bias
    yield "bias reversed, output columns not", x @ weight.T + bias[::-1]
    n = len(bias)
    for height in range(2, n):
        if n % height == 0:
            order = np.arange(n).reshape(height, -1).T.ravel()
            yield "kernel's columns permuted as a flatten would, bias not", x @ weight[order].T + bias
            yield "bias permuted as a flatten would, kernel's columns not", x @ weight.T + bias[order]
            yield "kernel's columns and bias permuted as a flatten would", x @ weight[order].T + bias[order]
    for low, drop in (("TF32", 13), ("bfloat16", 16)):
        yield f"{low} products", mantissa(x, drop) @ mantissa(weight, drop).T + bias
    f = partial(np.asarray, dtype=np.float32)
    yield "float32 slipped into float64", (f(x).astype(x.dtype) @ f(weight).T.astype(x.dtype) + f(bias)).astype(x.dtype)
    yield "float32 slipped into float64", x @ f(weight).T.astype(x.dtype) + f(bias)
    yield "float32 slipped into float64", f(x).astype(x.dtype) @ weight.T + bias


def mantissa(x: np.ndarray, drop: int) -> np.ndarray:
    """Round to nearest in float32 without its last `drop` bits: 13 leave TF32's ten, 16 bfloat16's seven."""
    bits = np.asarray(x, np.float32).view(np.uint32).astype(np.uint64)
    rounded = (bits + (1 << (drop - 1)) - 1 + (bits >> drop & 1)) >> drop << drop
    return rounded.astype(np.uint32).view(np.float32).astype(x.dtype)


def losses(case: Case, name: str) -> Causes:
    """Compute hypotheses for a name `TERM STATE`."""
    term, _, state = name.partition(" ")
    spec, arrays = case.states[state]
    yield None, reference.losses(spec, arrays, case.batch)[term]
    for part, faults in PARTS.items():
        for cause, formula in faults.items():
            changed: dict[str, Any] = {part: formula}
            yield cause, reference.losses(spec, arrays, case.batch, **changed)[term]


def gradients(case: Case, name: str) -> Causes:
    """Compute hypotheses for a name `ARRAY STATE`."""
    array, _, state = name.partition(" ")
    spec, arrays = case.states[state]
    ask = partial(reference.gradients, spec, arrays, case.batch)
    plain = ask()
    yield None, plain[array]
    yield "gradient stopped at the latent", ask(detach=True)[array]
    yield "gradient stopped at sigma", ask(locate=_sigma_detached)[array]
    yield "|logit| with slope 1 at 0, as jnp.abs has it", ask(bernoulli=_abs_at_zero)[array]
    yield "gradient summed over the batch, not averaged", plain[array] * len(case.batch.x)
    yield "gradient averaged over pixels too", plain[array] / spec.model.pixels
    yield "gradient's sign turned", -plain[array]
    for part in ("bernoulli", "kl"):
        for cause, formula in PARTS[part].items():
            changed: dict[str, Any] = {part: formula}
            yield f"{cause}, in the gradient only", ask(**changed)[array]


def _sigmoid(logits: Any, xp: Any) -> Any:
    return 1 / (1 + xp.exp(-xp.clip(logits, -80, 80)))


def _probabilities(logits: Any, x: Any, xp: Any, eps: float) -> Any:
    with np.errstate(divide="ignore"):
        p = _sigmoid(logits, xp)
        logs = (xp.maximum(xp.log(part + eps), -100) for part in (p, 1 - p))
        first, second = logs
    return -(x * first + (1 - x) * second).sum(-1)


def _clipped(logits: Any, x: Any, xp: Any, eps: float) -> Any:
    p = xp.clip(_sigmoid(logits, xp), eps, 1 - eps)
    return -(x * xp.log(p) + (1 - x) * xp.log1p(-p)).sum(-1)


def _clipped_logits(logits: Any, x: Any, xp: Any, limit: float) -> Any:
    return reference.bernoulli(xp.clip(logits, -limit, limit), x, xp)


def linear_softplus(x: Any, xp: Any) -> Any:
    """Compute log(1 + e^x) up to 20 and x itself from there on, as F.softplus does."""
    return xp.where(x > 20, x, xp.logaddexp(xp.zeros_like(x), xp.minimum(x, 20)))


def _linear_bernoulli(logits: Any, x: Any, xp: Any) -> Any:
    return (linear_softplus(logits, xp) - logits * x).sum(-1)


def padded_sigma(added: float, mean: Any, logvar: Any, eps: Any, xp: Any) -> Any:
    """Compute the latent with a number added to sigma."""
    return mean + (xp.exp(logvar / 2) + added) * eps


def padded_kl(added: float, mean: Any, logvar: Any, xp: Any) -> Any:
    """Compute the KL with a number added to the variance inside its logarithm."""
    return (xp.expm1(logvar) - xp.log(xp.exp(logvar) + added) + mean * mean).sum(-1) / 2


def _sigma_detached(mean: Any, logvar: Any, eps: Any, xp: Any) -> Any:
    return mean + jax.lax.stop_gradient(xp.exp(logvar / 2)) * eps


def _abs_at_zero(logits: Any, x: Any, xp: Any) -> Any:
    return (xp.maximum(logits, 0) - logits * x + xp.log1p(xp.exp(-xp.abs(logits)))).sum(-1)


ACTIVATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "no activation where ReLU belongs": lambda h: h,
    "a step for ReLU": lambda h: (h > 0).astype(h.dtype),
    "tanh for ReLU": np.tanh,
    "sigmoid for ReLU": special.expit,
    "SiLU for ReLU": lambda h: h * special.expit(h),
    "ELU for ReLU": lambda h: np.where(h > 0, h, np.expm1(np.minimum(h, 0))),
    "softplus for ReLU": lambda h: np.logaddexp(0, h),
    "GELU (erf) for ReLU": lambda h: h * special.ndtr(h),
    "GELU (tanh) for ReLU": lambda h: h / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (h + 0.044715 * h**3))),
    "ReLU6 for ReLU": lambda h: np.clip(h, 0, 6),
}

# Known replacements of z = mean + exp(logvar / 2) * eps.
LOCATIONS: dict[str, Callable[..., Any]] = {
    "variance for sigma in the latent": lambda mean, logvar, eps, xp: mean + xp.exp(logvar) * eps,
    "logvar taken for log sigma in the latent, both halved": lambda mean, logvar, eps, xp: (
        mean + xp.exp(logvar / 4) * eps
    ),
    "logvar taken for sigma": lambda mean, logvar, eps, xp: mean + logvar * eps,
    "mean and logvar swapped": lambda mean, logvar, eps, xp: logvar + xp.exp(mean / 2) * eps,
    "noise left out of the latent": lambda mean, logvar, eps, xp: mean,
    "noise subtracted": lambda mean, logvar, eps, xp: mean - xp.exp(logvar / 2) * eps,
    "the same noise for every image": lambda mean, logvar, eps, xp: mean + xp.exp(logvar / 2) * eps[:1],
    **{f"{eps:g} added to sigma in the latent": partial(padded_sigma, eps) for eps in (1e-6, 1e-8)},
}

RECONSTRUCTIONS: dict[str, Callable[..., Any]] = {
    "cross-entropy averaged over pixels, not summed": lambda logits, x, xp: (
        reference.bernoulli(logits, x, xp) / logits.shape[-1]
    ),
    "cross-entropy averaged over the batch's pixels": lambda logits, x, xp: xp.broadcast_to(
        reference.bernoulli(logits, x, xp).mean() / logits.shape[-1], logits.shape[:1]
    ),
    "cross-entropy from probabilities, its logarithms cut at -100": partial(_probabilities, eps=0.0),
    **{
        f"cross-entropy from probabilities, {eps:g} added inside the logarithms": partial(_probabilities, eps=eps)
        for eps in (1e-6, 1e-7, 1e-8, 1e-10, 1e-12)
    },
    **{
        f"cross-entropy from probabilities cut to [{eps:g}, 1 - {eps:g}]": partial(_clipped, eps=eps)
        for eps in (1e-6, 1e-7, 1e-8)
    },
    **{f"logits clipped at {limit}": partial(_clipped_logits, limit=limit) for limit in (10, 15, 20, 30, 50)},
    "softplus taken for its argument from 20 on": _linear_bernoulli,
    "squared error for cross-entropy": lambda logits, x, xp: ((_sigmoid(logits, xp) - x) ** 2).sum(-1),
    "squared error of the logits for cross-entropy": lambda logits, x, xp: ((logits - x) ** 2).sum(-1),
    "cross-entropy's sign turned": lambda logits, x, xp: -reference.bernoulli(logits, x, xp),
    "cross-entropy without its (1 - x) half": lambda logits, x, xp: (
        x * xp.logaddexp(xp.zeros_like(logits), -logits)
    ).sum(-1),
    "cross-entropy halved": lambda logits, x, xp: reference.bernoulli(logits, x, xp) / 2,
    "a sigmoid before the logits' cross-entropy": lambda logits, x, xp: (
        reference.bernoulli(_sigmoid(logits, xp), x, xp)
    ),
    "image binarised in the cross-entropy": lambda logits, x, xp: reference.bernoulli(
        logits, (x > 0.5).astype(logits.dtype), xp
    ),
}  # fmt: skip

DIVERGENCES: dict[str, Callable[..., Any]] = {
    "KL averaged over latents, not summed": lambda mean, logvar, xp: reference.kl(mean, logvar, xp) / mean.shape[-1],
    "KL averaged over the batch before its time": lambda mean, logvar, xp: xp.broadcast_to(
        reference.kl(mean, logvar, xp).mean(), mean.shape[:1]
    ),
    "KL without its factor 0.5": lambda mean, logvar, xp: 2 * reference.kl(mean, logvar, xp),
    "sigma for variance in the KL": lambda mean, logvar, xp: (xp.exp(logvar / 2) - 1 - logvar + mean**2).sum(-1) / 2,
    "logvar taken for log sigma in the KL": lambda mean, logvar, xp: reference.kl(mean, 2 * logvar, xp),
    "mean and logvar swapped": lambda mean, logvar, xp: reference.kl(logvar, mean, xp),
    "KL's sign turned": lambda mean, logvar, xp: -reference.kl(mean, logvar, xp),
    "KL without its -1": lambda mean, logvar, xp: reference.kl(mean, logvar, xp) + mean.shape[-1] / 2,
    "KL without the mean's square": lambda mean, logvar, xp: reference.kl(0 * mean, logvar, xp),
    "KL with |mean| for its square": lambda mean, logvar, xp: reference.kl(xp.sqrt(xp.abs(mean)), logvar, xp),
    "KL the other way round, of the prior from the posterior": lambda mean, logvar, xp: reference.kl(
        mean * xp.exp(-logvar / 2), -logvar, xp
    ),
    **{
        f"{eps:g} added to the variance inside the KL's logarithm": partial(padded_kl, eps)
        for eps in (1e-6, 1e-7, 1e-8, 1e-10)
    },
}

COMBINATIONS: dict[str, Callable[..., Any]] = {
    "beta ignored": lambda reconstruction, kl, beta: reconstruction + kl,
    "beta on the reconstruction": lambda reconstruction, kl, beta: beta * reconstruction + kl,
    "beta squared": lambda reconstruction, kl, beta: reconstruction + beta**2 * kl,
    "KL left out of the loss": lambda reconstruction, kl, beta: reconstruction + 0 * kl,
    "KL subtracted": lambda reconstruction, kl, beta: reconstruction - beta * kl,
}

PARTS = {
    "bernoulli": RECONSTRUCTIONS,
    "kl": DIVERGENCES,
    "combine": COMBINATIONS,
    "locate": {cause: formula for cause, formula in LOCATIONS.items() if cause != "noise left out of the latent"},
}
