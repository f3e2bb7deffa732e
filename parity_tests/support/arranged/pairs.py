"""Pairs of modules of which one holds in one array, or elsewhere, what the other holds in several."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as fnn
import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch.nn.functional as F
from flax import nnx
from torch import nn

RNG = np.random.default_rng(0)
X = RNG.normal(size=(2, 5, 8))
IDS = RNG.integers(0, 11, size=(2, 5))
LOSSES = (lambda y: jnp.square(y).mean(), lambda y: y.square().mean())
NAMES = {
    "projections": ("q_proj", "k_proj", "v_proj", "out_proj"),
    "letters": ("wq", "wk", "wv", "wo"),
    "to": ("to_q", "to_k", "to_v", "to_out"),
}


class Held(nn.Module):
    """A layer under the name `attn`."""

    def __init__(self, attn: nn.Module):
        super().__init__()
        self.attn = attn

    def forward(self, x: Any) -> Any:
        return self.attn(x)


class HeldInJax(nnx.Module):
    def __init__(self, attn: nnx.Module):
        self.attn = attn

    def __call__(self, x: Any) -> Any:
        return self.attn(x)


class TorchsAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attn = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Any) -> Any:
        return self.attn(x, x, x, need_weights=False)[0]


def attended(q: Any, k: Any, v: Any) -> Any:
    heads = (part.unflatten(-1, (2, -1)).transpose(1, 2) for part in (q, k, v))
    return F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)


def attended_in_jax(q: Any, k: Any, v: Any) -> Any:
    return nnx.dot_product_attention(*(part.reshape(*part.shape[:-1], 2, -1) for part in (q, k, v))).reshape(q.shape)


class Linears(nn.Module):
    """Attention of four layers; `order` is that in which they are called."""

    def __init__(self, names: Sequence[str], order: Sequence[int] = (0, 1, 2)):
        super().__init__()
        self.names, self.order = names, order
        for name in names:
            setattr(self, name, nn.Linear(8, 8))

    def forward(self, x: Any) -> Any:
        parts = {i: getattr(self, self.names[i])(x) for i in self.order}
        return getattr(self, self.names[3])(attended(parts[0], parts[1], parts[2]))


class LinearsInJax(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.query, self.key, self.value, self.out = (nnx.Linear(8, 8, rngs=rngs) for _ in range(4))

    def __call__(self, x: Any) -> Any:
        return self.out(attended_in_jax(self.query(x), self.key(x), self.value(x)))


class Fused(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv, self.proj = nn.Linear(8, 24), nn.Linear(8, 8)

    def forward(self, x: Any) -> Any:
        return self.proj(attended(*self.qkv(x).chunk(3, -1)))


class FusedInJax(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.qkv, self.proj = nnx.Linear(8, 24, rngs=rngs), nnx.Linear(8, 8, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        return self.proj(attended_in_jax(*jnp.split(self.qkv(x), 3, -1)))


def flaxs_attention() -> nnx.Module:
    return HeldInJax(nnx.MultiHeadAttention(2, 8, decode=False, rngs=nnx.Rngs(0)))


class Gated(nn.Module):
    """A gated layer, with gate and values in one matrix or in two."""

    def __init__(self, fused: bool):
        super().__init__()
        self.fused, self.down = fused, nn.Linear(12, 8)
        if fused:
            self.gate_up_proj = nn.Linear(8, 24, bias=False)
        else:
            self.gate_proj, self.up_proj = nn.Linear(8, 12, bias=False), nn.Linear(8, 12, bias=False)

    def forward(self, x: Any) -> Any:
        gate, up = self.gate_up_proj(x).chunk(2, -1) if self.fused else (self.gate_proj(x), self.up_proj(x))
        return self.down(F.silu(gate) * up)


class GatedInJax(nnx.Module):
    def __init__(self, fused: bool, rngs: nnx.Rngs):
        self.fused, self.down = fused, nnx.Linear(12, 8, rngs=rngs)
        if fused:
            self.gate_up_proj = nnx.Linear(8, 24, use_bias=False, rngs=rngs)
        else:
            self.gate_proj, self.up_proj = (nnx.Linear(8, 12, use_bias=False, rngs=rngs) for _ in range(2))

    def __call__(self, x: Any) -> Any:
        gate, up = jnp.split(self.gate_up_proj(x), 2, -1) if self.fused else (self.gate_proj(x), self.up_proj(x))
        return self.down(nnx.silu(gate) * up)


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase], **options: Any):
        super().__init__()
        self.rnn = kind(8, 8, batch_first=True, **options)  # type: ignore[arg-type]

    def forward(self, x: Any) -> Any:
        return self.rnn(x)[0]


class RecurrentInJax(nnx.Module):
    def __init__(self, cell: Any, layers: int = 1):
        self.layers = nnx.List([nnx.RNN(cell(8, 8, rngs=nnx.Rngs(i))) for i in range(layers)])

    def __call__(self, x: Any) -> Any:
        for layer in self.layers:
            x = layer(x)
        return x


class BothWays(nnx.Module):
    def __init__(self):
        self.both = nnx.Bidirectional(*(nnx.RNN(nnx.OptimizedLSTMCell(8, 8, rngs=nnx.Rngs(i))) for i in range(2)))

    def __call__(self, x: Any) -> Any:
        return self.both(x)


class Stepped(nn.Module):
    """Torch's cell, called by a loop."""

    def __init__(self):
        super().__init__()
        self.cell = nn.LSTMCell(8, 8)

    def forward(self, x: Any) -> Any:
        h = c = x.new_zeros(len(x), 8)
        outputs = []
        for time in range(x.shape[1]):
            h, c = self.cell(x[:, time], (h, c))
            outputs.append(h)
        return torch.stack(outputs, 1)


def linen(make: Callable[[], Callable[[Any], Any]]) -> tuple[Any, Any]:
    """A Linen module that calls what `make` returns, and its variables."""

    class Model(fnn.Module):
        @fnn.compact
        def __call__(self, x: Any) -> Any:
            return make()(x)

    return Model(), Model().init(jax.random.key(0), jnp.asarray(X, jnp.float32))


class Block(nn.Module):
    def __init__(self, eps: float = 1e-6, approximate: str = "none"):
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(8, eps=eps), nn.Linear(8, 16), nn.Linear(16, 8)
        self.approximate = approximate

    def forward(self, x: Any) -> Any:
        return x + self.down(F.gelu(self.up(self.norm(x)), approximate=self.approximate))


class Stack(nn.Module):
    def __init__(self, *blocks: nn.Module):
        super().__init__()
        self.layers, self.head = nn.ModuleList(blocks or (Block(), Block(), Block())), nn.Linear(8, 3)

    def forward(self, x: Any) -> Any:
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


class BlockInNNX(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.norm = nnx.LayerNorm(8, rngs=rngs)
        self.up, self.down = nnx.Linear(8, 16, rngs=rngs), nnx.Linear(16, 8, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        return x + self.down(nnx.gelu(self.up(self.norm(x)), approximate=False))


class ScannedInNNX(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        make = nnx.split_rngs(splits=3)(nnx.vmap(BlockInNNX, in_axes=(0,), out_axes=0))
        self.layers, self.head = make(rngs), nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        scanned = nnx.scan(lambda layer, x: layer(x), in_axes=(0, nnx.Carry), out_axes=nnx.Carry)
        return self.head(scanned(self.layers, x))


class BlockInLinen(fnn.Module):
    @fnn.compact
    def __call__(self, x: Any) -> Any:
        h = fnn.Dense(16)(fnn.LayerNorm()(x))
        return x + fnn.Dense(8)(jax.nn.gelu(h, approximate=False)), None


def scanned_in_linen(axis: int = 0) -> Any:
    scan = fnn.scan(BlockInLinen, variable_axes={"params": axis}, split_rngs={"params": True}, length=3)
    return lambda x: fnn.Dense(3)(scan()(x)[0])


class ScannedAlone(BlockInNNX):
    """Whose own arrays are stacks."""

    def __init__(self, rngs: nnx.Rngs):
        super().__init__(rngs)
        blocks = [BlockInNNX(rngs) for _ in range(3)]
        layers = [nnx.split(block)[1] for block in blocks]
        nnx.update(self, jax.tree.map(lambda *parts: jnp.stack(parts), *layers))

    def __call__(self, x: Any) -> Any:
        graph, layers = nnx.split(self)
        step = lambda x, layer: (BlockInNNX.__call__(nnx.merge(graph, layer), x), None)  # noqa: E731
        return jax.lax.scan(step, x, layers)[0]


class Tied(nnx.Module):
    """A table that is also the last layer, or two arrays of the same numbers."""

    def __init__(self, tied: bool, rngs: nnx.Rngs):
        self.tied, self.embed, self.mid = tied, nnx.Embed(11, 8, rngs=rngs), nnx.Linear(8, 8, rngs=rngs)
        if not tied:
            self.head = nnx.Linear(8, 11, use_bias=False, rngs=rngs)
            self.head.kernel[...] = self.embed.embedding[...].T

    def __call__(self, ids: Any) -> Any:
        x = self.mid(self.embed(ids))
        return self.embed.attend(x) if self.tied else self.head(x)


class TiedInTorch(nn.Module):
    def __init__(self, tied: bool):
        super().__init__()
        self.embed, self.mid, self.head = nn.Embedding(11, 8), nn.Linear(8, 8), nn.Linear(8, 11, bias=False)
        if tied:
            self.head.weight = self.embed.weight

    def forward(self, ids: Any) -> Any:
        return self.head(self.mid(self.embed(ids)))


class TwoTies(TiedInTorch):
    """With two layers in between that are one."""

    def __init__(self):
        super().__init__(True)
        self.again = self.mid

    def forward(self, ids: Any) -> Any:
        return self.head(self.again(torch.tanh(self.mid(self.embed(ids)))))


class TwoTiesInJax(Tied):
    """With two layers in between that hold the same numbers."""

    def __init__(self, rngs: nnx.Rngs):
        super().__init__(True, rngs)
        self.again = nnx.Linear(8, 8, rngs=rngs)
        self.again.kernel[...] = self.mid.kernel[...]

    def __call__(self, ids: Any) -> Any:
        return self.embed.attend(self.again(jnp.tanh(self.mid(self.embed(ids)))))


class TiedAround(TiedInTorch):
    """With an LSTM between the table and the last layer."""

    def __init__(self):
        super().__init__(True)
        self.mid = Recurrent(nn.LSTM)  # type: ignore[assignment]


class TiedAroundInJax(Tied):
    def __init__(self, rngs: nnx.Rngs):
        super().__init__(True, rngs)
        self.mid = RecurrentInJax(nnx.OptimizedLSTMCell)  # type: ignore[assignment]


class Twice(nn.Module):
    """One layer under two names, or two of the same numbers."""

    def __init__(self, tied: bool):
        super().__init__()
        self.a = self.b = nn.Linear(8, 8)
        if not tied:
            self.b = copy.deepcopy(self.a)

    def forward(self, x: Any) -> Any:
        return self.b(torch.tanh(self.a(x)))


class TwiceInJax(nnx.Module):
    def __init__(self, tied: bool):
        self.a, self.b = (nnx.Linear(8, 8, rngs=nnx.Rngs(0)) for _ in range(2))
        if tied:
            self.b = self.a

    def __call__(self, x: Any) -> Any:
        return self.b(jnp.tanh(self.a(x)))


class Normed(nn.Module):
    def __init__(self, normed: Callable[[nn.Module], nn.Module] = lambda layer: layer):
        super().__init__()
        self.lin, self.out = normed(nn.Linear(8, 6)), nn.Linear(6, 3)

    def forward(self, x: Any) -> Any:
        return self.out(torch.tanh(self.lin(x)))


class Plain(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.lin, self.out = nnx.Linear(8, 6, rngs=rngs), nnx.Linear(6, 3, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        return self.out(jnp.tanh(self.lin(x)))


def normed_in_linen() -> Any:
    lin = fnn.WeightNorm(fnn.Dense(6, name="lin"), epsilon=0.0)  # torch's has no epsilon
    return lambda x: fnn.Dense(3, name="out")(jnp.tanh(lin(x)))


def rectified() -> tuple[Any, ...]:
    model = nnx.Sequential(nnx.Linear(8, 6, rngs=nnx.Rngs(0)), nnx.PReLU(), nnx.Linear(6, 3, rngs=nnx.Rngs(1)))
    return model, None, nn.Sequential(nn.Linear(8, 6), nn.PReLU(), nn.Linear(6, 3))


def recurrent(cell: Any, kind: Any, layers: int = 1) -> tuple[Any, ...]:
    return RecurrentInJax(cell, layers), None, Recurrent(kind, num_layers=layers)


def linen_cell(cell: Any, kind: Any) -> tuple[Any, ...]:
    return *linen(lambda: fnn.RNN(cell(8))), Recurrent(kind)


WEIGHT_NORM = nn.utils.parametrizations.weight_norm
PAIRS: dict[str, Callable[[], tuple[Any, ...]]] = {
    "attention, torch's own": lambda: (flaxs_attention(), None, TorchsAttention()),
    "attention, q_proj": lambda: (flaxs_attention(), None, Held(Linears(NAMES["projections"]))),
    "attention, wq called last": lambda: (flaxs_attention(), None, Held(Linears(NAMES["letters"], (2, 1, 0)))),
    "attention, to_q": lambda: (flaxs_attention(), None, Held(Linears(NAMES["to"], (1, 0, 2)))),
    "attention, Linen": lambda: (
        *linen(lambda: lambda x: fnn.MultiHeadDotProductAttention(2)(x, x)),
        TorchsAttention(),
    ),
    "attention, fused in torch": lambda: (flaxs_attention(), None, Held(Fused())),
    "linears, fused in torch": lambda: (HeldInJax(LinearsInJax(nnx.Rngs(0))), None, Held(Fused())),
    "linears, fused in JAX": lambda: (
        HeldInJax(FusedInJax(nnx.Rngs(0))),
        None,
        Held(Linears(NAMES["projections"])),
    ),
    "fused in JAX, torch's attention": lambda: (HeldInJax(FusedInJax(nnx.Rngs(0))), None, TorchsAttention()),
    "gates, fused in JAX": lambda: (GatedInJax(True, nnx.Rngs(0)), None, Gated(False)),
    "gates, fused in torch": lambda: (GatedInJax(False, nnx.Rngs(0)), None, Gated(True)),
    "gates, each fused where the other is apart": lambda: (
        nnx.Sequential(GatedInJax(False, nnx.Rngs(0)), GatedInJax(True, nnx.Rngs(1))),
        None,
        nn.Sequential(Gated(True), Gated(False)),
    ),
    "LSTM": lambda: recurrent(nnx.OptimizedLSTMCell, nn.LSTM),
    "LSTM, gates apart": lambda: recurrent(nnx.LSTMCell, nn.LSTM),
    "LSTM, two layers": lambda: recurrent(nnx.OptimizedLSTMCell, nn.LSTM, 2),
    "LSTM, both ways": lambda: (BothWays(), None, Recurrent(nn.LSTM, bidirectional=True)),
    "LSTM, torch's cell": lambda: (RecurrentInJax(nnx.OptimizedLSTMCell), None, Stepped()),
    "GRU": lambda: recurrent(nnx.GRUCell, nn.GRU),
    "simple": lambda: recurrent(nnx.SimpleCell, nn.RNN),
    "LSTM, Linen": lambda: linen_cell(fnn.LSTMCell, nn.LSTM),
    "GRU, Linen": lambda: linen_cell(fnn.GRUCell, nn.GRU),
    "simple, Linen": lambda: linen_cell(fnn.SimpleCell, nn.RNN),
    "stack": lambda: (ScannedInNNX(nnx.Rngs(0)), None, Stack()),
    "stack, Linen": lambda: (*linen(scanned_in_linen), Stack()),
    "stack along axis 1": lambda: (*linen(lambda: scanned_in_linen(1)), Stack()),
    "stack along the last axis": lambda: (*linen(lambda: scanned_in_linen(-1)), Stack()),
    "a whole model's stack": lambda: (ScannedAlone(nnx.Rngs(0)), None, nn.Sequential(Block(), Block(), Block())),
    "tied in both": lambda: (Tied(True, nnx.Rngs(0)), None, TiedInTorch(True), IDS),
    "tied in both, around an LSTM": lambda: (TiedAroundInJax(nnx.Rngs(0)), None, TiedAround(), IDS),
    "a layer twice in torch": lambda: (TwiceInJax(False), None, Twice(True)),
    "a layer twice in JAX": lambda: (TwiceInJax(True), None, Twice(False)),
    "tied in JAX": lambda: (Tied(True, nnx.Rngs(0)), None, TiedInTorch(False), IDS),
    "tied in torch": lambda: (Tied(False, nnx.Rngs(0)), None, TiedInTorch(True), IDS),
    "one tied in both, one in torch": lambda: (TwoTiesInJax(nnx.Rngs(0)), None, TwoTies(), IDS),
    "weight norm in torch": lambda: (Plain(nnx.Rngs(0)), None, Normed(WEIGHT_NORM)),
    "weight norm over the other axis": lambda: (Plain(nnx.Rngs(0)), None, Normed(lambda one: WEIGHT_NORM(one, dim=1))),
    "weight norm in JAX": lambda: (*linen(normed_in_linen), Normed()),
    "weight norm in both": lambda: (*linen(normed_in_linen), Normed(WEIGHT_NORM)),
    "PReLU": rectified,
}
"""What makes each pair: the JAX model, its parameters, the torch module and, if it isn't `X`, the input."""


class OtherOrder(FusedInJax):
    def __call__(self, x: Any) -> Any:
        k, q, v = jnp.split(self.qkv(x), 3, -1)
        return self.proj(attended_in_jax(q, k, v))


class ByHeads(FusedInJax):
    """Each head's query, key and value side by side."""

    def __call__(self, x: Any) -> Any:
        q, k, v = jnp.split(self.qkv(x).reshape(*x.shape[:-1], 2, 12), 3, -1)
        return self.proj(attended_in_jax(*(part.reshape(x.shape) for part in (q, k, v))))


class OtherGate(GatedInJax):
    def __call__(self, x: Any) -> Any:
        up, gate = jnp.split(self.gate_up_proj(x), 2, -1)
        return self.down(nnx.silu(gate) * up)


class OtherGates(nnx.OptimizedLSTMCell):
    """With the forget gate first, or with a bias of 1 on it."""

    first, bias = False, 0.0

    def __call__(self, carry: Any, x: Any) -> Any:  # type: ignore[override]
        c, h = carry
        i, f, g, o = jnp.split(self.dense_i(x) + self.dense_h(h), 4, -1)
        i, f = (f, i) if self.first else (i, f + self.bias)
        c = nnx.sigmoid(f) * c + nnx.sigmoid(i) * jnp.tanh(g)
        h = nnx.sigmoid(o) * jnp.tanh(c)
        return (c, h), h


class ForgetFirst(OtherGates):
    first = True


class ForgetBias(OtherGates):
    bias = 1.0


class ResetBefore(nnx.GRUCell):
    """The reset gate before the state's product, as the first paper has it and torch has not."""

    def __call__(self, carry: Any, x: Any) -> Any:  # type: ignore[override]
        r, z, n = jnp.split(self.dense_i(x), 3, -1)
        hr, hz, _ = jnp.split(self.dense_h(carry), 3, -1)
        r, z = nnx.sigmoid(r + hr), nnx.sigmoid(z + hz)
        n = jnp.tanh(n + jnp.split(self.dense_h(r * carry), 3, -1)[2])
        h = (1 - z) * n + z * carry
        return h, h


class Backwards(Stack):
    def forward(self, x: Any) -> Any:
        for layer in reversed(self.layers):
            x = layer(x)
        return self.head(x)


class Scaled(Tied):
    def __call__(self, ids: Any) -> Any:
        return super().__call__(ids) / np.sqrt(8)


WRONG: dict[str, Callable[[], tuple[Any, ...]]] = {
    "key before query": lambda: (HeldInJax(OtherOrder(nnx.Rngs(0))), None, Held(Linears(NAMES["projections"]))),
    "by heads": lambda: (HeldInJax(ByHeads(nnx.Rngs(0))), None, TorchsAttention()),
    "up before gate": lambda: (OtherGate(True, nnx.Rngs(0)), None, Gated(False)),
    "forget gate first": lambda: recurrent(ForgetFirst, nn.LSTM),
    "a bias of 1 on the forget gate": lambda: recurrent(ForgetBias, nn.LSTM),
    "the reset gate before the product": lambda: recurrent(ResetBefore, nn.GRU),
    "a stack backwards": lambda: (ScannedInNNX(nnx.Rngs(0)), None, Backwards()),
    "tied and scaled": lambda: (Scaled(True, nnx.Rngs(0)), None, TiedInTorch(False), IDS),
}
"""What is paired alike and computes something else."""


def pair(name: str) -> tuple[Any, Any, nn.Module, Any]:
    torch.manual_seed(0)
    model, params, module, *inputs = {**PAIRS, **WRONG}[name]()
    return model, params, module, inputs[0] if inputs else X
