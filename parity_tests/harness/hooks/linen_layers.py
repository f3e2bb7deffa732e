"""What every layer of a Flax Linen module is given and gives."""

import contextlib
from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from parity_tests.harness.hooks.record import Layer, add


@contextlib.contextmanager
def record() -> Iterator[dict[str, Layer]]:
    """The calls of every module's leaves while the context lasts, by dotted path, in the order they are made; a second
    call of the same layer is `NAME#2`. Not under jit, where there are no numbers to see."""
    calls: dict[str, Layer] = {}
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
