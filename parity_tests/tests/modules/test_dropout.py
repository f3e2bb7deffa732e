"""Networks with dropout in training: the masks of both frameworks are the same, call by call."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from flax import linen, nnx
from torch import nn

from jaxvae.shared.errors import InputError
from parity_tests.harness.modules.compare import assert_parity, compare_modules
from parity_tests.support.quick import quick

RNG = np.random.default_rng(0)
IMAGES, TOKENS = RNG.normal(size=(3, 2, 5, 4)), RNG.normal(size=(2, 5, 8))
TRAINING: dict[str, Any] = {"train": True, "share_dropout": True, "losses": (lambda y: (y**2).mean(),) * 2}


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


@pytest.mark.slow
def test_attentions_own_dropout_is_shared() -> None:
    class Flax(nnx.Module):
        def __init__(self) -> None:
            self.attention = nnx.MultiHeadAttention(
                2, 8, dropout_rate=0.4, broadcast_dropout=False, decode=False, rngs=nnx.Rngs(0)
            )

        def __call__(self, x: Any) -> Any:
            return self.attention(x)

    class Torch(nn.Module):
        def __init__(self, rate: float = 0.4) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2, dropout=rate, batch_first=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.attention(x, x, x, need_weights=False)[0]

    assert_parity(Flax(), None, Torch(), None, TOKENS, **TRAINING)
    assert not compare_modules(Flax(), None, Torch(0.5), None, TOKENS, **TRAINING).passed


def test_nothing_of_it_is_left() -> None:
    before = jax.random.bernoulli, torch._VF.dropout, F.scaled_dot_product_attention  # type: ignore[attr-defined]
    with pytest.raises(InputError, match="the torch loss returns an int"):
        compare_modules(InNNX(), None, InTorch(), None, IMAGES, share_dropout=True, losses=(len, len))  # type: ignore[arg-type]
    assert before == (jax.random.bernoulli, torch._VF.dropout, F.scaled_dot_product_attention)  # type: ignore[attr-defined]
    assert not torch.equal(F.dropout(x := torch.ones(64)), F.dropout(x))
