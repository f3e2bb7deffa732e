"""Functions of one array, by name, in both frameworks."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import torch
import torch.nn.functional as F

Both = tuple[Callable[[Any], Any], Callable[[Any], Any]]


def softplus(x: torch.Tensor) -> torch.Tensor:
    """Compute it as JAX does, also above 20, where torch's gives the numbers as they are."""
    return torch.logaddexp(x, torch.zeros_like(x))


ACTIVATIONS: dict[str, Both] = {
    "relu": (jax.nn.relu, F.relu),
    "gelu": (partial(jax.nn.gelu, approximate=False), F.gelu),
    "gelu tanh": (jax.nn.gelu, partial(F.gelu, approximate="tanh")),
    "gelu quick": (lambda x: x * jax.nn.sigmoid(1.702 * x), lambda x: x * torch.sigmoid(1.702 * x)),
    "silu": (jax.nn.silu, F.silu),
    "tanh": (jnp.tanh, torch.tanh),
    "sigmoid": (jax.nn.sigmoid, torch.sigmoid),
    "hard sigmoid": (jax.nn.hard_sigmoid, F.hardsigmoid),
    "softplus": (jax.nn.softplus, softplus),
    "softplus, beta 2": (lambda x: jax.nn.softplus(2 * x) / 2, lambda x: softplus(2 * x) / 2),
    "elu": (jax.nn.elu, F.elu),
    "elu, alpha 0.5": (partial(jax.nn.elu, alpha=0.5), partial(F.elu, alpha=0.5)),
    "leaky relu": (jax.nn.leaky_relu, F.leaky_relu),
    "leaky relu, slope 0.2": (
        partial(jax.nn.leaky_relu, negative_slope=0.2),
        partial(F.leaky_relu, negative_slope=0.2),
    ),
    "sin": (jnp.sin, torch.sin),
    "softsign": (jax.nn.soft_sign, F.softsign),
    "square of relu": (lambda x: jax.nn.relu(x) ** 2, lambda x: F.relu(x) ** 2),
    "abs": (jnp.abs, torch.abs),
    "selu": (jax.nn.selu, F.selu),
    "mish": (jax.nn.mish, F.mish),
    "hard swish": (jax.nn.hard_swish, F.hardswish),
    "none": (lambda x: x, lambda x: x),
}
"""Activations by name, in JAX and in torch."""

USUAL = ("relu", "gelu", "gelu tanh", "silu", "tanh", "sigmoid", "softplus", "elu", "leaky relu", "selu", "mish")
"""The names that a network is drawn with."""


def jax_softmax(x: jax.Array, axis: int, temperature: float) -> jax.Array:
    """Take the softmax of the numbers over a temperature."""
    return jax.nn.softmax(x / temperature, axis)


def torch_softmax(x: torch.Tensor, axis: int, temperature: float) -> torch.Tensor:
    """Take the softmax of the numbers over a temperature."""
    return torch.softmax(x / temperature, axis)
