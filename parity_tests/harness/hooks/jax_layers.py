"""Record the inputs and outputs of every layer of a Flax NNX module."""

import contextlib
from collections.abc import Iterator
from typing import Any
from unittest import mock

import jax
import numpy as np
from flax import nnx
from jax.core import Tracer

from parity_tests.harness.hooks.record import LayerCall, add


@contextlib.contextmanager
def record(module: nnx.Module) -> Iterator[dict[str, LayerCall]]:
    """Record the calls of the module's leaf layers inside the context.

    The dict maps dotted paths to calls, in order; a second call of the same layer is `NAME#2`. Under jit the values are
    tracers, which the traced function has to return.
    """
    modules = dict(nnx.iter_modules(module))
    parents = {path[:i] for path in modules for i in range(len(path))}
    leaves = {id(m): ".".join(map(str, path)) for path, m in modules.items() if path not in parents}
    calls: dict[str, LayerCall] = {}

    def recording(call):
        def recorded(self: Any, *args: Any, **kwargs: Any) -> Any:
            y = call(self, *args, **kwargs)
            if id(self) in leaves and args and isinstance(y, jax.Array):
                add(calls, leaves[id(self)], _numbers(args[0]), _numbers(y))
            return y

        return recorded

    with contextlib.ExitStack() as stack:
        for kind in {type(m) for m in modules.values() if id(m) in leaves}:
            stack.enter_context(mock.patch.object(kind, "__call__", recording(kind.__call__)))
        yield calls


def _numbers(x: Any) -> Any:
    return x if isinstance(x, Tracer) else np.asarray(x)
