"""Faults of the networks, the losses and the gradients."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
from scipy import special

from parity_tests.harness.causes import Cause
from parity_tests.harness.vae import reference
from parity_tests.harness.vae.hypotheses.kinds import named
from parity_tests.harness.vae.hypotheses.randomness import NARROW, SIGNED, Causes
from parity_tests.harness.vae.levels import Arrays, Case


def layers(case: Case, name: str, answers: Arrays) -> Causes:
    """Compute hypotheses from the outputs of the layers before, in `answers`."""
    names = list(answers)
    layer, _, kind = name.partition(", ")
    if name in ("mean", "logvar"):
        other = {"mean": "logvar", "logvar": "mean"}[name]
        yield None, answers[f"encoder.{name}, output"]
        yield SWAPPED, answers[f"encoder.{other}, output"]
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
            yield SIGNED, 2 * case.batch.x - 1
            return
        yield None, before if layer == "encoder.logvar" else reference.relu(before)
        yield from ((cause, f(before)) for cause, f in ACTIVATIONS.items())
        low = before[before < 0]
        if low.size and (slope := float(np.median(answers[name][before < 0] / low))):
            leaky = f"LeakyReLU with slope {slope:.4g}"
            yield named("activation", f"{leaky} for ReLU", leaky, "ReLU"), np.where(before > 0, before, before * slope)
    else:
        x = answers[f"{layer}, input"]
        weight, bias = case.start[f"{layer}.weight"], case.start[f"{layer}.bias"]
        yield None, x @ weight.T + bias
        yield from products(x, weight, bias)
        if layer in ("encoder.mean", "encoder.logvar"):
            other = {"mean": "logvar", "logvar": "mean"}[layer.removeprefix("encoder.")]
            yield (
                SWAPPED,
                x @ case.start[f"encoder.{other}.weight"].T + case.start[f"encoder.{other}.bias"],
            )


def products(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> Causes:
    """Compute the known faults of x @ weight.T + bias."""
    yield NO_BIAS, x @ weight.T
    yield named("bias-scaled", "bias added twice", 2, 1), x @ weight.T + 2 * bias
    if weight.shape[0] == weight.shape[1]:
        yield TRANSPOSED, x @ weight + bias
    given, turned = "given", "reversed"
    yield named("kernel-order", "output columns reversed, bias not", turned, given), x @ weight[::-1].T + bias
    yield named("bias-order", "bias reversed, output columns not", turned, given), x @ weight.T + bias[::-1]
    n = len(bias)
    for height in range(2, n):
        if n % height == 0:
            order = np.arange(n).reshape(height, -1).T.ravel()
            permuted = f"permuted as a flatten of {height} rows would"
            kernel, both = "kernel's columns permuted as a flatten would", "kernel's columns and bias permuted"
            yield named("kernel-order", f"{kernel}, bias not", permuted, given), x @ weight[order].T + bias
            cause = named("bias-order", "bias permuted as a flatten would, kernel's columns not", permuted, given)
            yield cause, x @ weight.T + bias[order]
            yield (
                named("kernel-order", f"{both} as a flatten would", permuted, given),
                x @ weight[order].T + bias[order],
            )
    for low, drop in (("TF32", 13), ("bfloat16", 16)):
        cause = named("low-precision", f"{low} products", low, str(x.dtype))
        yield cause, mantissa(x, drop) @ mantissa(weight, drop).T + bias
    f = partial(np.asarray, dtype=np.float32)
    yield NARROW, (f(x).astype(x.dtype) @ f(weight).T.astype(x.dtype) + f(bias)).astype(x.dtype)
    yield NARROW, x @ f(weight).T.astype(x.dtype) + f(bias)
    yield NARROW, f(x).astype(x.dtype) @ weight.T + bias


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
    yield STOPPED, ask(detach=True)[array]
    at_sigma = named("gradient-stopped", "gradient stopped at sigma", "stopped", "passed on", "distributions.locate")
    yield at_sigma, ask(locate=_sigma_detached)[array]
    slope = "|logit| with slope 1 at 0, as jnp.abs has it"
    yield named("kink", slope, 1, 0, "distributions._softplus"), ask(bernoulli=_abs_at_zero)[array]
    yield from scaled(plain[array], len(case.batch.x), spec.model.pixels)
    yield named("gradient-scaled", "gradient's sign turned", -1, 1), -plain[array]
    for part in ("bernoulli", "kl"):
        for cause, formula in PARTS[part].items():
            changed: dict[str, Any] = {part: formula}
            yield cause + ", in the gradient only", ask(**changed)[array]


def scaled(gradient: np.ndarray, images: int, pixels: int) -> Causes:
    """Compute a gradient whose loss is reduced otherwise over the batch or the pixels."""
    yield named("gradient-scaled", "gradient summed over the batch, not averaged", images, 1), gradient * images
    yield named("gradient-scaled", "gradient averaged over pixels too", 1 / pixels, 1), gradient / pixels


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


LATENT = "mean + exp(logvar / 2) * eps"
SWAPPED = named("heads-swapped", "mean and logvar swapped", "logvar, mean", "mean, logvar")
NO_BIAS = named("bias-missing", "bias missing", "missing", "added")
TRANSPOSED = named("kernel-transposed", "kernel transposed", "transposed", "given")
STOPPED = named("gradient-stopped", "gradient stopped at the latent", "stopped", "passed on", "distributions.locate")
NO_NOISE = named("noise-missing", "noise left out of the latent", "mean", LATENT)

ACTIVATIONS: dict[Cause, Callable[[np.ndarray], np.ndarray]] = {
    named("activation", "no activation where ReLU belongs", "none", "ReLU"): lambda h: h,
    **{
        named("activation", f"{name} for ReLU", name, "ReLU"): function
        for name, function in {
            "a step": lambda h: (h > 0).astype(h.dtype),
            "tanh": np.tanh,
            "sigmoid": special.expit,
            "SiLU": lambda h: h * special.expit(h),
            "ELU": lambda h: np.where(h > 0, h, np.expm1(np.minimum(h, 0))),
            "softplus": lambda h: np.logaddexp(0, h),
            "GELU (erf)": lambda h: h * special.ndtr(h),
            "GELU (tanh)": lambda h: h / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (h + 0.044715 * h**3))),
            "ReLU6": lambda h: np.clip(h, 0, 6),
        }.items()
    },
}


def _latent(sentence: str, found: str) -> Cause:
    return named("latent", sentence, found, LATENT)


# Known replacements of z = mean + exp(logvar / 2) * eps.
LOCATIONS: dict[Cause, Callable[..., Any]] = {
    _latent("variance for sigma in the latent", "mean + exp(logvar) * eps"): lambda mean, logvar, eps, xp: (
        mean + xp.exp(logvar) * eps
    ),
    _latent("logvar taken for log sigma in the latent, both halved", "mean + exp(logvar / 4) * eps"): (
        lambda mean, logvar, eps, xp: mean + xp.exp(logvar / 4) * eps
    ),
    _latent("logvar taken for sigma", "mean + logvar * eps"): lambda mean, logvar, eps, xp: mean + logvar * eps,
    SWAPPED: lambda mean, logvar, eps, xp: logvar + xp.exp(mean / 2) * eps,
    NO_NOISE: lambda mean, logvar, eps, xp: mean,
    _latent("noise subtracted", "mean - exp(logvar / 2) * eps"): lambda mean, logvar, eps, xp: (
        mean - xp.exp(logvar / 2) * eps
    ),
    _latent("the same noise for every image", "mean + exp(logvar / 2) * eps[:1]"): lambda mean, logvar, eps, xp: (
        mean + xp.exp(logvar / 2) * eps[:1]
    ),
    **{
        _latent(f"{eps:g} added to sigma in the latent", f"mean + (exp(logvar / 2) + {eps:g}) * eps"): (
            partial(padded_sigma, eps)
        )
        for eps in (1e-6, 1e-8)
    },
}


def cross_entropy(sentence: str, found: str) -> Cause:
    """Make a cause of the cross-entropy of pixels, of which `found` is the formula."""
    return named("cross-entropy", sentence, found, "the sum over pixels of softplus(logit) - logit * x")


def kl_cause(sentence: str, found: str) -> Cause:
    """Make a cause of the KL of which `found` is the formula."""
    return named("kl", sentence, found, "the sum over latents of (exp(logvar) - 1 - logvar + mean^2) / 2")


def clipped(noun: str, limit: float, where: str = "", code: str | None = None) -> Cause:
    """Make a cause of what is clipped at a number."""
    return named("clipped", f"{noun} clipped at {limit:g}{where}", limit, "no clip", code)


def padded(eps: float) -> Cause:
    """Make the cause of a number that is added to the variance inside the KL's logarithm."""
    return kl_cause(f"{eps:g} added to the variance inside the KL's logarithm", f"log(exp(logvar) + {eps:g})")


LINEAR_SOFTPLUS = named(
    "softplus", "softplus taken for its argument from 20 on", "x from 20 on", "log(1 + e^x) for every x"
)
PROBABILITIES = "cross-entropy from probabilities"

RECONSTRUCTIONS: dict[Cause, Callable[..., Any]] = {
    cross_entropy("cross-entropy averaged over pixels, not summed", "the mean over pixels"): lambda logits, x, xp: (
        reference.bernoulli(logits, x, xp) / logits.shape[-1]
    ),
    cross_entropy("cross-entropy averaged over the batch's pixels", "the mean over the batch's pixels"): (
        lambda logits, x, xp: xp.broadcast_to(
            reference.bernoulli(logits, x, xp).mean() / logits.shape[-1], logits.shape[:1]
        )
    ),
    cross_entropy(f"{PROBABILITIES}, its logarithms cut at -100", "max(log p, -100)"): (
        partial(_probabilities, eps=0.0)
    ),
    **{
        cross_entropy(f"{PROBABILITIES}, {eps:g} added inside the logarithms", f"log(p + {eps:g})"): (
            partial(_probabilities, eps=eps)
        )
        for eps in (1e-6, 1e-7, 1e-8, 1e-10, 1e-12)
    },
    **{
        cross_entropy(f"{PROBABILITIES} cut to [{eps:g}, 1 - {eps:g}]", f"log of p in [{eps:g}, 1 - {eps:g}]"): (
            partial(_clipped, eps=eps)
        )
        for eps in (1e-6, 1e-7, 1e-8)
    },
    **{
        clipped("logits", limit, code="distributions.bernoulli_nll"): partial(_clipped_logits, limit=limit)
        for limit in (10, 15, 20, 30, 50)
    },
    LINEAR_SOFTPLUS: _linear_bernoulli,
    cross_entropy("squared error for cross-entropy", "the squared error"): lambda logits, x, xp: (
        (_sigmoid(logits, xp) - x) ** 2
    ).sum(-1),
    cross_entropy("squared error of the logits for cross-entropy", "the logits' squared error"): lambda logits, x, xp: (
        (logits - x) ** 2
    ).sum(-1),
    cross_entropy("cross-entropy's sign turned", "-1 times it"): lambda logits, x, xp: (
        -reference.bernoulli(logits, x, xp)
    ),
    cross_entropy("cross-entropy without its (1 - x) half", "-x * log p"): lambda logits, x, xp: (
        x * xp.logaddexp(xp.zeros_like(logits), -logits)
    ).sum(-1),
    cross_entropy("cross-entropy halved", "half of it"): lambda logits, x, xp: reference.bernoulli(logits, x, xp) / 2,
    cross_entropy("a sigmoid before the logits' cross-entropy", "sigmoid(logit) for logit"): lambda logits, x, xp: (
        reference.bernoulli(_sigmoid(logits, xp), x, xp)
    ),
    cross_entropy("image binarised in the cross-entropy", "x > 0.5 for x"): lambda logits, x, xp: reference.bernoulli(
        logits, (x > 0.5).astype(logits.dtype), xp
    ),
}  # fmt: skip

DIVERGENCES: dict[Cause, Callable[..., Any]] = {
    kl_cause("KL averaged over latents, not summed", "the mean over latents"): lambda mean, logvar, xp: (
        reference.kl(mean, logvar, xp) / mean.shape[-1]
    ),
    kl_cause("KL averaged over the batch before its time", "the mean over the batch"): lambda mean, logvar, xp: (
        xp.broadcast_to(reference.kl(mean, logvar, xp).mean(), mean.shape[:1])
    ),
    kl_cause("KL without its factor 0.5", "exp(logvar) - 1 - logvar + mean^2"): lambda mean, logvar, xp: (
        2 * reference.kl(mean, logvar, xp)
    ),
    kl_cause("sigma for variance in the KL", "(exp(logvar / 2) - 1 - logvar + mean^2) / 2"): (
        lambda mean, logvar, xp: (xp.exp(logvar / 2) - 1 - logvar + mean**2).sum(-1) / 2
    ),
    kl_cause("logvar taken for log sigma in the KL", "2 * logvar for logvar"): lambda mean, logvar, xp: reference.kl(
        mean, 2 * logvar, xp
    ),
    SWAPPED: lambda mean, logvar, xp: reference.kl(logvar, mean, xp),
    kl_cause("KL's sign turned", "-1 times it"): lambda mean, logvar, xp: -reference.kl(mean, logvar, xp),
    kl_cause("KL without its -1", "(exp(logvar) - logvar + mean^2) / 2"): lambda mean, logvar, xp: (
        reference.kl(mean, logvar, xp) + mean.shape[-1] / 2
    ),
    kl_cause("KL without the mean's square", "(exp(logvar) - 1 - logvar) / 2"): lambda mean, logvar, xp: reference.kl(
        0 * mean, logvar, xp
    ),
    kl_cause("KL with |mean| for its square", "|mean| for mean^2"): lambda mean, logvar, xp: reference.kl(
        xp.sqrt(xp.abs(mean)), logvar, xp
    ),
    kl_cause("KL the other way round, of the prior from the posterior", "KL(prior, posterior)"): (
        lambda mean, logvar, xp: reference.kl(mean * xp.exp(-logvar / 2), -logvar, xp)
    ),
    **{padded(eps): partial(padded_kl, eps) for eps in (1e-6, 1e-7, 1e-8, 1e-10)},
}


def _beta(sentence: str, found: str) -> Cause:
    return named("beta", sentence, found, "reconstruction + beta * kl")


COMBINATIONS: dict[Cause, Callable[..., Any]] = {
    _beta("beta ignored", "reconstruction + kl"): lambda reconstruction, kl, beta: reconstruction + kl,
    _beta("beta on the reconstruction", "beta * reconstruction + kl"): lambda reconstruction, kl, beta: (
        beta * reconstruction + kl
    ),
    _beta("beta squared", "reconstruction + beta^2 * kl"): lambda reconstruction, kl, beta: (
        reconstruction + beta**2 * kl
    ),
    _beta("KL left out of the loss", "reconstruction"): lambda reconstruction, kl, beta: reconstruction + 0 * kl,
    _beta("KL subtracted", "reconstruction - beta * kl"): lambda reconstruction, kl, beta: reconstruction - beta * kl,
}

PARTS: dict[str, dict[Cause, Callable[..., Any]]] = {
    "bernoulli": RECONSTRUCTIONS,
    "kl": DIVERGENCES,
    "combine": COMBINATIONS,
    "locate": {cause: formula for cause, formula in LOCATIONS.items() if cause != NO_NOISE},
}
