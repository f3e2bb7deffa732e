"""Random networks of which one framework holds in one array what the other holds in several, and edits of them."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as fnn
import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch.nn.functional as F
from flax import nnx
from torch import nn

from jaxvae.shared.errors import InputError
from parity_tests.harness.modules.compare import compare_modules

Rng = np.random.Generator
LOSSES = (lambda y: jnp.square(y).mean(), lambda y: y.square().mean())
AGREE, DIFFER, REFUSED, EXCEPTION = "agree", "differ", "refused", "exception"
NAMES = (
    ("query", "key", "value", "out"),
    ("q_proj", "k_proj", "v_proj", "o_proj"),
    ("wq", "wk", "wv", "wo"),
    ("to_q", "to_k", "to_v", "to_out"),
)
FUSED = ("qkv", "c_attn", "in_proj", "qkv_proj")


class Part(NamedTuple):
    """A part of a network in both frameworks, which maps `[batch, time, width]` to the same."""

    kind: str
    in_jax: Callable[[nnx.Rngs], Any]
    in_linen: Callable[[str | None], Any]
    """Makes it under a name, or under Linen's own."""
    in_torch: Callable[[str], nn.Module]
    """Makes it with an edit, or with none where that is empty."""
    edits: Sequence[str]


def heads(x: Any, number: int) -> Any:
    """Split the last axis of an array of either framework among the heads."""
    return x.reshape(*x.shape[:-1], number, -1)


class Attention(nnx.Module):
    """Attention of one matrix or of three."""

    def __init__(self, width: int, number: int, names: Sequence[str], fused: str, bias: bool, rngs: nnx.Rngs):
        self.number, self.names, self.fused = number, tuple(names), fused
        for name, size in [(fused, 3 * width)] if fused else [(name, width) for name in names[:3]]:
            setattr(self, name, nnx.Linear(width, size, use_bias=bias, rngs=rngs))
        setattr(self, names[3], nnx.Linear(width, width, use_bias=bias, rngs=rngs))

    def __call__(self, x: Any) -> Any:
        if self.fused:
            parts = jnp.split(getattr(self, self.fused)(x), 3, -1)
        else:
            parts = [getattr(self, name)(x) for name in self.names[:3]]
        y = nnx.dot_product_attention(*(heads(part, self.number) for part in parts))
        return getattr(self, self.names[3])(y.reshape(x.shape))


class LinenAttention(fnn.Module):
    """The same in Linen; without names its layers are called as they come."""

    number: int
    names: Sequence[str]
    fused: str
    bias: bool

    @fnn.compact
    def __call__(self, x: Any) -> Any:
        size = x.shape[-1]
        if self.fused:
            parts = jnp.split(fnn.Dense(3 * size, use_bias=self.bias, name=self.fused)(x), 3, -1)
        else:
            parts = [fnn.Dense(size, use_bias=self.bias, name=name)(x) for name in self.names[:3]]
        y = nnx.dot_product_attention(*(heads(part, self.number) for part in parts))
        return fnn.Dense(size, use_bias=self.bias, name=self.names[3])(y.reshape(x.shape))


class TorchAttention(nn.Module):
    """The same in torch, whose layers may be called in any order."""

    def __init__(
        self, width: int, number: int, names: Sequence[str], fused: str, bias: bool, order: Sequence[int], edit: str
    ):
        super().__init__()
        self.number, self.names, self.fused, self.order, self.edit = number, names, fused, order, edit
        for name, size in [(fused, 3 * width)] if fused else [(name, width) for name in names[:3]]:
            setattr(self, name, nn.Linear(width, size, bias=bias))
        setattr(self, names[3], nn.Linear(width, width, bias=bias))

    def forward(self, x: Any) -> Any:
        if self.fused:
            q, k, v = getattr(self, self.fused)(x).chunk(3, -1)
        else:
            parts = {i: getattr(self, self.names[i])(x) for i in self.order}
            q, k, v = (parts[i] for i in range(3))
        if self.edit == "query and key exchanged":
            q, k = k, q
        if self.edit == "key and value exchanged":
            k, v = v, k
        q, k, v = (heads(part, self.number).transpose(1, 2) for part in (q, k, v))
        scale = {"no scale": 1.0}.get(self.edit)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=self.edit == "causal", scale=scale)
        if self.edit == "heads not put together":
            return getattr(self, self.names[3])(y.reshape(x.shape))
        return getattr(self, self.names[3])(y.transpose(1, 2).reshape(x.shape))


class TorchsOwn(nn.Module):
    def __init__(self, width: int, number: int, bias: bool, edit: str):
        super().__init__()
        self.attn, self.edit = nn.MultiheadAttention(width, number, bias=bias, batch_first=True), edit

    def forward(self, x: Any) -> Any:
        mask = None
        if self.edit == "causal":
            mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1]).to(x.dtype)
        keys = x.flip(1) if self.edit == "keys backwards" else x
        return self.attn(x, keys, x, need_weights=False, attn_mask=mask)[0]


class FlaxsOwn(nnx.Module):
    def __init__(self, width: int, number: int, bias: bool, rngs: nnx.Rngs):
        self.attn = nnx.MultiHeadAttention(number, width, use_bias=bias, decode=False, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        return self.attn(x)


def attention(rng: Rng, width: int) -> Part:
    """Draw attention."""
    number, bias = int(rng.choice([1, 2, 4])), bool(rng.random() < 0.7)
    names = [NAMES[int(i)] for i in rng.integers(len(NAMES), size=2)]
    fused = [str(rng.choice(FUSED)) if rng.random() < 0.4 else "" for _ in range(2)]
    order = [int(i) for i in rng.permutation(3)]
    own = rng.random(2) < 0.4
    ours = lambda rngs: (  # noqa: E731
        FlaxsOwn(width, number, bias, rngs) if own[0] else Attention(width, number, names[0], fused[0], bias, rngs)
    )
    in_linen = lambda name: (  # noqa: E731
        fnn.MultiHeadDotProductAttention(number, use_bias=bias, name=name)
        if own[0]
        else LinenAttention(number, names[0], fused[0], bias, name=name)
    )
    if own[1]:
        theirs = lambda edit: TorchsOwn(width, number, bias, edit)  # noqa: E731
        return Part("attention", ours, in_linen, theirs, ("causal", "keys backwards"))
    edits = ["query and key exchanged", "key and value exchanged", "causal"]
    edits += ["no scale"] if width > number else []
    edits += ["heads not put together"] if number > 1 else []
    theirs = lambda edit: TorchAttention(width, number, names[1], fused[1], bias, order, edit)  # noqa: E731
    return Part("attention", ours, in_linen, theirs, edits)


class Recurrent(nnx.Module):
    """Layers of cells, one after the other, or two that read both ways."""

    def __init__(self, cell: Any, width: int, layers: int, both: bool, rngs: nnx.Rngs):
        size = width // 2 if both else width
        self.both = both
        self.rnn: Any
        if both:
            forward, backward = (nnx.RNN(cell(width, size, rngs=rngs)) for _ in range(2))
            self.rnn = nnx.Bidirectional(forward, backward)
        else:
            self.rnn = nnx.List([nnx.RNN(cell(width, width, rngs=rngs)) for _ in range(layers)])

    def __call__(self, x: Any) -> Any:
        for layer in [self.rnn] if self.both else self.rnn:
            x = layer(x)
        return x


class LinenRecurrent(fnn.Module):
    cell: Any
    layers: int
    both: bool

    @fnn.compact
    def __call__(self, x: Any) -> Any:
        if self.both:
            forward, backward = (fnn.RNN(self.cell(x.shape[-1] // 2)) for _ in range(2))
            return fnn.Bidirectional(forward, backward)(x)
        for _ in range(self.layers):
            x = fnn.RNN(self.cell(x.shape[-1]))(x)
        return x


class TorchRecurrent(nn.Module):
    def __init__(self, kind: Any, width: int, layers: int, both: bool, edit: str):
        super().__init__()
        size = width // 2 if both else width
        self.rnn, self.edit = kind(width, size, layers, batch_first=True, bidirectional=both), edit

    def forward(self, x: Any) -> Any:
        given = x.flip(1) if "backwards" in self.edit else x
        state = None
        if self.edit == "another first state":
            ones = x.new_ones(self.rnn.num_layers * (1 + self.rnn.bidirectional), len(x), self.rnn.hidden_size)
            state = (ones, ones) if isinstance(self.rnn, nn.LSTM) else ones
        y = self.rnn(given, state)[0]
        if self.edit == "read backwards and turned":
            return y.flip(1)
        if self.edit == "directions exchanged":
            return torch.cat(y.chunk(2, -1)[::-1], -1)
        return y


CELLS = {
    "LSTM": (((nnx.LSTMCell, fnn.LSTMCell), (nnx.OptimizedLSTMCell, fnn.OptimizedLSTMCell)), nn.LSTM),
    "GRU": (((nnx.GRUCell, fnn.GRUCell),), nn.GRU),
    "RNN": (((nnx.SimpleCell, fnn.SimpleCell),), nn.RNN),
}


def recurrent(rng: Rng, width: int) -> Part:
    """Draw recurrent layers."""
    kind = str(rng.choice(list(CELLS)))
    cells, module = CELLS[kind]
    (cell, linen_cell), both = cells[int(rng.integers(len(cells)))], bool(rng.random() < 0.3)
    layers = 1 if both else int(rng.integers(1, 4))
    edits = ["another first state", "read backwards", "read backwards and turned"]
    edits += ["directions exchanged"] if both else []
    return Part(
        kind,
        lambda rngs: Recurrent(cell, width, layers, both, rngs),
        lambda name: LinenRecurrent(linen_cell, layers, both, name=name),
        lambda edit: TorchRecurrent(module, width, layers, both, edit),
        edits,
    )


class Gated(nnx.Module):
    def __init__(self, width: int, fused: bool, rngs: nnx.Rngs):
        self.fused, self.down_proj = fused, nnx.Linear(2 * width, width, use_bias=False, rngs=rngs)
        if fused:
            self.gate_up_proj = nnx.Linear(width, 4 * width, use_bias=False, rngs=rngs)
        else:
            self.gate_proj, self.up_proj = (nnx.Linear(width, 2 * width, use_bias=False, rngs=rngs) for _ in range(2))

    def __call__(self, x: Any) -> Any:
        gate, up = jnp.split(self.gate_up_proj(x), 2, -1) if self.fused else (self.gate_proj(x), self.up_proj(x))
        return self.down_proj(nnx.silu(gate) * up)


class LinenGated(fnn.Module):
    fused: bool

    @fnn.compact
    def __call__(self, x: Any) -> Any:
        size = x.shape[-1]
        if self.fused:
            gate, up = jnp.split(fnn.Dense(4 * size, use_bias=False, name="gate_up_proj")(x), 2, -1)
        else:
            gate, up = (fnn.Dense(2 * size, use_bias=False, name=name)(x) for name in ("gate_proj", "up_proj"))
        return fnn.Dense(size, use_bias=False, name="down_proj")(nnx.silu(gate) * up)


class TorchGated(nn.Module):
    def __init__(self, width: int, fused: bool, edit: str):
        super().__init__()
        self.fused, self.down_proj, self.edit = fused, nn.Linear(2 * width, width, bias=False), edit
        if fused:
            self.gate_up_proj = nn.Linear(width, 4 * width, bias=False)
        else:
            self.up_proj, self.gate_proj = (nn.Linear(width, 2 * width, bias=False) for _ in range(2))

    def forward(self, x: Any) -> Any:
        gate, up = self.gate_up_proj(x).chunk(2, -1) if self.fused else (self.gate_proj(x), self.up_proj(x))
        if self.edit == "gate and values exchanged":
            gate, up = up, gate
        return self.down_proj((F.gelu if self.edit == "GELU" else F.silu)(gate) * up)


def gated(rng: Rng, width: int) -> Part:
    """Draw a gated layer."""
    ours, theirs = (bool(one) for one in rng.random(2) < 0.5)
    edits = ("gate and values exchanged", "GELU")
    return Part(
        "gated",
        lambda rngs: Gated(width, ours, rngs),
        lambda name: LinenGated(ours, name=name),
        lambda edit: TorchGated(width, theirs, edit),
        edits,
    )


class Layer(nnx.Module):
    def __init__(self, width: int, rngs: nnx.Rngs):
        self.norm, self.fc = nnx.LayerNorm(width, rngs=rngs), nnx.Linear(width, width, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        return x + nnx.gelu(self.fc(self.norm(x)), approximate=False)


class Scanned(nnx.Module):
    def __init__(self, width: int, number: int, axis: int, rngs: nnx.Rngs):
        make = nnx.split_rngs(splits=number)(nnx.vmap(lambda r: Layer(width, r), in_axes=0, out_axes=axis))
        self.blocks, self.axis = make(rngs), axis

    def __call__(self, x: Any) -> Any:
        return nnx.scan(lambda layer, x: layer(x), in_axes=(self.axis, nnx.Carry), out_axes=nnx.Carry)(self.blocks, x)


class LinenLayer(fnn.Module):
    @fnn.compact
    def __call__(self, x: Any, _: None) -> Any:
        return x + nnx.gelu(fnn.Dense(x.shape[-1])(fnn.LayerNorm()(x)), approximate=False), None


class LinenScanned(fnn.Module):
    number: int
    axis: int

    @fnn.compact
    def __call__(self, x: Any) -> Any:
        axes: Any = {"params": self.axis}
        rngs: Any = {"params": True}
        return fnn.scan(LinenLayer, variable_axes=axes, split_rngs=rngs, length=self.number)(name="blocks")(x, None)[0]


class TorchLayer(nn.Module):
    def __init__(self, width: int, edit: str):
        super().__init__()
        self.norm, self.fc = nn.LayerNorm(width, eps=1e-5 if edit == "eps" else 1e-6), nn.Linear(width, width)
        self.edit = edit

    def forward(self, x: Any) -> Any:
        y = F.gelu(self.fc(self.norm(x)), approximate="tanh" if self.edit == "GELU's tanh" else "none")
        return y if self.edit == "a residual left out" else x + y


class Listed(nn.Module):
    def __init__(self, width: int, number: int, edit: str, where: int):
        super().__init__()
        self.blocks = nn.ModuleList(TorchLayer(width, edit if i == where else "") for i in range(number))
        self.edit = edit

    def forward(self, x: Any) -> Any:
        for block in reversed(self.blocks) if self.edit == "backwards" else self.blocks:
            x = block(x)
        return self.blocks[-1](x) if self.edit == "the last twice" else x


def stack(rng: Rng, width: int) -> Part:
    """Draw a stack of layers."""
    number = int(rng.integers(2, 5))
    where, axis = int(rng.integers(number)), int(rng.choice([0, 0, 1, -1]))
    edits = ("backwards", "the last twice", "eps", "GELU's tanh", "a residual left out")
    return Part(
        "stack",
        lambda rngs: Scanned(width, number, axis, rngs),
        lambda name: LinenScanned(number, axis, name=name),
        lambda edit: Listed(width, number, edit, where),
        edits,
    )


class Plain(nnx.Module):
    def __init__(self, width: int, prelu: bool, rngs: nnx.Rngs):
        self.fc1, self.fc2 = nnx.Linear(width, 2 * width, rngs=rngs), nnx.Linear(2 * width, width, rngs=rngs)
        self.act = nnx.PReLU() if prelu else nnx.relu

    def __call__(self, x: Any) -> Any:
        return self.fc2(self.act(self.fc1(x)))


class LinenPlain(fnn.Module):
    prelu: bool
    normed: bool

    @fnn.compact
    def __call__(self, x: Any) -> Any:
        first = fnn.Dense(2 * x.shape[-1])
        if self.normed:
            first = fnn.WeightNorm(first, epsilon=0.0)  # torch's has no epsilon
        x_out = first(x)
        return fnn.Dense(x.shape[-1])(fnn.PReLU()(x_out) if self.prelu else nnx.relu(x_out))


class TorchPlain(nn.Module):
    def __init__(self, width: int, prelu: bool, normed: bool, edit: str):
        super().__init__()
        wrap = nn.utils.parametrizations.weight_norm if normed else (lambda layer: layer)
        self.fc1, self.fc2 = wrap(nn.Linear(width, 2 * width)), nn.Linear(2 * width, width)
        self.act = (nn.PReLU() if edit != "no activation" else nn.Identity()) if prelu else nn.ReLU()
        self.edit = edit

    def forward(self, x: Any) -> Any:
        y = self.act(self.fc1(x))
        return self.fc2(y if self.edit != "squared" else y**2)


def plain(rng: Rng, width: int) -> Part:
    """Draw two layers, of which one may have weight normalization in torch, in Linen, or in both."""
    prelu, normed, in_linen = (bool(one) for one in rng.random(3) < 0.4)
    return Part(
        "plain",
        lambda rngs: Plain(width, prelu, rngs),
        lambda name: LinenPlain(prelu, in_linen, name=name),
        lambda edit: TorchPlain(width, prelu, normed, edit),
        ("squared",),
    )


class Net(nnx.Module):
    """A table, parts, and an output that may be the table again."""

    def __init__(self, parts: Sequence[Part], names: Sequence[str], width: int, tied: bool, rngs: nnx.Rngs):
        self.names, self.tied = tuple(names), tied
        self.embed = nnx.Embed(11, width, rngs=rngs)
        self.layers = nnx.List([part.in_jax(rngs) for part in parts]) if not names else nnx.List([])
        for name, part in zip(names, parts, strict=False):
            setattr(self, name, part.in_jax(rngs))
        if not tied:
            self.head = nnx.Linear(width, 11, use_bias=False, rngs=rngs)

    def __call__(self, ids: Any) -> Any:
        x = self.embed(ids)
        for layer in [getattr(self, name) for name in self.names] or self.layers:
            x = x + layer(x)
        return x @ self.embed.embedding[...].T if self.tied else self.head(x)


class LinenNet(fnn.Module):
    """The same in Linen, with its own names where there are none."""

    parts: Sequence[Part]
    names: Sequence[str]
    width: int
    tied: bool

    @fnn.compact
    def __call__(self, ids: Any) -> Any:
        embed = fnn.Embed(11, self.width, name="embed")
        x = embed(ids)
        for i, part in enumerate(self.parts):
            x = x + part.in_linen(self.names[i] if self.names else None)(x)
        return embed.attend(x) if self.tied else fnn.Dense(11, use_bias=False, name="head")(x)


class TorchNet(nn.Module):
    def __init__(
        self, parts: Sequence[Part], names: Sequence[str], width: int, tied: bool, edit: str, where: int, scaled: bool
    ):
        super().__init__()
        made = [part.in_torch(edit if i == where else "") for i, part in enumerate(parts)]
        self.names, self.scaled = names, scaled
        self.embed, self.head = nn.Embedding(11, width), nn.Linear(width, 11, bias=False)
        self.layers = nn.ModuleList([] if names else made)
        for name, part in zip(names, made, strict=False):
            setattr(self, name, part)
        if tied:
            self.head.weight = self.embed.weight

    def forward(self, ids: Any) -> Any:
        x = self.embed(ids)
        for layer in [getattr(self, name) for name in self.names] or self.layers:
            x = x + layer(x)
        return self.head(2 * x if self.scaled else x)


class Drawn(NamedTuple):
    """A pair of networks as it is, and edited in torch."""

    in_jax: Any
    params: Any
    plain: nn.Module
    edited: nn.Module
    ids: np.ndarray
    about: str
    """The kinds of the parts, and the edit."""


def draw(seed: int) -> Drawn:
    """Draw a pair: one to three parts, of which one is edited, in a list or under the same names."""
    rng = np.random.default_rng([seed, 11])
    width = int(rng.choice([4, 8, 12]))
    kinds = (attention, recurrent, gated, stack, plain)
    parts = [kinds[int(i)](rng, width) for i in rng.integers(len(kinds), size=rng.integers(1, 4))]
    names = [f"{part.kind.lower()}_{i}" for i, part in enumerate(parts)] if rng.random() < 0.6 else []
    tied = rng.random(2) < 0.3
    where = int(rng.integers(len(parts)))
    edit = str(rng.choice(parts[where].edits)) if rng.random() < 0.95 else "an output of twice the numbers"
    ids, flavour = rng.integers(11, size=(2, 5)), str(rng.choice(["nnx", "linen"]))
    torch.manual_seed(seed)
    made: Any = Net(parts, names, width, bool(tied[0]), nnx.Rngs(seed))
    params: Any = None
    one_in_torch = tied[1] and not tied[0]  # so that the two tables have to hold the same numbers
    if flavour == "linen":
        made = LinenNet(parts, names, width, bool(tied[0]))
        params = made.init(jax.random.key(seed), ids)
        if one_in_torch:
            params["params"]["head"]["kernel"] = params["params"]["embed"]["embedding"].T
    elif one_in_torch:
        made.head.kernel[...] = made.embed.embedding[...].T
    make = lambda edit, scaled=False: TorchNet(parts, names, width, bool(tied[1]), edit, where, scaled)  # noqa: E731
    about = f"{flavour}: {', '.join(part.kind for part in parts)}; {edit} in part {where}; width {width}, tied "
    edited = make("", True) if edit.startswith("an output") else make(edit)
    return Drawn(made, params, make(""), edited, ids, f"{about}{tied.tolist()}, names {names or 'by number'}")


class Verdicts(NamedTuple):
    """The verdicts on a pair without a mapping, and what was said where one of them is not the right one."""

    plain: str
    edited: str
    about: str
    text: str

    @property
    def false(self) -> bool:
        """Whether a verdict is wrong; a sentence that asks for a mapping is none."""
        return self.plain == DIFFER or self.edited == AGREE or EXCEPTION in (self.plain, self.edited)


def judge(seed: int) -> Verdicts:
    """Compare the pair of a seed as it is and edited, outputs and gradients, without a mapping."""
    drawn = draw(seed)
    (plain, first), (edited, second) = (_verdict(drawn, module) for module in (drawn.plain, drawn.edited))
    return Verdicts(plain, edited, drawn.about, first if plain != AGREE else second)


def _verdict(drawn: Drawn, module: nn.Module) -> tuple[str, str]:
    try:
        report = compare_modules(drawn.in_jax, drawn.params, module, None, drawn.ids, losses=LOSSES)
    except InputError as error:
        return REFUSED, str(error)
    except Exception as error:  # whatever it is, a user would see it instead of a verdict
        return EXCEPTION, f"{type(error).__name__}: {error}"
    return AGREE if report.passed else DIFFER, str(report)
