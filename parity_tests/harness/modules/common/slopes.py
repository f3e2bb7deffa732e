"""Which of two gradients of a JAX loss is right, by the slope of the loss itself."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_STEP = 1e-6


def slope_errors(loss: Callable[[Any], float], params: Any, gradients: Sequence[Any]) -> list[float]:
    """Return how far each gradient's slope in a drawn direction is from that of the loss.

    Args:
        loss: Maps parameters to the loss, in float64.
        params: The parameters at which the gradients were computed.
        gradients: Gradients of the loss, each a tree as `params` is.
    """
    rng = np.random.default_rng(0)

    def drawn(leaf: Any) -> np.ndarray:
        inexact = jnp.issubdtype(leaf.dtype, jnp.floating)
        return rng.normal(size=leaf.shape) if inexact else np.zeros(leaf.shape, leaf.dtype)

    direction = jax.tree.map(drawn, params)

    def moved(step: float) -> float:
        return loss(jax.tree.map(lambda leaf, way: (leaf + step * way).astype(leaf.dtype), params, direction))

    slope = (moved(_STEP) - moved(-_STEP)) / (2 * _STEP)
    ways = jax.tree.leaves(direction)
    sums = [
        sum(float((np.asarray(g) * way).sum()) for g, way in zip(jax.tree.leaves(tree), ways, strict=True) if way.any())
        for tree in gradients
    ]
    return [abs(total - slope) for total in sums]
