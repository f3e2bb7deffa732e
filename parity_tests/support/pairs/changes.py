"""Changes of a weight as one framework's layer reads it: transposed, flipped, left out, frozen."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import torch

from parity_tests.support.pairs.parts import Part


class Change(NamedTuple):
    """What one framework does to one array before the layer reads it."""

    leaf: str
    """The name of the array in Flax."""
    in_jax: Callable[[Any], Any]
    in_torch: Callable[[Any], Any]


def _spatial(weight: Any) -> tuple[int, ...]:
    return tuple(range(2, weight.ndim))


CHANGES: dict[str, Change] = {
    "transposed": Change("kernel", lambda k: k.swapaxes(-1, -2), lambda w: w.transpose(0, 1)),
    "inputs reversed": Change("kernel", lambda k: jnp.flip(k, -2), lambda w: w.flip(1)),
    "outputs reversed": Change("kernel", lambda k: jnp.flip(k, -1), lambda w: w.flip(0)),
    "outputs rolled": Change("kernel", lambda k: jnp.roll(k, 1, -1), lambda w: w.roll(1, 0)),
    "negated": Change("kernel", lambda k: -k, lambda w: -w),
    "kernel's first input left out": Change(
        "kernel",
        lambda k: k.at[..., 0, :].set(0),
        lambda w: torch.cat([torch.zeros_like(w[:, :1]), w[:, 1:]], 1),
    ),
    "rotated": Change("kernel", lambda k: jnp.flip(k, tuple(range(k.ndim - 2))), lambda w: w.flip(_spatial(w))),
    "axes swapped": Change("kernel", lambda k: k.swapaxes(0, 1), lambda w: w.transpose(2, 3)),
    "kernel frozen": Change("kernel", jax.lax.stop_gradient, lambda w: w.detach()),
    "bias left out": Change("bias", lambda b: 0 * b, lambda b: 0 * b),
    "bias doubled": Change("bias", lambda b: 2 * b, lambda b: 2 * b),
    "bias reversed": Change("bias", lambda b: jnp.flip(b, -1), lambda b: b.flip(-1)),
    "bias frozen": Change("bias", jax.lax.stop_gradient, lambda b: b.detach()),
    "scale left out": Change("scale", lambda s: 0 * s + 1, lambda s: 0 * s + 1),
    "scale from one": Change("scale", lambda s: 1 + s, lambda s: 1 + s),
    "scale reversed": Change("scale", lambda s: jnp.flip(s, -1), lambda s: s.flip(-1)),
    "table rolled": Change("embedding", lambda e: jnp.roll(e, 1, 0), lambda e: e.roll(1, 0)),
    "table frozen": Change("embedding", jax.lax.stop_gradient, lambda e: e.detach()),
    "table's first row zero": Change(
        "embedding", lambda e: e.at[0].set(0), lambda e: torch.cat([torch.zeros_like(e[:1]), e[1:]])
    ),
    "halved in the gradient": Change(
        "kernel",
        lambda k: (k + jax.lax.stop_gradient(k)) / 2,
        lambda w: (w + w.detach()) / 2,
    ),
}
"""The changes by name."""


def torch_leaf(part: Part, change: Change) -> str:
    """Return the name in torch of the array that a change concerns."""
    return next(tensor.in_torch for tensor in part.tensors() if tensor.in_jax == change.leaf)
