"""The networks by their plain formulas: layers, encoder, decoder and discriminator."""

import itertools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, assert_never

import jax
import numpy as np

from jaxvae.shared.config.spec import Spec
from jaxvae.shared.model import layout
from parity_tests.harness.vae.batch import Batch

Arrays = Mapping[str, Any]
"""The model's arrays by name, in PyTorch's layout."""


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


def relu(x: Any) -> Any:
    return x * (x > 0)


def locate(mean: Any, logvar: Any, eps: Any, xp: Any) -> Any:
    return mean + xp.exp(logvar / 2) * eps


def linear(arrays: Arrays, name: str, x: Any) -> Any:
    return x @ arrays[f"{name}.weight"].T + arrays[f"{name}.bias"]


def convolve(
    x: Any, weight: Any, bias: Any, stride: int, xp: Any, padding: int = 1, before: tuple[int, int] | None = None
) -> Any:
    """Convolve by a square kernel, entry by entry, padded before and after, or otherwise before: x `[batch, height,
    width, in]`, weight `[out, in, k, k]`."""
    _, height, width, _ = x.shape
    edge, (top, left) = weight.shape[-1], before or (padding, padding)
    x = xp.pad(x, ((0, 0), (top, padding), (left, padding), (0, 0)))
    rows, columns = (height + top + padding - edge) // stride + 1, (width + left + padding - edge) // stride + 1
    parts = [
        x[:, i : i + stride * rows : stride, j : j + stride * columns : stride][:, :rows, :columns]
        @ weight[:, :, i, j].T
        for i in range(edge)
        for j in range(edge)
    ]
    return sum(parts[1:], parts[0]) + bias


def convolve_back(x: Any, weight: Any, bias: Any, layer: layout.Layer, xp: Any) -> Any:
    """Apply a transposed convolution: the input, with zeros between its pixels, is convolved by the flipped kernel.
    x `[batch, height, width, in]`, weight `[in, out, k, k]`."""
    edge = weight.shape[-1]
    for axis, size in zip((1, 2), layer.size, strict=True):
        apart = xp.stack([x, *[xp.zeros_like(x)] * (layer.stride - 1)], axis + 1)
        apart = apart.reshape(*x.shape[:axis], layer.stride * x.shape[axis], *x.shape[axis + 1 :])
        apart = xp.moveaxis(apart, axis, 0)[: layer.stride * (x.shape[axis] - 1) + 1]
        # Output i sees the inputs of the k rows that end at row i + padding.
        start = edge - 1 - layer.padding
        apart = apart[max(-start, 0) :]
        ends = max(start, 0), max(size + edge - 1 - max(start, 0) - len(apart), 0)
        apart = xp.pad(apart, (ends, *((0, 0),) * 3))[: size + edge - 1]
        x = xp.moveaxis(apart, 0, axis)
    return convolve(x, weight[:, :, ::-1, ::-1].transpose(1, 0, 2, 3), bias, 1, xp, 0)


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
    change: Callable[[str, Any], Any] = lambda name, gave: gave,
) -> Outputs:
    """Compute the networks; `detach` stops the gradient at the latent, `z` `[batch, latent]` replaces it, `record`
    receives the inputs and outputs of every layer as `NAME, input` and `NAME, output`, and `change` replaces the
    output of the layer of a name."""
    model = spec.model
    activations = {
        "relu": relu,
        "tanh": xp.tanh,
        "leaky-relu": lambda h: xp.where(h > 0, h, h * model.slope),
        "leaky-relu-0.2": lambda h: xp.where(h > 0, h, h * 0.2),
        "softplus": lambda h: xp.logaddexp(h, xp.zeros_like(h)),
        "elu": lambda h: xp.where(h > 0, h, xp.expm1(xp.minimum(h, 0))),
    }
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

    def hidden(h: Any, activation: str) -> Any:
        if "relu" in activation:
            near(h)
        h = activations[activation](h)
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
        if layer.kind.startswith("conv") and h.ndim == 2:
            h = h[:, None, None]  # a map of one pixel
        match layer.kind:
            case "linear":
                given = h
                if h.ndim == 4:  # PyTorch's weights have channels first
                    given, h = h.transpose(0, 3, 1, 2).reshape(len(h), -1), h.reshape(len(h), -1)
                gave = linear(arrays, name, given)
                if layer.unflattened is not None:
                    gave = gave.reshape(len(h), *layer.unflattened).transpose(0, 2, 3, 1).reshape(len(h), -1)
            case "conv":
                gave = convolve(h, weight, bias, layer.stride, xp, layer.padding)
            case "conv-transpose":
                gave = convolve_back(h, weight, bias, layer, xp)
            case "norm":
                gave = batch_norm(arrays, name, h, not training, xp)
            case "scalar":
                gave = arrays[name]
            case kind:
                assert_never(kind)
        gave = noted(name, h, change(name, gave))
        return gave if layer.unflattened is None else gave.reshape(len(h), *layer.size, -1)

    def network(name: str, h: Any) -> Any:
        layers = [layer for layer in layout.layers(model) if layer.path[:2] == (name, "hidden")]
        for layer, after in itertools.zip_longest(layers, layers[1:]):
            h = run(layer, h)
            if not layer.plain and (after is None or after.kind != "norm"):
                h = hidden(h, layer.activation or model.activation)
        return h

    layers = layout.by_path(model)
    first = next(layer for layer in layers.values() if layer.path[0] == "encoder")
    if first.kind == "linear":
        h = conditioned(seen)
    else:
        h = seen.reshape(len(seen), *model.image)
        if hot is not None:
            h = xp.concatenate([h, xp.broadcast_to(hot[:, None, None], (*h.shape[:3], model.classes))], -1)
    h = network("encoder", h)
    parts = [run(layers["encoder", name], h) for name in layout.heads(model)]
    if model.posterior.startswith("relu-"):
        for part in parts:
            near(part)
        parts = [relu(part) for part in parts]
    if model.posterior == "log-sigma":
        parts[1] = 2 * parts[1]
    eps = batch.eps.reshape(-1, *batch.eps.shape[-2:])
    if z is not None:
        z = z[None]
    elif model.has_logvar:
        z = xp.stack([locate(*parts, e, xp) for e in eps])
    else:
        z = xp.stack([parts[0] + (parts[1] * e if len(parts) > 1 else 0) for e in eps])
    h = conditioned((jax.lax.stop_gradient(z) if detach else z).reshape(-1, z.shape[-1]))
    if ("decoder", "input") in layers:
        h = run(layers["decoder", "input"], h)
    h = network("decoder", h)
    last = [run(layers["decoder", name], h) for name in layout.tails(model)]
    logits, *logvar = (part.reshape(len(eps), len(batch.x), -1) for part in last)
    scalars = [f"decoder.{name}" for name in layout.scalar_parameters(model)]
    logvar += [change(name, arrays[name]) for name in scalars]
    return Outputs(tuple(parts), z, logits, logvar[0] if logvar else None, margins)


def judge(spec: Spec, arrays: Arrays, z: Any, record: dict[str, Any] | None = None) -> Any:
    """Compute the discriminator's logit, `[batch, 1]`."""
    names = [f"discriminator.hidden.{i}" for i in range(len(spec.model.discriminator))]
    for name in [*names, "discriminator.logit"]:
        gave = linear(arrays, name, z)
        if record is not None:
            record[f"{name}, input"], record[f"{name}, output"] = z, gave
        z = relu(gave)
    return gave
