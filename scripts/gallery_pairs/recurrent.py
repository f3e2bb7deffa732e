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


def attention(fused: bool) -> Modules:
    """Self-attention of four heads. Torch's own layer holds query, key and value in one tensor, Flax's in three."""
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

    into = Transform(lambda k: k.reshape(width, width).T, lambda w: w.T.reshape(width, heads, width // heads))
    bias = Transform(lambda b: b.reshape(width), lambda b: b.reshape(heads, width // heads))
    out = Transform(lambda k: k.reshape(width, width).T, lambda w: w.T.reshape(heads, width // heads, width))
    mapping = [
        ("(query|key|value)/kernel", r"\1.weight", into),
        ("(query|key|value)/bias", r"\1.bias", bias),
        ("out/kernel", "out.weight", out),
        ("out/bias", "out.bias"),
    ]
    module = drawn(nnx.MultiHeadAttention(heads, width, decode=False, rngs=nnx.Rngs(0)))
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
        partial(attention, True),
        "refused",
        "torch.nn.MultiheadAttention holds three kernels in one tensor, and a pair is of one array and one tensor.",
    ),
    Pair("attention", _BOTH, partial(attention, False), why="With a torch module of separate layers."),
)
