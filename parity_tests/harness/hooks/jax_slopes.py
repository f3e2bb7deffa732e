"""One number of a JAX model that all of its outputs move, to take the gradient of."""

from typing import Any

import jax
import jax.numpy as jnp

from parity_tests.harness.modules.common.structure import leaves, proportions


def mixture(outputs: Any) -> jax.Array:
    """Return one number of the JAX model that each entry of its outputs moves, in a drawn proportion."""
    return sum((_mixed(leaf) for _, leaf in leaves(outputs, "")), jnp.zeros(()))


def _mixed(leaf: Any) -> jax.Array:
    if not jnp.issubdtype(jnp.result_type(leaf), jnp.inexact):
        return jnp.zeros(())
    flat = jnp.stack([leaf.real, leaf.imag], -1) if jnp.iscomplexobj(leaf) else leaf
    return (jnp.where(jnp.isfinite(flat), flat, 0) * proportions(flat.shape)).sum()
