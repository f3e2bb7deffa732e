"""Networks with dropout in training: the masks of both frameworks are the same, call by call."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from flax import linen, nnx
from jax.sharding import PartitionSpec
from torch import nn
from torch.utils.checkpoint import CheckpointFunction

from jaxvae.shared.errors import InputError
from parity_tests.harness.findings import Diagnosis
from parity_tests.harness.hooks import jax_dropout, masks, torch_dropout
from parity_tests.harness.hooks.masks import Masks
from parity_tests.harness.modules.compare import assert_parity, compare_modules
from parity_tests.harness.modules.hypotheses.between_layers import OTHER_MASK
from parity_tests.harness.modules.hypotheses.shared_masks import NOT_SHARED, OTHER_ORDER, of_masks
from parity_tests.support.quick import quick
from parity_tests.support.small_nets import JaxNet, TorchNet

RNG = np.random.default_rng(0)
IMAGES, TOKENS = RNG.normal(size=(3, 2, 5, 4)), RNG.normal(size=(2, 5, 8))
OUTPUTS: dict[str, Any] = {"train": True, "share_dropout": True}
TRAINING: dict[str, Any] = OUTPUTS | {"losses": (lambda y: (y**2).mean(),) * 2}


class InNNX(nnx.Module):
    def __init__(self, rate: float = 0.3):
        rngs = nnx.Rngs(0)
        self.conv, self.head = nnx.Conv(2, 6, (1, 1), rngs=rngs), nnx.Linear(6, 4, rngs=rngs)
        self.channels, self.drop = nnx.Dropout(0.2, broadcast_dims=(1, 2), rngs=rngs), nnx.Dropout(rate, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        x = self.drop(self.channels(self.conv(x)))
        return self.drop(self.head(jnp.tanh(x).mean((1, 2))))


class InLinen(linen.Module):
    @linen.compact
    def __call__(self, x: Any, deterministic: bool) -> Any:
        x = linen.Dropout(0.2, broadcast_dims=(1, 2))(linen.Conv(6, (1, 1), name="conv")(x), deterministic)
        x = linen.Dropout(0.3)(x, deterministic)
        return linen.Dropout(0.3)(linen.Dense(4, name="head")(jnp.tanh(x).mean((1, 2))), deterministic)


class InTorch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(2, 6, 1), nn.Linear(6, 4)
        self.channels = nn.Dropout2d(0.2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.dropout(self.channels(self.conv(x)), 0.3, self.training, inplace=True)
        return F.dropout(self.head(torch.tanh(x).mean((2, 3))), 0.3, self.training)


@pytest.mark.parametrize("make", quick(["nnx", "linen"], ["nnx"]))
def test_outputs_and_gradients_in_training_are_compared(make: str) -> None:
    variables = InLinen().init(jax.random.key(0), jnp.zeros((1, 5, 4, 2)), deterministic=True)
    jax_model, params = {"nnx": (InNNX(), None), "linen": (InLinen(), variables)}[make]
    report = assert_parity(jax_model, params, InTorch(), None, IMAGES, **TRAINING)
    assert "every gradient" in [finding.level for finding in report.findings]
    assert not report.unexercised


@pytest.mark.parametrize("change", quick(["rate", "place", "none"], ["rate"]))
def test_another_dropout_is_a_difference(change: str) -> None:
    class Changed(InTorch):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.channels(self.conv(x))
            x = torch.tanh(F.dropout(x, 0.3, self.training and change != "none")).mean((2, 3))
            return self.head(F.dropout(x, 0.3, self.training)) if change == "place" else F.dropout(self.head(x), 0.3)

    rate = 0.31 if change == "rate" else 0.3
    assert not compare_modules(InNNX(rate), None, Changed(), None, IMAGES, **TRAINING).passed


@pytest.mark.parametrize("rate", quick([0.0, 1.0], [0.0]))
def test_a_rate_at_which_nothing_is_drawn_takes_no_mask(rate: float) -> None:
    """Flax draws none at 0 and 1; the next dropout has to take the same mask in both."""

    class Changed(InTorch):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = F.dropout(self.channels(self.conv(x)), rate, self.training)
            return F.dropout(self.head(torch.tanh(x).mean((2, 3))), 0.3, self.training)

    class Flax(InNNX):
        def __call__(self, x: Any) -> Any:
            x = nnx.Dropout(rate, rngs=nnx.Rngs(0))(self.channels(self.conv(x)), deterministic=self.drop.deterministic)
            return self.drop(self.head(jnp.tanh(x).mean((1, 2))))

    assert_parity(Flax(), None, Changed(), None, IMAGES, **TRAINING)


class AttentionInFlax(nnx.Module):
    def __init__(self, broadcast: bool):
        self.attention = nnx.MultiHeadAttention(
            2, 8, dropout_rate=0.4, broadcast_dropout=broadcast, decode=False, rngs=nnx.Rngs(0)
        )

    def __call__(self, x: Any) -> Any:
        return self.attention(x)


class AttentionInTorch(nn.Module):
    def __init__(self, rate: float = 0.4):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, dropout=rate, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.attention(x, x, x, need_weights=False)[0]


@pytest.mark.slow
def test_attentions_own_dropout_is_shared() -> None:
    assert_parity(AttentionInFlax(False), None, AttentionInTorch(), None, TOKENS, **TRAINING)
    assert not compare_modules(AttentionInFlax(False), None, AttentionInTorch(0.5), None, TOKENS, **TRAINING).passed


@pytest.mark.slow
def test_masks_of_other_shapes_are_named() -> None:
    report = compare_modules(AttentionInFlax(True), None, AttentionInTorch(), None, TOKENS, **TRAINING)
    assert report.diagnosis
    assert report.diagnosis.cause == (
        "the masks of a dropout have other shapes: [1, 1, 5, 5] in JAX, [2, 2, 5, 5] in PyTorch"
    )


class Block(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.layer, self.drop = nnx.Linear(8, 8, rngs=rngs), nnx.Dropout(0.3, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        return x + self.drop(jnp.tanh(self.layer(x)))


class Scanned(nnx.Module):
    def __init__(self) -> None:
        make = nnx.vmap(Block, in_axes=0, out_axes=0)
        self.blocks = nnx.split_rngs(splits=3)(make)(nnx.Rngs(0))

    def __call__(self, x: Any) -> Any:
        return nnx.scan(lambda block, x: block(x), in_axes=(0, nnx.Carry), out_axes=nnx.Carry)(self.blocks, x)


class LinenBlock(linen.Module):
    deterministic: bool

    @linen.compact
    def __call__(self, x: Any, _: None) -> Any:
        x = x + linen.Dropout(0.3, deterministic=self.deterministic)(jnp.tanh(linen.Dense(8, name="layer")(x)))
        return x, None


class LinenScanned(linen.Module):
    split: bool = True

    @linen.compact
    def __call__(self, x: Any, deterministic: bool) -> Any:
        rngs: Any = {"params": True, "dropout": self.split}
        scanned = linen.scan(LinenBlock, variable_axes={"params": 0}, split_rngs=rngs, length=3)
        x = scanned(deterministic, name="blocks")(linen.Dropout(0.2, deterministic=deterministic)(x), None)[0]
        return linen.Dropout(0.1, deterministic=deterministic)(x)


class TorchBlock(nn.Module):
    def __init__(self, rate: float):
        super().__init__()
        self.layer, self.drop = nn.Linear(8, 8), nn.Dropout(rate)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.drop(torch.tanh(self.layer(x)))


class Listed(nn.Module):
    def __init__(self, rates: Sequence[float], around: Sequence[float]):
        super().__init__()
        self.blocks, self.around = nn.ModuleList(map(TorchBlock, rates)), around

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.dropout(x, self.around[0], self.training)
        for block in self.blocks:
            x = block(x)
        return F.dropout(x, self.around[1], self.training)


@pytest.mark.parametrize("make", quick(["nnx", "linen"], ["nnx"]))
def test_each_turn_of_a_scan_takes_its_own_mask(make: str) -> None:
    jax_model, params, around = Scanned(), None, (0.0, 0.0)
    if make == "linen":
        jax_model, around = LinenScanned(), (0.2, 0.1)
        params = jax_model.init(jax.random.key(0), jnp.zeros((1, 5, 8)), deterministic=True)
    assert_parity(jax_model, params, Listed([0.3] * 3, around), None, TOKENS, **TRAINING)
    report = compare_modules(jax_model, params, Listed([0.3, 0.4, 0.3], around), None, TOKENS, **TRAINING)
    assert report.diagnosis
    assert report.diagnosis.where == "between blocks.1.layer and blocks.2.layer"


class Recurrent(nnx.Module):
    def __init__(self, cell: Any, rate: float = 0.3):
        rngs = nnx.Rngs(0)
        self.rnns = nnx.List(nnx.RNN(cell(size, 6, rngs=rngs)) for size in (8, 6))
        self.drop = nnx.Dropout(rate, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        return self.rnns[1](self.drop(self.rnns[0](x)))


class TorchRecurrent(nn.Module):
    def __init__(self, kind: Any, rows_first: bool):
        super().__init__()
        self.rnn, self.rows_first = kind(8, 6, 2, dropout=0.3, batch_first=rows_first), rows_first

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.rnn(x)[0] if self.rows_first else self.rnn(x.transpose(0, 1))[0].transpose(0, 1)


@pytest.mark.parametrize(
    ("cell", "kind", "rows_first"),
    quick([(nnx.LSTMCell, nn.LSTM, False), (nnx.LSTMCell, nn.LSTM, True), (nnx.GRUCell, nn.GRU, True)], []),
)
def test_dropout_within_torchs_recurrent_layers_is_shared(cell: Any, kind: Any, rows_first: bool) -> None:
    assert_parity(Recurrent(cell), None, TorchRecurrent(kind, rows_first), None, TOKENS, **TRAINING)
    other = compare_modules(Recurrent(cell, 0.31), None, TorchRecurrent(kind, rows_first), None, TOKENS, **TRAINING)
    assert not other.passed


def test_nothing_of_it_is_left() -> None:
    before = jax.random.bernoulli, torch._VF.dropout, F.scaled_dot_product_attention  # type: ignore[attr-defined]
    with pytest.raises(InputError, match="the torch loss returns an int"):
        compare_modules(InNNX(), None, InTorch(), None, IMAGES, share_dropout=True, losses=(len, len))  # type: ignore[arg-type]
    assert before == (jax.random.bernoulli, torch._VF.dropout, F.scaled_dot_product_attention)  # type: ignore[attr-defined]
    assert not torch.equal(F.dropout(x := torch.ones(64)), F.dropout(x))


class Looped(nnx.Module):
    """One layer and its dropout, three times, in a loop of JAX's."""

    def __init__(self, how: str):
        self.layer, self.how = nnx.Linear(8, 8, rngs=nnx.Rngs(0)), how

    def __call__(self, x: Any) -> Any:
        def body(x: Any, key: Any) -> Any:
            return jnp.where(jax.random.bernoulli(key, 0.5, x.shape), jnp.tanh(self.layer(x)) / 0.5, 0)

        key = jax.random.key(0)
        keys = jax.random.split(key, 3)
        if self.how == "fori_loop":
            return jax.lax.fori_loop(0, 3, lambda i, x: body(x, keys[i]), x)
        if self.how == "one key":
            return jax.lax.fori_loop(0, 3, lambda _, x: body(x, key), x)
        call = {"jit": jax.jit, "checkpoint": jax.checkpoint}[self.how](body)
        return call(call(call(x, keys[0]), keys[1]), keys[2])


class TorchLooped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for _ in range(3):
            x = F.dropout(torch.tanh(self.layer(x)), 0.5, self.training)
        return x


@pytest.mark.parametrize("how", ["jit", "checkpoint", "fori_loop"])
def test_each_call_within_a_transformation_takes_its_own_mask(how: str) -> None:
    assert_parity(Looped(how), None, TorchLooped(), None, TOKENS, **OUTPUTS)


def test_two_masks_of_one_key_are_a_difference() -> None:
    report = compare_modules(Looped("one key"), None, TorchLooped(), None, TOKENS, **TRAINING)
    assert report.diagnosis
    assert report.diagnosis.cause == "two dropouts draw from one key in JAX, and drop the same units"


def test_a_stream_that_linens_scan_does_not_split_is_a_difference() -> None:
    params = LinenScanned().init(jax.random.key(0), jnp.zeros((1, 5, 8)), deterministic=True)
    module = Listed([0.3] * 3, (0.2, 0.1))
    report = compare_modules(LinenScanned(split=False), params, module, None, TOKENS, **OUTPUTS)
    assert report.diagnosis
    assert report.diagnosis.cause == "two dropouts draw from one key in JAX, and drop the same units"


class Several(nnx.Module):
    def __init__(self) -> None:
        self.layers = nnx.split_rngs(splits=3)(nnx.vmap(Block, in_axes=0, out_axes=0))(nnx.Rngs(0))

    def __call__(self, x: Any) -> Any:
        return nnx.vmap(lambda layer, x: layer(x), in_axes=(0, None))(self.layers, x)


class TorchSeveral(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(TorchBlock(0.3) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([layer(x) for layer in self.layers])


def test_each_of_several_under_vmap_takes_its_own_mask() -> None:
    assert_parity(Several(), None, TorchSeveral(), None, TOKENS, **OUTPUTS)


class Turned(nnx.Module):
    """A dropout of the same numbers in another order of axes, or in another shape, or otherwise drawn."""

    def __init__(self, how: str, rate: float = 0.3):
        rngs = nnx.Rngs(0)
        self.layer, self.drop, self.how = nnx.Linear(8, 8, rngs=rngs), nnx.Dropout(rate, rngs=rngs), how

    def __call__(self, x: Any) -> Any:
        if self.how == "steps first":
            return self.layer(self.drop(x.swapaxes(0, 1))).swapaxes(0, 1)
        if self.how == "reshaped":
            return self.layer(self.drop(x.reshape(-1, 8))).reshape(x.shape)
        if self.how == "one by one":
            keys = jax.random.split(jax.random.key(0), len(x))
            return jax.vmap(lambda x, key: self.layer(self.dropped(x, key)))(x, keys)
        if self.how == "by rows":
            x = x * jax.random.bernoulli(jax.random.key(0), 0.8, (len(x), 1, 1)) / 0.8
        if self.how == "another draw":
            x = x * jax.random.bernoulli(jax.random.key(0), 1.0, (len(x), 1, 1))
        y = self.layer(self.dropped(x, jax.random.key(0)) if self.how == "by the rate" else self.drop(x))
        return y.argmax(-1) if self.how == "argmax" else y

    @staticmethod
    def dropped(x: Any, key: Any) -> Any:
        return jnp.where(jax.random.bernoulli(key, 0.3, x.shape), 0, x / 0.7)


class TorchTurned(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.layer, self.how = nn.Linear(8, 8), how

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.how == "by rows":
            x = x * x.new_empty(len(x), 1, 1).bernoulli_(0.8) / 0.8
        y = self.layer(F.dropout(x, 0.3, self.training))
        return y.argmax(-1) if self.how == "argmax" else y


@pytest.mark.parametrize("how", ["steps first", "reshaped", "another draw", "one by one", "by the rate", "by rows"])
def test_a_mask_is_shared_where_its_numbers_lie_otherwise(how: str) -> None:
    as_many_steps_as_rows = RNG.normal(size=(4, 4, 8))
    assert_parity(Turned(how), None, TorchTurned(how), None, as_many_steps_as_rows, **OUTPUTS)


KEEP = 0.6
MASKS_IN_TORCH: dict[str, Any] = {
    "floor": lambda x: (KEEP + torch.rand(len(x), 1, 1, dtype=x.dtype)).floor_(),
    "below": lambda x: torch.rand(len(x))[:, None, None] < KEEP,
    "above": lambda x: torch.empty(len(x), 1, 1).uniform_() >= 1 - KEEP,
    "bernoulli": lambda x: torch.bernoulli(torch.full((len(x), 1, 1), KEEP)),
}
MASKS_IN_JAX: dict[str, Any] = {
    "floor": lambda key, n: jnp.floor(KEEP + jax.random.uniform(key, (n, 1, 1))),
    "below": lambda key, n: jax.random.uniform(key, (n,))[:, None, None] < KEEP,
    "above": lambda key, n: jax.random.uniform(key, (n, 1, 1)) > 1 - KEEP,
    "bernoulli": lambda key, n: jax.random.bernoulli(key, KEEP, (n, 1, 1)),
    "jax.lax": lambda key, n: jax.lax.floor(KEEP + jax.random.uniform(key, (n, 1, 1))),
}


@pytest.mark.parametrize(
    ("in_jax", "in_torch"),
    [("bernoulli", "floor"), ("floor", "below"), ("above", "bernoulli"), ("below", "above"), ("jax.lax", "below")],
)
def test_a_mask_of_whole_branches_is_shared_however_it_is_drawn(in_jax: str, in_torch: str) -> None:
    model = JaxNet(
        lambda net, x: x + net.a(x) * MASKS_IN_JAX[in_jax](jax.random.key(0), len(x)),
        a=nnx.Linear(8, 8, rngs=nnx.Rngs(0)),
    )
    module = TorchNet(lambda net, x: x + net.a(x) * MASKS_IN_TORCH[in_torch](x), a=nn.Linear(8, 8))
    report = compare_modules(model, None, module, None, RNG.normal(size=(16, 2, 8)), **OUTPUTS)
    assert report.passed is (in_jax != "jax.lax")
    assert report.passed or (report.diagnosis and report.diagnosis.cause == NOT_SHARED)


def test_a_layer_that_checkpointing_computes_again_takes_its_masks_again() -> None:
    weight, slopes = torch.ones(2, 6, requires_grad=True), []
    with torch_dropout.shared(Masks()):
        for again in (False, True):
            masks.begin("torch")
            x = weight
            for _ in range(2):
                layer = lambda x: F.dropout(torch.tanh(x), 0.5)  # noqa: E731
                x = CheckpointFunction.apply(layer, True, x) if again else layer(x)
            weight.grad = None
            x.sum().backward()
            slopes.append(weight.grad)
    torch.testing.assert_close(slopes[0], slopes[1])


def test_a_mask_lies_on_the_mesh_of_what_it_drops() -> None:
    rows = PartitionSpec("rows")
    with jax.set_mesh(jax.make_mesh((1,), ("rows",))), jax_dropout.shared(Masks(key=0)):
        x = jax.device_put(np.ones((4, 6), np.float32), rows)
        assert jax.typeof(nnx.Dropout(0.5, rngs=nnx.Rngs(0))(x)).sharding.spec == PartitionSpec("rows", None)


def test_uniform_numbers_that_are_taken_as_an_array_are_named() -> None:
    shared = Masks()
    with torch_dropout.shared(shared), jax_dropout.shared(shared):
        F.dropout(torch.ones(4, 6), 0.5)
        masks.begin("jax")
        assert jax.lax.exp(jnp.asarray(jax.random.uniform(jax.random.key(0), (4, 6)))).shape == (4, 6)
        diagnosis = Diagnosis("between a and b", "It differs.", OTHER_MASK)
        assert of_masks(diagnosis).cause == NOT_SHARED
        masks.begin("jax")
        assert of_masks(diagnosis).cause != NOT_SHARED


def test_two_dropouts_in_another_order_are_named() -> None:
    def in_jax(net: Any, x: Any) -> Any:
        second = net.drop(net.b(x))
        return net.c(net.drop(net.a(x)) + second)

    def in_torch(net: Any, x: Any) -> Any:
        return net.c(F.dropout(net.a(x), 0.3) + F.dropout(net.b(x), 0.3))

    model = JaxNet(
        in_jax, drop=nnx.Dropout(0.3, rngs=nnx.Rngs(0)), **{n: nnx.Linear(8, 8, rngs=nnx.Rngs(0)) for n in "abc"}
    )
    module = TorchNet(in_torch, **{name: nn.Linear(8, 8) for name in "abc"})
    report = compare_modules(model, None, module, None, TOKENS, weights="torch", **OUTPUTS)
    assert report.diagnosis
    assert (report.diagnosis.cause or "").startswith(OTHER_ORDER)


@pytest.mark.parametrize(
    ("order", "cause"),
    [
        (("drop", "rows"), "the same masks drop other units in each: [[2, 5, 8], [2, 5, 1], [2, 5, 8]] in JAX, "),
        (("drop",), "dropout is left on: PyTorch alone has one of [2, 5, 1] numbers"),
    ],
)
def test_dropouts_of_other_shapes_are_told_by_their_order(order: Sequence[str], cause: str) -> None:
    """What they do to the dropout after them is no cause of its own."""

    def in_jax(net: Any, x: Any) -> Any:
        x = net.a(x)
        for name in order:
            x = getattr(net, name)(x)
        return net.c(net.drop(net.b(x)))

    def in_torch(net: Any, x: Any) -> Any:
        x = net.a(x)
        x = F.dropout(x * F.dropout(torch.ones_like(x[..., :1]), 0.3), 0.3)
        return net.c(F.dropout(net.b(x), 0.3))

    rngs = nnx.Rngs(0)
    drops = {"drop": nnx.Dropout(0.3, rngs=rngs), "rows": nnx.Dropout(0.3, broadcast_dims=(2,), rngs=rngs)}
    model = JaxNet(in_jax, **drops, **{n: nnx.Linear(8, 8, rngs=rngs) for n in "abc"})
    module = TorchNet(in_torch, **{name: nn.Linear(8, 8) for name in "abc"})
    report = compare_modules(model, None, module, None, TOKENS, weights="torch", **OUTPUTS)
    assert report.diagnosis
    assert (report.diagnosis.cause or "").startswith(cause), report
    assert not report.diagnosis.more


def test_rates_that_drop_the_same_units_by_chance_are_a_difference() -> None:
    report = compare_modules(Turned("argmax", 0.31), None, TorchTurned("argmax"), None, TOKENS, **OUTPUTS)
    assert report.diagnosis
    assert report.diagnosis.cause == "the rates of a dropout differ: 0.31 in JAX, 0.3 in PyTorch"
