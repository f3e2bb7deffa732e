"""Pairs of the same formulas, each with the layers of its framework: they agree in every precision."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from flax import nnx
from torch import nn

from parity_tests.harness.findings import Report
from parity_tests.harness.modules import compare
from parity_tests.harness.modules.compare import compare_modules
from parity_tests.support.quick import quick
from parity_tests.tests.modules.test_precision_as_run import FirstLevel, Jax, Torch, attention

ROWS = np.random.default_rng(0).normal(size=(6, 10, 16))
IMAGES = np.random.default_rng(1).normal(size=(4, 4, 8, 8))
WORDS = np.random.default_rng(2).integers(30, size=(6, 10))
LOSSES = (lambda y: (y.astype(jnp.float32) ** 2).mean(), lambda y: (y.float() ** 2).mean())
PAIRS: dict[str, Callable[[], tuple[Any, nn.Module, np.ndarray]]] = {}


def pair(make: Callable[[nnx.Rngs], tuple[Any, nn.Module, np.ndarray]]) -> Any:
    """Add a pair by its name."""

    def made() -> tuple[Any, nn.Module, np.ndarray]:
        torch.manual_seed(0)
        return make(nnx.Rngs(0))

    PAIRS[make.__name__.replace("_", " ")] = made
    return make


def dense(rngs: nnx.Rngs, *features: int) -> nnx.Linear:
    return nnx.Linear(*(features or (16, 16)), rngs=rngs)


def layers(in_jax: Any, in_torch: nn.Module, x: np.ndarray) -> tuple[Any, nn.Module, np.ndarray]:
    """One layer in both."""
    call = lambda net, x: net.layer(x)  # noqa: E731
    return Jax(call, layer=in_jax), Torch(call, layer=in_torch), x


def between(rngs: nnx.Rngs, in_jax: Callable[..., Any], in_torch: Callable[..., Any]) -> Any:
    """Something between two linear layers."""
    return (
        Jax(lambda net, x: net.head(in_jax(net.a(x))), a=dense(rngs), head=dense(rngs)),
        Torch(lambda net, x: net.head(in_torch(net.a(x))), a=nn.Linear(16, 16), head=nn.Linear(16, 16)),
        ROWS,
    )


@pair
def a_linear_layer(rngs):
    return layers(dense(rngs), nn.Linear(16, 16), ROWS)


@pair
def a_relu(rngs):
    return between(rngs, jax.nn.relu, F.relu)


@pair
def a_gelu(rngs):
    return between(rngs, lambda x: jax.nn.gelu(x, approximate=False), F.gelu)


@pair
def a_tanh_gelu(rngs):
    return between(rngs, jax.nn.gelu, lambda x: F.gelu(x, approximate="tanh"))


@pair
def a_silu(rngs):
    return between(rngs, jax.nn.silu, F.silu)


@pair
def a_tanh(rngs):
    return between(rngs, jnp.tanh, torch.tanh)


@pair
def a_sigmoid(rngs):
    return between(rngs, jax.nn.sigmoid, torch.sigmoid)


@pair
def a_softplus(rngs):
    return between(rngs, jax.nn.softplus, F.softplus)


@pair
def a_softmax(rngs):
    return between(rngs, jax.nn.softmax, lambda x: x.softmax(-1))


@pair
def a_log_softmax(rngs):
    return between(rngs, jax.nn.log_softmax, lambda x: x.log_softmax(-1))


@pair
def a_mean_and_a_maximum(rngs):
    in_jax = lambda x: x - x.mean(-1, keepdims=True) + x.max(-1, keepdims=True)  # noqa: E731
    return between(rngs, in_jax, lambda x: x - x.mean(-1, keepdim=True) + x.amax(-1, keepdim=True))


@pair
def a_unit_length(rngs):
    return between(rngs, lambda x: x / jnp.linalg.norm(x, axis=-1, keepdims=True), lambda x: F.normalize(x, dim=-1))


@pair
def a_layer_norm(rngs):
    norm = nnx.LayerNorm(16, epsilon=1e-5, rngs=rngs)
    here = Jax(lambda net, x: net.head(net.norm(net.a(x))), a=dense(rngs), norm=norm, head=dense(rngs))
    there = Torch(lambda net, x: net.head(net.norm(net.a(x))), a=nn.Linear(16, 16), norm=nn.LayerNorm(16),
                  head=nn.Linear(16, 16))  # fmt: skip
    return here, there, ROWS


@pair
def a_root_mean_square_norm(rngs):
    return between(
        rngs,
        lambda x: x * jax.lax.rsqrt((x.astype(jnp.float32) ** 2).mean(-1, keepdims=True) + 1e-5).astype(x.dtype),
        lambda x: x * torch.rsqrt((x.float() ** 2).mean(-1, keepdim=True) + 1e-5).to(x.dtype),
    )


@pair
def a_group_norm(rngs):
    here = nnx.GroupNorm(4, num_groups=2, epsilon=1e-5, rngs=rngs)
    conv = nnx.Conv(4, 4, (3, 3), padding=1, rngs=rngs)
    return (
        Jax(lambda net, x: net.conv(net.norm(x)), norm=here, conv=conv),
        Torch(lambda net, x: net.conv(net.norm(x)), norm=nn.GroupNorm(2, 4), conv=nn.Conv2d(4, 4, 3, padding=1)),
        IMAGES,
    )


@pair
def a_batch_norm(rngs):
    conv = nnx.Conv(4, 4, (3, 3), padding=1, rngs=rngs)
    return (
        Jax(lambda net, x: net.conv(net.norm(x)), norm=nnx.BatchNorm(4, rngs=rngs), conv=conv),
        Torch(lambda net, x: net.conv(net.norm(x)), norm=nn.BatchNorm2d(4), conv=nn.Conv2d(4, 4, 3, padding=1)),
        IMAGES,
    )


@pair
def a_convolution(rngs):
    return layers(nnx.Conv(4, 6, (3, 3), 2, padding=1, rngs=rngs), nn.Conv2d(4, 6, 3, 2, 1), IMAGES)


@pair
def a_convolution_in_groups(rngs):
    here = nnx.Conv(4, 8, (3, 3), padding=1, feature_group_count=4, rngs=rngs)
    return layers(here, nn.Conv2d(4, 8, 3, padding=1, groups=4), IMAGES)


@pair
def a_transposed_convolution(rngs):
    up = {"strides": (2, 2), "padding": ((1, 2), (1, 2)), "transpose_kernel": True}
    here = nnx.ConvTranspose(4, 3, (3, 3), **up, rngs=rngs)  # type: ignore[arg-type]
    return layers(here, nn.ConvTranspose2d(4, 3, 3, 2, 1, 1), IMAGES)


@pair
def an_embedding(rngs):
    here = Jax(lambda net, x: net.head(net.table(x)), table=nnx.Embed(30, 16, rngs=rngs), head=dense(rngs))
    there = Torch(lambda net, x: net.head(net.table(x)), table=nn.Embedding(30, 16), head=nn.Linear(16, 16))
    return here, there, WORDS


@pair
def an_attention(rngs):
    named = ("q", "k", "v", "o", "head")
    here = Jax(lambda net, x: attention(jax.nn.softmax, net, x), **{name: dense(rngs) for name in named})
    there = Torch(
        lambda net, x: attention(lambda s: s.softmax(-1), net, x), **{name: nn.Linear(16, 16) for name in named}
    )
    return here, there, ROWS


@pair
def an_attention_of_several_heads(rngs):
    here = nnx.MultiHeadAttention(4, 16, decode=False, rngs=rngs)
    there = Torch(lambda net, x: net.layer(x, x, x, need_weights=False)[0],
                  layer=nn.MultiheadAttention(16, 4, batch_first=True))  # fmt: skip
    return Jax(lambda net, x: net.layer(x), layer=here), there, ROWS


@pair
def a_fused_attention(rngs):
    def heads(x: Any) -> Any:
        return x.reshape(*x.shape[:-1], 4, 4)

    def in_jax(net: Any, x: Any) -> Any:
        y = jax.nn.dot_product_attention(heads(net.q(x)), heads(net.k(x)), heads(net.v(x)), is_causal=True)
        return net.o(y.reshape(x.shape))

    def in_torch(net: Any, x: Any) -> Any:
        q, k, v = (heads(layer(x)).transpose(1, 2) for layer in (net.q, net.k, net.v))
        return net.o(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))

    named = ("q", "k", "v", "o")
    return (
        Jax(in_jax, **{name: dense(rngs) for name in named}),
        Torch(in_torch, **{name: nn.Linear(16, 16) for name in named}),
        ROWS,
    )


@pair
def a_block_of_a_transformer(rngs):
    def in_jax(net: Any, x: Any) -> Any:
        x = x + net.attention(net.first(x))
        return x + net.down(jax.nn.gelu(net.up(net.second(x))))

    def in_torch(net: Any, x: Any) -> Any:
        y = net.first(x)
        x = x + net.attention(y, y, y, need_weights=False)[0]
        return x + net.down(F.gelu(net.up(net.second(x)), approximate="tanh"))

    here = Jax(
        in_jax,
        first=nnx.LayerNorm(16, epsilon=1e-5, rngs=rngs),
        attention=nnx.MultiHeadAttention(4, 16, decode=False, rngs=rngs),
        second=nnx.LayerNorm(16, epsilon=1e-5, rngs=rngs),
        up=dense(rngs, 16, 32),
        down=dense(rngs, 32, 16),
    )
    there = Torch(
        in_torch,
        first=nn.LayerNorm(16),
        attention=nn.MultiheadAttention(16, 4, batch_first=True),
        second=nn.LayerNorm(16),
        up=nn.Linear(16, 32),
        down=nn.Linear(32, 16),
    )
    return here, there, ROWS


LONG_SUM = "a transposed convolution"
"""The gradient of its bias is a sum over 1,024 numbers, which XLA adds up in bfloat16 on a CPU."""
CASES = [
    (name, dtype)
    for name in PAIRS
    for dtype in ("bfloat16", "float16", "mixed")
    if (name, dtype) not in ((LONG_SUM, "bfloat16"), (LONG_SUM, "mixed"))
]
QUICK = [("a convolution", "bfloat16"), ("a convolution", "float16"), ("a softmax", "mixed")]


def report_of(name: str, dtype: Any) -> Report:
    here, there, x = PAIRS[name]()
    return compare_modules(here, None, there, None, x, weights="torch", losses=LOSSES, dtype=dtype)


@pytest.mark.parametrize(("name", "dtype"), quick(CASES, QUICK))
def test_a_right_pair_agrees(name: str, dtype: Any, monkeypatch) -> None:
    monkeypatch.setattr(compare, "Levels", FirstLevel)
    report = report_of(name, dtype)
    assert report.passed, report


@pytest.mark.slow
@pytest.mark.skipif(jax.default_backend() != "cpu", reason="XLA adds up in float32 on a GPU")
def test_a_gradient_that_is_added_up_in_bfloat16_is_named(monkeypatch) -> None:
    monkeypatch.setattr(compare, "Levels", FirstLevel)
    report = report_of(LONG_SUM, "bfloat16")
    assert not report.passed
    assert report.diagnosis is not None
    assert report.diagnosis.where == "layer.bias"
    cause = "in its gradient a sum or a mean is computed in bfloat16 in JAX and in float32 in PyTorch"
    assert report.diagnosis.cause == cause, report
