"""Set the dtype in which Flax modules compute, whichever they were made with."""

import contextlib
from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any
from unittest import mock

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from flax import nnx

_LOW = ("bfloat16", "float16")
_MIXED = "bfloat16"
_ATTRIBUTES = ("dtype", "param_dtype", "compute_dtype", "softmax_dtype")


def recast_nnx(module: nnx.Module, dtype: str) -> None:
    """Set the dtype of layers in place, see `recast_layer`."""
    layers = [layer for _, layer in nnx.iter_modules(module)]
    own = dtype == "mixed" and any(has_policy(vars(layer)) for layer in layers)
    for layer in layers:
        for name, value in {} if own else recast_layer(vars(layer), dtype):
            setattr(layer, name, value)


def recast_layer(attributes: Mapping[str, Any], dtype: str) -> list[tuple[str, Any]]:
    """Return what the dtypes of a layer become, by the names of its attributes.

    In float64 every float32 is replaced, which is Flax's default. In fewer bits the dtype of the softmax is left, which
    is someone's choice. "mixed" sets the dtype of the computation alone, where none is set, in the layers that
    `torch.autocast` computes in bfloat16: it leaves tables of embeddings and norms, but for batch normalization.
    """
    table = not {"embedding", "embedding_init"}.isdisjoint(attributes)
    if dtype == "mixed" and (table or ("epsilon" in attributes and "momentum" not in attributes)):
        return []
    names = {"float64": _ATTRIBUTES, "mixed": ("dtype",)}.get(dtype, _ATTRIBUTES[:3] if dtype in _LOW else ())
    wanted = jnp.dtype(_MIXED if dtype == "mixed" else dtype) if names else None
    unset = dtype == "mixed" and "dtype" in attributes and attributes["dtype"] is None
    return [(name, wanted) for name in names if unset or _is(attributes.get(name), jnp.float32)]


def has_policy(attributes: Mapping[str, Any]) -> bool:
    """Return whether a layer was told to compute in fewer bits than float32."""
    return any(_is(attributes.get(name), low) for name in _ATTRIBUTES for low in (jnp.bfloat16, jnp.float16))


@contextlib.contextmanager
def recast_linen(dtype: str, own: bool = False) -> Iterator[None]:
    """Set the dtype of every Linen module as it is called, see `recast_layer`.

    A child that its parent makes in the call takes the parent's dtype, so it has to be set before the call. `own`:
    whether "mixed" leaves the modules as they are, since one of them was told its dtype.
    """

    def recast(module: nn.Module) -> None:
        for name, value in recast_layer(vars(module), dtype):
            object.__setattr__(module, name, value)  # the dataclass is frozen
        for name, value in list(vars(module).items()):
            if isinstance(value, nn.Module) and name != "parent":
                recast(value)  # a cell's first state is made before the cell is called

    def recasting(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        recast(context.module)
        return call(*args, **kwargs)

    if dtype in ("float64", *_LOW) or (dtype == "mixed" and not own):
        with nn.intercept_methods(recasting):
            yield
    else:
        yield


@contextlib.contextmanager
def policies() -> Iterator[list[str]]:
    """Note the Linen modules that are called within the context and were told to compute in fewer bits than float32."""
    found: list[str] = []

    def noting(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        if has_policy(vars(context.module)):
            found.append(".".join(context.module.path))
        return call(*args, **kwargs)

    with nn.intercept_methods(noting):
        yield found


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


def _is(value: Any, dtype: Any) -> bool:
    try:
        return value is not None and not isinstance(value, str) and jnp.dtype(value) == dtype
    except TypeError:
        return False
