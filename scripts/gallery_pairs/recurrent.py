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


def _transpose() -> Any:
    import numpy as np

    from parity_tests.harness.modules.mapping import Transform

    return Transform(np.transpose, np.transpose)


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

    mapping = [
        ("cell/dense_i/kernel", "weight_ih_l0", _transpose()),
        ("cell/dense_h/kernel", "weight_hh_l0", _transpose()),
        ("cell/dense_i/bias", "bias_ih_l0"),
        ("cell/dense_h/bias", "bias_hh_l0"),
    ]
    torch_module = OutputsAlone(features, hidden, batch_first=True)
    return Modules(drawn(Sequence(nnx.Rngs(0))), None, torch_module, [images(3, 5, features)], mapping)


def attention(fused: bool = False, rounded: bool = False) -> Modules:
    """Self-attention of four heads.

    Torch's own layer holds query, key and value in one tensor (`fused`), Flax's in three. Flax's own calls
    jax.nn.dot_product_attention, whose softmax is float32 (`rounded`).
    """
    import jax
    import jax.numpy as jnp
    import torch
    from flax import nnx

    from parity_tests.harness.modules.mapping import Transform

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

    def joined(x: Any) -> Any:
        return x.reshape(*x.shape[:-2], width)

    size = width // heads
    into = Transform(
        lambda k: k.reshape(width, width).T, lambda w: w.T.reshape(width, heads, size), output_to_torch=joined
    )
    bias = Transform(lambda b: b.reshape(width), lambda b: b.reshape(heads, size))
    out = Transform(
        lambda k: k.reshape(width, width).T, lambda w: w.T.reshape(heads, size, width), input_to_torch=joined
    )
    mapping = [
        ("(query|key|value)/kernel", r"\1.weight", into),
        ("(query|key|value)/bias", r"\1.bias", bias),
        ("out/kernel", "out.weight", out),
        ("out/bias", "out.bias"),
    ]
    attend = nnx.dot_product_attention if rounded else in_full
    module = drawn(nnx.MultiHeadAttention(heads, width, attention_fn=attend, decode=False, rngs=nnx.Rngs(0)))
    torch_module = Fused(width, heads, batch_first=True) if fused else Separate()
    return Modules(module, None, torch_module, [images(2, 7, width)], None if fused else mapping)


_BOTH = ("flax", "torch")
PAIRS = (
    Pair(
        "lstm-one-bias",
        _BOTH,
        partial(recurrent, "LSTM", False),
        "refused",
        "Torch's LSTM has two biases, of which it uses the sum, and Flax's cell has one.",
    ),
    Pair("lstm", _BOTH, partial(recurrent, "LSTM"), why="With a bias in the cell's input layer too."),
    Pair(
        "gru-one-bias",
        _BOTH,
        partial(recurrent, "GRU", False),
        "refused",
        "Flax's GRUCell has no bias on its state, where torch's GRU has one that the reset gate multiplies.",
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
