"""Blocks of signals, images and volumes: convolutions, norms, residuals, channel gates."""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np

from parity_tests.support.pairs import parts
from parity_tests.support.pairs.block import Block, chance, pick
from parity_tests.support.pairs.functions import ACTIVATIONS, USUAL
from parity_tests.support.pairs.values import GRIDS, IMAGE, ROWS, SEQUENCE, Value


@dataclass(frozen=True, kw_only=True)
class Convolution(Block):
    """A convolution with stride, dilation or groups."""

    accepts: ClassVar[tuple[str, ...]] = GRIDS
    n_in: int
    n_out: int
    size: int
    strides: tuple[int, ...]
    groups: int = 1
    mode: str = "zeros"

    @classmethod
    def draw(cls, rng: np.random.Generator, value: Value, name: str) -> "Convolution":
        axes, wide = len(value.sides), min(value.sides) >= 4
        stride = 2 if wide and axes < 3 and chance(rng, 0.4) else 1
        groups = 2 if value.features % 2 == 0 and chance(rng, 0.25) else 1
        n_out = value.features if chance(rng, 0.5) else 4
        groups = groups if n_out % groups == 0 else 1
        mode = "circular" if stride == 1 and chance(rng, 0.15) else "zeros"
        return cls(name=name, n_in=value.features, n_out=n_out, size=3, strides=(stride,) * axes, groups=groups,
                   mode=mode)  # fmt: skip

    def after(self, value: Value) -> Value:
        sides = tuple((n - 1) // stride + 1 for n, stride in zip(value.sides, self.strides, strict=True))
        return Value(value.kind, self.n_out, sides)

    def layers(self) -> dict[str, parts.Part]:
        axes = len(self.strides)
        return {
            "conv": parts.Conv(
                n_in=self.n_in, n_out=self.n_out, size=(self.size,) * axes, strides=self.strides,
                padding=((1, 1),) * axes, groups=self.groups, mode=self.mode,
            )
        }  # fmt: skip

    def in_jax(self, m: Any, x: Any) -> Any:
        return m.conv(x)

    def in_torch(self, m: Any, x: Any) -> Any:
        return m.conv(x)


@dataclass(frozen=True, kw_only=True)
class Upconvolution(Block):
    """A transposed convolution of stride 2."""

    accepts: ClassVar[tuple[str, ...]] = GRIDS
    n_in: int
    n_out: int
    axes: int

    @classmethod
    def fits(cls, value: Value) -> bool:
        return super().fits(value) and max(value.sides) <= 4 and len(value.sides) < 3

    @classmethod
    def draw(cls, rng: np.random.Generator, value: Value, name: str) -> "Upconvolution":
        n_out = value.features if chance(rng, 0.6) else 3
        return cls(name=name, n_in=value.features, n_out=n_out, axes=len(value.sides))

    def after(self, value: Value) -> Value:
        return Value(value.kind, self.n_out, tuple(2 * n for n in value.sides))

    def layers(self) -> dict[str, parts.Part]:
        return {
            "conv": parts.ConvTranspose(n_in=self.n_in, n_out=self.n_out, size=(4,) * self.axes, stride=2, padding=1)
        }

    def in_jax(self, m: Any, x: Any) -> Any:
        return m.conv(x)

    def in_torch(self, m: Any, x: Any) -> Any:
        return m.conv(x)


@dataclass(frozen=True, kw_only=True)
class ChannelNorm(Block):
    """A group norm, or an instance norm as one."""

    accepts: ClassVar[tuple[str, ...]] = GRIDS
    features: int
    groups: int

    @classmethod
    def draw(cls, rng: np.random.Generator, value: Value, name: str) -> "ChannelNorm":
        counts = [n for n in range(1, value.features + 1) if value.features % n == 0]
        return cls(name=name, features=value.features, groups=pick(rng, counts))

    def layers(self) -> dict[str, parts.Part]:
        return {"norm": parts.GroupNorm(features=self.features, groups=self.groups)}

    def in_jax(self, m: Any, x: Any) -> Any:
        return m.norm(x)

    def in_torch(self, m: Any, x: Any) -> Any:
        return m.norm(x)


@dataclass(frozen=True, kw_only=True)
class BatchNormed(Block):
    """A batch norm of rows or grids."""

    accepts: ClassVar[tuple[str, ...]] = (ROWS, *GRIDS)
    features: int

    @classmethod
    def draw(cls, rng: np.random.Generator, value: Value, name: str) -> "BatchNormed":
        return cls(name=name, features=value.features)

    def layers(self) -> dict[str, parts.Part]:
        return {"norm": parts.BatchNorm(features=self.features)}

    def in_jax(self, m: Any, x: Any) -> Any:
        return m.norm(x)

    def in_torch(self, m: Any, x: Any) -> Any:
        return m.norm(x)


@dataclass(frozen=True, kw_only=True)
class ConvResidual(Block):
    """Two convolutions beside a skip; the second often starts at zero."""

    accepts: ClassVar[tuple[str, ...]] = (IMAGE,)
    features: int
    activation: str
    zero: bool
    skip: float = 1.0
    branch: float = 1.0
    first: bool = True
    """Whether the activation follows the norm instead of preceding it."""
    after_sum: bool = False
    """Whether an activation follows the sum too."""

    @classmethod
    def draw(cls, rng: np.random.Generator, value: Value, name: str) -> "ConvResidual":
        return cls(name=name, features=value.features, activation=pick(rng, USUAL), zero=chance(rng, 0.5))

    def layers(self) -> dict[str, parts.Part]:
        conv: dict[str, Any] = {"n_in": self.features, "n_out": self.features, "size": (3, 3), "strides": (1, 1)}
        return {
            "norm": parts.GroupNorm(features=self.features, groups=1),
            "conv1": parts.Conv(**conv, padding=((1, 1), (1, 1))),
            "conv2": parts.Conv(**conv, padding=((1, 1), (1, 1)), zero=self.zero),
        }

    def in_jax(self, m: Any, x: Any) -> Any:
        return self._apply(m, x, ACTIVATIONS[self.activation][0])

    def in_torch(self, m: Any, x: Any) -> Any:
        return self._apply(m, x, ACTIVATIONS[self.activation][1])

    def _apply(self, m: Any, x: Any, activation: Any) -> Any:
        y = activation(m.norm(x)) if self.first else m.norm(activation(x))
        y = self.skip * x + self.branch * m.conv2(activation(m.conv1(y)))
        return activation(y) if self.after_sum else y


@dataclass(frozen=True, kw_only=True)
class Excite(Block):
    """Channels weighed by their means (squeeze and excite)."""

    accepts: ClassVar[tuple[str, ...]] = (IMAGE,)
    features: int
    gate: str = "sigmoid"
    pool: str = "mean"
    residual: bool = False

    @classmethod
    def draw(cls, rng: np.random.Generator, value: Value, name: str) -> "Excite":
        return cls(name=name, features=value.features)

    def layers(self) -> dict[str, parts.Part]:
        linear = parts.Linear(n_in=self.features, n_out=self.features)
        return {"squeeze": linear, "excite": linear}

    def in_jax(self, m: Any, x: Any) -> Any:
        pooled = x.mean((1, 2)) if self.pool == "mean" else x.max((1, 2))
        weight = ACTIVATIONS[self.gate][0](m.excite(ACTIVATIONS["silu"][0](m.squeeze(pooled))))
        return x * (weight + self.residual)[:, None, None]

    def in_torch(self, m: Any, x: Any) -> Any:
        pooled = x.mean((2, 3)) if self.pool == "mean" else x.amax((2, 3))
        weight = ACTIVATIONS[self.gate][1](m.excite(ACTIVATIONS["silu"][1](m.squeeze(pooled))))
        return x * (weight + self.residual)[..., None, None]


@dataclass(frozen=True, kw_only=True)
class Patches(Block):
    """The pixels of an image as a sequence."""

    accepts: ClassVar[tuple[str, ...]] = (IMAGE,)
    columns_first: bool = False

    @classmethod
    def draw(cls, rng: np.random.Generator, value: Value, name: str) -> "Patches":
        return cls(name=name)

    @classmethod
    def fits(cls, value: Value) -> bool:
        return super().fits(value) and bool(np.prod(value.sides) <= 16)

    def after(self, value: Value) -> Value:
        return Value(SEQUENCE, value.features, (int(np.prod(value.sides)),))

    def in_jax(self, m: Any, x: Any) -> Any:
        x = x.swapaxes(1, 2) if self.columns_first else x
        return x.reshape(len(x), -1, x.shape[-1])

    def in_torch(self, m: Any, x: Any) -> Any:
        return (x.mT if self.columns_first else x).flatten(2).mT


@dataclass(frozen=True, kw_only=True)
class Flatten(Block):
    """A grid as one row, channels first."""

    accepts: ClassVar[tuple[str, ...]] = GRIDS
    channels_last: bool = False

    @classmethod
    def draw(cls, rng: np.random.Generator, value: Value, name: str) -> "Flatten":
        return cls(name=name)

    def after(self, value: Value) -> Value:
        return Value(ROWS, value.features * int(np.prod(value.sides)))

    def in_jax(self, m: Any, x: Any) -> Any:
        return (x if self.channels_last else jnp.moveaxis(x, -1, 1)).reshape(len(x), -1)

    def in_torch(self, m: Any, x: Any) -> Any:
        return (x.movedim(1, -1) if self.channels_last else x).flatten(1)
