"""One array in one framework, several in the other: without rules, by joints, in gradients and optimizer steps."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from flax import nnx
from torch import nn

from jaxvae.shared.errors import InputError
from parity_tests.harness.modules.compare import assert_parity, compare_modules
from parity_tests.harness.modules.hypotheses.positions import cause_in_positions
from parity_tests.harness.modules.hypotheses.stages import worst_difference
from parity_tests.harness.modules.inputs import Inputs
from parity_tests.harness.modules.joining.links import joined, parted
from parity_tests.harness.modules.mapping import arrange, concatenated, shared, stacked, summed, weight_norm
from parity_tests.support.arranged import nets as arranged_nets
from parity_tests.support.arranged.pairs import (
    LOSSES,
    PAIRS,
    WRONG,
    Block,
    Fused,
    Gated,
    Held,
    Stack,
    TiedInTorch,
    X,
    attended,
    pair,
)
from parity_tests.support.quick import quick

ADAM = optax.adam(1e-2), lambda parameters: torch.optim.Adam(parameters, 1e-2)
QUICK = [
    "attention, wq called last",
    "attention, fused in torch",
    "LSTM, both ways",
    "GRU",
    "GRU, Linen",
    "stack, Linen",
    "tied in both, around an LSTM",
    "a layer twice in torch",
    "a layer twice in JAX",
    "tied in JAX",
    "weight norm in torch",
    "PReLU",
]
HELD = {
    "GRU": ("rnn.bias_hh_l0[16:24] (held at 0)",),
    "tied in JAX": ("head.weight (held equal to embed.weight)",),
    "a layer twice in JAX": ("b.weight (held equal to a.weight)", "b.bias (held equal to a.bias)"),
}
"""What has no counterpart, by pair. Nor does a bias of all keys alike move attention, which is left out here."""


def unmoved(report: Any) -> tuple[str, ...]:
    keys = ("k_proj.bias", "to_k.bias", "wk.bias", "in_proj_bias[8:16]", "key/bias")
    return tuple(name for name in report.unexercised if not name.endswith(keys))


@pytest.mark.parametrize("name", quick(list(PAIRS), QUICK))
def test_they_agree_without_a_rule(name: str) -> None:
    model, params, module, x = pair(name)
    assert unmoved(assert_parity(model, params, module, None, x)) == HELD.get(name, ())


@pytest.mark.parametrize("seed", quick([31, 40, 2001, 2034, 2042, 6030, 6041, *range(10)], [2001]))
def test_random_networks_get_the_right_verdict(seed: int) -> None:
    found = arranged_nets.judge(seed)
    assert (found.plain, found.edited) == ("agree", "differ"), found


@pytest.mark.parametrize("name", quick(list(WRONG), ["by heads"]))
def test_what_is_paired_alike_and_is_not_differs(name: str) -> None:
    model, params, module, x = pair(name)
    assert not compare_modules(model, params, module, None, x).passed


@pytest.mark.parametrize("name", quick(list(PAIRS), ["stack"]))
def test_gradients_and_steps_agree_or_are_told_apart(name: str) -> None:
    model, params, module, x = pair(name)
    report = compare_modules(model, params, module, None, x, losses=LOSSES, optimizers=ADAM)
    if report.passed:
        return
    assert [finding.level for finding in report.findings if not finding.passed] == [
        "weights after 5 optimizer steps from the same gradients"
    ]
    assert report.diagnosis is not None
    assert report.diagnosis.difference.startswith("The optimizers train other arrays: ")


def test_a_stack_whose_axis_nothing_tells_is_refused() -> None:
    shapes = {"all/kernel": (2, 2, 2), "all/bias": (2, 2)}
    with pytest.raises(InputError, match=r"'all' .* any of 'layers' along axis 0, 'layers' along axis 1, "):
        arrange(shapes, nn.ModuleDict({"layers": nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))}))
    with pytest.raises(InputError, match=r"in one of the 3 layers of 'all', no JAX array is paired with 'bias' \[2\]"):
        arrange({"all/kernel": (3, 2, 2)}, nn.ModuleDict({"all": nn.Sequential(*(nn.Linear(2, 2) for _ in "abc"))}))


def test_pairs_that_only_the_order_of_calls_tells_are_named_where_they_differ() -> None:
    class Turned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x: Any) -> Any:
            y = self.two(x)
            return self.one(x) - 2 * y

    class Straight(nnx.Module):
        def __init__(self) -> None:
            self.first, self.second = (nnx.Linear(8, 8, rngs=nnx.Rngs(0)) for _ in range(2))

        def __call__(self, x: Any) -> Any:
            y = self.first(x)
            return y - 2 * self.second(x)

    report = compare_modules(Straight(), None, Turned(), None, X)
    assert report.diagnosis is not None
    assert "calls alone paired these layers: second and one, first and two; if" in report.diagnosis.difference


def test_what_trains_in_parts_is_told_apart() -> None:
    model, params, module, x = pair("tied in JAX")
    report = compare_modules(model, params, module, None, x, losses=LOSSES, optimizers=ADAM)
    assert not report.passed
    assert report.diagnosis is not None
    assert "'embed.weight' and 'head.weight' in PyTorch" in report.diagnosis.difference


def test_a_bias_that_is_frozen_at_zero_is_no_other_training() -> None:
    model, params, module, x = pair("LSTM")
    held = module.rnn.bias_hh_l0  # type: ignore[union-attr]
    held.requires_grad_(False).zero_()  # type: ignore[operator]
    report = assert_parity(model, params, module, None, x, losses=LOSSES, optimizers=ADAM, weights="torch")
    assert report.unexercised == ("rnn.bias_hh_l0 (held at 0)",)


def test_a_bias_that_jax_lacks_has_to_be_zero() -> None:
    model, params, module, x = pair("GRU")
    with pytest.raises(InputError, match=r"no array for 'rnn.bias_hh_l0\[16:24\]' of the torch module, which isn't 0"):
        compare_modules(model, params, module, None, x, weights="torch")


CELL = {"dense_i/kernel": (8, 32), "dense_h/kernel": (8, 32), "dense_h/bias": (32,)}


def cells(*paths: str) -> dict[str, tuple[int, ...]]:
    return {f"{path}/{leaf}": shape for path in paths for leaf, shape in CELL.items()}


def test_cells_are_told_apart_by_names_and_numbers() -> None:
    net = nn.ModuleDict({name: nn.LSTM(8, 8, num_layers=2) for name in ("encoder", "decoder")})
    found = arrange(cells("decoder/0/cell", "decoder/1/cell", "encoder/0/cell", "encoder/1/cell"), net)
    assert {one.path: one.name for one in found.pairs}["encoder/1/cell/dense_i/kernel"] == "encoder.weight_ih_l1"
    with pytest.raises(InputError, match=r"could each be any of torch's recurrent layers 'encoder\.weight_ih_l0'"):
        arrange(cells("reader/0", "reader/1", "writer/0", "writer/1"), net)
    called = ["writer.1", "reader.0", "reader.1", "writer.0"], ["decoder", "encoder"]
    with pytest.raises(InputError, match="could each be any of"):  # one is called between those of the other
        arrange(cells("reader/0", "reader/1", "writer/0", "writer/1"), net, orders=lambda: called)
    called = ["reader.0", "reader.1", "writer.0", "writer.1"], ["encoder", "decoder"]
    found = arrange(cells("reader/0", "reader/1", "writer/0", "writer/1"), net, orders=lambda: called)
    pairs = {one.path: one for one in found.pairs}
    assert pairs["writer/1/dense_i/kernel"].name == "decoder.weight_ih_l1"
    assert pairs["writer/1/dense_i/kernel"].by_calls
    found = arrange(cells("fw/cell", "bw/cell"), nn.LSTM(8, 8, bidirectional=True))
    assert {one.path: one.name for one in found.pairs}["bw/cell/dense_i/kernel"] == "weight_ih_l0_reverse"
    with pytest.raises(InputError, match="no JAX array is paired with 'weight_ih_l0'"):
        arrange(cells("cell"), nn.LSTM(8, 8, proj_size=3))


def test_the_weights_are_compared_as_sums() -> None:
    model, params, module, x = pair("LSTM")
    cell, rnn = model.layers[0].cell, module.rnn
    cell.dense_i.kernel[...] = rnn.weight_ih_l0.detach().numpy().T  # type: ignore[union-attr, operator]
    cell.dense_h.kernel[...] = rnn.weight_hh_l0.detach().numpy().T  # type: ignore[union-attr, operator]
    cell.dense_h.bias[...] = (rnn.bias_ih_l0 + rnn.bias_hh_l0).detach().numpy()  # type: ignore[union-attr, operator]
    assert_parity(model, params, module, None, x, weights="compare")
    cell.dense_h.bias[...] += 1e-5
    assert not compare_modules(model, params, module, None, x, weights="compare").passed


def test_tied_arrays_have_to_be_alike() -> None:
    model, params, module, x = pair("tied in torch")
    model.head.kernel[...] *= 2
    with pytest.raises(InputError, match="are one tensor in the torch module, and 'head/kernel' doesn't hold its num"):
        compare_modules(model, params, module, None, x)


def test_a_frozen_tensor_is_not_tied_with_a_trained_one() -> None:
    model, params, module, x = pair("tied in JAX")
    module.head.weight.requires_grad_(False)  # type: ignore[union-attr, operator]
    assert_parity(model, params, module, None, x)
    with pytest.raises(InputError, match=r"'embed\.weight', which is trained, and 'head\.weight', which is frozen"):
        compare_modules(model, params, module, None, x, losses=LOSSES)


@pytest.mark.parametrize(
    ("module", "where", "cause"),
    [
        (Stack(Block(), Block(eps=1e-5), Block()), "layers.1.norm", "the normalization's eps differs: 1e-06"),
        pytest.param(
            Stack(Block(), Block(), Block(approximate="tanh")),
            "between layers.2.up and layers.2.down",
            "GELU's tanh",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_layer_of_a_stack_is_named(module: nn.Module, where: str, cause: str) -> None:
    model, params, _, x = pair("stack")
    report = compare_modules(model, params, module, None, x)
    assert report.diagnosis is not None
    assert report.diagnosis.where == where
    assert str(report.diagnosis.cause).startswith(cause)


class OtherFused(Fused):
    def forward(self, x: Any) -> Any:
        q, k, v = self.qkv(x).chunk(3, -1)
        return self.proj(attended(k, q, v))


class Detached(Block):
    def forward(self, x: Any) -> Any:
        return x.detach() + super().forward(x) - x


def test_a_gradient_within_a_stack_is_given_no_wrong_cause() -> None:
    model, params, _, x = pair("stack")
    report = compare_modules(model, params, Stack(Block(), Detached(), Block()), None, x, losses=LOSSES)
    assert report.diagnosis is not None
    assert "no gradient" not in str(report.diagnosis.cause)


class ScaledAfter(TiedInTorch):
    def forward(self, ids: Any) -> Any:
        return super().forward(ids) / 2


@pytest.mark.parametrize("name", ["linears, fused in torch", "tied in torch"])
def test_a_layer_that_is_several_in_jax_is_not_called_missing(name: str) -> None:
    model, params, module, x = pair(name)
    module = ScaledAfter(True) if "tied" in name else Held(OtherFused())
    report = compare_modules(model, params, module, None, x)
    assert report.diagnosis is not None
    assert "no call of it" not in report.diagnosis.difference


def test_of_nothing_but_nan_it_is_said_that_nothing_was_compared() -> None:
    model, params, module, x = pair("a layer twice in torch")
    report = compare_modules(model, params, module, None, np.full_like(x, np.nan))
    assert report.diagnosis is not None
    assert report.diagnosis.difference.startswith("No entry is finite in either, so that nothing was compared")


SHAPES = {"up/kernel": (8, 24), "down/kernel": (12, 8), "down/bias": (8,)}
BY_HAND: dict[str, Any] = {
    "pairs": {
        "up/kernel": (["gate_proj.weight", "up_proj.weight"], concatenated()),
        "down/kernel": "down.weight",
        "down/bias": "down.bias",
    },
    "rules": [
        (r"up/kernel", ["gate_proj.weight", "up_proj.weight"], concatenated()),
        (r"(.*)/kernel", r"\1.weight"),
        (r"(.*)/bias", r"\1.bias"),
    ],
}


@pytest.mark.parametrize("mapping", BY_HAND.values(), ids=list(BY_HAND))
def test_a_joint_is_given_by_hand(mapping: Any) -> None:
    found = arrange(SHAPES, Gated(False), mapping)
    assert [(one.path, one.name) for one in found.pairs if one.path.startswith("up")] == [
        ("up/kernel[0]", "gate_proj.weight"),
        ("up/kernel[1]", "up_proj.weight"),
    ]


def test_rules_take_several_paths_and_numbers() -> None:
    shapes = {"a/kernel": (8, 12), "b/kernel": (8, 12), "down/kernel": (12, 8), "down/bias": (8,)}
    rules = [(("(.*)a/kernel", r"\1b/kernel"), r"\1gate_up_proj.weight", concatenated()), *BY_HAND["rules"][1:]]
    assert len(arrange(shapes, Gated(True), rules).links[0].paths) == 2
    backwards = [(("(.*)b/kernel", r"\1a/kernel"), r"\1gate_up_proj.weight", concatenated()), *rules[1:]]
    assert arrange(shapes, Gated(True), backwards).links[0].paths == ("b/kernel", "a/kernel")
    net = nn.Sequential(*(nn.Linear(4, 4) for _ in range(11)))
    found = arrange(
        {"all/kernel": (11, 4, 4), "all/bias": (11, 4)},
        net,
        [("all/kernel", "*.weight", stacked()), ("all/bias", "*.bias", stacked())],
    )
    assert [one.name for one in found.pairs][-2:] == ["10.weight", "10.bias"]


@pytest.mark.parametrize(
    ("joint", "shapes"),
    [
        (concatenated(), [(3, 4), (3, 2)]),
        (concatenated(groups=2), [(3, 4), (3, 4), (3, 4)]),
        (concatenated(axis=0), [(2, 4), (3, 4)]),
        (stacked(), [(3, 4), (3, 4)]),
        (stacked(axis=1), [(3, 4), (3, 4)]),
        (summed(), [(5,), (5,)]),
        (weight_norm(), [(4,), (3, 4)]),
    ],
)
def test_joints_go_both_ways(joint: Any, shapes: list[tuple[int, ...]]) -> None:
    parts = [np.random.default_rng(i).normal(size=shape) for i, shape in enumerate(shapes)]
    whole = joint.joined(parts)
    again = joint.parted(whole, shapes)
    assert [one.shape for one in again] == shapes
    np.testing.assert_allclose(joint.joined(again), whole, rtol=1e-15)
    if joint.difference is None:
        assert all(np.array_equal(one, other) for one, other in zip(again, parts, strict=True))


def test_groups_lie_by_turns() -> None:
    parts = [np.full((1, 4), i) for i in range(3)]
    assert concatenated(groups=2).joined(parts).tolist() == [[0, 0, 1, 1, 2, 2, 0, 0, 1, 1, 2, 2]]


def test_an_optimizers_state_is_rearranged_too() -> None:
    links = arrange(SHAPES, Gated(False), BY_HAND["pairs"]).links
    state = {f"0/{slot}/up/kernel": np.random.default_rng(0).normal(size=(8, 24)) for slot in ("mu", "nu")}
    parts = parted({**state, "0/count": np.array(3)}, links)
    assert sorted(parts) == ["0/count", *(f"0/{slot}/up/kernel[{i}]" for slot in ("mu", "nu") for i in range(2))]
    assert all(np.array_equal(state[path], array) for path, array in joined(parts, links).items() if path in state)


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"up/kernel": (["gate_proj.weight"], concatenated())}, "one array and several tensors, or the reverse"),
        ({"up/kernel": (["gate_proj.weight", "none"], concatenated())}, "'none', which the torch module doesn't have"),
        ({"none": (["gate_proj.weight", "up_proj.weight"], concatenated())}, "the JAX model has no array 'none'"),
        ({"up/kernel": (["gate_proj.weight", "down.weight"], concatenated())}, "this joint doesn't make of"),
        ({"up/kernel": (["gate_proj.weight", "up_proj.weight"], stacked())}, "this joint doesn't make of"),
        ({("up/kernel", "down/kernel"): ("down.weight", summed())}, "takes one JAX array and several tensors"),
        ({("up/kernel", "down/kernel"): ("down.weight", concatenated())}, "of which this joint doesn't make"),
        ({"up/kernel": (["gate_proj.weight", "up_proj.weight"], shared())}, "needs"),
        ({"up/kernel": (["gate_proj.weight", "down.weight"], shared())}, "can't be one tensor, since their shapes dif"),
    ],
)
def test_a_joint_that_does_not_fit_is_refused(mapping: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        arrange(SHAPES, Gated(False), {**mapping, **{k: v for k, v in BY_HAND["pairs"].items() if k != "up/kernel"}})


def test_the_layers_of_linens_scan_are_seen_turn_by_turn() -> None:
    model, params, module, x = pair("stack, Linen")
    module.layers[1].norm.eps = 1e-3  # type: ignore[union-attr, index]
    diagnosis = compare_modules(model, params, module, None, x).diagnosis
    assert diagnosis is not None
    assert diagnosis.where.startswith("layers.1.norm")
    assert str(diagnosis.cause).startswith("the normalization's eps differs")


class FlaxEncoder(nnx.Module):
    """Two layers of `nn.TransformerEncoder`, whose attention takes the mask or not."""

    layers: Any

    def __init__(self, masked: bool):
        self.masked, rngs = masked, nnx.Rngs(0)
        self.layers = nnx.List([nnx.Dict(
            self_attn=nnx.MultiHeadAttention(2, 8, decode=False, rngs=rngs),
            norm1=nnx.LayerNorm(8, epsilon=1e-5, rngs=rngs), norm2=nnx.LayerNorm(8, epsilon=1e-5, rngs=rngs),
            linear1=nnx.Linear(8, 16, rngs=rngs), linear2=nnx.Linear(16, 8, rngs=rngs),
        ) for _ in range(2)])  # fmt: skip

    def __call__(self, x: Any, seen: Any) -> Any:
        mask = seen[:, None, None] if self.masked else None
        for layer in self.layers:
            x = layer.norm1(x + layer.self_attn(x, mask=mask))
            x = layer.norm2(x + layer.linear2(nnx.relu(layer.linear1(x))))
        return x * seen[..., None]


class TorchEncoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2)

    def forward(self, x: Any, seen: Any) -> Any:
        return self.layers(x, src_key_padding_mask=~seen) * seen[..., None]


@pytest.mark.parametrize("masked", [True, False])
def test_torchs_transformer_layers_call_their_parts_without_gradients(masked: bool) -> None:
    x = np.random.default_rng(0).normal(size=(2, 5, 8))
    inputs = Inputs(x, np.arange(5) < np.array([[5], [3]]))
    report = compare_modules(FlaxEncoder(masked), None, TorchEncoder(), None, inputs)
    assert report.passed == masked
    if not masked:
        assert report.diagnosis is not None
        assert report.diagnosis.where.startswith("layers.layers.0.self_attn")
        assert report.diagnosis.cause == "attention's masks differ: no mask in JAX, inputs[1] in PyTorch"
    assert torch.backends.mha.get_fastpath_enabled()


class FlaxReader(nnx.Module):
    """Two recurrent layers, of which the second starts at what the first ends with."""

    encoder: Any
    decoder: Any
    back: Any

    def __init__(self, start: bool = True, loop: bool = True, backward: bool = True):
        self.start, self.loop, rngs = start, loop, nnx.Rngs(0)
        self.encoder = nnx.RNN(nnx.GRUCell(8, 8, rngs=rngs), return_carry=True)
        self.decoder = nnx.RNN(nnx.GRUCell(8, 8, rngs=rngs))
        self.back = nnx.RNN(nnx.GRUCell(8, 8, rngs=rngs), reverse=backward, keep_order=True)
        self.out = nnx.Linear(16, 8, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        h, y = self.encoder(x)
        if not self.loop:
            cell = self.encoder.cell
            h, y = nnx.scan(lambda cell, h, x: cell(h, x), in_axes=(None, nnx.Carry, 1), out_axes=(nnx.Carry, 1))(
                cell, cell.initialize_carry(x[:, 0].shape, nnx.Rngs(0)), x
            )
        z = self.decoder(y, initial_carry=h if self.start else None)
        return self.out(jnp.concatenate([z, self.back(y)], -1))


class TorchReader(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = nn.GRU(8, 8, batch_first=True), nn.GRU(8, 8, batch_first=True)
        self.back, self.out = nn.GRU(8, 8, batch_first=True), nn.Linear(16, 8)

    def forward(self, x: Any) -> Any:
        y, h = self.encoder(x)
        back = self.back(y.flip(1))[0].flip(1)
        return self.out(torch.cat([self.decoder(y, h)[0], back], -1))


@pytest.mark.parametrize(
    ("wrong", "where", "text"),
    [
        ({"start": False}, "decoder", "Its sequence agrees (the initial state is not compared) and its output differs"),
        ({"start": False, "loop": False}, "decoder", "Its sequence agrees"),
        pytest.param({"backward": False}, "back", "Its sequence agrees", marks=pytest.mark.slow),
    ],
)
def test_a_difference_is_found_behind_a_loop_that_returns_its_carry(wrong: dict, where: str, text: str) -> None:
    x = np.random.default_rng(0).normal(size=(2, 5, 8))
    diagnosis = compare_modules(FlaxReader(**wrong), None, TorchReader(), None, x).diagnosis
    assert diagnosis is not None
    assert diagnosis.where.startswith(f"{where} ({where}.cell in JAX)")
    assert diagnosis.difference.startswith(text)


def test_the_part_of_an_array_that_differs_is_named() -> None:
    a, b = np.ones((4, 6)), np.ones((4, 6))
    b[1:3, 4:] = 2
    assert worst_difference(a, b).endswith(", and only [1:3, 4:6] differs")
    b[:, 4:] = 2
    assert worst_difference(a, b).endswith(", and only [:, 4:6] differs")
    for whole in (a + 1, a * (1 + 1e-15)):
        assert "only" not in worst_difference(a, whole)
    assert "only" not in worst_difference(np.array(1.0), np.array(2.0))


def test_another_constant_of_the_embeddings_is_named() -> None:
    rng = np.random.default_rng(0)
    x, table = rng.normal(size=(2, 5, 8)), rng.normal(size=(9, 8))
    for first in (0, 2):
        rows = table[first : first + 5]
        cause = cause_in_positions((x, x), (x + rows, 4 * x + rows), {"pos.weight": table}, 1e-9)
        assert str(cause).endswith("is multiplied by another constant: 1 in JAX, 4 in PyTorch")
    assert cause_in_positions((x, x), (x + rows, x**2 + rows), {"pos.weight": table}, 1e-9) is None
