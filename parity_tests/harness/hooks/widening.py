"""Let a model compute in float64 throughout, also where its code rounds to fewer bits."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import torch
from jax.extend.core.primitives import (
    conv_general_dilated_p,
    convert_element_type_p,
    dot_general_p,
    reduce_precision_p,
)
from torch.utils._python_dispatch import TorchDispatchMode

_NARROW = (jnp.bfloat16, np.float16, np.float32)
_WIDER = {torch.float32: torch.float64, torch.float16: torch.float64, torch.bfloat16: torch.float64}


@contextlib.contextmanager
def widened() -> Iterator[None]:
    """Let conversions of float64 numbers to fewer bits leave them as they are, within `settings("float64")`.

    What a module rounds on purpose, such as the scores of an attention whose softmax is to be in float32, is part of
    how it computes in bfloat16 and no part of its formulas.
    """

    def narrow(dtype: Any) -> bool:
        return dtype is not None and any(dtype == low for low in _NARROW)

    def convert(bind: Callable[..., Any]) -> Callable[..., Any]:
        def converted(x: Any, *, new_dtype: Any, **more: Any) -> Any:
            if narrow(new_dtype) and (given := jax.typeof(x)).dtype == jnp.float64 and not given.weak_type:
                new_dtype = np.dtype(np.float64)
            return bind(x, new_dtype=new_dtype, **more)

        return converted

    def accumulate(bind: Callable[..., Any]) -> Callable[..., Any]:
        def accumulated(x: Any, y: Any, *, preferred_element_type: Any, **more: Any) -> Any:
            if narrow(preferred_element_type) and jnp.float64 in (jnp.result_type(x), jnp.result_type(y)):
                preferred_element_type = np.dtype(np.float64)
            return bind(x, y, preferred_element_type=preferred_element_type, **more)

        return accumulated

    def make(function: Callable[..., Any]) -> Callable[..., Any]:
        wide = lambda value: np.dtype(np.float64) if _is_dtype(value) and narrow(value) else value  # noqa: E731
        return lambda *args, **more: function(*map(wide, args), **{name: wide(value) for name, value in more.items()})

    patches = [(convert_element_type_p, convert), (dot_general_p, accumulate), (conv_general_dilated_p, accumulate)]
    patches += [(reduce_precision_p, lambda _: lambda x, **_: x)]
    with contextlib.ExitStack() as stack:
        for primitive, change in patches:
            stack.enter_context(mock.patch.object(primitive, "bind", change(primitive.bind)))
        for name in ("arange", "array", "asarray", "linspace"):  # they round before there is a primitive
            stack.enter_context(mock.patch.object(jnp, name, make(getattr(jnp, name))))
        # The same precision under another name, so that no trace from outside this context is used within it.
        stack.enter_context(jax.default_matmul_precision("float32"))
        stack.enter_context(_Wide())
        yield


def _is_dtype(value: Any) -> bool:
    return isinstance(value, np.dtype | type) or type(value) is type(jnp.float32)


class _Wide(TorchDispatchMode):
    """Makes every float64 where torch's operations are asked for a float dtype."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if kwargs.get("dtype") in _WIDER:
            kwargs["dtype"] = torch.float64
        return func(*args, **kwargs)
