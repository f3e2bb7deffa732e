"""Let the dropout of Flax take given masks."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from parity_tests.harness.hooks.masks import Masks


@contextlib.contextmanager
def shared(masks: Masks | None) -> Iterator[None]:
    """Take these masks within the context; those of the model's own keys if None."""
    if masks is None:
        yield
        return
    before = Masks.active
    with mock.patch.object(jax.random, "bernoulli", _bernoulli(masks)):
        Masks.active = masks
        try:
            yield
        finally:
            Masks.active = before


def _bernoulli(masks: Masks) -> Callable[..., Any]:
    """JAX's draw, which every dropout of Flax's is made of."""

    def bernoulli(key: Any, p: Any = 0.5, shape: Any = None, **more: Any) -> Any:
        numbers = masks.next("jax", np.shape(p) if shape is None else shape)
        return jnp.asarray(numbers < p) if isinstance(p, float) else jnp.asarray(numbers) < p

    return bernoulli
