"""What models return: outputs of equal axes, integers, and outputs without a number."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx
from torch import nn

from parity_tests.harness.modules.compare import compare_modules

TOKENS = np.random.default_rng(0).normal(size=(2, 5, 4))


class InNNX(nnx.Module):
    def __init__(self, of: Callable[[Any], Any]):
        self.layer, self.of = nnx.Linear(4, 5, rngs=nnx.Rngs(0)), of

    def __call__(self, x: Any) -> Any:
        return self.of(self.layer(x))


class InTorch(nn.Module):
    def __init__(self, of: Callable[[Any], Any]):
        super().__init__()
        self.layer, self.of = nn.Linear(4, 5), of

    def forward(self, x: torch.Tensor) -> Any:
        return self.of(self.layer(x))


def test_exchanged_axes_of_one_size_are_listed() -> None:
    models = InNNX(lambda y: y.swapaxes(1, 2)), None, InTorch(lambda y: y), None, TOKENS
    report = compare_modules(*models)
    assert report.unexercised == ("output (its last two axes are exchanged in JAX; say so by output_layouts)",)
    assert not compare_modules(*models, output_layouts=["channels_last"]).unexercised
    assert not compare_modules(*models, output_layouts=["same"]).passed


def test_large_integers_are_not_rounded() -> None:
    models = InNNX(lambda y: (y, jnp.full(3, 300_001))), None, InTorch(lambda y: (y, torch.full((3,), 300_000)))
    assert not compare_modules(*models, None, TOKENS, dtype="float32").passed


def test_an_output_without_a_number_leaves_out_nothing() -> None:
    report = compare_modules(InNNX(lambda y: (y, y[:0])), None, InTorch(lambda y: (y, y[:0])), None, TOKENS)
    assert report.passed
    assert not report.left_out
