"""The plain formulas, written independently of both packages, on named arrays in PyTorch's layout.

They decide which of two backends departs. Each function takes the parts that known faults change as arguments, so that
the result of a faulty program can be computed too. `xp` is numpy or jax.numpy, the latter for gradients.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, assert_never

import jax
import jax.numpy as jnp
import numpy as np

from jaxvae.shared.config.likelihoods import LikelihoodName
from jaxvae.shared.config.parts import ModelSpec
from jaxvae.shared.config.spec import Spec
from jaxvae.shared.model import layout
from parity_tests.harness.vae.batch import Batch

Arrays = Mapping[str, Any]


class Outputs(NamedTuple):
    """The outputs of the networks for a batch."""

    posterior: tuple[Any, ...]
    """mean and logvar, mean and scale, or mean: each `[batch, latent]`."""
    z: Any
    """`[samples, batch, latent]`."""
    logits: Any
    """`[samples, batch, pixels]`."""
    logvar: Any
    margins: Any
    """The smallest distance of a hidden unit from its kink, as a share of its layer's largest: `[batch]`."""


Terms = dict[str, Any]
"""Each `[batch]`, nats per image, in the order of `Spec.terms`."""


def relu(x: Any) -> Any:
    return x * (x > 0)


def locate(mean: Any, logvar: Any, eps: Any, xp: Any) -> Any:
    return mean + xp.exp(logvar / 2) * eps


def bernoulli(logits: Any, x: Any, xp: Any) -> Any:
    # log(1 + e^l) by logaddexp, which neither package uses.
    return (xp.logaddexp(xp.zeros_like(logits), logits) - logits * x).sum(-1)


def kl(mean: Any, logvar: Any, xp: Any) -> Any:
    return (xp.expm1(logvar) - logvar + mean * mean).sum(-1) / 2


def combine(reconstruction: Any, kl: Any, beta: float) -> Any:
    return reconstruction + beta * kl


def linear(arrays: Arrays, name: str, x: Any) -> Any:
    return x @ arrays[f"{name}.weight"].T + arrays[f"{name}.bias"]


def convolve(x: Any, weight: Any, bias: Any, stride: int, xp: Any, before: tuple[int, int] = (1, 1)) -> Any:
    """Convolve by a 3x3 kernel, entry by entry, padded by 1 before and after, or less before: x `[batch, height, width,
    in]`, weight `[out, in, 3, 3]`."""
    _, height, width, _ = x.shape
    x = xp.pad(x, ((0, 0), (before[0], 1), (before[1], 1), (0, 0)))
    rows, columns = -(-height // stride), -(-width // stride)
    parts = [
        x[:, i : i + stride * rows : stride, j : j + stride * columns : stride][:, :rows, :columns]
        @ weight[:, :, i, j].T
        for i in range(3)
        for j in range(3)
    ]
    return sum(parts[1:], parts[0]) + bias


def convolve_back(x: Any, weight: Any, bias: Any, size: tuple[int, int], xp: Any) -> Any:
    """Apply a transposed 3x3 convolution of stride 2 and padding 1, to `size`: the dilated input is convolved by the
    flipped kernel. x `[batch, height, width, in]`, weight `[in, out, 3, 3]`."""
    n, height, width, channels = x.shape
    apart = xp.stack([x, xp.zeros_like(x)], 3).reshape(n, height, 2 * width, channels)
    apart = xp.stack([apart, xp.zeros_like(apart)], 2).reshape(n, 2 * height, 2 * width, channels)
    # Beyond 2n - 1 rows come those of the output padding, where there is one.
    return convolve(apart[:, : size[0], : size[1]], weight[:, :, ::-1, ::-1].transpose(1, 0, 2, 3), bias, 1, xp)


def batch_norm(arrays: Arrays, name: str, x: Any, running: bool, xp: Any) -> Any:
    mean, var = arrays[f"{name}.running_mean"], arrays[f"{name}.running_var"]
    if not running:
        mean, var = _mean(x, xp), _mean((x - _mean(x, xp)) ** 2, xp)
    return (x - mean) / xp.sqrt(var + 1e-5) * arrays[f"{name}.weight"] + arrays[f"{name}.bias"]


def _mean(x: Any, xp: Any) -> Any:
    # numpy adds the rows of a float32 array one after another in float32, and is off by 3e-4 of batch norm's outputs.
    return x.mean((0, 1, 2), np.float64).astype(x.dtype) if xp is np else x.mean((0, 1, 2))


def forward(
    spec: Spec,
    arrays: Arrays,
    batch: Batch,
    *,
    xp: Any = np,
    training: bool = False,
    locate: Callable = locate,
    detach: bool = False,
    z: Any = None,
    record: dict[str, Any] | None = None,
) -> Outputs:
    """Compute the networks; `detach` stops the gradient at the latent, `z` `[batch, latent]` replaces it, and `record`
    receives the inputs and outputs of every layer as `NAME, input` and `NAME, output`."""
    model, kinked = spec.model, spec.model.activation != "tanh"
    activation = {"relu": relu, "tanh": xp.tanh, "leaky-relu": lambda h: xp.where(h > 0, h, h * 0.01)}[model.activation]
    seen: Any = batch.x
    corruption: Any = batch.corruption
    if training and spec.images.corruption == "gaussian":
        seen = seen + spec.images.corruption_level * corruption
    elif training and spec.images.corruption == "dropout":
        seen = seen * corruption
    margins = xp.full(len(batch.x), xp.inf, batch.x.dtype)
    masks = iter(batch.masks if training else ())
    hot = None
    if model.classes:
        hot = (xp.asarray(batch.labels)[:, None] == xp.arange(model.classes)).astype(batch.x.dtype)

    def near(h: Any) -> None:
        nonlocal margins
        closest = xp.abs(h).reshape(len(h), -1).min(-1) / xp.maximum(xp.abs(h).max(), 1e-30)
        margins = xp.minimum(margins, closest.reshape(-1, len(margins)).min(0))

    def hidden(h: Any) -> Any:
        if kinked:
            near(h)
        h = activation(h)
        mask = next(masks, None)
        return h if mask is None else (h.reshape(-1, *mask.shape) * mask).reshape(h.shape)

    def conditioned(h: Any) -> Any:
        return h if hot is None else xp.concatenate([h, xp.tile(hot, (len(h) // len(hot), 1))], -1)

    def noted(name: str, given: Any, gave: Any) -> Any:
        if record is not None:
            record[f"{name}, input"], record[f"{name}, output"] = given, gave
        return gave

    def run(layer: layout.Layer, h: Any) -> Any:
        name = ".".join(map(str, layer.path))
        weight, bias = arrays.get(f"{name}.weight"), arrays.get(f"{name}.bias")
        match layer.kind:
            case "linear":
                gave = linear(arrays, name, h)
            case "conv":
                gave = convolve(h, weight, bias, layer.stride, xp)
            case "conv-transpose":
                gave = convolve_back(h, weight, bias, layer.size, xp)
            case "norm":
                gave = batch_norm(arrays, name, h, not training, xp)
            case "scalar":
                gave = arrays[name]
            case kind:
                assert_never(kind)
        return noted(name, h, gave)

    def network(name: str, h: Any) -> Any:
        layers = [layer for layer in layout.layers(model) if layer.path[:2] == (name, "hidden")]
        for layer, after in zip(layers, [*layers[1:], None], strict=True):
            h = run(layer, h)
            if after is None or after.kind != "norm":
                h = hidden(h)
        return h

    layers = layout.by_path(model)
    spatial = any(layer.path[0] == "encoder" and layer.kind != "linear" for layer in layers.values())
    if spatial:
        h = seen.reshape(len(seen), *model.image)
        if hot is not None:
            h = xp.concatenate([h, xp.broadcast_to(hot[:, None, None], (*h.shape[:3], model.classes))], -1)
        h = network("encoder", h).transpose(0, 3, 1, 2).reshape(len(seen), -1)  # channels first, as PyTorch's weights
    else:
        h = network("encoder", conditioned(seen))
    parts = [run(layers["encoder", name], h) for name in layout.heads(model)]
    if record is not None and spatial:
        record |= {f"encoder.{name}, input": _channels_last(h, model) for name in layout.heads(model)}
    if model.posterior.startswith("relu-"):
        for part in parts:
            near(part)
        parts = [relu(part) for part in parts]
    eps = batch.eps.reshape(-1, *batch.eps.shape[-2:])
    if z is not None:
        z = z[None]
    elif model.posterior == "gaussian":
        z = xp.stack([locate(*parts, e, xp) for e in eps])
    else:
        z = xp.stack([parts[0] + (parts[1] * e if len(parts) > 1 else 0) for e in eps])
    h = conditioned((jax.lax.stop_gradient(z) if detach else z).reshape(-1, z.shape[-1]))
    if spatial:
        flat = run(layers["decoder", "input"], h)
        if record is not None:
            record["decoder.input, output"] = _channels_last(flat, model)
        h = flat.reshape(len(h), model.hidden[-1], *layout.sizes(model)[-1]).transpose(0, 2, 3, 1)
    h = network("decoder", h)
    last = [run(layers["decoder", name], h) for name in layout.tails(model)]
    logits, *logvar = (part.reshape(len(eps), len(batch.x), -1) for part in last)
    logvar += [arrays[f"decoder.{name}"] for name in layout.scalar_parameters(model)]
    return Outputs(tuple(parts), z, logits, logvar[0] if logvar else None, margins)


def _channels_last(h: Any, model: ModelSpec) -> Any:
    """Reorder flattened channels, height, width to height, width, channels."""
    apart = h.reshape(len(h), model.hidden[-1], *layout.sizes(model)[-1])
    return apart.transpose(0, 2, 3, 1).reshape(len(h), -1)


def judge(spec: Spec, arrays: Arrays, z: Any, record: dict[str, Any] | None = None) -> Any:
    """Compute the discriminator's logit, `[batch, 1]`."""
    names = [f"discriminator.hidden.{i}" for i in range(len(spec.model.discriminator))]
    for name in [*names, "discriminator.logit"]:
        gave = linear(arrays, name, z)
        if record is not None:
            record[f"{name}, input"], record[f"{name}, output"] = z, gave
        z = relu(gave)
    return gave


def pixel_means(spec: Spec, logits: Any, xp: Any) -> Any:
    if spec.model.output == "linear":
        return logits
    if spec.model.likelihood == "continuous-bernoulli":  # the slope of log((e^l - 1) / l)
        half, near = logits / 2, xp.abs(logits) < 0.5
        far = xp.where(near, 1.0, half)
        return 0.5 + xp.where(near, _langevin_near_0(half), 1 / xp.tanh(far) - 1 / far) / 2
    return xp.tanh(logits) if spec.images.range == "signed" else 0.5 * (1 + xp.tanh(logits / 2))


def nll(spec: Spec, out: Outputs, x: Any, xp: Any, bernoulli: Callable = bernoulli) -> Any:
    """-log p(x | z), `[samples, batch]`."""
    if spec.model.likelihood == "bernoulli":  # of which a caller may have another
        return bernoulli(out.logits, x, xp)
    return NLL[spec.model.likelihood](spec, out, x, xp)


def squared_error(spec: Spec, out: Outputs, x: Any, xp: Any) -> Any:
    return ((pixel_means(spec, out.logits, xp) - x) ** 2).sum(-1)


def given_variance(spec: Spec, out: Outputs, x: Any, xp: Any) -> Any:
    return gaussian(pixel_means(spec, out.logits, xp), spec.model.variance, x, xp)


def learned_variance(spec: Spec, out: Outputs, x: Any, xp: Any) -> Any:
    variance = xp.exp(-12 + xp.logaddexp(0.0, out.logvar + 12))
    return gaussian(pixel_means(spec, out.logits, xp), variance, x, xp)


def continuous_bernoulli(spec: Spec, out: Outputs, x: Any, xp: Any) -> Any:
    """log((e^l - 1) / l) - l x = log(sinh(h) / h) + (1/2 - x) l with h = l / 2, near 0 by its Taylor series."""
    half = xp.abs(out.logits) / 2
    near = half < 0.25
    far = xp.where(near, 1.0, half)
    square = half * half
    series = (1 / 6, -1 / 180, 1 / 2835, -1 / 37800, 1 / 467775, -691 / 3831077250, 2 / 127702575)
    log_sinhc = sum(c * square ** (i + 1) for i, c in enumerate(series))
    log_sinhc = xp.where(near, log_sinhc, far + xp.log1p(-xp.exp(-2 * far)) - xp.log(2 * far))
    return (log_sinhc + (0.5 - x) * out.logits).sum(-1)


def _langevin_near_0(h: Any) -> Any:
    """coth(h) - 1 / h for |h| < 1/4."""
    series = (1 / 3, -1 / 45, 2 / 945, -1 / 4725, 2 / 93555, -1382 / 638512875, 4 / 18243225)
    return sum(c * h ** (2 * i + 1) for i, c in enumerate(series))


def gaussian(means: Any, variance: Any, x: Any, xp: Any) -> Any:
    variance = variance + xp.zeros_like(means)
    return (xp.log(2 * math.pi * variance) / 2 + (means - x) ** 2 / (2 * variance)).sum(-1)


NLL: dict[LikelihoodName, Callable] = {
    "bernoulli": lambda spec, out, x, xp: bernoulli(out.logits, x, xp),
    "continuous-bernoulli": continuous_bernoulli,
    "squared-error": squared_error,
    "gaussian": given_variance,
    "gaussian-learned": learned_variance,
    "gaussian-pixel": learned_variance,
}


def losses(
    spec: Spec,
    arrays: Arrays,
    batch: Batch,
    *,
    xp: Any = np,
    training: bool = False,
    locate: Callable = locate,
    detach: bool = False,
    bernoulli: Callable = bernoulli,
    kl: Callable = kl,
    combine: Callable = combine,
) -> Terms:
    """Compute the objective of each image and its terms, in evaluation or training."""
    out = forward(spec, arrays, batch, xp=xp, training=training, locate=locate, detach=detach)
    error = nll(spec, out, batch.x, xp, bernoulli)
    mean, *scale = out.posterior
    objective = spec.objective
    if objective.form == "adversarial":
        real, fake = judge(spec, arrays, batch.prior), judge(spec, arrays, out.z[0])
        deceived = xp.logaddexp(xp.zeros_like(fake), -fake).sum(-1)
        discriminated = (xp.logaddexp(xp.zeros_like(real), -real) + xp.logaddexp(xp.zeros_like(fake), fake)).sum(-1)
        return {
            "loss": error[0] + deceived,
            "reconstruction": error[0],
            "discriminator": discriminated,
            "generator": deceived,
        }
    if spec.model.posterior == "gaussian":
        divergence = kl(mean, scale[0], xp)
    elif scale:
        divergence = (mean**2 + scale[0] ** 2 - 1 - xp.log(1e-8 + scale[0] ** 2)).sum(-1) / 2
    else:
        divergence = xp.zeros(len(mean), mean.dtype)
    reconstruction = error.mean(0)
    done = batch.step + 1 if training else math.inf
    loss = reconstruction
    if objective.form == "elbo":
        risen = _at_most_one(done / objective.warmup, xp) if objective.warmup else 1.0
        loss = combine(reconstruction, divergence, spec.effective_beta * risen)
    elif objective.form == "capacity":
        loss = distance(spec, reconstruction, divergence, done, xp)
    elif objective.form == "iwae":
        density = ((-(batch.eps.reshape(out.z.shape) ** 2) - scale[0]) / 2 + out.z**2 / 2).sum(-1)
        log_weights = -error - density
        top = log_weights.max(0)
        loss = -(top + xp.log(xp.exp(log_weights - top).mean(0)))
        divergence = density.mean(0)
    return {"loss": loss, "reconstruction": reconstruction, "kl": divergence}


def distance(spec: Spec, reconstruction: Any, kl: Any, done: float, xp: Any) -> Any:
    reached = spec.objective.capacity * _at_most_one(done / spec.objective.capacity_steps, xp)
    return reconstruction + spec.effective_beta * xp.abs(kl - reached)


def _at_most_one(share: Any, xp: Any) -> Any:
    return min(1.0, share) if xp is np else xp.minimum(1.0, share)  # a float, or traced


def averaged(spec: Spec, terms: Terms, batch: Batch, xp: Any = np) -> Terms:
    """Average the terms over a training batch."""
    means = {name: term.mean() for name, term in terms.items()}
    if spec.objective.form == "capacity":
        means["loss"] = distance(spec, means["reconstruction"], means["kl"], batch.step + 1, xp)
    return means


def gradients(spec: Spec, arrays: Arrays, batch: Batch, phase: str | None = None, **parts: Any) -> Arrays:
    """Compute the gradients of each optimizer, or of one phase's, by the arrays it trains; `PHASE.NAME` where there are
    several phases."""
    phases = tuple(spec.phases) if phase is None else (phase,)
    # A formula that is tried once is not worth a compilation, unless a convolution's many slices are.
    once = parts and spec.model.network != "conv"
    compute = _gradients if once else _compiled_gradients
    grads = compute(spec, phases, tuple(parts.items()), dict(arrays), batch)
    return {name: np.asarray(grad) for name, grad in grads.items()}


def _gradients(
    spec: Spec, phases: tuple[str, ...], parts: tuple[tuple[str, Any], ...], arrays: Arrays, batch: Batch
) -> dict[str, jax.Array]:
    given = jax.tree.map(jnp.asarray, batch)
    gradients: dict[str, jax.Array] = {}
    for phase in phases:

        def loss(arrays: Arrays, phase: str = phase) -> jax.Array:
            terms = averaged(spec, losses(spec, arrays, given, xp=jnp, training=True, **dict(parts)), given, jnp)
            return terms[phase or "loss"] * (spec.minimized if phase in ("", "reconstruction") else 1.0)

        grads = jax.grad(loss)({name: jnp.asarray(array) for name, array in arrays.items()})
        names = [p.name for p in layout.table(spec.model) if p.trained and p.network in spec.phases[phase]]
        gradients |= {f"{phase}.{name}" if phase else name: grads[name] for name in names}
    return gradients


# LLVM's optimisation would take longer than all that is computed here.
_compiled_gradients = jax.jit(
    _gradients, static_argnums=(0, 1, 2), compiler_options={"xla_backend_optimization_level": 0}
)


class Adam(NamedTuple):
    """Adam by Kingma & Ba (algorithm 1), and known variants of it."""

    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    eps_in_root: bool = False
    correct: bool = True
    """Whether the moments' bias is corrected."""
    second: bool = True
    """Whether the second moment's bias is corrected, if the first's is."""
    ahead: int = 0
    """Number of extra steps in the bias correction."""
    decay: float = 0.0
    """Decoupled weight decay, as AdamW."""
    l2: float = 0.0
    """Weight decay added to the gradient."""
    clip: float = math.inf
    """The gradient's largest global norm."""
    largest: bool = False
    """Whether it divides by the largest second moment so far, as AMSGrad."""


def adam(
    arrays: Arrays,
    grads: list[dict[str, np.ndarray]],
    learning_rate: float,
    state: Arrays | None = None,
    how: Adam = Adam(),  # noqa: B008 (it is immutable)
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Compute the arrays and Adam's state, under PyTorch's names, after one update by each of the gradients."""
    new = {name: np.array(array) for name, array in arrays.items()}
    m, v = (
        {name: np.zeros_like(a) if state is None else np.array(state[f"{moment}.{name}"]) for name, a in arrays.items()}
        for moment in ("exp_avg", "exp_avg_sq")
    )
    top = {name: array.copy() for name, array in v.items()}
    count = 0 if state is None else int(state["step"])
    for grad in grads:
        count += 1
        norm = math.sqrt(sum(float((g.astype(np.float64) ** 2).sum()) for g in grad.values()))
        for name, w in new.items():
            g = grad[name] * min(1.0, how.clip / max(norm, 1e-30)) + how.l2 * w
            m[name] = how.b1 * m[name] + (1 - how.b1) * g
            v[name] = how.b2 * v[name] + (1 - how.b2) * g * g
            top[name] = np.maximum(top[name], v[name])
            c1, c2 = ((1 - b ** (count + how.ahead) if how.correct else 1.0) for b in (how.b1, how.b2))
            c2 = c2 if how.second else 1.0
            second = (top if how.largest else v)[name] / c2
            root = np.sqrt(second + how.eps) if how.eps_in_root else np.sqrt(second) + how.eps
            new[name] = (w - learning_rate * how.decay * w - learning_rate * (m[name] / c1) / root).astype(w.dtype)
    moments = {f"exp_avg.{n}": a for n, a in m.items()} | {f"exp_avg_sq.{n}": a for n, a in v.items()}
    return new, {**moments, "step": np.asarray(count, np.int32)}


def usual(spec: Spec) -> Adam:
    """Make Adam's settings from the configuration."""
    return Adam(spec.training.beta1, spec.training.beta2, spec.training.eps)


def step(
    spec: Spec,
    arrays: Arrays,
    batch: Batch,
    learning_rate: float,
    state: Arrays,
    how: Adam,
    first: Arrays | None = None,
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Compute the arrays and the optimizers' state after one training step, phase by phase; `first` is `gradients` of
    the first phase, where they are known. Running statistics are not updated."""
    new, moments = dict(arrays), dict(state)
    for phase in spec.phases:
        prefix = phase and f"{phase}."
        grads = gradients(spec, new, batch, phase) if first is None else first
        own = {name.removeprefix(prefix): g for name, g in grads.items()}
        mine = {name.removeprefix(prefix): a for name, a in moments.items() if name.startswith(prefix)}
        moved, after = adam({name: new[name] for name in own}, [own], learning_rate, mine, how)
        new |= moved
        moments |= {f"{prefix}{name}": a for name, a in after.items()}
        first = None
    return new, moments


def first_gradients(spec: Spec, arrays: Arrays, batch: Batch) -> Arrays:
    """Compute the gradients of a step's first phase."""
    return gradients(spec, arrays, batch, next(iter(spec.phases)))
