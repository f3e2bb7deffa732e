"""Record the inputs and outputs of every layer of a Flax Linen module."""

import contextlib
from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from parity_tests.harness.hooks.record import LayerCall, add


@contextlib.contextmanager
def record() -> Iterator[dict[str, LayerCall]]:
    """Record the calls of every module's leaf layers inside the context.

    The dict maps dotted paths to calls, in order; a second call of the same layer is `NAME#2`. It does not work under
    jit, where there are no values to copy.
    """
    calls: dict[str, LayerCall] = {}
    parents: set[tuple[str, ...]] = set()

    def recording(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        y = call(*args, **kwargs)
        path = context.module.path
        parents.update(path[:i] for i in range(len(path)))  # a module's children are called before it returns
        if context.method_name == "__call__" and path not in parents and args and isinstance(y, jax.Array):
            add(calls, ".".join(path), np.asarray(args[0]), np.asarray(y))
        return y

    with nn.intercept_methods(recording):
        yield calls
