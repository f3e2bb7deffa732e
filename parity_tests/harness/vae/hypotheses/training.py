"""Faults of the optimizer, a step, an epoch, evaluation and pictures."""

import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from scipy import special

from jaxvae.shared.config.spec import Spec
from parity_tests.harness.causes import Cause
from parity_tests.harness.vae import reference
from parity_tests.harness.vae.batches import STREAMS, Batch, stream
from parity_tests.harness.vae.hypotheses.kinds import named
from parity_tests.harness.vae.hypotheses.networks import NO_NOISE, STOPPED
from parity_tests.harness.vae.hypotheses.randomness import (
    FROM_1,
    NEWER,
    OLDER,
    OVER_256,
    SIGNED,
    Causes,
    drawn,
)
from parity_tests.harness.vae.levels import WARM, Arrays, Case, given_gradients, held_still, noise
from parity_tests.harness.vae.reference import Adam

IN_ROOT = named("optimizer-eps-place", "Adam's eps inside the root", "inside the root", "outside the root")
UNCORRECTED = named("bias-correction", "Adam without its bias correction", "neither moment", "both moments")
SECOND = named(
    "bias-correction", "Adam's second moment not corrected for its bias", "the first moment alone", "both moments"
)
AHEAD = named("optimizer-steps", "Adam's steps counted one too many", 2, 1)
AMSGRAD = named("amsgrad", "AMSGrad for Adam", True, False)
DECAY = "weight decay added to the gradient"

ADAMS: dict[Cause, Adam] = {
    IN_ROOT: Adam(eps_in_root=True),
    UNCORRECTED: Adam(correct=False),
    SECOND: Adam(second=False),
    AHEAD: Adam(ahead=1),
    named("weight-decay", "decoupled weight decay 0.01, AdamW's default", 0.01, 0): Adam(decay=1e-2),
    named("weight-decay", "decoupled weight decay 1e-4, optax's default", 1e-4, 0): Adam(decay=1e-4),
    named("weight-decay", f"{DECAY} (0.01)", 0.01, 0): Adam(l2=1e-2),
    named("weight-decay", f"{DECAY} (1e-4)", 1e-4, 0): Adam(l2=1e-4),
    AMSGRAD: Adam(largest=True),
    named("betas", "Adam's beta2 0.99 for 0.999", 0.99, 0.999): Adam(b2=0.99),
    named("betas", "Adam's beta1 0.99 for 0.9", 0.99, 0.9): Adam(b1=0.99),
    named("optimizer-eps", "Adam's eps 1e-7 for 1e-8", 1e-7, 1e-8): Adam(eps=1e-7),
    named("optimizer-eps", "Adam's eps 1e-6 for 1e-8", 1e-6, 1e-8): Adam(eps=1e-6),
    **{named("clipping", f"gradient clipped to norm {c}", c, "no clip"): Adam(clip=float(c)) for c in (1, 5, 10)},
}


MEAN = "mean over the batch"
RISING = "(1 + step) / (10 + step)"


def _reused(sentence: str, found: str, expected: str) -> Cause:
    return named("key-reused", sentence, found, expected)


def _exchanged(found: str, expected: str) -> Cause:
    return named("stream", f"streams exchanged: noise drawn from {found}", found, expected)


def ordered(sentence: str, found: str) -> Cause:
    """Make a cause of the order of the images."""
    return named("data-order", sentence, found, "each epoch's own permutation")


def shown(sentence: str, found: str, expected: str) -> Cause:
    """Make a cause of what pictures show."""
    return named("pictures", sentence, found, expected)


KEPT = named("zero-grad", "gradient kept from the step before", "added to the one before", "the step's own")
SAME_NOISE = _reused("key reused: every step draws the same noise", "the stream", "each step")
FIRST_NOISE = _reused("key reused: every step draws the first one's noise", "the first step", "each step")
UNSHUFFLED = ordered("order not shuffled", "the images in their given order")
SAME_ORDER = named(
    "data-order-repeated", "key reused: every epoch has the first one's order", "once", "anew in each epoch"
)
DROPPED = named("incomplete-batch", "last batch dropped", "dropped", "keep the last batch")
EPOCH_FROM_0 = named("fold-in", "wrong fold-in: the epoch is counted from 0", "the epoch, from 0", "the epoch, from 1")


def adams(spec: Spec) -> dict[Cause, Adam]:
    """List the known variants of the configuration's Adam."""
    usual = reference.usual(spec)
    own, ema = usual._replace, usual.ema
    if usual == Adam():
        return ADAMS
    averages = {
        named(
            "average-update", "the weights' average without its smaller decay at first", ema, f"min({ema:g}, {RISING})"
        ): own(ema_rises=False),
        named(
            "average-update", "the weights' average a step late", "the decay of the step before", "the step's decay"
        ): own(ema_ahead=-1),
    }
    return {
        **(averages if usual.ema else {}),
        IN_ROOT: own(eps_in_root=True),
        UNCORRECTED: own(correct=False),
        SECOND: own(second=False),
        AHEAD: own(ahead=1),
        AMSGRAD: own(largest=True),
        named("optimizer", "Adam's defaults for what is configured", "Adam's defaults", "what is configured"): Adam(),
    }


def optimizer(case: Case, name: str) -> Causes:
    rate = case.spec.training.learning_rate
    grads = given_gradients(case)
    yield from _adams(lambda how: _merged(*reference.adam(case.start, grads, rate, how=how)), name)
    yield from _rates(lambda rate: _merged(*reference.adam(case.start, grads, rate))[name], rate)
    summed = [{n: np.sum([g[n] for g in grads[: i + 1]], axis=0) for n in grads[0]} for i in range(len(grads))]
    yield KEPT, _merged(*reference.adam(case.start, summed, rate))[name]
    if name in case.start and name.endswith("bias"):
        yield named("frozen", "biases left as they were", "left as they were", "updated"), case.start[name]


def steps(case: Case, name: str) -> Causes:
    """Compute two steps from a warm state under faults of the noise, the loss, the gradient and the update."""
    before = "wrong fold-in: the step is counted from -1"
    noises: dict[Cause | None, tuple[int, str]] = {
        None: (0, "noise"),
        FROM_1: (1, "noise"),
        named("fold-in", before, "the step, from -1", "the step, from 0"): (-1, "noise"),
        **{_exchanged(s, "noise"): (0, s) for s in STREAMS if s != "noise"},
    }
    for cause, (shift, s) in noises.items():
        yield cause, two_steps(case, [_draw(case, stream(case.spec, s, WARM + i + shift)) for i in (0, 1)])[name]
    right = [noise(case.spec, WARM + i, len(case.batch.x)).eps for i in (0, 1)]
    yield SAME_NOISE, two_steps(case, [_draw(case, stream(case.spec, "noise"))] * 2)[name]
    cause = _reused("key reused: a step draws the noise of the step before", "the step before", "the step")
    yield cause, two_steps(case, [right[0]] * 2)[name]
    yield NO_NOISE, two_steps(case, [0 * right[0]] * 2)[name]
    step_keys = [stream(case.spec, "noise", WARM + i) for i in (0, 1)]
    with jax.threefry_partitionable(False):
        older = [_draw(case, key) for key in step_keys]
    yield drawn("noise drawn by threefry's older, non-partitionable form", OLDER, NEWER), two_steps(case, older)[name]
    yield from _adams(lambda how: two_steps(case, right, how), name, skip_plain=True)
    summed = named("loss-reduction", "loss summed over the batch, not averaged", "sum over the batch", MEAN)
    yield summed, two_steps(case, right, scale=len(case.batch.x))[name]
    averaged = named("loss-reduction", "loss averaged over pixels too", "mean over batch and pixels", MEAN)
    yield averaged, two_steps(case, right, scale=1 / case.spec.model.pixels)[name]
    yield KEPT, two_steps(case, right, keep=True)[name]
    yield STOPPED, two_steps(case, right, detach=True)[name]
    whole = "the moments and the number of steps"
    cause = named("optimizer-state", "optimizer state not carried over", "nothing", whole)
    yield cause, two_steps(case, right, keeps=())[name]
    cause = named("optimizer-state", "moments not carried over", "the number of steps", whole)
    yield cause, two_steps(case, right, keeps=("step",))[name]
    yield from _rates(lambda rate: two_steps(case, right, rate=rate)[name], case.spec.training.learning_rate)


def two_steps(
    case: Case,
    noises: list[np.ndarray],
    how: Adam = Adam(),  # noqa: B008 (it is immutable)
    *,
    scale: float = 1.0,
    rate: float | None = None,
    keep: bool = False,
    detach: bool = False,
    keeps: tuple[str, ...] | None = None,
) -> Arrays:
    """Compute the level's arrays with this noise and this optimizer."""
    weights, state = case.warm
    if keeps is not None:
        state = {name: array if name in keeps else np.zeros_like(array) for name, array in state.items()}
    terms, before = [], dict.fromkeys(weights, 0.0)
    for given, eps in zip(case.batches, noises, strict=True):
        batch = given._replace(eps=eps)
        terms.append([term.mean() for term in reference.losses(case.spec, weights, batch).values()])
        parts: dict[str, Any] = {"detach": True} if detach else {}
        grads = reference.gradients(case.spec, weights, batch, **parts)
        grad = {n: g * np.array(scale, g.dtype) for n, g in grads.items()}
        if keep:
            grad = before = {n: g + before[n] for n, g in grad.items()}
        weights, state = reference.adam(weights, [grad], rate or case.spec.training.learning_rate, state, how)
    named = dict(zip(("loss", "reconstruction", "kl"), np.array(terms, case.dtype).T, strict=True))
    return {**named, **weights, **state}


def order(case: Case, name: str) -> Causes:
    """Compute two epochs with the weights held still."""
    spec, data = held_still(case)
    pixels, n = (data.train.reshape(len(data.train), -1) / 255).astype(case.dtype), len(data.train)
    batch = min(spec.training.batch_size, n)
    per_epoch = spec.training.epoch_steps(n)

    def shuffle(e: int) -> np.ndarray:
        return np.asarray(jax.random.permutation(stream(spec, "order", e), n))

    def draw(t: int) -> np.ndarray:
        return _draw(case, stream(spec, "noise", t), batch)

    def epochs(
        shuffle: Callable[[int], np.ndarray] = shuffle,
        draw: Callable[[int], np.ndarray] = draw,
        *,
        drop: bool = False,
        pixels: np.ndarray = pixels,
        average: Callable[[np.ndarray], float] = np.mean,
        pad: bool = False,
    ) -> np.ndarray:
        terms: list[list[float]] = []
        e = 0
        while len(terms) < 2 * per_epoch:
            rows = shuffle(e)
            parts = [rows[i : i + batch] for i in range(0, n, batch)]
            parts = [part for part in parts if len(part) == batch or not drop]
            if not parts:
                break
            for part in parts:
                if pad:
                    part = np.concatenate([part, np.zeros(batch - len(part), part.dtype)])
                eps = draw(len(terms))[: len(part)]
                losses = reference.losses(spec, case.start, Batch(pixels[part], eps))
                terms.append([average(term) for term in losses.values()])
            e += 1
        return np.array(terms, case.dtype)[:, ("loss", "reconstruction", "kl").index(name)]

    yield None, epochs()
    yield UNSHUFFLED, epochs(lambda e: np.arange(n))
    yield SAME_ORDER, epochs(lambda e: shuffle(0))
    yield (
        ordered("wrong fold-in: the epoch is counted from 1", "the next epoch's order"),
        epochs(lambda e: shuffle(e + 1)),
    )
    yield ordered("order reversed", "the order reversed"), epochs(lambda e: shuffle(e)[::-1])
    unfolded = np.asarray(jax.random.permutation(stream(spec, "order"), n))
    yield ordered("order not folded with the epoch", "the order of the stream itself"), epochs(lambda e: unfolded)
    cause = ordered("order folded with the step, not the epoch", "the order of the epoch's first step")
    yield cause, epochs(lambda e: shuffle(e * per_epoch))
    cause = ordered("order inverted: places and images exchanged", "the order inverted")
    yield cause, epochs(lambda e: np.argsort(shuffle(e)))
    yield SAME_NOISE, epochs(draw=lambda t: _draw(case, stream(spec, "noise"), batch))
    yield FIRST_NOISE, epochs(draw=lambda t: draw(0))
    cause = _reused("key reused: every step draws its epoch's first noise", "the epoch's first step", "the step")
    yield cause, epochs(draw=lambda t: draw(t - t % per_epoch))
    yield FROM_1, epochs(draw=lambda t: draw(t + 1))
    within = "wrong fold-in: the step is counted within its epoch"
    cause = named("fold-in", within, "the step within its epoch", "the step of the run")
    yield cause, epochs(draw=lambda t: draw(t % per_epoch))
    yield NO_NOISE, epochs(draw=lambda t: 0 * draw(t))
    for s in STREAMS:
        if s != "noise":
            yield _exchanged(s, "noise"), epochs(draw=lambda t, s=s: _draw(case, stream(spec, s, t), batch))
    yield DROPPED, epochs(drop=True)
    by_batch = "last batch divided by a whole batch's size"
    cause = named("incomplete-batch", by_batch, "divided by a whole batch's size", "divide it by its own size")
    yield cause, epochs(average=lambda term: term.sum() / batch)
    cause = "last batch filled up with images that count"
    filled = named("incomplete-batch", cause, "filled up with images that count", "leave out what fills it up")
    yield filled, epochs(pad=True)
    yield OVER_256, epochs(pixels=(pixels * 255 / 256).astype(case.dtype))
    yield SIGNED, epochs(pixels=2 * pixels - 1)


def evaluation(case: Case, name: str) -> Causes:
    test = case.data.test
    pixels = (test.reshape(len(test), -1) / 255).astype(case.dtype)
    shape = (len(pixels), case.spec.model.latent)

    def normal(key: jax.Array, shape: tuple[int, int] = shape) -> np.ndarray:
        return np.asarray(jax.random.normal(key, shape, case.dtype))

    def terms(eps: np.ndarray, **parts: Any) -> np.ndarray:
        return reference.losses(case.spec, case.start, Batch(pixels, eps), **parts)[name].astype(np.float64)

    key = stream(case.spec, "evaluation", 1)
    plain = terms(normal(key))
    yield None, plain.mean()
    yield NO_NOISE, terms(0 * normal(key)).mean()
    for batch in (100, 128, 500, 512, 1000):
        few = normal(key, (batch, shape[1]))
        cause = _reused("key reused: every batch draws the same noise", "the first batch", "each batch")
        yield cause, terms(np.resize(few, shape)).mean()
        means = [plain[i : i + batch].mean() for i in range(0, len(plain), batch)]
        short = "mean of the batches' means, the last one short"
        cause = named("incomplete-batch", short, "the mean of the batches' means", "take the mean of all images")
        yield cause, np.mean(means)
        yield DROPPED, plain[: len(plain) // batch * batch].mean() if len(plain) >= batch else math.nan
    for s in STREAMS:
        if s != "evaluation":
            yield _exchanged(s, "evaluation"), terms(normal(stream(case.spec, s, 1))).mean()
    yield EPOCH_FROM_0, terms(normal(stream(case.spec, "evaluation", 0))).mean()
    cause = named(
        "loss-reduction", "summed over the images, not averaged", "sum over the images", "mean over the images"
    )
    yield cause, plain.sum()


def pictures(case: Case, name: str) -> Causes:
    pixels = (case.data.test[:64].reshape(-1, case.spec.model.pixels) / 255).astype(case.dtype)
    shape = (64 if name == "samples" else len(pixels), case.spec.model.latent)
    eps = np.asarray(jax.random.normal(stream(case.spec, "pictures", 1), shape, case.dtype))

    def decode(z: np.ndarray) -> np.ndarray:
        images = pixels if len(pixels) == len(z) else np.zeros((len(z), pixels.shape[1]), case.dtype)
        out = reference.forward(case.spec, case.start, Batch(images, z), locate=lambda mean, logvar, eps, xp: eps)
        return out.logits.reshape(-1, *case.spec.model.image)

    blank = np.zeros((len(pixels), case.spec.model.latent), case.dtype)
    mean, logvar = reference.forward(case.spec, case.start, Batch(pixels, blank)).posterior
    right = eps if name == "samples" else mean
    yield None, special.expit(decode(right))
    yield shown("logits for probabilities", "logits", "probabilities"), decode(right)
    yield (
        shown("pixels drawn, not their means", "drawn pixels", "the pixels' means"),
        (special.expit(decode(right)) > 0.5).astype(case.dtype),
    )
    if name == "samples":
        yield (
            _reused("key reused: the epoch is not folded in", "the stream", "the epoch"),
            special.expit(decode(np.asarray(jax.random.normal(stream(case.spec, "pictures"), shape, case.dtype)))),
        )
    else:
        drawn = reference.locate(mean, logvar, eps[: len(pixels)], np)
        cause = shown(
            "a latent drawn, not the posterior's mean", "images of a drawn latent", "images of the posterior's mean"
        )
        yield cause, special.expit(decode(drawn))


def _adams(answer: Callable[[Adam], Arrays], name: str, skip_plain: bool = False) -> Causes:
    if not skip_plain:
        yield None, answer(Adam())[name]
    for cause, how in ADAMS.items():
        yield cause, answer(how)[name]


def _rates(answer: Callable[[float], Any], rate: float) -> Causes:
    for factor in (0.1, 0.5, 2.0, 10.0):
        cause = named("learning-rate", f"learning rate {factor:g} times as large", rate * factor, rate)
        yield cause, answer(rate * factor)


def _merged(weights: Arrays, state: Arrays) -> Arrays:
    return {**weights, **state}


def _draw(case: Case, key: jax.Array, rows: int | None = None) -> np.ndarray:
    shape = (len(case.batch.x) if rows is None else rows, case.spec.model.latent)
    return np.asarray(jax.random.normal(key, shape, case.dtype))
