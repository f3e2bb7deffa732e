"""Optimizers as formulas over one flat vector of weights, and the known differences between torch's and optax's.

The difference that leads from the same gradients to the observed weights is the cause.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from parity_tests.harness.causes import Cause, each, joined
from parity_tests.harness.modules.hypotheses.base import Hypothesis, confirmed, distance, fitted

EPS_IN_ROOT = Cause(
    "the optimizer's eps is inside the square root in JAX and outside in PyTorch",
    "optimizer-eps-place",
    "pass eps instead of eps_root to optax",
    found="inside the root",
    expected="outside the root",
)
EPS_IN_SQRT = Cause(
    str(EPS_IN_ROOT), EPS_IN_ROOT.kind, "pass eps_in_sqrt=False to optax", EPS_IN_ROOT.found, EPS_IN_ROOT.expected
)
EPS_IN_SUM = Cause(
    str(EPS_IN_ROOT),
    EPS_IN_ROOT.kind,
    "divide by sqrt(sum) + eps in a transformation of your own, since optax.adagrad has no such setting",
    EPS_IN_ROOT.found,
    EPS_IN_ROOT.expected,
)
EPS_VALUE = Cause("the optimizer's eps differs", "optimizer-eps", "pass eps={torch} to optax")
NO_BIAS_CORRECTION = Cause(
    "Adam's bias correction is missing in JAX",
    "bias-correction",
    "divide the moments by 1 - beta**t, as optax.adam does",
    found="neither moment",
    expected="both moments",
)
DECOUPLED = Cause(
    "the weight decay is decoupled (AdamW) on one side and added to the gradient (Adam) on the other",
    "weight-decay-coupling",
    "use optax.adamw for a decoupled decay, and optax.add_decayed_weights before optax.adam for PyTorch's Adam",
)
DECAY = Cause("the weight decay differs", "weight-decay", "pass weight_decay={torch} to optax")
LEARNING_RATE = Cause("the learning rate differs", "learning-rate", "set optax's learning rate to {torch}")
RATES = Cause("the learning rates of the steps differ", "schedule-change", "let optax's schedule give {torch}")
SCHEDULE = Cause("the learning-rate schedule is off by one step", "schedule-shift", "move optax's schedule by one step")
CLIP = Cause(
    "the clipped gradient is scaled by c / norm in JAX and c / (norm + 1e-6) in PyTorch",
    "clip-epsilon",
    "scale by c / (norm + 1e-6), as torch.nn.utils.clip_grad_norm_ does",
    found=0,
    expected=1e-6,
)
NOT_CLIPPED = Cause(
    "the gradient is clipped in PyTorch only",
    "clipping",
    "clip in optax too, by optax.clip_by_global_norm of {torch} before the optimizer",
)
CLIPPED = Cause("the gradient is clipped in JAX only", "clipping", "take the clipping out of optax's chain")
BETAS = Cause("Adam's betas differ", "betas", "pass b1 and b2 of {torch} to optax")
AMSGRAD = Cause(
    "AMSGrad keeps the largest second moment on one side",
    "amsgrad",
    "use optax.amsgrad where PyTorch has amsgrad=True, and only there",
)
MOMENTUM = Cause("the momentum differs", "momentum", "pass momentum={torch} to optax")
NESTEROV = Cause("Nesterov's momentum on one side", "nesterov", "pass nesterov={torch} to optax")
DAMPENING = Cause(
    "the momentum is dampened in PyTorch only",
    "dampening",
    "multiply the gradient by 1 - dampening before optax.trace",
)
DECAY_RATE = Cause("RMSprop's decay differs", "rmsprop-decay", "pass decay={torch} to optax")
CENTERED = Cause("RMSprop is centered on one side", "rmsprop-centered", "pass centered={torch} to optax")
INITIAL = Cause(
    "RMSprop's mean square begins at another value", "optimizer-initial", "pass initial_scale={torch} to optax"
)
INITIAL_SUM = Cause(
    "Adagrad's sum of squares begins at another value",
    "optimizer-initial",
    "pass initial_accumulator_value={torch} to optax",
)
_ADAGRAD_EPS = 1e-7  # optax's default
_SAME, _NEAR = 1e-9, 1e-3
CONJUGATE = Cause(
    "optax steps along JAX's gradient of complex parameters, which is the conjugate of PyTorch's",
    "conjugate-gradient",
    "conjugate the gradients before optax's update",
)
SKIPPED = Cause(
    "no gradient comes to it, so that PyTorch's optimizer leaves it alone (its grad is None), and optax's moves it",
    "weight-decay-tensors",
    "leave it out of optax's weight decay, by its mask, or hold it still by optax.multi_transform and set_to_zero",
)


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
    imaginary: np.ndarray | None = None
    """Whether each weight is the imaginary part of one, `[size]`; None if none is."""


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
    nesterov: bool = False,
) -> np.ndarray:
    mean, square, largest = np.zeros_like(weights), np.zeros_like(weights), np.zeros_like(weights)
    for t, (gradient, rate) in enumerate(zip(gradients, rates, strict=True), start=1):
        gradient = gradient if decoupled else gradient + weight_decay * weights
        mean = betas[0] * mean + (1 - betas[0]) * gradient
        square = betas[1] * square + (1 - betas[1]) * gradient**2
        largest = np.maximum(largest, square)
        first, second = (1 - betas[0] ** t, 1 - betas[1] ** t) if bias_correction else (1, 1)
        root = np.sqrt((largest if amsgrad else square) / second + eps_root) + eps
        used = mean / first
        if nesterov:  # as optax has it
            used = betas[0] * mean / (1 - betas[0] ** (t + 1)) + (1 - betas[0]) * gradient / first
        weights = weights - rate * (used / root + (weight_decay * weights if decoupled else 0))
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
    initial: float = 0.0,
) -> np.ndarray:
    mean, square, trace = np.zeros_like(weights), np.full_like(weights, initial), np.zeros_like(weights)
    for gradient, rate in zip(gradients, rates, strict=True):
        gradient = gradient + weight_decay * weights
        mean, square = alpha * mean + (1 - alpha) * gradient, alpha * square + (1 - alpha) * gradient**2
        variance = square - mean**2 if centered else square
        trace = momentum * trace + gradient / (np.sqrt(variance + eps) if eps_in_sqrt else np.sqrt(variance) + eps)
        weights = weights - rate * trace
    return weights


def adagrad(
    weights: np.ndarray,
    gradients: np.ndarray,
    rates: np.ndarray,
    *,
    eps: float = 1e-10,
    eps_in_sqrt: bool = False,
    weight_decay: float = 0.0,
    lr_decay: float = 0.0,
    initial: float = 0.0,
) -> np.ndarray:
    total = np.full_like(weights, initial)
    for t, (gradient, rate) in enumerate(zip(gradients, rates, strict=True)):
        gradient = gradient + weight_decay * weights
        total = total + gradient**2
        root = np.sqrt(total + eps) if eps_in_sqrt else np.sqrt(total) + eps
        weights = weights - rate / (1 + t * lr_decay) * gradient / root
    return weights


def cause_in_optimizer(
    kind: str, options: dict[str, Any], steps: Steps, in_jax: np.ndarray, in_torch: np.ndarray, tolerance: float
) -> str | None:
    """Return why optax gives the weights `in_jax` and torch's optimizer `in_torch`, both `[size]`.

    `kind` is the class name of torch's optimizer, and `options` are those of its `param_groups`. The result is None if
    the optimizer has no formula here, or if its formula does not reproduce torch's weights.
    """
    formula = {"Adam": adam, "AdamW": adam, "SGD": sgd, "RMSprop": rmsprop, "Adagrad": adagrad}.get(kind)
    if formula is None:
        return None
    bound = _bound(formula, kind, options)
    plain = formula(steps.weights, steps.clipped, steps.rates, **bound)
    if distance(in_torch / steps.scales, plain / steps.scales) > tolerance:
        return None
    actual, usual = in_jax / steps.scales, plain / steps.scales

    def named(hypotheses: Iterator[Hypothesis]) -> Iterator[Cause]:
        for one in hypotheses:
            with np.errstate(all="ignore"):  # a hypothesis may overflow
                cause = confirmed([Hypothesis(one.cause, one.numbers / steps.scales)], actual, usual, tolerance)
            if cause:
                yield each(cause)

    if exact := next(named(_hypotheses(formula, bound, steps)), None):
        return exact
    gradients = steps.gradients
    if np.count_nonzero(gradients.any(0)) < 2:  # any setting can be fitted to the steps of one weight
        return None
    fits = named(_fits(formula, bound, steps, in_jax))
    if (np.abs(gradients - gradients[0]) > _SAME * np.abs(gradients).max(initial=0)).any():
        return next(fits, None)
    # Steps of one gradient are a factor apart, whatever the setting; the rates of the steps can't be told.
    alike = {cause.kind: cause for cause in fits if cause.kind != RATES.kind}
    return joined(alike.values(), " or ") if alike else None


def _bound(formula: Callable[..., np.ndarray], kind: str, options: dict[str, Any]) -> dict[str, Any]:
    names = {
        adam: "betas eps weight_decay amsgrad",
        sgd: "momentum dampening nesterov weight_decay",
        rmsprop: "alpha eps centered momentum weight_decay",
        adagrad: "eps weight_decay lr_decay",
    }
    bound = {name: options[name] for name in names[formula].split()}
    if formula is adam:
        bound["decoupled"] = kind == "AdamW" or options.get("decoupled_weight_decay", False)
    if formula in (rmsprop, adagrad):
        bound["initial"] = options.get("initial_accumulator_value", 0.0)
    return bound


def _hypotheses(formula: Callable[..., np.ndarray], options: dict[str, Any], steps: Steps) -> Iterator[Hypothesis]:
    """Yield the faults without a number to fit."""
    weights, gradients, clipped, rates, _, imaginary = steps

    def run(gradients: np.ndarray = clipped, rates: np.ndarray = rates, **changed: Any) -> np.ndarray:
        return formula(weights, gradients, rates, **{**options, **changed})

    def where(cause: Cause, option: str, text: str = "in") -> Cause:
        framework = "PyTorch" if options.get(option) else "JAX"
        return cause.only(framework, f"{cause}: {text} {framework}")

    if imaginary is not None and imaginary.any():
        yield Hypothesis(CONJUGATE, run(np.where(imaginary, -clipped, clipped)))
    if distance(clipped, gradients) > 0:
        norms = np.linalg.norm(gradients, axis=1, keepdims=True)
        cut = np.linalg.norm(clipped, axis=1, keepdims=True)
        exact = np.where(cut < norms * (1 - 1e-12), gradients * cut * (norms + 1e-6) / norms**2, gradients)
        yield Hypothesis(CLIP, run(exact))
        yield Hypothesis(NOT_CLIPPED.saying(NOT_CLIPPED, "no clip", _limit(gradients, clipped)), run(gradients))
    if formula is adam:
        yield Hypothesis(EPS_IN_ROOT, run(eps=0.0, eps_root=options["eps"]))
        yield Hypothesis(EPS_IN_ROOT, run(eps_root=options["eps"]))
        yield Hypothesis(NO_BIAS_CORRECTION, run(bias_correction=False))
        yield Hypothesis(where(AMSGRAD, "amsgrad"), run(amsgrad=not options["amsgrad"]))
        yield Hypothesis(where(NESTEROV, "nesterov"), run(nesterov=True))
    elif formula is rmsprop:
        yield Hypothesis(EPS_IN_SQRT, run(eps_in_sqrt=True))
        yield Hypothesis(where(CENTERED, "centered"), run(centered=not options["centered"]))
    elif formula is adagrad:
        yield Hypothesis(EPS_IN_SUM, run(eps_in_sqrt=True))
    else:
        yield Hypothesis(where(NESTEROV, "nesterov"), run(nesterov=not options["nesterov"], dampening=0.0))
        yield Hypothesis(DAMPENING, run(dampening=0.0))
    if formula in (adam, sgd) and options["weight_decay"]:
        yield Hypothesis(
            where(DECOUPLED, "decoupled", "decoupled in"), run(decoupled=not options.get("decoupled", False))
        )
    for ahead, shifted in ((1, np.append(rates[1:], rates[-1:])), (-1, np.insert(rates[:-1], 0, rates[0]))):
        yield Hypothesis(SCHEDULE.saying(SCHEDULE, ahead, 0), run(rates=shifted))


def _limit(gradients: np.ndarray, clipped: np.ndarray) -> float | None:
    """Return the norm that torch's rule cuts the gradients to; None if it is another rule."""
    norms, cut = (np.linalg.norm(some, axis=1, keepdims=True) for some in (gradients, clipped))
    limit = float(f"{(cut * (1 + 1e-6 / norms))[cut < norms].max(initial=0):.12g}")
    again = gradients * np.minimum(1, limit / (norms + 1e-6))
    return limit if np.allclose(again, clipped, 1e-9, 0) else None


def _fits(
    formula: Callable[..., np.ndarray],
    options: dict[str, Any],
    steps: Steps,
    actual: np.ndarray,
) -> Iterator[Hypothesis]:
    """Yield the faults in one number, with the number that fits all weights best."""
    weights, gradients, clipped, rates, *_ = steps

    def run(gradients: np.ndarray = clipped, rates: np.ndarray = rates, **changed: Any) -> np.ndarray:
        return formula(weights, gradients, rates, **{**options, **changed})

    def fit(name: str, cause: Cause, guess: float, **held: Any) -> Hypothesis:
        def changed(value: float) -> np.ndarray:
            return formula(weights, clipped, rates, **{**options, **held, name: value})

        value = fitted(changed, actual, guess)
        value = value if abs(value) > _SAME * abs(options[name]) else 0.0
        shown = f"{value:.4g}", f"{options[name]:.4g}"
        return Hypothesis(cause.of(value, options[name], shown), changed(value))

    scale = fitted(lambda scale: run(rates=rates * scale), actual, 1.0)
    both = float(rates[0] * scale), float(rates[0])
    cause = LEARNING_RATE.of(*both, (f"{both[0]:.4g}", f"{both[1]:.4g}"))
    yield Hypothesis(cause, run(rates=rates * scale))
    norms = np.linalg.norm(gradients, axis=1, keepdims=True)
    norm = fitted(lambda norm: run(gradients * np.minimum(1, norm / norms)), actual, norms.min() / 2)
    cause = CLIPPED.saying(f"{CLIPPED}: to a norm of {norm:.4g}", norm, "no clip")
    yield Hypothesis(cause, run(gradients * np.minimum(1, norm / norms)))
    yield fit("weight_decay", DECAY, options["weight_decay"])
    if formula in (adam, sgd):
        other = partial(run, decoupled=not options.get("decoupled", False))
        value = fitted(lambda value: other(weight_decay=value), actual, options["weight_decay"])
        text = f"{DECOUPLED}, at {value:.4g} in JAX and {options['weight_decay']:.4g} in PyTorch"
        cause = DECOUPLED.saying(text, value, options["weight_decay"])
        yield Hypothesis(cause, other(weight_decay=value))
    if formula is adam:
        for i in (0, 1):

            def betas(value: float, i: int = i) -> list[float]:
                return [value if i == j else options["betas"][j] for j in (0, 1)]

            value = fitted(lambda value, b=betas: run(betas=b(value)), actual, options["betas"][i])
            shown, torchs = (", ".join(f"{beta:.4g}" for beta in pair) for pair in (betas(value), options["betas"]))
            cause = BETAS.of(betas(value), list(options["betas"]), (shown, torchs))
            yield Hypothesis(cause, run(betas=betas(value)))
    elif formula is not adagrad:
        yield fit("momentum", MOMENTUM, options["momentum"])
    if formula is not sgd:
        yield fit("eps", EPS_VALUE, options["eps"])
    if formula is rmsprop:
        yield fit("initial", INITIAL, 1.0)
        yield fit("alpha", DECAY_RATE, 0.9)
        inside = fit("alpha", DECAY_RATE, 0.9, eps_in_sqrt=True)
        yield Hypothesis(joined([inside.cause, EPS_IN_SQRT]), inside.numbers)
    if formula is adagrad:
        yield fit("initial", INITIAL_SUM, 0.1)
        for eps in dict.fromkeys((options["eps"], _ADAGRAD_EPS)):
            inside = fit("initial", INITIAL_SUM, 0.1, eps_in_sqrt=True, eps=eps)
            values = [EPS_VALUE.of(eps, options["eps"])] if eps != options["eps"] else []
            yield Hypothesis(joined([inside.cause, EPS_IN_SUM, *values]), inside.numbers)
    moved = np.count_nonzero(gradients.any(0))
    if not options["weight_decay"] and moved > 2 * len(rates) > 2:  # the weights are linear in the rates
        columns = np.stack([run(rates=rate) - weights for rate in np.eye(len(rates))], 1)
        if np.isfinite(columns).all():
            own = np.linalg.lstsq(columns, actual - weights, rcond=None)[0]
            told = np.linalg.matrix_rank(columns) == len(rates)  # not where a rate of 0 gives one gradient twice
            several = _with_momentum(options, own) if formula is sgd and told else None
            if several is not None:
                rate, changed = several
                causes = (
                    LEARNING_RATE.of(rate, float(rates[0]), (f"{rate:.4g}", f"{rates[0]:.4g}")),
                    *(
                        cause.of(changed[name], options[name])
                        for name, cause in (("momentum", MOMENTUM), ("nesterov", NESTEROV))
                        if changed[name] != options[name]
                    ),
                )
                yield Hypothesis(joined(causes), run(rates=np.full_like(rates, rate), **changed))
                return
            ours, theirs = ([float(f"{rate:.4g}") for rate in found] for found in (own, rates))
            yield Hypothesis(RATES.of(ours, theirs) if told else RATES, run(rates=own))


def _with_momentum(options: dict[str, Any], own: np.ndarray) -> tuple[float, dict[str, Any]] | None:
    """Return one rate and one momentum that move weights as these rates do with torch's momentum; None if none does."""
    n, momentum = len(own), options["momentum"]
    if n < 5 or options["nesterov"] or options["dampening"]:
        return None
    shares = np.array([sum(own[s] * momentum ** (s - t) for s in range(t, n)) for t in range(n)] + [0.0])
    steps = shares[:-1] - shares[1:]  # what each gradient moves in the step that comes the last
    ratios = steps[:-2] / steps[1:-1]
    other = float(f"{ratios.mean():.4g}")
    if not 0 < other < 1 or np.abs(ratios - other).max() > _NEAR:
        return None
    nesterov = bool(abs(steps[-2] / steps[-1] - other) > _NEAR)
    rate = float(f"{steps[-1] / (1 + other if nesterov else 1):.10g}")
    return rate, {"momentum": other, "nesterov": nesterov}
