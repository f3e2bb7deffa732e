"""Layers that both frameworks bring along and arrange differently: LSTM, GRU, attention."""

from functools import partial
from typing import Any

from gallery_pairs.pair import Modules, Pair, images, moved


def drawn(module: Any) -> Any:
    """Return the NNX module with every array moved from its initial value."""
    from flax import nnx

    state = nnx.state(module, nnx.Any(nnx.Param, nnx.BatchStat))
    nnx.replace_by_pure_dict(state, moved(nnx.to_pure_dict(state)))
    nnx.update(module, state)
    return module


def recurrent(kind: str, both_biases: bool = True) -> Modules:
    """An LSTM or a GRU over a sequence [batch, time, features], from a state of zeros.

    Torch adds a bias to the input's product and one to the state's; Flax's cell has one of the two. `both_biases` gives
    the Flax cell the other.
    """
    import jax.numpy as jnp
    import torch
    from flax import nnx

    features, hidden, gates = 6, 8, {"LSTM": 4, "GRU": 3}[kind]
    torch_kind = {"LSTM": torch.nn.LSTM, "GRU": torch.nn.GRU}[kind]

    class Sequence(nnx.Module):
        """The cell of Flax, called once for each time."""

        def __init__(self, rngs: nnx.Rngs):
            make = {"LSTM": nnx.OptimizedLSTMCell, "GRU": nnx.GRUCell}[kind]
            self.cell = make(features, hidden, rngs=rngs)
            if both_biases and kind == "LSTM":
                self.cell.dense_i = nnx.Linear(features, gates * hidden, rngs=rngs)
            elif both_biases:
                self.cell.dense_h = nnx.Linear(hidden, gates * hidden, rngs=rngs)

        def __call__(self, x: Any) -> Any:
            zeros = jnp.zeros((len(x), hidden), x.dtype)
            state, outputs = (zeros, zeros) if kind == "LSTM" else zeros, []
            for time in range(x.shape[1]):
                state, output = self.cell(state, x[:, time])
                outputs.append(output)
            return jnp.stack(outputs, 1)

    class OutputsAlone(torch_kind):
        """Torch's layer without its last state."""

        def forward(self, x: Any) -> Any:
            return super().forward(x)[0]

    torch_module = OutputsAlone(features, hidden, batch_first=True)
    return Modules(drawn(Sequence(nnx.Rngs(0))), None, torch_module, [images(3, 5, features)], None)


def attention(fused: bool = False, rounded: bool = False) -> Modules:
    """Self-attention of four heads.

    Torch's own layer holds query, key and value in one tensor (`fused`), Flax's in three. Flax's own calls
    jax.nn.dot_product_attention, whose softmax is float32 (`rounded`).
    """
    import jax
    import jax.numpy as jnp
    import torch
    from flax import nnx

    width, heads = 32, 4

    class Fused(torch.nn.MultiheadAttention):
        """Torch's layer as self-attention, without its weights."""

        def forward(self, x: Any) -> Any:
            return super().forward(x, x, x, need_weights=False)[0]

    class Separate(torch.nn.Module):
        """The same from three layers, as most models have it."""

        def __init__(self) -> None:
            super().__init__()
            self.query, self.key, self.value, self.out = (torch.nn.Linear(width, width) for _ in range(4))

        def forward(self, x: Any) -> Any:
            split = [
                layer(x).unflatten(-1, (heads, -1)).transpose(1, 2) for layer in (self.query, self.key, self.value)
            ]
            y = torch.nn.functional.scaled_dot_product_attention(*split)
            return self.out(y.transpose(1, 2).flatten(2))

    def in_full(query: Any, key: Any, value: Any, **_: Any) -> Any:
        """Attend with a softmax in the dtype of the inputs."""
        scores = jnp.einsum("bqhd,bkhd->bhqk", query, key) / jnp.sqrt(query.shape[-1])
        return jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores), value)

    attend = nnx.dot_product_attention if rounded else in_full
    module = drawn(nnx.MultiHeadAttention(heads, width, attention_fn=attend, decode=False, rngs=nnx.Rngs(0)))
    torch_module = Fused(width, heads, batch_first=True) if fused else Separate()
    return Modules(module, None, torch_module, [images(2, 7, width)], None)


_BOTH = ("flax", "torch")
PAIRS = (
    Pair(
        "lstm-one-bias",
        _BOTH,
        partial(recurrent, "LSTM", False),
        why="Torch's LSTM has two biases, whose sum is the one of Flax's cell.",
    ),
    Pair("lstm", _BOTH, partial(recurrent, "LSTM"), why="With a bias in the cell's input layer too."),
    Pair(
        "gru-one-bias",
        _BOTH,
        partial(recurrent, "GRU", False),
        why="Flax's GRUCell has no bias on the state's share of the new gate; torch's is held at 0.",
    ),
    Pair("gru", _BOTH, partial(recurrent, "GRU"), why="With a bias in the cell's layer of the state too."),
    Pair(
        "attention-fused",
        _BOTH,
        partial(attention, fused=True),
        why="torch.nn.MultiheadAttention holds three kernels in one tensor, whose parts are paired.",
    ),
    Pair(
        "attention-default",
        _BOTH,
        partial(attention, rounded=True),
        why="jax.nn.dot_product_attention has a softmax in float32, which the comparison computes in float64.",
    ),
    Pair("attention", _BOTH, attention, why="With an attention_fn whose softmax has the dtype of its input."),
)
