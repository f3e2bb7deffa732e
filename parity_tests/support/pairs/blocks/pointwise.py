"""Blocks of any array: activations, dropout, scalar parameters, clipping."""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import torch

from parity_tests.support.pairs import parts
from parity_tests.support.pairs.block import Block, pick
from parity_tests.support.pairs.functions import ACTIVATIONS, USUAL, jax_softmax, softplus, torch_softmax
from parity_tests.support.pairs.values import GRIDS, ROWS, SEQUENCE, Value


@dataclass(frozen=True, kw_only=True)
class Pointwise(Block):
    """A block that keeps the shape of any array of floats."""

    accepts: ClassVar[tuple[str, ...]] = (ROWS, SEQUENCE, *GRIDS)

    @classmethod
    def draw(cls, rng: np.random.Generator, value: Value, name: str) -> "Pointwise":
        return cls(name=name)


@dataclass(frozen=True, kw_only=True)
class Activation(Pointwise):
    """An activation."""

    function: str
    scale: float = 1.0
    shift: float = 0.0
    """What is added to its input."""

    @classmethod
    def draw(cls, rng: np.random.Generator, value: Value, name: str) -> "Activation":
        return cls(name=name, function=pick(rng, USUAL))

    def in_jax(self, m: Any, x: Any) -> Any:
        return self.scale * ACTIVATIONS[self.function][0](x + self.shift)

    def in_torch(self, m: Any, x: Any) -> Any:
        return self.scale * ACTIVATIONS[self.function][1](x + self.shift)


@dataclass(frozen=True, kw_only=True)
class Softmax(Pointwise):
    """A softmax over the last axis of rows or of a sequence."""

    accepts: ClassVar[tuple[str, ...]] = (ROWS, SEQUENCE)
    axis: int = -1
    temperature: float = 1.0
    log: bool = False

    def in_jax(self, m: Any, x: Any) -> Any:
        y = jax_softmax(x, self.axis, self.temperature)
        return jnp.log(y) if self.log else y

    def in_torch(self, m: Any, x: Any) -> Any:
        y = torch_softmax(x, self.axis, self.temperature)
        return torch.log(y) if self.log else y


@dataclass(frozen=True, kw_only=True)
class Dropped(Pointwise):
    """Dropout, which is off in evaluation."""

    def layers(self) -> dict[str, parts.Part]:
        return {"dropout": parts.Dropout(rate=0.4)}

    def in_jax(self, m: Any, x: Any) -> Any:
        return m.dropout(x)

    def in_torch(self, m: Any, x: Any) -> Any:
        return m.dropout(x)


@dataclass(frozen=True, kw_only=True)
class Temperature(Pointwise):
    """A scalar parameter that scales the numbers, by its exponential."""

    form: str = "exp"
    """exp, softplus or plain."""
    added: bool = False

    def layers(self) -> dict[str, parts.Part]:
        return {"temperature": parts.Weight(start=0.3)}

    def in_jax(self, m: Any, x: Any) -> Any:
        k = m.temperature[...]
        k = {"exp": jnp.exp, "softplus": jax.nn.softplus, "plain": lambda k: k}[self.form](k)
        return x + k if self.added else x * k

    def in_torch(self, m: Any, x: Any) -> Any:
        k = m.temperature
        k = {"exp": torch.exp, "softplus": softplus, "plain": lambda k: k}[self.form](k)
        return x + k if self.added else x * k


@dataclass(frozen=True, kw_only=True)
class Clip(Pointwise):
    """Numbers cut off at two bounds."""

    low: float = -0.7
    high: float = 0.9
    soft: bool = False
    """Whether tanh bounds them instead."""

    def in_jax(self, m: Any, x: Any) -> Any:
        return self.high * jnp.tanh(x / self.high) if self.soft else jnp.clip(x, self.low, self.high)

    def in_torch(self, m: Any, x: Any) -> Any:
        return self.high * torch.tanh(x / self.high) if self.soft else torch.clamp(x, self.low, self.high)


@dataclass(frozen=True, kw_only=True)
class UnitLength(Pointwise):
    """The features divided by their length."""

    accepts: ClassVar[tuple[str, ...]] = (ROWS, SEQUENCE)
    eps: float = 1e-6
    order: int = 2
    axis: int = -1
    added: bool = True
    """Whether eps is added to the length; else it bounds the length."""

    def in_jax(self, m: Any, x: Any) -> Any:
        length = (jnp.abs(x) ** self.order).sum(self.axis, keepdims=True) ** (1 / self.order)
        return x / (length + self.eps if self.added else jnp.maximum(length, self.eps))

    def in_torch(self, m: Any, x: Any) -> Any:
        length = (x.abs() ** self.order).sum(self.axis, keepdim=True) ** (1 / self.order)
        return x / (length + self.eps if self.added else length.clamp(min=self.eps))


@dataclass(frozen=True, kw_only=True)
class WeightNorm(Block):
    """A linear layer whose kernel is a direction and a length."""

    accepts: ClassVar[tuple[str, ...]] = (ROWS, SEQUENCE)
    width: int
    axis: int = 0
    """The axis of the inputs."""
    squared: bool = False

    @classmethod
    def draw(cls, rng: np.random.Generator, value: Value, name: str) -> "WeightNorm":
        return cls(name=name, width=value.features)

    def layers(self) -> dict[str, parts.Part]:
        shape = (self.width, self.width)
        return {"direction": parts.Weight(shape=shape), "length": parts.Weight(shape=(self.width,), start=1.0)}

    def in_jax(self, m: Any, x: Any) -> Any:
        square = (m.direction[...] ** 2).sum(self.axis, keepdims=True)
        return x @ (m.length[...] * m.direction[...] / (square if self.squared else jnp.sqrt(square)))

    def in_torch(self, m: Any, x: Any) -> Any:
        square = (m.direction**2).sum(self.axis, keepdim=True)
        return x @ (m.length * m.direction / (square if self.squared else square.sqrt()))


@dataclass(frozen=True, kw_only=True)
class Tied(Block):
    """A kernel that is used again, transposed."""

    accepts: ClassVar[tuple[str, ...]] = (ROWS, SEQUENCE)
    width: int
    untransposed: bool = False
    second_frozen: bool = False
    activation: str = "tanh"

    @classmethod
    def draw(cls, rng: np.random.Generator, value: Value, name: str) -> "Tied":
        return cls(name=name, width=value.features)

    def layers(self) -> dict[str, parts.Part]:
        return {"kernel": parts.Weight(shape=(self.width, self.width))}

    def in_jax(self, m: Any, x: Any) -> Any:
        kernel = m.kernel[...]
        again = jax.lax.stop_gradient(kernel) if self.second_frozen else kernel
        return ACTIVATIONS[self.activation][0](x @ kernel) @ (again if self.untransposed else again.T)

    def in_torch(self, m: Any, x: Any) -> Any:
        again = m.kernel.detach() if self.second_frozen else m.kernel
        return ACTIVATIONS[self.activation][1](x @ m.kernel) @ (again if self.untransposed else again.T)
