"""One number of a torch module that all of its outputs move, and its gradient also in running statistics."""

import contextlib
from collections.abc import Iterator
from functools import partial
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F

from parity_tests.harness.modules.common.structure import leaves, proportions


def torch_mixture(outputs: Any) -> torch.Tensor:
    """Return one number of the torch module that each entry of its outputs moves, in a drawn proportion."""
    tensors = [leaf for _, leaf in leaves(outputs, "") if isinstance(leaf, torch.Tensor)]
    return sum((_mixed(x) for x in tensors if x.requires_grad), torch.zeros((), dtype=torch.float64))


def _mixed(leaf: torch.Tensor) -> torch.Tensor:
    flat = torch.view_as_real(leaf) if leaf.is_complex() else leaf
    finite = torch.where(torch.isfinite(flat), flat, torch.zeros_like(flat))
    return (finite.double() * torch.as_tensor(proportions(tuple(flat.shape)), device=flat.device)).sum().cpu()


@contextlib.contextmanager
def differentiable_norms() -> Iterator[None]:
    """Let a batch norm in evaluation have a gradient in its statistics, which torch's own has not."""
    with mock.patch.object(F, "batch_norm", partial(_batch_norm, F.batch_norm)):
        yield


def _batch_norm(fused: Any, x: Any, mean: Any, var: Any, weight: Any = None, bias: Any = None,
                training: bool = False, momentum: float = 0.1, eps: float = 1e-5) -> Any:  # fmt: skip
    """Compute a batch norm; in evaluation by its formula, since torch's own has no gradient in its statistics."""
    if training or mean is None or var is None:
        return fused(x, mean, var, weight, bias, training, momentum, eps)
    mean, scale, weight, bias = (
        y if y is None else y.reshape(-1, *[1] * (x.ndim - 2)) for y in (mean, (var + eps).rsqrt(), weight, bias)
    )
    y = (x - mean) * (scale if weight is None else scale * weight)
    return y if bias is None else y + bias
