"""Faults of the optimizer, a step, an epoch, evaluation and pictures."""

import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from scipy import special

from jaxvae.shared.config.spec import Spec
from parity_tests.harness.vae import reference
from parity_tests.harness.vae.batches import STREAMS, Batch, stream
from parity_tests.harness.vae.hypotheses.randomness import Causes
from parity_tests.harness.vae.levels import WARM, Arrays, Case, given_gradients, held_still, noise
from parity_tests.harness.vae.reference import Adam

ADAMS = {
    "Adam's eps inside the root": Adam(eps_in_root=True),
    "Adam without its bias correction": Adam(correct=False),
    "Adam's second moment not corrected for its bias": Adam(second=False),
    "Adam's steps counted one too many": Adam(ahead=1),
    "decoupled weight decay 0.01, AdamW's default": Adam(decay=1e-2),
    "decoupled weight decay 1e-4, optax's default": Adam(decay=1e-4),
    "weight decay added to the gradient (0.01)": Adam(l2=1e-2),
    "weight decay added to the gradient (1e-4)": Adam(l2=1e-4),
    "AMSGrad for Adam": Adam(largest=True),
    "Adam's beta2 0.99 for 0.999": Adam(b2=0.99),
    "Adam's beta1 0.99 for 0.9": Adam(b1=0.99),
    "Adam's eps 1e-7 for 1e-8": Adam(eps=1e-7),
    "Adam's eps 1e-6 for 1e-8": Adam(eps=1e-6),
    "gradient clipped to norm 1": Adam(clip=1.0),
    "gradient clipped to norm 5": Adam(clip=5.0),
    "gradient clipped to norm 10": Adam(clip=10.0),
}


def adams(spec: Spec) -> dict[str, Adam]:
    """List the known variants of the configuration's Adam."""
    usual = reference.usual(spec)
    own = usual._replace
    if usual == Adam():
        return ADAMS
    averages = {
        "the weights' average without its smaller decay at first": own(ema_rises=False),
        "the weights' average a step late": own(ema_ahead=-1),
    }
    return {
        **(averages if usual.ema else {}),
        "Adam's eps inside the root": own(eps_in_root=True),
        "Adam without its bias correction": own(correct=False),
        "Adam's second moment not corrected for its bias": own(second=False),
        "Adam's steps counted one too many": own(ahead=1),
        "AMSGrad for Adam": own(largest=True),
        "Adam's defaults for what is configured": Adam(),
    }


def optimizer(case: Case, name: str) -> Causes:
    rate = case.spec.training.learning_rate
    grads = given_gradients(case)
    yield from _adams(lambda how: _merged(*reference.adam(case.start, grads, rate, how=how)), name)
    yield from _rates(lambda rate: _merged(*reference.adam(case.start, grads, rate))[name], rate)
    summed = [{n: np.sum([g[n] for g in grads[: i + 1]], axis=0) for n in grads[0]} for i in range(len(grads))]
    yield "gradient kept from the step before", _merged(*reference.adam(case.start, summed, rate))[name]
    if name in case.start and name.endswith("bias"):
        yield "biases left as they were", case.start[name]


def steps(case: Case, name: str) -> Causes:
    """Compute two steps from a warm state under faults of the noise, the loss, the gradient and the update."""
    noises = {
        None: (0, "noise"),
        "wrong fold-in: the step is counted from 1": (1, "noise"),
        "wrong fold-in: the step is counted from -1": (-1, "noise"),
        **{f"streams exchanged: noise drawn from {s}": (0, s) for s in STREAMS if s != "noise"},
    }
    for cause, (shift, s) in noises.items():
        yield cause, two_steps(case, [_draw(case, stream(case.spec, s, WARM + i + shift)) for i in (0, 1)])[name]
    right = [noise(case.spec, WARM + i, len(case.batch.x)).eps for i in (0, 1)]
    yield (
        "key reused: every step draws the same noise",
        two_steps(case, [_draw(case, stream(case.spec, "noise"))] * 2)[name],
    )
    yield "key reused: a step draws the noise of the step before", two_steps(case, [right[0]] * 2)[name]
    yield "noise left out of the latent", two_steps(case, [0 * right[0]] * 2)[name]
    step_keys = [stream(case.spec, "noise", WARM + i) for i in (0, 1)]
    with jax.threefry_partitionable(False):
        older = [_draw(case, key) for key in step_keys]
    yield "noise drawn by threefry's older, non-partitionable form", two_steps(case, older)[name]
    yield from _adams(lambda how: two_steps(case, right, how), name, skip_plain=True)
    yield "loss summed over the batch, not averaged", two_steps(case, right, scale=len(case.batch.x))[name]
    yield "loss averaged over pixels too", two_steps(case, right, scale=1 / case.spec.model.pixels)[name]
    yield "gradient kept from the step before", two_steps(case, right, keep=True)[name]
    yield "gradient stopped at the latent", two_steps(case, right, detach=True)[name]
    yield "optimizer state not carried over", two_steps(case, right, keeps=())[name]
    yield "moments not carried over", two_steps(case, right, keeps=("step",))[name]
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
    yield "order not shuffled", epochs(lambda e: np.arange(n))
    yield "key reused: every epoch has the first one's order", epochs(lambda e: shuffle(0))
    yield "wrong fold-in: the epoch is counted from 1", epochs(lambda e: shuffle(e + 1))
    yield "order reversed", epochs(lambda e: shuffle(e)[::-1])
    yield (
        "order not folded with the epoch",
        epochs(lambda e: np.asarray(jax.random.permutation(stream(spec, "order"), n))),
    )
    yield "order folded with the step, not the epoch", epochs(lambda e: shuffle(e * per_epoch))
    yield "order inverted: places and images exchanged", epochs(lambda e: np.argsort(shuffle(e)))
    yield (
        "key reused: every step draws the same noise",
        epochs(draw=lambda t: _draw(case, stream(spec, "noise"), batch)),
    )
    yield "key reused: every step draws the first one's noise", epochs(draw=lambda t: draw(0))
    yield "key reused: every step draws its epoch's first noise", epochs(draw=lambda t: draw(t - t % per_epoch))
    yield "wrong fold-in: the step is counted from 1", epochs(draw=lambda t: draw(t + 1))
    yield "wrong fold-in: the step is counted within its epoch", epochs(draw=lambda t: draw(t % per_epoch))
    yield "noise left out of the latent", epochs(draw=lambda t: 0 * draw(t))
    for s in STREAMS:
        if s != "noise":
            yield (
                f"streams exchanged: noise drawn from {s}",
                epochs(draw=lambda t, s=s: _draw(case, stream(spec, s, t), batch)),
            )
    yield "last batch dropped", epochs(drop=True)
    yield "last batch divided by a whole batch's size", epochs(average=lambda term: term.sum() / batch)
    yield "last batch filled up with images that count", epochs(pad=True)
    yield "pixels over 256", epochs(pixels=(pixels * 255 / 256).astype(case.dtype))
    yield "pixels in [-1, 1], not [0, 1]", epochs(pixels=2 * pixels - 1)


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
    yield "noise left out of the latent", terms(0 * normal(key)).mean()
    for batch in (100, 128, 500, 512, 1000):
        few = normal(key, (batch, shape[1]))
        yield "key reused: every batch draws the same noise", terms(np.resize(few, shape)).mean()
        means = [plain[i : i + batch].mean() for i in range(0, len(plain), batch)]
        yield "mean of the batches' means, the last one short", np.mean(means)
        yield "last batch dropped", plain[: len(plain) // batch * batch].mean() if len(plain) >= batch else math.nan
    for s in STREAMS:
        if s != "evaluation":
            yield f"streams exchanged: noise drawn from {s}", terms(normal(stream(case.spec, s, 1))).mean()
    yield "wrong fold-in: the epoch is counted from 0", terms(normal(stream(case.spec, "evaluation", 0))).mean()
    yield "summed over the images, not averaged", plain.sum()


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
    yield "logits for probabilities", decode(right)
    yield "pixels drawn, not their means", (special.expit(decode(right)) > 0.5).astype(case.dtype)
    if name == "samples":
        yield (
            "key reused: the epoch is not folded in",
            special.expit(decode(np.asarray(jax.random.normal(stream(case.spec, "pictures"), shape, case.dtype)))),
        )
    else:
        drawn = reference.locate(mean, logvar, eps[: len(pixels)], np)
        yield "a latent drawn, not the posterior's mean", special.expit(decode(drawn))


def _adams(answer: Callable[[Adam], Arrays], name: str, skip_plain: bool = False) -> Causes:
    if not skip_plain:
        yield None, answer(Adam())[name]
    for cause, how in ADAMS.items():
        yield cause, answer(how)[name]


def _rates(answer: Callable[[float], Any], rate: float) -> Causes:
    for factor in (0.1, 0.5, 2.0, 10.0):
        yield f"learning rate {factor:g} times as large", answer(rate * factor)


def _merged(weights: Arrays, state: Arrays) -> Arrays:
    return {**weights, **state}


def _draw(case: Case, key: jax.Array, rows: int | None = None) -> np.ndarray:
    shape = (len(case.batch.x) if rows is None else rows, case.spec.model.latent)
    return np.asarray(jax.random.normal(key, shape, case.dtype))
