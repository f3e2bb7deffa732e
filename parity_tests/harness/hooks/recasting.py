"""Make Flax modules that keep float32 as their own dtype compute in float64."""

import contextlib
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any
from unittest import mock

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from flax import nnx

_ATTRIBUTES = ("dtype", "param_dtype", "compute_dtype", "softmax_dtype")


def recast_nnx(module: nnx.Module, dtype: str) -> None:
    """Set the dtype of every layer that was made with float32, in place."""
    if dtype == "float64":
        for _, layer in nnx.iter_modules(module):
            for name in _ATTRIBUTES:
                if _is_single(getattr(layer, name, None)):
                    setattr(layer, name, jnp.float64)


@contextlib.contextmanager
def recast_linen(dtype: str) -> Iterator[None]:
    """Set the dtype of every Linen module that was made with float32 as it is called, and compute attention in float64.

    A child that its parent makes in the call takes the parent's dtype, so it has to be set before the call.
    """

    def recast(module: nn.Module) -> None:
        for name, value in list(vars(module).items()):
            if name in _ATTRIBUTES and _is_single(value):
                object.__setattr__(module, name, jnp.float64)  # the dataclass is frozen
            elif isinstance(value, nn.Module) and name != "parent":
                recast(value)  # a cell's first state is made before the cell is called

    def recasting(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        recast(context.module)
        return call(*args, **kwargs)

    if dtype == "float64":
        with nn.intercept_methods(recasting):
            yield
    else:
        yield


@contextlib.contextmanager
def exact_attention(dtype: str) -> Iterator[None]:
    """Let `jax.nn.dot_product_attention` compute its softmax in float64.

    It rounds to `np.float32`, whatever its inputs are. Its module is given a numpy whose float32 is float64: a
    replaced function would not reach those who have imported it by name.
    """
    if dtype != "float64":
        yield
        return
    try:
        from jax._src.nn import functions
    except ImportError:  # another version of JAX: the difference is then found and named
        yield
        return
    wide = SimpleNamespace(**{**vars(np), "float32": np.float64})
    with mock.patch.object(functions, "np", wide):
        yield


def _is_single(value: Any) -> bool:
    try:
        return value is not None and not isinstance(value, str) and jnp.dtype(value) == jnp.float32
    except TypeError:
        return False
