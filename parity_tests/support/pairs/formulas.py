"""The formulas of parts in plain JAX, for bare functions and for layers that an edit has changed."""

from typing import Any

import jax
import jax.numpy as jnp

from parity_tests.support.pairs import parts
from parity_tests.support.pairs.changes import CHANGES


def padded(x: jax.Array, part: parts.Conv) -> jax.Array:
    """Pad the axes between batch and channels."""
    mode = {"zeros": "constant", "circular": "wrap"}.get(part.mode, part.mode)
    return jnp.pad(x, ((0, 0), *part.padding, (0, 0)), mode)


def standardised(x: jax.Array, part: parts.Norm) -> jax.Array:
    """Divide by the deviation of the features, or by the root of their mean square."""
    centred = isinstance(part, parts.LayerNorm) and part.variant != "uncentred"
    y = x - x.mean(-1, keepdims=True) if centred else x
    square = (y**2).sum(-1, keepdims=True) / (x.shape[-1] - (part.variant == "unbiased"))
    root = jnp.sqrt(square) + part.eps if part.variant == "eps outside" else jnp.sqrt(square + part.eps)
    return y / root


def running(held: tuple[Any, Any], x: jax.Array, part: parts.BatchNorm) -> tuple[jax.Array, jax.Array]:
    """Return the running mean and variance after a step."""
    axes = tuple(range(x.ndim - 1))
    share = (1 - part.momentum) ** part.updates
    batch = x.mean(axes), x.var(axes, ddof=int(part.unbiased))
    mean, var = (share * a + (1 - share) * jax.lax.stop_gradient(b) for a, b in zip(held, batch, strict=True))
    return mean, var


def apply(part: parts.Part, leaves: dict[str, Any], state: dict[str, Any], x: jax.Array) -> jax.Array:
    """Apply a layer to an array with channels last."""
    if part.change:
        change = CHANGES[part.change]
        leaves = {**leaves, change.leaf: change.in_jax(leaves[change.leaf])}
    scale, bias = leaves.get("scale", 1), leaves.get("bias", 0)
    match part:
        case parts.ConvTranspose():
            return _conv_transposed(part, leaves["kernel"], x) + bias
        case parts.Conv():
            return _conv(part, leaves["kernel"], x) + bias
        case parts.Linear():
            return x @ leaves["kernel"] + bias
        case parts.LayerNorm() | parts.RMSNorm():
            return standardised(x, part) * scale + bias
        case parts.GroupNorm():
            grouped = x.reshape(len(x), -1, part.groups, part.features // part.groups)
            mean, var = (f(grouped, axis=(1, 3), keepdims=True) for f in (jnp.mean, jnp.var))
            return ((grouped - mean) / jnp.sqrt(var + part.eps)).reshape(x.shape) * scale + bias
        case parts.BatchNorm():
            axes, batch = tuple(range(x.ndim - 1)), part.reads == "batch"
            mean, var = (x.mean(axes), x.var(axes)) if batch else (state["mean"], state["var"])
            return (x - mean) / jnp.sqrt(var + part.eps) * scale + bias
        case parts.Embed():
            return leaves["embedding"][x]
        case parts.Dropout():
            keep = jax.random.bernoulli(jax.random.key(0), 1 - part.rate, x.shape)
            return jnp.where(keep, x / (1 - part.rate), 0) if part.on else x
    raise NotImplementedError(part)


def _conv(part: parts.Conv, kernel: jax.Array, x: jax.Array) -> jax.Array:
    axes = "DHW"[3 - len(part.size) :]
    return jax.lax.conv_general_dilated(
        padded(x, part),
        kernel,
        part.strides,
        "VALID",
        rhs_dilation=(part.dilation,) * len(part.size),
        dimension_numbers=(f"N{axes}C", f"{axes}IO", f"N{axes}C"),
        feature_group_count=part.groups,
    )


def _conv_transposed(part: parts.ConvTranspose, kernel: jax.Array, x: jax.Array) -> jax.Array:
    axes, edge = "DHW"[3 - len(part.size) :], part.size[0] - 1 - part.padding
    y = jax.lax.conv_general_dilated(
        x,
        jnp.flip(kernel, tuple(range(len(part.size)))).swapaxes(-1, -2),
        (1,) * len(part.size),
        ((edge, edge),) * len(part.size),
        lhs_dilation=(part.stride,) * len(part.size),
        dimension_numbers=(f"N{axes}C", f"{axes}IO", f"N{axes}C"),
    )
    return jnp.roll(y, part.shift, tuple(range(1, y.ndim - 1)))
