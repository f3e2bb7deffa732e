"""Blocks that move, pool or resize the pixels of an image."""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch.nn.functional as F
from flax import nnx

from parity_tests.support.pairs.block import Block, chance, pick
from parity_tests.support.pairs.values import GRIDS, IMAGE, ROWS, Value


@dataclass(frozen=True, kw_only=True)
class Pool(Block):
    """Pooling of windows of two or three pixels."""

    accepts: ClassVar[tuple[str, ...]] = (IMAGE,)
    kind: str
    size: int
    pad: tuple[int, int]
    counted: bool = True
    """Whether an average counts the padding."""
    ends: tuple[int, int] = (0, 0)
    """By how much the padding is moved to the end of each axis."""

    @classmethod
    def fits(cls, value: Value) -> bool:
        return super().fits(value) and all(n % 2 == 0 and n >= 4 for n in value.sides)

    @classmethod
    def draw(cls, rng: np.random.Generator, value: Value, name: str) -> "Pool":
        size = pick(rng, (2, 3))
        return cls(name=name, kind=pick(rng, ("max", "mean")), size=size, pad=(1, 0) if size == 3 else (0, 0))

    def after(self, value: Value) -> Value:
        return Value(value.kind, value.features, tuple(n // 2 for n in value.sides))

    def _pads(self) -> tuple[int, int]:
        return self.pad[0] - self.ends[0], self.pad[1] + self.ends[1]

    def in_jax(self, m: Any, x: Any) -> Any:
        window: dict[str, Any] = {"strides": (2, 2), "padding": (self._pads(),) * 2}
        if self.kind == "max":
            return nnx.max_pool(x, (self.size,) * 2, **window)
        return nnx.avg_pool(x, (self.size,) * 2, **window, count_include_pad=self.counted)

    def in_torch(self, m: Any, x: Any) -> Any:
        border = [*self._pads()] * 2
        if self.kind == "max":
            return F.max_pool2d(F.pad(x, border, value=-torch.inf), self.size, 2)
        mean = F.avg_pool2d(F.pad(x, border), self.size, 2)
        return mean if self.counted else mean / F.avg_pool2d(F.pad(torch.ones_like(x), border), self.size, 2)


@dataclass(frozen=True, kw_only=True)
class GlobalPool(Block):
    """The mean or the largest over all pixels."""

    accepts: ClassVar[tuple[str, ...]] = GRIDS
    kind: str

    @classmethod
    def draw(cls, rng: np.random.Generator, value: Value, name: str) -> "GlobalPool":
        return cls(name=name, kind=pick(rng, ("mean", "max")))

    def after(self, value: Value) -> Value:
        return Value(ROWS, value.features)

    def in_jax(self, m: Any, x: Any) -> Any:
        axes = tuple(range(1, x.ndim - 1))
        return {"mean": jnp.mean, "max": jnp.max, "sum": jnp.sum, "deviation": jnp.std}[self.kind](x, axis=axes)

    def in_torch(self, m: Any, x: Any) -> Any:
        axes = tuple(range(2, x.ndim))
        if self.kind == "deviation":
            return x.std(axes, correction=0)
        return {"mean": torch.mean, "max": torch.amax, "sum": torch.sum}[self.kind](x, axes)


@dataclass(frozen=True, kw_only=True)
class Resize(Block):
    """An image of twice the size."""

    accepts: ClassVar[tuple[str, ...]] = (IMAGE,)
    method: str
    """nearest, bilinear, or bilinear with the corners on the corners."""

    @classmethod
    def fits(cls, value: Value) -> bool:
        return super().fits(value) and max(value.sides) <= 4

    @classmethod
    def draw(cls, rng: np.random.Generator, value: Value, name: str) -> "Resize":
        return cls(name=name, method=pick(rng, ("nearest", "bilinear")))

    def after(self, value: Value) -> Value:
        return Value(value.kind, value.features, tuple(2 * n for n in value.sides))

    def in_jax(self, m: Any, x: Any) -> Any:
        batch, height, width, channels = x.shape
        if self.method != "corners":
            return jax.image.resize(x, (batch, 2 * height, 2 * width, channels), self.method)
        rows, columns = (jnp.asarray(_corners(n), x.dtype) for n in (height, width))
        return jnp.einsum("ih,bhwc,jw->bijc", rows, x, columns)

    def in_torch(self, m: Any, x: Any) -> Any:
        if self.method == "nearest":
            return F.interpolate(x, scale_factor=2, mode="nearest")
        return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=self.method == "corners")


def _corners(n: int) -> np.ndarray:
    """Return the weights `[2 n, n]` of linear interpolation with the corners on the corners."""
    at = np.arange(2 * n) * (n - 1) / (2 * n - 1)
    return np.maximum(0, 1 - np.abs(at[:, None] - np.arange(n)))


@dataclass(frozen=True, kw_only=True)
class PixelShuffle(Block):
    """Four channels of a small image as the pixels of a larger one."""

    accepts: ClassVar[tuple[str, ...]] = (IMAGE,)
    channels_inside: bool = False
    """Whether the channels vary fastest, as in depth-to-space."""
    columns_first: bool = False

    @classmethod
    def fits(cls, value: Value) -> bool:
        return super().fits(value) and value.features % 8 == 0 and max(value.sides) <= 4

    @classmethod
    def draw(cls, rng: np.random.Generator, value: Value, name: str) -> "PixelShuffle":
        return cls(name=name)

    def after(self, value: Value) -> Value:
        return Value(value.kind, value.features // 4, tuple(2 * n for n in value.sides))

    def in_jax(self, m: Any, x: Any) -> Any:
        batch, height, width, _ = x.shape
        if self.channels_inside:
            y = x.reshape(batch, height, width, 2, 2, -1).transpose(0, 1, 3, 2, 4, 5)
        else:
            y = x.reshape(batch, height, width, -1, 2, 2).transpose(0, 1, 4, 2, 5, 3)
        y = y.swapaxes(2, 4) if self.columns_first else y
        return y.reshape(batch, 2 * height, 2 * width, -1)

    def in_torch(self, m: Any, x: Any) -> Any:
        if not (self.channels_inside or self.columns_first):
            return F.pixel_shuffle(x, 2)
        y = x.unflatten(1, (2, 2, -1)) if self.channels_inside else x.unflatten(1, (-1, 2, 2)).movedim(1, 3)
        y = y.permute(0, 3, 4, 1, 5, 2)  # batch, channels, height, row, width, column
        y = y.transpose(3, 5) if self.columns_first else y
        return y.flatten(4).flatten(2, 3)


@dataclass(frozen=True, kw_only=True)
class Turn(Block):
    """An image turned over, with its channels shuffled between two groups."""

    accepts: ClassVar[tuple[str, ...]] = (IMAGE,)
    axis: str
    """height or width."""
    shuffled: bool
    undone: bool = False
    """Whether the shuffle is the other way."""

    @classmethod
    def fits(cls, value: Value) -> bool:
        return super().fits(value) and value.features % 2 == 0 and value.features > 2

    @classmethod
    def draw(cls, rng: np.random.Generator, value: Value, name: str) -> "Turn":
        return cls(name=name, axis=pick(rng, ("height", "width")), shuffled=chance(rng, 0.7))

    def in_jax(self, m: Any, x: Any) -> Any:
        x = jnp.flip(x, 1 if self.axis == "height" else 2)
        if not self.shuffled:
            return x
        groups = (-1, 2) if self.undone else (2, -1)
        return x.reshape(*x.shape[:-1], *groups).swapaxes(-1, -2).reshape(x.shape)

    def in_torch(self, m: Any, x: Any) -> Any:
        x = x.flip(2 if self.axis == "height" else 3)
        if not self.shuffled:
            return x
        return x.unflatten(1, (-1, 2) if self.undone else (2, -1)).transpose(1, 2).flatten(1, 2)
