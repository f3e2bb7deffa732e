"""Causes that are told from numbers alone, by the functions that tell them."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from parity_tests.harness.causes import each
from parity_tests.harness.modules.hypotheses import (
    attention,
    between_layers,
    branches,
    layers,
    localize,
    masks,
    optimizer,
)
from parity_tests.harness.modules.hypotheses.attention import Attention

RANDOM = np.random.default_rng(0)
LENGTH, SIZE = 6, 16
SEEN = np.arange(LENGTH) < np.array([6, 4, 2])[:, None]
KEYS = SIZE // 2
USUAL = Attention(heads=4, mask="seen and a causal mask", rotary="halves, base 10,000")


def grouped(settings: Attention, parts: list[np.ndarray]) -> np.ndarray:
    every = masks.given({"seen": SEEN}, 3, 4, LENGTH, LENGTH)
    with np.errstate(all="ignore"):
        return np.nan_to_num(attention.attend(parts, settings, None, every))


@pytest.mark.parametrize(
    ("other", "cause"),
    [
        (
            {"groups": "every n-th head shares them"},
            "every n-th head shares them in JAX, neighbouring heads share them",
        ),
        ({"mask": "a causal mask"}, "a causal mask in JAX, seen and a causal mask in PyTorch"),
        ({"mask": "a causal mask and the inverse of seen"}, "a causal mask and the inverse of seen in JAX, seen and a"),
        ({"mask": "seen (of each query)"}, "seen (of each query) in JAX, seen and a causal mask in PyTorch"),
        ({"rotary": "pairs, base 10,000"}, "pairs, base 10,000 in JAX, halves, base 10,000 in PyTorch"),
        ({"scale": "1"}, "1 in JAX, 1/sqrt(head size) in PyTorch"),
    ],
)
def test_attention_whose_heads_share_keys_is_told_by_its_settings(other: dict[str, Any], cause: str) -> None:
    """With a mask of padding, a causal one and rotary embeddings."""
    parts = [RANDOM.normal(size=(3, LENGTH, size)) for size in (SIZE, KEYS, KEYS)]
    target = grouped(USUAL._replace(**other), parts), grouped(USUAL, parts)
    found = attention.cause_in_attention(parts, parts, target, 1e-12, {"seen": SEEN})
    assert cause in (found or "")


def test_attention_to_another_place_is_told_where_queries_are_fewer_than_masked_keys() -> None:
    torch.manual_seed(0)
    layer = nn.MultiheadAttention(SIZE, 2, batch_first=True).double()
    query, *places = (torch.tensor(RANDOM.normal(size=(3, n, SIZE))) for n in (LENGTH - 1, LENGTH, LENGTH))
    hidden = torch.tensor(~SEEN)
    given = [layer(query, p, p, key_padding_mask=hidden, need_weights=False)[0].numpy(force=True) for p in places]
    arrays = {"seen": SEEN, "src": places[0].numpy(), "memory": places[1].numpy()}
    found = attention.changed_attention(layer, query.numpy(), (given[0], given[1]), 1e-12, arrays)
    assert found == "attention's keys and values are of another place: src in JAX, memory in PyTorch"


@pytest.mark.parametrize(("axis", "what"), [(-1, "2 of 5 features"), (1, "2 of 4 positions")])
def test_two_parts_in_the_other_order_are_told(axis: int, what: str) -> None:
    x = RANDOM.normal(size=(3, 4, 5))
    found = branches.cause_in_joining(np.roll(x, -2, axis), x, 1e-12)
    assert found is not None
    assert f"PyTorch's first {what} come last in JAX" in found
    assert branches.cause_in_joining(x[:, :, ::-1], x, 1e-12) is None


def test_dropout_of_other_numbers_by_one_mask_is_no_cause() -> None:
    """What differs before it is: the units that it drops are the same."""
    x, y = RANDOM.normal(size=(2, 40, 5)) + 1
    mask, other = (RANDOM.random(size=(2, 40, 5)) > 0.25) / 0.75
    between = between_layers.cause_between
    assert between((x, x * mask), (y, y * mask), 1e-12) is None
    assert "drops other units in each" in str(between((x, x * mask), (y, y * other), 1e-12))
    rates = between((x, x * mask), (y, y * (RANDOM.random(y.shape) > 0.5) * 2), 1e-12)
    assert rates == "the rates of a dropout differ: 0.25 in JAX, 0.5 in PyTorch"


def test_a_norm_that_scales_by_1_and_its_weights_is_told() -> None:
    class Norm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.linspace(-0.5, 1.5, SIZE, dtype=torch.float64))

    x = RANDOM.normal(size=(4, SIZE))
    weight = Norm().weight.numpy(force=True)
    plain = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6)
    found = layers.cause_in_layer(Norm(), x, plain * (1 + weight), plain * weight, 1e-12)
    assert found == "the norm scales by another function of its weights: 1 + the weights in JAX, the weights in PyTorch"
    single = ((plain * (1 + weight)).astype(np.float32), (plain * weight).astype(np.float32))
    assert layers.cause_in_layer(Norm(), x.astype(np.float32), *single, 1e-5) == found
    other = weight * x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5)
    found = layers.cause_in_layer(Norm(), x, other, plain * weight, 1e-12)
    assert found is not None
    assert found.endswith("1e-05 in JAX, 1e-06 in PyTorch")
    assert each(found).advice == "give the Flax layer epsilon=1e-06"


def test_a_table_of_positions_is_told_however_long_before_the_tokens_were_embedded() -> None:
    ids, tokens = np.zeros((3, 4), int), RANDOM.normal(size=(3, 4, 5))
    others = [(f"layer{i}", x, x) for i in range(12) for x in [RANDOM.normal(size=(3, 4, 5))]]
    earlier = [("the input of tokens", ids, ids), ("tokens", tokens, tokens), *others]
    table = RANDOM.normal(size=(6, 5))
    found = localize._between_causes(earlier, "next", tokens, tokens + table[:4], 1e-12, [], {"place": table}, {})
    assert found is not None
    assert found[0] == "between tokens and next"
    assert found[1].endswith("added in one framework only: place, in PyTorch")


@pytest.mark.parametrize(
    ("other", "cause"),
    [
        ({"nesterov": True}, "Nesterov's momentum on one side: in JAX"),
        (
            {"rates": [0.1, 0.05, 0.01]},
            "the learning rates of the steps differ: [0.1, 0.05, 0.01] in JAX, [0.1, 0.1, 0.1]",
        ),
    ],
)
def test_adams_steps_tell_nesterovs_momentum_and_a_schedule(other: dict[str, Any], cause: str) -> None:
    weights, gradients, rates = RANDOM.normal(size=20), RANDOM.normal(size=(3, 20)), np.full(3, 0.1)
    steps = optimizer.Steps(weights, gradients, gradients, rates, np.ones(20))
    own = {"rates": rates, **other}
    in_jax = optimizer.adam(weights, gradients, np.asarray(own.pop("rates")), **own)
    in_torch = optimizer.adam(weights, gradients, rates)
    options = {"betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0, "amsgrad": False, "lr": 0.1}
    found = optimizer.cause_in_optimizer("Adam", options, steps, in_jax, in_torch, 1e-12)
    assert (found or "").startswith(cause)


@pytest.mark.parametrize(
    ("own", "cause"),
    [
        ({"momentum": 0.9}, "the learning rate differs: 0.2 in JAX, 0.1 in PyTorch; the momentum differs: 0.9 in JAX"),
        ({"momentum": 0.5, "nesterov": True}, "the learning rate differs: 0.2 in JAX, 0.1 in PyTorch; Nesterov's"),
        ({"momentum": 0.5, "rates": [0.0, 0.1, 0.3, 0.2, 0.1]}, "the learning rates of the steps differ"),
    ],
)
def test_one_other_rate_with_another_momentum_is_no_schedule(own: dict[str, Any], cause: str) -> None:
    weights, gradients, rates = RANDOM.normal(size=20), RANDOM.normal(size=(5, 20)), np.full(5, 0.1)
    if "rates" in own:
        gradients[1] = gradients[0]  # as after a step with a rate of 0
    steps = optimizer.Steps(weights, gradients, gradients, rates, np.ones(20))
    in_torch = optimizer.sgd(weights, gradients, rates, momentum=0.5)
    in_jax = optimizer.sgd(
        weights, gradients, np.asarray(own.get("rates", 2 * rates)), **{k: v for k, v in own.items() if k != "rates"}
    )
    options = {"momentum": 0.5, "dampening": 0.0, "nesterov": False, "weight_decay": 0.0}
    found = optimizer.cause_in_optimizer("SGD", options, steps, in_jax, in_torch, 1e-12)
    assert (found or "").startswith(cause)
    assert "[" not in (found or "")
