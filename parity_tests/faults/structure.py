"""Faults in how layers are connected: attention, residual connections, images resized and padded, and gradients."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch.nn.functional as F
from flax import nnx
from torch import nn

from parity_tests.faults.fault import GRADIENTS, OUTPUTS, Fault
from parity_tests.harness.findings import Report
from parity_tests.harness.modules.hypotheses import attention, backward, branches, layers, positions
from parity_tests.harness.modules.mapping import Transform
from parity_tests.support.small_nets import IMAGES, ROWS, JaxNet, TorchNet, compare

SEQUENCES = np.random.default_rng(2).normal(size=(2, 5, 8))
MEMORY = np.random.default_rng(3).normal(size=(2, 7, 8))
SEEN = np.arange(7) < np.array([[4], [6]])
SQUARES = (lambda y: (y**2).mean(), lambda y: (y**2).mean())


def attend(heads: int = 2, scale: float = 0.5, mask: int | None = None, axis: int = -1, dtype: Any = None) -> Callable:
    """Return attention of three projections `[batch, length, features]`, of either framework's arrays."""

    def mixed(q: Any, k: Any, v: Any) -> Any:
        xp: Any = torch if isinstance(q, torch.Tensor) else jnp
        q, k, v = (x.reshape(*x.shape[:2], heads, -1).swapaxes(1, 2) for x in (q, k, v))
        scores = scale * (q @ k.swapaxes(-1, -2))
        if mask is not None:
            seen = xp.asarray(np.tri(scores.shape[-2], scores.shape[-1], mask, dtype=bool))
            scores = xp.where(seen, scores, xp.asarray(-np.inf, dtype=scores.dtype))
        if dtype is not None:
            scores = scores.astype(dtype)
        weights = torch.softmax(scores, axis) if xp is torch else jax.nn.softmax(scores, axis).astype(v.dtype)
        return (weights @ v).swapaxes(1, 2).reshape(v.shape[0], v.shape[2], -1)

    return mixed


def attending(in_jax: Callable, in_torch: Callable = attend()) -> Report:  # noqa: B008, a function of no state
    """Compare attention between linear layers."""
    ours, theirs = (lambda n, x, a=a: n.out(a(n.query(x), n.key(x), n.value(x))) for a in (in_jax, in_torch))
    names = ("query", "key", "value", "out")
    return compare(
        JaxNet(ours, **{name: nnx.Linear(8, 8, rngs=nnx.Rngs(0)) for name in names}),
        TorchNet(theirs, **{name: nn.Linear(8, 8) for name in names}),
        SEQUENCES,
    )


def packed(**options: Any) -> Report:
    """Compare Flax's attention with torch's, whose projections are one tensor."""
    ours = nnx.MultiHeadAttention(options.pop("num_heads", 2), 8, decode=False, rngs=nnx.Rngs(0))
    mask = np.tri(5, dtype=bool)[None, None] if options.pop("causal", False) else None
    theirs = TorchNet(lambda n, x: n.a(x, x, x, need_weights=False)[0], a=nn.MultiheadAttention(8, 2, batch_first=True))
    return compare(JaxNet(lambda n, x: n.a(x, mask=mask), a=ours), theirs, SEQUENCES)


def plain(x: Any) -> Any:
    return x


def to_memory(in_jax: Callable = plain, in_torch: Callable = plain, seen: np.ndarray = SEEN) -> Report:
    """Compare attention from linear layers of one sequence to those of another, with a mask of its keys that the
    functions map."""

    def of(mask: Callable, split: Callable, mixed: Callable) -> Callable:
        def call(n: Any, x: Any, memory: Any, seen: Any) -> Any:
            heads = [split(layer(y)) for layer, y in ((n.query, x), (n.key, memory), (n.value, memory))]
            return n.out(mixed(*heads, None if (own := mask(seen)) is None else own[:, None, None]))

        return call

    names = ("query", "key", "value", "out")
    ours = of(
        in_jax,
        lambda y: y.reshape(*y.shape[:2], 2, 4),
        lambda q, k, v, mask: nnx.dot_product_attention(q, k, v, mask=mask).reshape(*q.shape[:2], 8),
    )
    theirs = of(
        in_torch,
        lambda y: y.unflatten(-1, (2, 4)).transpose(1, 2),
        lambda q, k, v, mask: F.scaled_dot_product_attention(q, k, v, mask).transpose(1, 2).flatten(2),
    )
    return compare(
        JaxNet(ours, **{name: nnx.Linear(8, 8, rngs=nnx.Rngs(0)) for name in names}),
        TorchNet(theirs, **{name: nn.Linear(8, 8) for name in names}),
        (SEQUENCES, MEMORY, seen),
    )


def packed_to_memory(mask: Callable) -> Report:
    """Compare Flax's attention to another sequence with torch's, which takes the keys that it is not to see."""
    ours = nnx.MultiHeadAttention(2, 8, decode=False, rngs=nnx.Rngs(0))
    theirs = TorchNet(
        lambda n, x, memory, hidden: n.a(x, memory, memory, key_padding_mask=hidden, need_weights=False)[0],
        a=nn.MultiheadAttention(8, 2, batch_first=True),
    )
    net = JaxNet(lambda n, x, memory, hidden: n.a(x, memory, mask=mask(hidden)), a=ours)
    return compare(net, theirs, (SEQUENCES, MEMORY, ~SEEN))


def chained(in_jax: Callable, in_torch: Callable, **options: Any) -> Report:
    """Compare three linear layers and a norm, connected by two functions."""
    here = {name: nnx.Linear(8, 8, rngs=nnx.Rngs(0)) for name in "abc"}
    there: dict[str, nn.Module] = {name: nn.Linear(8, 8) for name in "abc"}
    norm = nnx.LayerNorm(8, epsilon=1e-5, use_fast_variance=False, rngs=nnx.Rngs(0))
    return compare(JaxNet(in_jax, **here, n=norm), TorchNet(in_torch, **there, n=nn.LayerNorm(8)), ROWS, **options)


def rotated(kind: str, base: float, attention: Callable = attend()) -> Callable:  # noqa: B008, a function of no state
    """Return attention of two heads whose queries and keys are turned by the angles of their positions."""
    angles = np.arange(5)[:, None] * base ** (-np.arange(2) / 2)

    def turned(x: Any) -> Any:
        xp: Any = torch if isinstance(x, torch.Tensor) else jnp
        cos, sin = xp.asarray(np.cos(angles)), xp.asarray(np.sin(angles))
        heads = x.reshape(2, 5, 2, 4).swapaxes(1, 2)
        a, b = (heads[..., :2], heads[..., 2:]) if kind == "halves" else (heads[..., ::2], heads[..., 1::2])
        parts = [a * cos - b * sin, b * cos + a * sin]
        joined = xp.concatenate(parts, -1) if kind == "halves" else xp.stack(parts, -1).reshape(heads.shape)
        return joined.swapaxes(1, 2).reshape(x.shape)

    return lambda q, k, v: attention(turned(q), turned(k), v)


class JaxTable(nnx.Module):
    def __init__(self) -> None:
        self.rows = nnx.Param(jax.random.normal(jax.random.key(1), (9, 8)))


class TorchTable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.zeros(1, 9, 8))


def positioned(in_jax: int | None, in_torch: int | None) -> Report:
    """Compare two linear layers, with rows of a table from these on added between them, or none."""

    def forward(first: int | None) -> Callable:
        def added(n: Any, x: Any) -> Any:
            y, rows = n.a(x), n.table.rows.reshape(9, 8)
            return n.b(y if first is None else y + rows[first : first + 5])

        return added

    ours = {name: nnx.Linear(8, 8, rngs=nnx.Rngs(0)) for name in "ab"}
    theirs = {name: nn.Linear(8, 8) for name in "ab"}
    mapping = {f"{n}/{a}": f"{n}.{b}" for n in "ab" for a, b in (("kernel", "weight"), ("bias", "bias"))}
    return compare(
        JaxNet(forward(in_jax), table=JaxTable(), **ours),
        TorchNet(forward(in_torch), table=TorchTable(), **theirs),
        SEQUENCES,
        mapping | {"table/rows": ("table.rows", Transform(lambda x: x[None], lambda x: x[0]))},
    )


def imaged(in_jax: Callable, in_torch: Callable) -> Report:
    """Compare two convolutions with an operation on images between them."""
    here = {"a": nnx.Conv(4, 3, (3, 3), padding=1, rngs=nnx.Rngs(0))}
    here["b"] = nnx.Conv(3, 2, (3, 3), padding="VALID", rngs=nnx.Rngs(0))
    there = {"a": nn.Conv2d(4, 3, 3, padding=1), "b": nn.Conv2d(3, 2, 3)}
    return compare(
        JaxNet(lambda n, x: n.b(in_jax(n.a(x))), **here), TorchNet(lambda n, x: n.b(in_torch(n.a(x))), **there), IMAGES
    )


def residual(n: Any, x: Any) -> Any:
    y = n.a(n.n(x))
    return n.c(n.b(y) + y)


def backward_only(in_jax: Callable, in_torch: Callable) -> Report:
    """Compare three linear layers whose outputs agree and whose gradients do not."""
    return chained(in_jax, in_torch, losses=SQUARES)


def branching(stop: Callable) -> Callable:
    def forward(n: Any, x: Any) -> Any:
        y = n.a(n.n(x))
        return n.c(n.b(stop(y)) + y)

    return forward


def stretched(x: torch.Tensor) -> torch.Tensor:
    """Return x, with half of its gradient."""
    return x / 2 + (x / 2).detach()


double = partial(F.interpolate, scale_factor=2)
bilinear = partial(jax.image.resize, shape=(3, 16, 16, 3), method="bilinear")

FAULTS = [
    Fault("attention's heads", "JAX", OUTPUTS, attention.HEADS, lambda: attending(attend(heads=4))),
    Fault("attention's scale", "JAX", OUTPUTS, attention.SCALE, lambda: attending(attend(scale=8**-0.5))),
    Fault("attention, not scaled", "PyTorch", OUTPUTS, attention.SCALE,
          lambda: attending(attend(), attend(scale=1.0))),
    Fault("attention, causal", "JAX", OUTPUTS, attention.MASK, lambda: attending(attend(mask=0))),
    Fault("attention, mask dropped", "JAX", OUTPUTS, attention.MASK, lambda: attending(attend(), attend(mask=0))),
    Fault("attention, mask a key long", "PyTorch", OUTPUTS, attention.MASK,
          lambda: attending(attend(mask=0), attend(mask=1))),
    Fault("softmax over the queries", "JAX", OUTPUTS, attention.AXIS, lambda: attending(attend(axis=-2))),
    Fault("query and key exchanged", "JAX", OUTPUTS, attention.SWAPPED,
          lambda: attending(lambda q, k, v: attend()(k, q, v))),
    Fault("key and value exchanged", "PyTorch", OUTPUTS, attention.SWAPPED,
          lambda: attending(attend(), lambda q, k, v: attend()(q, v, k))),
    Fault("softmax in float32", "JAX", OUTPUTS, attention.SINGLE, lambda: attending(attend(dtype=jnp.float32))),
    Fault("rotary embeddings left out", "JAX", OUTPUTS, attention.ROTARY,
          lambda: attending(attend(), rotated("halves", 1e4))),
    Fault("rotary base", "PyTorch", OUTPUTS, attention.ROTARY,
          lambda: attending(rotated("pairs", 1e4), rotated("pairs", 5e5))),
    Fault("rotary halves for pairs", "JAX", OUTPUTS, attention.ROTARY,
          lambda: attending(rotated("halves", 1e4, attend(mask=0)), rotated("pairs", 1e4, attend(mask=0)))),
    Fault("positions from another row", "JAX", OUTPUTS, positions.POSITIONS, lambda: positioned(2, 0)),
    Fault("positions not added", "PyTorch", OUTPUTS, positions.NO_POSITIONS, lambda: positioned(0, None)),
    Fault("heads of packed attention", "JAX", OUTPUTS, attention.HEADS, lambda: packed(num_heads=4)),
    Fault("mask of packed attention", "JAX", OUTPUTS, attention.MASK, lambda: packed(causal=True)),
    Fault("residual connection left out", "JAX", OUTPUTS, branches.RESIDUAL_MISSING,
          lambda: chained(lambda n, x: n.c(n.b(n.a(n.n(x)))), residual)),
    Fault("residual connection scaled", "PyTorch", OUTPUTS, branches.RESIDUAL_SCALE,
          lambda: chained(residual, lambda n, x: n.c(n.b(y := n.a(n.n(x))) + 0.5 * y))),
    Fault("residual from before the norm", "JAX", OUTPUTS, branches.RESIDUAL_SOURCE,
          lambda: chained(lambda n, x: n.c(n.b(n.a(n.n(x))) + x), lambda n, x: n.c(n.b(n.a(y := n.n(x))) + y))),
    Fault("activation before the addition", "JAX", OUTPUTS, branches.BEFORE_ADDITION,
          lambda: chained(lambda n, x: n.c(jax.nn.relu(n.b(y := n.a(n.n(x)))) + y),
                          lambda n, x: n.c(F.relu(n.b(y := n.a(n.n(x))) + y)))),
    Fault("pre-norm for post-norm", "JAX", OUTPUTS, branches.WIRING,
          lambda: chained(lambda n, x: n.c(n.b(n.a(n.n(x))) + x), lambda n, x: n.c(n.n(n.b(n.a(x)) + x)))),
    Fault("bilinear for nearest", "JAX", OUTPUTS, branches.INTERPOLATION, lambda: imaged(bilinear, double)),
    Fault("corners aligned", "PyTorch", OUTPUTS, branches.INTERPOLATION,
          lambda: imaged(bilinear, partial(double, mode="bilinear", align_corners=True))),
    Fault("explicit padding at the start", "JAX", OUTPUTS, branches.PADDING,
          lambda: imaged(lambda x: jnp.pad(x, ((0, 0), (1, 0), (1, 0), (0, 0))), lambda x: F.pad(x, (0, 1, 0, 1)))),
    Fault("padding by reflection", "PyTorch", OUTPUTS, branches.PADDING,
          lambda: imaged(lambda x: jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))),
                         lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect"))),
    Fault("a layer's output multiplied", "JAX", OUTPUTS, layers.SCALED, lambda: multiplied(1.5)),
    Fault("one branch's gradient stopped", "JAX", GRADIENTS, backward.NO_GRADIENT,
          lambda: backward_only(lambda n, x: n.c(jax.lax.stop_gradient(n.b(y := n.a(n.n(x)))) + y), residual)),
    Fault("a branch stopped at its start", "PyTorch", GRADIENTS, backward.BRANCH_STOPPED,
          lambda: backward_only(branching(lambda y: y), branching(torch.detach))),
    Fault("gradient halved", "PyTorch", GRADIENTS, backward.GRADIENT_SCALED,
          lambda: backward_only(residual, lambda n, x: n.c(stretched(n.b(y := n.a(n.n(x)))) + y))),
    Fault("mask of the memory inverted", "JAX", OUTPUTS, attention.INVERTED, lambda: to_memory(lambda seen: ~seen)),
    Fault("mask of the memory left out", "JAX", OUTPUTS, attention.MASK, lambda: to_memory(lambda seen: None)),
    Fault("mask of the memory left out in torch", "PyTorch", OUTPUTS, attention.MASK,
          lambda: to_memory(plain, lambda seen: None)),
    Fault("hidden keys of packed attention seen", "JAX", OUTPUTS, attention.MASK,
          lambda: packed_to_memory(lambda hidden: None)),
    Fault("hidden keys of packed attention inverted", "JAX", OUTPUTS, attention.INVERTED,
          lambda: packed_to_memory(lambda hidden: hidden[:, None, None])),
    Fault("a row of the memory hidden", "JAX", OUTPUTS, attention.NO_KEY,
          lambda: to_memory(seen=SEEN & np.array([[False], [True]]))),
]  # fmt: skip


def multiplied(factor: float) -> Report:
    class Multiplied(nnx.Linear):
        def __call__(self, inputs: jax.Array) -> jax.Array:
            return factor * super().__call__(inputs)

    ours = JaxNet(lambda n, x: n.a(x), a=Multiplied(8, 5, rngs=nnx.Rngs(0)))
    return compare(ours, TorchNet(lambda n, x: n.a(x), a=nn.Linear(8, 5)), ROWS)
