"""The arrays of the outputs of two models."""

import contextlib
import copy
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch

from jaxvae.shared.errors import InputError
from parity_tests.harness.modules.common import structure
from parity_tests.harness.modules.common.structure import MixedError, paired, parts
from parity_tests.harness.modules.validation import kind, numbers

__all__ = ["MixedError", "array", "detached", "leaves", "mixture", "paired", "parts", "torch_mixture"]


def leaves(tree: Any) -> dict[str, np.ndarray]:
    """Return the arrays of an output by their place, `output['mean']`, in the model's own layout.

    Raises:
        InputError: If the output holds something other than arrays of numbers.
    """
    return {place: array(leaf) for place, leaf in structure.leaves(tree, "output")}


def detached(in_torch: Any) -> Any:
    """Return an output of a torch module without what it was computed from, which holds all of the module's weights."""
    held = {id(leaf): leaf.detach() for _, leaf in structure.leaves(in_torch, "") if isinstance(leaf, torch.Tensor)}
    with contextlib.suppress(Exception):  # an output that also holds other tensors, such as a cache
        return copy.deepcopy(in_torch, held)
    return in_torch


def array(leaf: Any) -> np.ndarray:
    """Convert one output to numpy.

    Raises:
        InputError: If it is no array of numbers.
    """
    result = numbers(leaf)
    if result is None:
        raise InputError(
            "outputs: expected arrays of numbers, alone or in tuples, lists, dicts and dataclasses, found "
            f"{kind(leaf)}: make both models return those."
        )
    return result


def mixture(outputs: Any) -> jax.Array:
    """Return one number of the JAX model that each entry of its outputs moves, in a drawn proportion."""
    return sum(map(_mixed, jax.tree.leaves(_opened(outputs))), jnp.zeros(()))


def torch_mixture(outputs: Any) -> torch.Tensor:
    """Return the same number of the torch module."""
    tensors = [leaf for leaf in jax.tree.leaves(_opened(outputs)) if isinstance(leaf, torch.Tensor)]
    return sum((_torch_mixed(x) for x in tensors if x.requires_grad), torch.zeros((), dtype=torch.float64))


def _mixed(leaf: Any) -> jax.Array:
    if not jnp.issubdtype(jnp.result_type(leaf), jnp.inexact):
        return jnp.zeros(())
    flat = jnp.stack([leaf.real, leaf.imag], -1) if jnp.iscomplexobj(leaf) else leaf
    return (jnp.where(jnp.isfinite(flat), flat, 0) * _proportions(flat.shape)).sum()


def _torch_mixed(leaf: torch.Tensor) -> torch.Tensor:
    flat = torch.view_as_real(leaf) if leaf.is_complex() else leaf
    finite = torch.where(torch.isfinite(flat), flat, torch.zeros_like(flat))
    return (finite.double() * torch.as_tensor(_proportions(tuple(flat.shape)), device=flat.device)).sum().cpu()


def _proportions(shape: tuple[int, ...]) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.uniform(0.5, 1.5, shape) * (rng.integers(0, 2, shape) * 2 - 1)


def _opened(outputs: Any) -> Any:
    """Return the parts of an output as nested lists, whatever classes hold them."""
    held = parts(outputs)
    return outputs if held is None else [_opened(value) for value in held.values]
