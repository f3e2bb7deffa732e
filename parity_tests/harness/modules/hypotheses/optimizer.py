"""Optimizers as formulas over one flat vector of weights, and the known differences between torch's and optax's.

The difference that leads from the same gradients to the observed weights is the cause.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from parity_tests.harness.modules.hypotheses.base import Hypothesis, confirmed, distance, fitted

EPS_IN_ROOT = "the optimizer's eps is inside the square root in JAX and outside in PyTorch"
EPS_VALUE = "the optimizer's eps differs"
NO_BIAS_CORRECTION = "Adam's bias correction is missing in JAX"
DECOUPLED = "the weight decay is decoupled (AdamW) on one side and added to the gradient (Adam) on the other"
DECAY = "the weight decay differs"
LEARNING_RATE = "the learning rate differs"
SCHEDULE = "the learning-rate schedule is off by one step"
CLIP = "the clipped gradient is scaled by c / norm in JAX and c / (norm + 1e-6) in PyTorch"
NOT_CLIPPED = "the gradient is clipped in PyTorch only"
CLIPPED = "the gradient is clipped in JAX only"
BETAS = "Adam's betas differ"
AMSGRAD = "AMSGrad keeps the largest second moment on one side"
MOMENTUM = "the momentum differs"
NESTEROV = "Nesterov's momentum on one side"
DAMPENING = "the momentum is dampened in PyTorch only"
DECAY_RATE = "RMSprop's decay differs"
CENTERED = "RMSprop is centered on one side"


class Steps(NamedTuple):
    """The inputs of an optimizer, in float64."""

    weights: np.ndarray
    """The weights before the first step, `[size]`."""
    gradients: np.ndarray
    """`[steps, size]`, as passed to both optimizers."""
    clipped: np.ndarray
    """`[steps, size]`, as torch's optimizer used them; its hooks may scale them."""
    rates: np.ndarray
    """Torch's learning rate of each step, `[steps]`."""
    scales: np.ndarray
    """The largest magnitude in the tensor of each weight, `[size]`; differences are relative to it."""


def adam(
    weights: np.ndarray,
    gradients: np.ndarray,
    rates: np.ndarray,
    *,
    betas: Sequence[float] = (0.9, 0.999),
    eps: float = 1e-8,
    eps_root: float = 0.0,
    weight_decay: float = 0.0,
    decoupled: bool = False,
    bias_correction: bool = True,
    amsgrad: bool = False,
) -> np.ndarray:
    mean, square, largest = np.zeros_like(weights), np.zeros_like(weights), np.zeros_like(weights)
    for t, (gradient, rate) in enumerate(zip(gradients, rates, strict=True), start=1):
        gradient = gradient if decoupled else gradient + weight_decay * weights
        mean = betas[0] * mean + (1 - betas[0]) * gradient
        square = betas[1] * square + (1 - betas[1]) * gradient**2
        largest = np.maximum(largest, square)
        first, second = (1 - betas[0] ** t, 1 - betas[1] ** t) if bias_correction else (1, 1)
        root = np.sqrt((largest if amsgrad else square) / second + eps_root) + eps
        weights = weights - rate * (mean / first / root + (weight_decay * weights if decoupled else 0))
    return weights


def sgd(
    weights: np.ndarray,
    gradients: np.ndarray,
    rates: np.ndarray,
    *,
    momentum: float = 0.0,
    dampening: float = 0.0,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    decoupled: bool = False,
) -> np.ndarray:
    trace = None
    for gradient, rate in zip(gradients, rates, strict=True):
        update = gradient if decoupled else gradient + weight_decay * weights
        trace = update if trace is None else momentum * trace + (1 - dampening) * update
        if momentum:
            update = update + momentum * trace if nesterov else trace
        weights = weights - rate * (update + (weight_decay * weights if decoupled else 0))
    return weights


def rmsprop(
    weights: np.ndarray,
    gradients: np.ndarray,
    rates: np.ndarray,
    *,
    alpha: float = 0.99,
    eps: float = 1e-8,
    eps_in_sqrt: bool = False,
    centered: bool = False,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
) -> np.ndarray:
    mean, square, trace = np.zeros_like(weights), np.zeros_like(weights), np.zeros_like(weights)
    for gradient, rate in zip(gradients, rates, strict=True):
        gradient = gradient + weight_decay * weights
        mean, square = alpha * mean + (1 - alpha) * gradient, alpha * square + (1 - alpha) * gradient**2
        variance = square - mean**2 if centered else square
        trace = momentum * trace + gradient / (np.sqrt(variance + eps) if eps_in_sqrt else np.sqrt(variance) + eps)
        weights = weights - rate * trace
    return weights


def cause_in_optimizer(
    kind: str, options: dict[str, Any], steps: Steps, in_jax: np.ndarray, in_torch: np.ndarray, tolerance: float
) -> str | None:
    """Return why optax gives the weights `in_jax` and torch's optimizer `in_torch`, both `[size]`.

    `kind` is the class name of torch's optimizer, and `options` are those of its `param_groups`. The result is None if
    the optimizer has no formula here, or if its formula does not reproduce torch's weights.
    """
    formula = {"Adam": adam, "AdamW": adam, "SGD": sgd, "RMSprop": rmsprop}.get(kind)
    if formula is None:
        return None
    bound = _bound(formula, kind, options)
    plain = formula(steps.weights, steps.clipped, steps.rates, **bound)
    if distance(in_torch / steps.scales, plain / steps.scales) > tolerance:
        return None
    hypotheses = _hypotheses(formula, bound, steps, in_jax)
    scaled = (Hypothesis(h.cause, h.numbers / steps.scales) for h in hypotheses)
    with np.errstate(all="ignore"):  # a hypothesis may overflow
        return confirmed(scaled, in_jax / steps.scales, plain / steps.scales, tolerance)


def _bound(formula: Callable[..., np.ndarray], kind: str, options: dict[str, Any]) -> dict[str, Any]:
    names = {adam: "betas eps weight_decay amsgrad", sgd: "momentum dampening nesterov weight_decay"}
    bound = {name: options[name] for name in names.get(formula, "alpha eps centered momentum weight_decay").split()}
    if formula is adam:
        bound["decoupled"] = kind == "AdamW" or options.get("decoupled_weight_decay", False)
    return bound


def _hypotheses(
    formula: Callable[..., np.ndarray], options: dict[str, Any], steps: Steps, actual: np.ndarray
) -> Iterator[Hypothesis]:
    weights, gradients, clipped, rates, _ = steps

    def run(gradients: np.ndarray = clipped, rates: np.ndarray = rates, **changed: Any) -> np.ndarray:
        return formula(weights, gradients, rates, **{**options, **changed})

    def fit(name: str, cause: str, guess: float) -> Hypothesis:
        def changed(value: float) -> np.ndarray:
            return formula(weights, clipped, rates, **{**options, name: value})

        value = fitted(changed, actual, guess)
        return Hypothesis(f"{cause}: {value:.4g} in JAX, {options[name]:.4g} in PyTorch", changed(value))

    def where(option: str) -> str:
        return "PyTorch" if options.get(option) else "JAX"

    if distance(clipped, gradients) > 0:
        norms = np.linalg.norm(gradients, axis=1, keepdims=True)
        cut = np.linalg.norm(clipped, axis=1, keepdims=True)
        exact = np.where(cut < norms * (1 - 1e-12), gradients * cut * (norms + 1e-6) / norms**2, gradients)
        yield Hypothesis(CLIP, run(exact))
        yield Hypothesis(NOT_CLIPPED, run(gradients))
    if formula is adam:
        yield Hypothesis(EPS_IN_ROOT, run(eps=0.0, eps_root=options["eps"]))
        yield Hypothesis(EPS_IN_ROOT, run(eps_root=options["eps"]))
        yield Hypothesis(NO_BIAS_CORRECTION, run(bias_correction=False))
        yield Hypothesis(f"{AMSGRAD}: in {where('amsgrad')}", run(amsgrad=not options["amsgrad"]))
    elif formula is rmsprop:
        yield Hypothesis(EPS_IN_ROOT, run(eps_in_sqrt=True))
        yield Hypothesis(f"{CENTERED}: in {where('centered')}", run(centered=not options["centered"]))
    else:
        yield Hypothesis(f"{NESTEROV}: in {where('nesterov')}", run(nesterov=not options["nesterov"], dampening=0.0))
        yield Hypothesis(DAMPENING, run(dampening=0.0))
    if formula is not rmsprop and options["weight_decay"]:
        yield Hypothesis(
            f"{DECOUPLED}: decoupled in {where('decoupled')}", run(decoupled=not options.get("decoupled", False))
        )
    for shifted in (np.append(rates[1:], rates[-1:]), np.insert(rates[:-1], 0, rates[0])):
        yield Hypothesis(SCHEDULE, run(rates=shifted))
    yield from _fits(formula, options, steps, run, fit, actual)


def _fits(
    formula: Callable[..., np.ndarray],
    options: dict[str, Any],
    steps: Steps,
    run: Callable[..., np.ndarray],
    fit: Callable[[str, str, float], Hypothesis],
    actual: np.ndarray,
) -> Iterator[Hypothesis]:
    """Yield the faults in one number, with the number that fits all weights best."""
    gradients, rates = steps.gradients, steps.rates
    scale = fitted(lambda scale: run(rates=rates * scale), actual, 1.0)
    cause = f"{LEARNING_RATE}: {rates[0] * scale:.4g} in JAX, {rates[0]:.4g} in PyTorch"
    yield Hypothesis(cause, run(rates=rates * scale))
    norms = np.linalg.norm(gradients, axis=1, keepdims=True)
    norm = fitted(lambda norm: run(gradients * np.minimum(1, norm / norms)), actual, norms.min() / 2)
    yield Hypothesis(f"{CLIPPED}: to a norm of {norm:.4g}", run(gradients * np.minimum(1, norm / norms)))
    yield fit("weight_decay", DECAY, options["weight_decay"])
    if formula is not rmsprop:
        other = partial(run, decoupled=not options.get("decoupled", False))
        value = fitted(lambda value: other(weight_decay=value), actual, options["weight_decay"])
        cause = f"{DECOUPLED}, at {value:.4g} in JAX and {options['weight_decay']:.4g} in PyTorch"
        yield Hypothesis(cause, other(weight_decay=value))
    if formula is adam:
        for i in (0, 1):

            def betas(value: float, i: int = i) -> list[float]:
                return [value if i == j else options["betas"][j] for j in (0, 1)]

            value = fitted(lambda value, b=betas: run(betas=b(value)), actual, options["betas"][i])
            shown, torchs = (", ".join(f"{beta:.4g}" for beta in pair) for pair in (betas(value), options["betas"]))
            yield Hypothesis(f"{BETAS}: {shown} in JAX, {torchs} in PyTorch", run(betas=betas(value)))
    else:
        yield fit("momentum", MOMENTUM, options["momentum"])
    if formula is rmsprop:
        yield fit("alpha", DECAY_RATE, 0.9)
    if formula is not sgd:
        yield fit("eps", EPS_VALUE, options["eps"])
