"""Comparisons in bfloat16, in float16, in mixed precision and as the modules are: what rounds alike agrees, and what one
framework computes in more bits is named."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
import torch.nn.functional as F
from flax import linen, nnx
from torch import nn

from jaxvae.shared.errors import InputError
from parity_tests.harness.findings import Report
from parity_tests.harness.modules import compare
from parity_tests.harness.modules.compare import compare_modules
from parity_tests.harness.modules.errors import ModelError
from parity_tests.harness.modules.levels import Levels

ROWS = np.random.default_rng(0).normal(size=(6, 10, 16))
LABELS = np.arange(60).reshape(6, 10) % 8
SQUARES = (lambda y: (y.astype(jnp.float32) ** 2).mean(), lambda y: (y.float() ** 2).mean())


class FirstLevel(Levels):
    """The outputs alone: the formulas of these pairs are the same, and other tests compare them."""

    def __iter__(self):
        yield next(iter(super().__iter__()))


@pytest.fixture
def short(monkeypatch) -> Iterator[None]:
    monkeypatch.setattr(compare, "Levels", FirstLevel)
    yield


class Jax(nnx.Module):
    """Layers by name and what is done with them."""

    def __init__(self, forward: Callable[..., Any], **layers: Any):
        self.forward = forward
        for name, made in layers.items():
            setattr(self, name, made)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.forward(self, x)


class Torch(nn.Module):
    """The same in torch."""

    def __init__(self, run: Callable[..., Any], **layers: nn.Module):
        super().__init__()
        self.run = run
        for name, made in layers.items():
            self.add_module(name, made)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.run(self, x)


def linear(features: int = 16, **options: Any) -> nnx.Linear:
    return nnx.Linear(16, features, rngs=nnx.Rngs(0), **options)


def pair(in_jax: Callable[..., Any], in_torch: Callable[..., Any], names: str, **options: Any) -> tuple[Jax, Torch]:
    """Both networks, with linear layers of these names."""
    torch.manual_seed(0)
    here = {name: linear(8 if name == "head" else 16, **options) for name in names.split()}
    there = {name: nn.Linear(16, 8 if name == "head" else 16) for name in names.split()}
    return Jax(in_jax, **here), Torch(in_torch, **there)


def compared(models: tuple[Any, nn.Module], dtype: Any, **options: Any) -> Report:
    return compare_modules(models[0], None, models[1], None, ROWS, weights="torch", dtype=dtype, **options)


def notes(report: Report) -> dict[str, str]:
    return {one.name: one.note for one in report.distances if one.note}


def attention(softmax: Callable[..., Any], net: Any, x: Any) -> Any:
    q, k, v = net.q(x), net.k(x), net.v(x)
    scores = 8 * (q @ (k.mT if isinstance(k, torch.Tensor) else k.swapaxes(-1, -2)))
    return net.head(net.o(softmax(scores) @ v))


def upcast(scores: jax.Array) -> jax.Array:
    return jax.nn.softmax(scores.astype(jnp.float32), -1).astype(scores.dtype)


def one_by_one(scores: torch.Tensor) -> torch.Tensor:
    powers = (scores - scores.amax(-1, keepdim=True)).exp()
    return powers / powers.sum(-1, keepdim=True)


LAYERS = "q k v o head"
BETWEEN = "between v and o"


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize(
    ("in_jax", "in_torch", "far"),
    [
        (upcast, one_by_one, "in bfloat16 in PyTorch and in float32 in JAX"),
        (
            partial(jax.nn.softmax, axis=-1),
            partial(torch.softmax, dim=-1),
            "in bfloat16 in JAX and in float32 in PyTorch",
        ),
        (upcast, partial(torch.softmax, dim=-1), None),
    ],
)
def test_a_softmax_in_float32_in_one_framework_is_named(in_jax, in_torch, far) -> None:
    report = compared(pair(partial(attention, in_jax), partial(attention, in_torch), LAYERS), "bfloat16")
    assert report.passed, report
    said = notes(report).get(BETWEEN)
    assert said == (f"the softmax is computed {far}" if far else None), report


def rms(in_single: bool, net: Any, x: Any) -> Any:
    y = net.a(x)
    z = y if not in_single else y.float() if isinstance(y, torch.Tensor) else y.astype(jnp.float32)
    if isinstance(z, torch.Tensor):
        return net.head((z * torch.rsqrt((z**2).mean(-1, keepdim=True) + 1e-5)).to(y.dtype))
    return net.head((z * jax.lax.rsqrt((z**2).mean(-1, keepdims=True) + 1e-5)).astype(y.dtype))


@pytest.mark.usefixtures("short")
def test_a_norm_in_bfloat16_in_one_framework_is_named() -> None:
    report = compared(pair(partial(rms, True), partial(rms, False), "a head"), "bfloat16")
    assert notes(report)["between a and head"].startswith(
        "the norm, with its statistics, is computed in bfloat16 in Py"
    )
    report = compared(pair(partial(rms, True), partial(rms, True), "a head"), "bfloat16")
    assert "between a and head" not in notes(report)


@pytest.mark.usefixtures("short")
def test_a_stream_that_stays_float32_in_one_framework_is_named() -> None:
    def blocks(wide: bool, net: Any, x: Any) -> Any:
        y = net.a(x)
        for layer in (net.b, net.c, net.d):
            y = (y.astype(jnp.float32) if wide else y) + layer(y.astype(x.dtype) if wide else y)
        return net.head(y.astype(x.dtype) if wide else y)

    report = compared(pair(partial(blocks, True), partial(blocks, False), "a b c d head"), "bfloat16")
    assert report.passed
    assert notes(report)["the output"] if "the output" in notes(report) else True
    print(report)


@pytest.mark.usefixtures("short")
def test_a_network_that_one_framework_computes_in_float32_differs() -> None:
    models = pair(lambda net, x: net.head(net.a(x.astype(jnp.float32))), lambda net, x: net.head(net.a(x)), "a head")
    report = compared(models, "bfloat16")
    assert not report.passed
    assert "stays float32 in JAX and is rounded to bfloat16 in PyTorch" in str(report)
    print(report)


def cross_entropy(logits: jax.Array) -> jax.Array:
    return optax.softmax_cross_entropy_with_integer_labels(logits, LABELS).mean()


def torch_cross_entropy(logits: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(logits.flatten(0, 1), torch.tensor(LABELS.ravel()))


@pytest.mark.usefixtures("short")
def test_a_loss_in_bfloat16_in_one_framework_is_named() -> None:
    models = pair(lambda net, x: net.head(x), lambda net, x: net.head(x), "head")
    losses = cross_entropy, lambda logits: torch_cross_entropy(logits.float())
    report = compared(models, "bfloat16", losses=losses)
    assert "the loss" in notes(report), report
    print(report)
