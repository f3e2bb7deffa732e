"""Results of the plain formulas for any configuration, and known faults of what the plain VAE does not have."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from jaxvae.shared.config.likelihoods import LIKELIHOODS
from jaxvae.shared.config.spec import Spec
from jaxvae.shared.model import layout
from parity_tests.harness.vae import reference
from parity_tests.harness.vae.batch import Batch
from parity_tests.harness.vae.batches import drawn, prepared, rows_batch, stream
from parity_tests.harness.vae.hypotheses import training
from parity_tests.harness.vae.hypotheses.alternatives import otherwise
from parity_tests.harness.vae.hypotheses.kinds import named
from parity_tests.harness.vae.hypotheses.networks import NO_BIAS, STOPPED, scaled
from parity_tests.harness.vae.hypotheses.randomness import FROM_1, NO_STEP, Causes
from parity_tests.harness.vae.levels import WARM, Case, given_gradients, held_still, noise

CONV = "layers._Conv"
BY_RUNNING = named(
    "statistics-mode",
    "batch norm by its running statistics in training",
    "its running statistics",
    "the batch's statistics",
)


def draws(case: Case, name: str) -> Causes:
    def answer(batch: Batch) -> Any:
        return batch.masks[int(name.split()[1])] if name.startswith("mask") else getattr(batch, name)

    yield None, answer(drawn(case.spec, stream(case.spec, "noise", WARM), 50))
    yield FROM_1, answer(drawn(case.spec, stream(case.spec, "noise", WARM + 1), 50))
    yield NO_STEP, answer(drawn(case.spec, stream(case.spec, "noise"), 50))
    plain, level = answer(drawn(case.spec, stream(case.spec, "noise", WARM), 50)), case.spec.images.corruption_level
    if name.startswith("mask") or (case.spec.images.corruption == "dropout" and name == "corruption"):
        right = "1 / (1 - level) where a unit is kept"
        unscaled = named("dropout-mask", "dropout without its scaling", "1 where a unit is kept", right)
        yield unscaled, plain * (1 - level)
        other = named("dropout-mask", "dropout scaled by the share dropped", "1 / level where a unit is kept", right)
        yield other, plain * (1 - level) / level
        turned = named("dropout-mask", "dropout's mask turned round", "1 / (1 - level) where it is dropped", right)
        yield turned, np.where(plain == 0, plain.max(), 0)


def layers(case: Case, name: str) -> Causes:
    """Compute the inputs and outputs of every layer in training."""
    calls: dict[str, np.ndarray] = {}
    out = reference.forward(case.spec, case.start, case.batch, training=True, record=calls)
    if case.spec.model.discriminator:
        reference.judge(case.spec, case.start, out.z[0], calls)
    parts = ("mean", "logvar") if case.spec.model.has_logvar else layout.heads(case.spec.model)
    calls |= dict(zip(parts, out.posterior, strict=True)) | {"z": out.z[0]}
    yield None, calls[name]
    for cause, (other, batch) in otherwise(case.spec, case.batch).items():
        again: dict[str, np.ndarray] = {}
        out = reference.forward(other, case.start, batch, training=True, record=again)
        if name in (again := again | {"z": out.z[0]}):
            yield cause, again[name]
    layer, _, kind = name.partition(", ")
    if f"{layer}.weight" not in case.start or kind != "output":
        return
    by_name = {".".join(map(str, each.path)): each for each in layout.layers(case.spec.model)}
    x, weight, bias = calls[f"{layer}, input"], case.start[f"{layer}.weight"], case.start[f"{layer}.bias"]
    yield NO_BIAS, calls[name] - bias if calls[name].shape[-1:] == bias.shape else calls[name]
    if f"{layer}.running_mean" in case.start:
        by_running = reference.batch_norm(case.start, layer, x, True, np)
        yield BY_RUNNING, by_running
        cause = named("biased-variance", "batch norm by the unbiased variance", "unbiased", "biased")
        yield cause, (calls[name] - bias) * np.sqrt(1 - len(x[0]) / x.size) + bias
        eps = np.sqrt((x.var((0, 1, 2)) + 1e-5) / (x.var((0, 1, 2)) + 1e-3))
        yield named("norm-epsilon", "batch norm's eps 1e-3 for 1e-5", 1e-3, 1e-5), (calls[name] - bias) * eps + bias
    elif weight.ndim == 4:
        yield from _convolutions(by_name[layer], x, weight, bias)


def _convolutions(layer: layout.Layer, x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> Causes:
    """Compute known faults of a convolution."""
    turned = weight[:, :, ::-1, ::-1]
    if layer.kind == "conv-transpose":
        turned_back = reference.convolve_back(x, turned, bias, layer, np)
        sentence = "transposed convolution's kernel not turned round"
        cause = named("kernel-flipped", sentence, "not turned round", "turned round", "layers._ConvTranspose")
        yield cause, turned_back
    elif layer.path[0] == "encoder":
        rest = layer.stride, np, layer.padding
        # At stride 2 'SAME' pads an even size at its end alone.
        total = [max(-(-n // layer.stride) * layer.stride - layer.stride + layer.kernel - n, 0) for n in x.shape[1:3]]
        if all(n - n // 2 == layer.padding for n in total):
            same = (total[0] // 2, total[1] // 2)
            p = layer.padding
            given, found = [[p, p], [p, p]], [[n // 2, n - n // 2] for n in total]
            yield (
                named("padding", "'SAME' padding: at the end only", found, given, CONV),
                reference.convolve(x, weight, bias, *rest, same),
            )
        turned_round = named("kernel-flipped", "kernel turned round", "turned round", "given", CONV)
        yield turned_round, reference.convolve(x, turned, bias, *rest)
        exchanged = named("kernel-axes", "kernel's rows and columns exchanged", "width, height", "height, width", CONV)
        yield exchanged, reference.convolve(x, weight.transpose(0, 1, 3, 2), bias, *rest)


def losses(case: Case, name: str) -> Causes:
    """Compute hypotheses for a name `TERM STATE`, in evaluation."""
    term, _, state = name.partition(" ")
    spec, arrays = case.states[state]
    yield None, reference.losses(spec, arrays, case.batch)[term]
    for cause, (other, batch) in otherwise(spec, case.batch).items():
        yield cause, reference.losses(other, arrays, batch)[term]
    yield from _bounds(spec, reference.losses(spec, arrays, case.batch), term)


def _bounds(spec: Spec, terms: reference.Terms, term: str) -> Causes:
    """List known replacements of an objective's arithmetic."""
    if spec.objective.form == "iwae" and term == "loss":
        bound = "the bound of the samples' mean"
        sentence, code = "the samples' mean bound for the bound of their mean", "objectives.importance_weighted"
        cause = named("objective", sentence, "the mean of the samples' bounds", bound, code)
        yield cause, terms["reconstruction"] + terms["kl"]
        cause = named("objective", "the weights' sum for their mean", "the bound of the samples' sum", bound, code)
        yield cause, terms["loss"] - np.log(spec.objective.samples)
    gaussian = LIKELIHOODS[spec.model.likelihood].logvar != "none" and not LIKELIHOODS[spec.model.likelihood].omitted
    if gaussian and term in ("loss", "reconstruction"):
        yield (
            named("constant-missing", "a Gaussian's constant left out", "nothing", "log(2 pi) / 2"),
            terms[term] - spec.model.pixels / 2 * np.log(2 * np.pi),
        )


def in_training(case: Case, name: str) -> Causes:
    """Compute hypotheses for a name `TERM STATE` or a running statistic."""
    label, _, state = name.partition(" ")
    spec, arrays = case.states[state]
    if label.startswith("["):
        yield from statistics(case, label, state)
        return

    def answer(spec: Spec, batch: Batch) -> np.ndarray:
        return reference.averaged(spec, reference.losses(spec, arrays, batch, training=True), batch)[label]

    yield None, answer(spec, case.batch)
    for cause, (other, batch) in otherwise(spec, case.batch).items():
        yield cause, answer(other, batch)
    terms = reference.losses(spec, arrays, case.batch, training=True)
    sentence = "the mean of the distances from the capacity, not the distance of the mean"
    found, expected = "the mean of the distances from the capacity", "the distance of the mean from it"
    yield named("objective", sentence, found, expected, "objectives.average"), terms[label].mean()
    if any(layer.kind == "norm" for layer in layout.layers(spec.model)):
        with_running = reference.losses(spec, arrays, case.batch, training=False)
        yield (
            BY_RUNNING,
            reference.averaged(spec, with_running, case.batch)[label],
        )


def statistics(case: Case, label: str, state: str) -> Causes:
    """Compute batch norm's running mean or variance after one step."""
    spec, arrays = case.states[state]
    path = tuple(int(p) if p.isdigit() else p.strip("'") for p in label.strip("[]").split("]["))
    parameter = next(p for p in layout.table(spec.model) if p.path == path)
    layer = parameter.name.rpartition(".norm.")[0]
    given: dict[str, np.ndarray] = {}
    reference.forward(spec, arrays, case.batch, training=True, record=given)
    x = given[f"{layer}.norm, input"]
    axes, count = (0, 1, 2), x.size // x.shape[-1]
    new, old = (x.mean(axes) if "mean" in path else x.var(axes, ddof=1)), arrays[parameter.name]
    yield None, 0.9 * old + 0.1 * new
    yield (
        named("batch-norm-momentum", "batch norm's momentum counted the other way round", 0.1, 0.9),
        0.1 * old + 0.9 * new,
    )
    yield named("batch-norm-momentum", "batch norm's momentum 0.01, Flax's default", 0.99, 0.9), 0.99 * old + 0.01 * new
    if "var" in path:
        cause = named("biased-variance", "batch norm's running variance biased", "biased", "unbiased")
        yield cause, 0.9 * old + 0.1 * new * (count - 1) / count
    yield named("statistics-not-updated", "batch norm's statistics not kept", "not updated", "updated"), old


def gradients(case: Case, name: str) -> Causes:
    """Compute hypotheses for a name `ARRAY STATE`.

    No other configuration is one: the losses' levels come before, and where all losses agree, so do their gradients.
    """
    array, _, state = name.partition(" ")
    spec, arrays = case.states[state]
    phase = next(phase for phase in spec.phases if not phase or array.startswith(f"{phase}."))
    plain = reference.gradients(spec, arrays, case.batch, phase)[array]
    yield None, plain
    pixels = spec.model.pixels
    yield from scaled(plain, len(case.batch.x), pixels)
    yield named("gradient-scaled", "gradient summed over pixels, not averaged", pixels, 1), plain * pixels
    yield STOPPED, reference.gradients(spec, arrays, case.batch, phase, detach=True)[array]


def optimizer(case: Case, name: str) -> Causes:
    rate, spec = case.spec.training.learning_rates()[0], case.spec

    def answer(how: reference.Adam) -> np.ndarray:
        new, moments = dict(case.start), {}
        for phase in spec.phases:
            prefix = phase and f"{phase}."
            grads = [
                {n.removeprefix(prefix): g for n, g in grad.items() if n.startswith(prefix)}
                for grad in given_gradients(case)
            ]
            # Phases take turns, gradient by gradient.
            moments[phase] = (prefix, grads, None)
        for i in range(3):
            for phase, (prefix, grads, state) in moments.items():
                mine = {n: new[n] for n in grads[i]}
                moved, state = reference.adam(mine, [grads[i]], rate, state, how)
                new |= moved
                moments[phase] = (prefix, grads, state)
        named = {f"{prefix}{n}": a for prefix, _, state in moments.values() for n, a in (state or {}).items()}
        return {**new, **named}[name]

    yield None, answer(reference.usual(spec))
    for cause, how in training.adams(spec).items():
        yield cause, answer(how)


def steps(case: Case, name: str) -> Causes:
    """Compute two steps from a warm state."""
    spec = case.spec
    first: dict[int, Any] = {}  # the first gradients, which the variants of Adam share

    def answer(how: reference.Adam, shift: int = 0) -> np.ndarray:
        (weights, state), terms = case.warm, []
        for i, given in enumerate(case.batches):
            batch = noise(spec, WARM + i + shift, len(given.x))._replace(x=given.x, labels=given.labels)
            batch = batch._replace(step=WARM + i)
            means = reference.averaged(spec, reference.losses(spec, weights, batch, training=True), batch)
            terms.append(list(means.values()))
            if i and name in spec.terms:  # which the last update comes after
                break
            if not i and shift not in first:
                first[shift] = reference.first_gradients(spec, weights, batch)
            rate = reference.learning_rate(spec, 0, WARM + i)
            weights, state = reference.step(spec, weights, batch, rate, state, how, None if i else first[shift])
        named = dict(zip(spec.terms, np.array(terms, case.dtype).T, strict=True))
        return {**named, **weights, **state}[name]

    if "running" in name:  # of which the plain steps keep no account
        return
    yield None, answer(reference.usual(spec))
    yield FROM_1, answer(reference.usual(spec), 1)
    for cause, how in training.adams(spec).items():
        yield cause, answer(how)


def order(case: Case, name: str) -> Causes:
    """Compute two epochs with the weights held still."""
    spec, data = held_still(case)
    n, size = len(data.train), spec.training.batch_size
    per_epoch = spec.training.epoch_steps(n)

    def answer(places: Callable[[int, int], np.ndarray], t: Callable[[int], int] = lambda t: t) -> np.ndarray:
        values = []
        for step in range(2 * per_epoch):
            batch = rows_batch(spec, data, places(*divmod(step, per_epoch)), t(step))
            losses = reference.losses(spec, case.start, batch, training=True)
            values.append(reference.averaged(spec, losses, batch._replace(step=step))[name])
        return np.array(values, case.dtype)

    def shuffled(epoch: int, i: int) -> np.ndarray:
        order = np.asarray(jax.random.permutation(stream(spec, "order", epoch), n))
        return order[i * size :][:size]

    yield None, answer(shuffled)
    yield training.UNSHUFFLED, answer(lambda epoch, i: np.arange(n)[i * size :][:size])
    yield training.SAME_ORDER, answer(lambda epoch, i: shuffled(0, i))
    yield FROM_1, answer(shuffled, lambda t: t + 1)
    yield training.FIRST_NOISE, answer(shuffled, lambda t: 0)


def evaluation(case: Case, name: str) -> Causes:
    spec, test = case.spec, case.data.test
    labels = case.data.test_labels if spec.model.classes else None

    def answer(epoch: int) -> np.ndarray:
        key = stream(spec, "evaluation", epoch)
        x = prepared(spec, test, np.arange(len(test)), "test", key)
        batch = drawn(spec, key, len(test))._replace(x=x, labels=labels)
        terms = {n: t.astype(np.float64) for n, t in reference.losses(spec, case.start, batch).items()}
        return reference.averaged(spec, terms, batch._replace(step=2**31))[name]

    yield None, answer(1)
    yield training.EPOCH_FROM_0, answer(0)


def pictures(case: Case, name: str) -> Causes:
    spec, shown = case.spec, case.data.test[:64]
    labels = case.data.test_labels[:64] if spec.model.classes else None
    n = 64 if name == "samples" else len(shown)
    if name == "samples":
        key = stream(spec, "pictures", 1)
        z = np.asarray(jax.random.normal(key, (n, spec.model.latent), case.dtype))
        labels = np.arange(n) % max(1, spec.model.classes)
    else:
        how = spec.images.binarization
        images = replace(spec.images, binarization="threshold" if how == "dynamic" else how)
        x = prepared(replace(spec, images=images), shown, np.arange(n), "test", None)
        blank = np.zeros((n, spec.model.latent), case.dtype)
        z = reference.forward(spec, case.start, Batch(x, blank, labels)).posterior[0]
    blank = Batch(np.zeros((n, spec.model.pixels), case.dtype), np.zeros((n, spec.model.latent), case.dtype), labels)
    logits = reference.forward(spec, case.start, blank, z=z).logits[0]
    means = reference.pixel_means(spec, logits, np)
    whole = (-1, *spec.model.image)
    signed = spec.images.range == "signed"
    yield None, ((means + 1) / 2 if signed else means).reshape(whole)
    yield training.shown("logits for means", "logits", "the pixels' means"), logits.reshape(whole)
    yield (
        training.shown("pictures in [-1, 1], not [0, 1]", "[-1, 1]", "[0, 1]"),
        (means if signed else 2 * means - 1).reshape(whole),
    )
