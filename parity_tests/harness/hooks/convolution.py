"""Compute JAX's convolutions in groups as sums of products, in float64.

XLA has no routine for them on a CPU: the gradient of EfficientNet-b0 takes 22 s that way, and 1.2 s as sums.
"""

import contextlib
import math
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

_MOST = 128  # a larger kernel would make a program that takes long to compile


@contextlib.contextmanager
def summed_convolutions(dtype: str) -> Iterator[None]:
    """Let `jax.lax.conv_general_dilated` with groups be a sum over the kernel's places, where it is in float64.

    The module of `jax.lax.conv_general_dilated` is given another primitive: a replaced function would not reach those
    who have imported it by name.
    """
    if dtype != "float64":
        yield
        return
    try:
        from jax._src.lax import convolution

        primitive = convolution.conv_general_dilated_p
    except (ImportError, AttributeError):  # another version of JAX: it is only slower
        yield
        return

    def bind(lhs: Any, rhs: Any, **options: Any) -> Any:
        if _can_be_summed(lhs, rhs, options):
            return _summed(lhs, rhs, options)
        return primitive.bind(lhs, rhs, **options)

    with mock.patch.object(convolution, "conv_general_dilated_p", SimpleNamespace(bind=bind)):
        yield


def _can_be_summed(lhs: Any, rhs: Any, options: dict[str, Any]) -> bool:
    kernel = [rhs.shape[axis] for axis in options["dimension_numbers"].rhs_spec[2:]]
    grouped = options["feature_group_count"] > 1 and options["batch_group_count"] == 1
    return grouped and lhs.dtype == rhs.dtype == jnp.float64 and 0 < math.prod(kernel) <= _MOST


def _summed(lhs: jax.Array, rhs: jax.Array, options: dict[str, Any]) -> jax.Array:
    """Return the sum over the kernel's places of what each place is multiplied with, in every group."""
    of_lhs, of_rhs, of_out = options["dimension_numbers"]
    strides, apart, groups = options["window_strides"], options["rhs_dilation"], options["feature_group_count"]
    x = lhs.transpose(of_lhs[0], *of_lhs[2:], of_lhs[1])
    kernel = rhs.transpose(*of_rhs[2:], of_rhs[1], of_rhs[0])
    around = [(*ends, step - 1) for ends, step in zip(options["padding"], options["lhs_dilation"], strict=True)]
    x = jax.lax.pad(x, np.zeros((), lhs.dtype), [(0, 0, 0), *around, (0, 0, 0)])
    sides = zip(x.shape[1:-1], kernel.shape[:-2], apart, strides, strict=True)
    size = [max((side - (length - 1) * between - 1) // step + 1, 0) for side, length, between, step in sides]
    x, kernel = (array.reshape(*array.shape[:-1], groups, array.shape[-1] // groups) for array in (x, kernel))
    result = jnp.zeros((x.shape[0], *size, *kernel.shape[-2:]), lhs.dtype)
    places = np.stack([*np.ndindex(kernel.shape[:-3])]) * np.asarray(apart)
    spans = [(n - 1) * step + 1 for n, step in zip(size, strides, strict=True)]
    every = tuple(slice(None, None, step) for step in (1, *strides))

    @jax.checkpoint  # else the gradient keeps each place's part of the input
    def add(result: jax.Array, at: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        first, weights = at
        part = jax.lax.dynamic_slice(x, (0, *first, 0, 0), (x.shape[0], *spans, *x.shape[-2:]))[every]
        one = part.shape[-1] == 1  # a product of numbers is far faster than one of matrices of one number
        return result + (part * weights[0] if one else jnp.einsum("...gc,cgo->...go", part, weights)), None

    if math.prod(size):  # a loop, since a term for each place takes long to compile
        result, _ = jax.lax.scan(add, result, (jnp.asarray(places), kernel.reshape(-1, *kernel.shape[-3:])))
    result = jax.lax.collapse(result, result.ndim - 2)
    return jnp.moveaxis(result, range(result.ndim), (of_out[0], *of_out[2:], of_out[1]))
