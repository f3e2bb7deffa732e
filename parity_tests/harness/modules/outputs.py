"""The arrays of the outputs of two models."""

import contextlib
import copy
from typing import Any

import numpy as np
import torch

from jaxvae.shared.errors import InputError
from parity_tests.harness.hooks.jax_slopes import mixture
from parity_tests.harness.hooks.torch_slopes import torch_mixture
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
