"""Comparisons in bfloat16, in float16, in mixed precision and as modules are: what rounds alike agrees, and what one
framework computes in more bits is named."""

from collections.abc import Callable
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
from parity_tests.support.quick import quick

ROWS = np.random.default_rng(0).normal(size=(6, 10, 16))
LABELS = np.arange(60).reshape(6, 10) % 8
SQUARES = (lambda y: (y.astype(jnp.float32) ** 2).mean(), lambda y: (y.float() ** 2).mean())


class FirstLevel(Levels):
    """The outputs alone: the formulas of these pairs are the same, and other tests compare them."""

    def __iter__(self):
        yield next(iter(super().__iter__()))


@pytest.fixture
def short(monkeypatch) -> None:
    monkeypatch.setattr(compare, "Levels", FirstLevel)


class Jax(nnx.Module):
    """Layers by name and what is done with them."""

    b: Any
    head: Any

    def __init__(self, forward: Callable[..., Any], **layers: Any):
        self.forward = forward
        for name, made in layers.items():
            setattr(self, name, made)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.forward(self, x)


class Torch(nn.Module):
    """The same in torch."""

    head: Any

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


SOFTMAX = [
    (upcast, one_by_one, "in bfloat16 in PyTorch and in float32 in JAX"),
    (jax.nn.softmax, partial(torch.softmax, dim=-1), "in bfloat16 in JAX and in float32 in PyTorch"),
    (upcast, partial(torch.softmax, dim=-1), None),
]


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize(("in_jax", "in_torch", "far"), quick(SOFTMAX, SOFTMAX[:1]))
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


@pytest.mark.slow
@pytest.mark.usefixtures("short")
def test_a_norm_in_bfloat16_in_one_framework_is_named() -> None:
    report = compared(pair(partial(rms, True), partial(rms, False), "a head"), "bfloat16")
    assert notes(report)["between a and head"].startswith(
        "the norm, with its statistics, is computed in bfloat16 in Py"
    )
    report = compared(pair(partial(rms, True), partial(rms, True), "a head"), "bfloat16")
    assert "between a and head" not in notes(report)


@pytest.mark.usefixtures("short")
def test_a_norm_in_float32_in_both_that_is_rounded_before_its_scale_is_no_other_norm() -> None:
    class InJax(nnx.Module):
        def __init__(self):
            self.scale = nnx.Param(jnp.ones(16))

        def __call__(self, x: Any) -> Any:
            wide = x.astype(jnp.float32)
            wide = wide * jax.lax.rsqrt((wide**2).mean(-1, keepdims=True) + 1e-6)
            return self.scale[...] * wide.astype(x.dtype)

    class InTorch(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(16))

        def forward(self, x: Any) -> Any:
            wide = x.float()
            wide = wide * torch.rsqrt((wide**2).mean(-1, keepdim=True) + 1e-6)
            return self.scale * wide.to(x.dtype)

    networks = Jax(lambda net, x: net.b(x), b=InJax()), Torch(lambda net, x: net.b(x), b=InTorch())
    assert not notes(compared(networks, "bfloat16"))


@pytest.mark.usefixtures("short")
def test_a_stream_that_stays_float32_in_one_framework_is_named() -> None:
    def blocks(wide: bool, net: Any, x: Any) -> Any:
        y = net.a(x)
        for layer in (net.b, net.c, net.d):
            y = (y.astype(jnp.float32) if wide else y) + layer(y.astype(x.dtype) if wide else y)
        return net.head(y.astype(x.dtype) if wide else y)

    report = compared(pair(partial(blocks, True), partial(blocks, False), "a b c d head"), "bfloat16")
    assert report.passed
    named = notes(report)["between d and head"]
    assert named == "a sum is rounded to bfloat16 in PyTorch and stays float32 in JAX", report


@pytest.mark.usefixtures("short")
def test_a_network_that_one_framework_computes_in_float32_differs() -> None:
    models = pair(lambda net, x: net.head(net.a(x.astype(jnp.float32))), lambda net, x: net.head(net.a(x)), "a head")
    report = compared(models, "bfloat16")
    assert not report.passed
    assert report.diagnosis is not None
    assert report.diagnosis.cause == "its output stays float32 in JAX and is rounded to bfloat16 in PyTorch"
    distance = report.distances[0]
    assert distance.in_jax * 1000 < distance.in_torch


def cross_entropy(logits: jax.Array) -> jax.Array:
    return optax.softmax_cross_entropy_with_integer_labels(logits, LABELS).mean()


def torch_cross_entropy(logits: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(logits.flatten(0, 1), torch.tensor(LABELS.ravel()))


@pytest.mark.usefixtures("short")
def test_a_loss_in_bfloat16_in_one_framework_is_named() -> None:
    models = pair(lambda net, x: net.head(x), lambda net, x: net.head(x), "head")
    report = compared(models, "bfloat16", losses=(cross_entropy, lambda y: torch_cross_entropy(y.float())))
    assert notes(report)["the loss"] == "it is computed in bfloat16 in JAX and in float32 in PyTorch", report


@pytest.mark.usefixtures("short")
def test_a_layer_without_the_policy_of_the_others_is_named() -> None:
    here, there = pair(lambda net, x: net.head(net.b(net.a(x))), lambda net, x: net.head(net.b(net.a(x))), "a b head",
                       dtype=jnp.bfloat16)  # fmt: skip
    here.b.dtype = None
    report = compared((here, there), "mixed")
    assert notes(report)["b"].startswith("its output stays float32 in JAX and is rounded to bfloat16 in PyTorch"), (
        report
    )
    here.b.dtype = jnp.bfloat16
    assert "b" not in notes(compared((here, there), "mixed"))


def scaled(size: float, wide: bool, net: Any, x: Any) -> Any:
    y = net.a(x)
    z = y.astype(jnp.float32) if wide else y
    squares = (z * size) ** 2
    return net.head((squares / squares.max()).astype(y.dtype) if isinstance(y, jax.Array) else squares / squares.max())


@pytest.mark.usefixtures("short")
def test_a_number_beyond_float16_is_found_where_it_comes_first() -> None:
    models = pair(partial(scaled, 300.0, True), partial(scaled, 300.0, False), "a head")
    report = compared(models, "float16")
    assert not report.passed
    assert report.diagnosis is not None
    assert report.diagnosis.where == "between a and head"
    cause = report.diagnosis.cause or ""
    assert cause.startswith("the first number that is not finite in PyTorch: pow gives"), report
    assert cause.endswith("and float16 ends at 6.55e+04")


@pytest.mark.slow
@pytest.mark.usefixtures("short")
def test_an_eps_that_float16_rounds_to_zero_is_found() -> None:
    def normalized(net: Any, x: Any) -> Any:
        y = net.a(x)
        z = (y - y).astype(jnp.float32)
        return net.head((z / (jnp.abs(z).mean(-1, keepdims=True) + 1e-8)).astype(y.dtype) + y)

    def in_torch(net: Any, x: Any) -> Any:
        y = net.a(x)
        z = y - y
        return net.head(z / (z.abs().mean(-1, keepdim=True) + torch.tensor(1e-8, dtype=z.dtype)) + y)

    report = compared(pair(normalized, in_torch, "a head"), "float16")
    assert not report.passed
    assert "divides by a number, such as a small eps, that is 0 in float16" in str(report)


def gelu(approximate: bool, net: Any, x: Any) -> Any:
    y = net.a(x)
    if isinstance(y, jax.Array):
        return net.head(jax.nn.gelu(y, approximate=approximate))
    return net.head(F.gelu(y))


def test_a_mistake_that_float64_shows_differs_in_bfloat16_too() -> None:
    report = compared(pair(partial(gelu, True), partial(gelu, True), "a head"), "bfloat16")
    assert not report.passed
    assert report.about["dtype"] == "bfloat16"
    assert "GELU's tanh form" in str(report)
    here = Jax(lambda net, x: net.norm(x), norm=nnx.LayerNorm(16, epsilon=1e-6, rngs=nnx.Rngs(0)))
    report = compared((here, Torch(lambda net, x: net.norm(x), norm=nn.LayerNorm(16))), "bfloat16")
    assert not report.passed
    assert "eps differs: 1e-06 in JAX, 1e-05 in PyTorch" in str(report)


@pytest.mark.slow
def test_every_level_is_compared_in_float64_first_and_then_as_it_is_run() -> None:
    losses = cross_entropy, torch_cross_entropy
    report = compared(pair(partial(gelu, False), partial(gelu, False), "a head"), "bfloat16", losses=losses)
    assert report.passed, report
    assert [finding.level for finding in report.findings if finding.dtype == "float64"][:3] == [
        "every output", "the loss", "every gradient"]  # fmt: skip
    assert [finding.level for finding in report.findings if finding.dtype == "bfloat16"] == [
        "every output, bfloat16", "every output by entry, bfloat16", "the loss, bfloat16", "every gradient, bfloat16",
        "every gradient by entry, bfloat16"]  # fmt: skip
    assert {one.level for one in report.distances} >= {"outputs", "the loss", "gradients"}
    assert report.to_json()["distances"][0] == report.distances[0]._asdict()
    first = f"{report.distances[0].in_jax:.1e}"
    assert all("own float64" in page and first in page for page in (report.to_markdown(), report.to_html()))
    assert "rounded apart in JAX" in report.to_markdown()


@pytest.mark.usefixtures("short")
def test_modules_as_they_are_run() -> None:
    here, there = pair(lambda net, x: net.head(net.a(x)), lambda net, x: net.head(net.a(x)), "a head")
    assert compared((here, there), "as run").passed  # float32 in both
    low = pair(lambda net, x: net.head(net.a(x)), lambda net, x: net.head(net.a(x)), "a head", dtype=jnp.bfloat16)[0]
    report = compared((low, there), "as run")
    assert not report.passed
    assert "stays float32 in PyTorch and is rounded to bfloat16 in JAX" in str(report)
    inputs = jnp.asarray(ROWS, jnp.bfloat16)
    report = compare_modules(low, None, there.bfloat16(), None, inputs, weights="torch", dtype="as run")
    assert report.passed, report
    assert notes(report)["head.bias"] == "it is held in float32 in JAX and in bfloat16 in PyTorch"


@pytest.mark.usefixtures("short")
def test_products_in_fewer_bits_in_one_framework_are_named() -> None:
    def product(net: Any, x: Any) -> Any:
        if jax.config.jax_default_matmul_precision is None:  # type: ignore[attr-defined]
            x = jax.lax.reduce_precision(x, 8, 10)  # as a GPU does in TF32
        return net.head(x)

    report = compared(pair(product, lambda net, x: net.head(x), "head"), "as run")
    assert not report.passed
    cause = "products are computed with fewer bits (TF32) in JAX and with all of float32 in PyTorch"
    assert notes(report)["output"] == cause
    assert report.diagnosis is not None
    assert report.diagnosis.cause == cause


@pytest.mark.slow
@pytest.mark.usefixtures("short")
def test_a_buffer_that_is_rounded_with_the_module_is_named() -> None:
    """As the frequencies of rotary positions are by `module.to(torch.bfloat16)`."""
    places, frequencies = (
        50 * np.arange(1, 11)[:, None],
        (1001 + 37 * np.arange(16)) / 1024,
    )  # more bits than bfloat16's

    class Turned(Torch):
        def __init__(self, **layers: nn.Module):
            super().__init__(lambda net, x: x, **layers)
            self.register_buffer("frequencies", torch.tensor(frequencies, dtype=torch.float32))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            angles = torch.as_tensor(places).float() * self.frequencies.float()  # type: ignore[operator]
            return self.head(x * angles.cos().to(x.dtype))  # type: ignore[operator]

    here, there = pair(lambda net, x: net.head(x * jnp.cos(jnp.asarray(places * frequencies)).astype(x.dtype)),
                       lambda net, x: x, "head")  # fmt: skip
    report = compared((here, Turned(head=there.head)), "bfloat16")
    assert not report.passed
    assert report.diagnosis is not None
    assert (report.diagnosis.cause or "").startswith("frequencies, which JAX computes, is rounded in PyTorch"), report


class Linen(linen.Module):
    dtype: Any = None

    @linen.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = jax.nn.silu(linen.Dense(16, name="a", dtype=self.dtype)(x))
        return linen.Dense(8, name="head", dtype=self.dtype)(x)


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("dtype", quick([None, jnp.bfloat16, jnp.float32], [jnp.bfloat16]))
def test_linen_modules_with_a_policy_of_their_own_and_without(dtype) -> None:
    there = pair(lambda net, x: x, lambda net, x: net.head(F.silu(net.a(x))), "a head")[1]
    variables = Linen().init(jax.random.key(0), jnp.ones((1, 16)))
    report = compare_modules(Linen(dtype), variables, there, None, ROWS, dtype="mixed")
    assert report.passed, report


def test_what_can_not_be_compared_is_said_in_one_sentence() -> None:
    models = pair(lambda net, x: net.head(x), lambda net, x: net.head(x), "head")
    with pytest.raises(InputError, match=r"dtype: expected one of float64, float32, bfloat16, .*, found 'half'\."):
        compared(models, "half")
    adam = optax.adam(1e-3), partial(torch.optim.Adam, lr=1e-3)
    with pytest.raises(InputError, match="optimizers: steps are compared in float64 and float32"):
        compared(models, "bfloat16", losses=SQUARES, optimizers=adam)
    with pytest.raises(InputError, match="dtype: 'tf32' needs a GPU"):
        compared(models, "tf32")
    with pytest.raises(InputError, match="dtype: the models hold no floats, which 'bfloat16' is about"):
        compare_modules(lambda _, x: 2 * x, {}, Torch(lambda net, x: 2 * x), None, np.arange(1, 4), dtype="bfloat16")
    turned = np.exp(1j * np.arange(1, 4))
    with pytest.raises(InputError, match="dtype: complex numbers are compared in float64 and float32"):
        compare_modules(lambda _, x: 2 * x, {}, Torch(lambda net, x: 2 * x), None, turned, dtype="bfloat16")


@pytest.mark.usefixtures("short")
def test_a_module_that_can_not_run_in_the_dtype_is_named() -> None:
    models = pair(
        lambda net, x: net.head(net.a(x)), lambda net, x: net.head(net.a(x).masked_fill(x > 9, -1e9)), "a head"
    )
    with pytest.raises(ModelError, match=r"The torch module in float16, after a, raised .* without overflow"):
        compared(models, "float16")
