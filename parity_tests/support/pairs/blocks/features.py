"""Blocks that act on the last axis of rows and sequences: linear layers, norms, residuals, gates."""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import torch

from parity_tests.support.pairs import parts
from parity_tests.support.pairs.block import Block, chance, pick
from parity_tests.support.pairs.functions import ACTIVATIONS, USUAL
from parity_tests.support.pairs.values import ROWS, SEQUENCE, Value


@dataclass(frozen=True, kw_only=True)
class Features(Block):
    """A block that reads and writes features on the last axis."""

    accepts: ClassVar[tuple[str, ...]] = (ROWS, SEQUENCE)
    width: int

    @classmethod
    def draw(cls, rng: np.random.Generator, value: Value, name: str) -> "Features":
        return cls(name=name, width=value.features)


@dataclass(frozen=True, kw_only=True)
class Dense(Features):
    """A linear layer, often to another width."""

    n_out: int
    bias: bool = True
    zero: bool = False

    @classmethod
    def draw(cls, rng: np.random.Generator, value: Value, name: str) -> "Dense":
        n_out = value.features if chance(rng, 0.5) else pick(rng, (4, 6, 8))
        return cls(name=name, width=value.features, n_out=n_out, bias=chance(rng, 0.85))

    def after(self, value: Value) -> Value:
        return value.of(self.n_out)

    def layers(self) -> dict[str, parts.Part]:
        return {"linear": parts.Linear(n_in=self.width, n_out=self.n_out, bias=self.bias, zero=self.zero)}

    def in_jax(self, m: Any, x: Any) -> Any:
        return m.linear(x)

    def in_torch(self, m: Any, x: Any) -> Any:
        return m.linear(x)


@dataclass(frozen=True, kw_only=True)
class FeatureNorm(Features):
    """A layer norm or RMS norm."""

    mean_square: bool

    @classmethod
    def draw(cls, rng: np.random.Generator, value: Value, name: str) -> "FeatureNorm":
        return cls(name=name, width=value.features, mean_square=chance(rng, 0.4))

    def layers(self) -> dict[str, parts.Part]:
        return {"norm": (parts.RMSNorm if self.mean_square else parts.LayerNorm)(features=self.width)}

    def in_jax(self, m: Any, x: Any) -> Any:
        return m.norm(x)

    def in_torch(self, m: Any, x: Any) -> Any:
        return m.norm(x)


@dataclass(frozen=True, kw_only=True)
class Residual(Features):
    """Two linear layers beside a skip, with the norm before or after; the second often starts at zero."""

    before: bool
    """Whether the norm stands before the branch; else after the sum."""
    zero: bool
    activation: str
    skip: float = 1.0
    """The factor of the skip; 0 leaves it out."""
    branch: float = 1.0
    from_norm: bool = False
    """Whether the skip carries the normed numbers."""
    normed: bool = True
    second_activation: bool = False
    """Whether the activation also follows the second layer."""

    @classmethod
    def draw(cls, rng: np.random.Generator, value: Value, name: str) -> "Residual":
        before, zero = chance(rng, 0.6), chance(rng, 0.5)
        return cls(name=name, width=value.features, before=before, zero=zero, activation=pick(rng, USUAL))

    def layers(self) -> dict[str, parts.Part]:
        wide = 2 * self.width
        return {
            "norm": parts.LayerNorm(features=self.width),
            "up": parts.Linear(n_in=self.width, n_out=wide),
            "down": parts.Linear(n_in=wide, n_out=self.width, zero=self.zero),
        }

    def in_jax(self, m: Any, x: Any) -> Any:
        return self._apply(m, x, ACTIVATIONS[self.activation][0])

    def in_torch(self, m: Any, x: Any) -> Any:
        return self._apply(m, x, ACTIVATIONS[self.activation][1])

    def _apply(self, m: Any, x: Any, activation: Any) -> Any:
        y = m.norm(x) if self.before and self.normed else x
        kept = y if self.from_norm else x
        y = m.down(activation(m.up(y)))
        y = activation(y) if self.second_activation else y
        y = self.skip * kept + self.branch * y
        return y if self.before or not self.normed else m.norm(y)


@dataclass(frozen=True, kw_only=True)
class Gate(Features):
    """A gated linear unit: one half of a linear layer gates the other."""

    activation: str
    swapped: bool = False
    inverted: bool = False
    plus_one: bool = False
    interleaved: bool = False

    @classmethod
    def draw(cls, rng: np.random.Generator, value: Value, name: str) -> "Gate":
        return cls(name=name, width=value.features, activation=pick(rng, ("sigmoid", "gelu", "silu", "relu")))

    def layers(self) -> dict[str, parts.Part]:
        return {
            "wide": parts.Linear(n_in=self.width, n_out=2 * self.width),
            "out": parts.Linear(n_in=self.width, n_out=self.width),
        }

    def in_jax(self, m: Any, x: Any) -> Any:
        y = m.wide(x)
        a, b = (y[..., ::2], y[..., 1::2]) if self.interleaved else jnp.split(y, 2, -1)
        return m.out(self._gated(a, b, ACTIVATIONS[self.activation][0]))

    def in_torch(self, m: Any, x: Any) -> Any:
        y = m.wide(x)
        a, b = (y[..., ::2], y[..., 1::2]) if self.interleaved else y.chunk(2, -1)
        return m.out(self._gated(a, b, ACTIVATIONS[self.activation][1]))

    def _gated(self, a: Any, b: Any, activation: Any) -> Any:
        a, b = (b, a) if self.swapped else (a, b)
        gate = activation(b)
        gate = 1 - gate if self.inverted else gate
        return a * (1 + gate if self.plus_one else gate)


@dataclass(frozen=True, kw_only=True)
class Mix(Features):
    """A highway: a gate chooses between the input and a branch."""

    swapped: bool = False
    square: bool = False

    def layers(self) -> dict[str, parts.Part]:
        linear = parts.Linear(n_in=self.width, n_out=self.width)
        return {"gate": linear, "branch": linear}

    def in_jax(self, m: Any, x: Any) -> Any:
        return self._mixed(x, jax.nn.sigmoid(m.gate(x)), jnp.tanh(m.branch(x)))

    def in_torch(self, m: Any, x: Any) -> Any:
        return self._mixed(x, torch.sigmoid(m.gate(x)), torch.tanh(m.branch(x)))

    def _mixed(self, x: Any, gate: Any, y: Any) -> Any:
        gate = gate**2 if self.square else gate
        return gate * x + (1 - gate) * y if self.swapped else (1 - gate) * x + gate * y


@dataclass(frozen=True, kw_only=True)
class Concatenate(Features):
    """Two linear layers side by side, whose outputs are joined."""

    reverse: bool = False
    same: bool = False
    """Whether the first output stands in both places."""

    def layers(self) -> dict[str, parts.Part]:
        linear = parts.Linear(n_in=self.width, n_out=self.width)
        return {"left": linear, "right": linear, "join": parts.Linear(n_in=2 * self.width, n_out=self.width)}

    def in_jax(self, m: Any, x: Any) -> Any:
        return m.join(jnp.concatenate(self._two(m.left(x), m.right(x)), -1))

    def in_torch(self, m: Any, x: Any) -> Any:
        return m.join(torch.cat(self._two(m.left(x), m.right(x)), -1))

    def _two(self, left: Any, right: Any) -> tuple[Any, Any]:
        pair = (left, left) if self.same else (left, right)
        return pair[::-1] if self.reverse else pair
