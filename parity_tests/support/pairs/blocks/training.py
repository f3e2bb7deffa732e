"""Blocks that only training shows: states that a step updates, and gradients that are changed on their way back."""

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import torch

from parity_tests.support.pairs import parts
from parity_tests.support.pairs.block import Block, pick
from parity_tests.support.pairs.values import ROWS, SEQUENCE, Value


@dataclass(frozen=True, kw_only=True)
class Average(Block):
    """A moving average of the features, which is taken off them."""

    accepts: ClassVar[tuple[str, ...]] = (ROWS, SEQUENCE)
    flavours: ClassVar[tuple[str, ...]] = ("nnx", "linen")
    width: int
    label: str
    """The name of the state."""
    momentum: float = 0.9
    statistic: str = "mean"
    """mean, sum or largest."""
    updated: bool = True
    uses_new: bool = False
    """Whether the updated average is taken off."""

    @classmethod
    def draw(cls, rng: np.random.Generator, value: Value, name: str) -> "Average":
        return cls(name=name, width=value.features, label=pick(rng, ("average", "center", "ema_mean", "baseline")))

    def layers(self) -> dict[str, parts.Part]:
        return {self.label: parts.State(shape=(self.width,))}

    def in_jax(self, m: Any, x: Any) -> Any:
        held = m.read(self.label)
        axes = tuple(range(x.ndim - 1))
        new = {"mean": jnp.mean, "sum": jnp.sum, "largest": jnp.max}[self.statistic](x, axis=axes)
        new = self.momentum * held + (1 - self.momentum) * jax.lax.stop_gradient(new)
        if m.training and self.updated:
            m.write(self.label, new)
        return x - (new if self.uses_new else held)

    def in_torch(self, m: Any, x: Any) -> Any:
        held, axes = getattr(m, self.label), tuple(range(x.ndim - 1))
        new = {"mean": torch.mean, "sum": torch.sum, "largest": torch.amax}[self.statistic](x.detach(), axes)
        new = self.momentum * held + (1 - self.momentum) * new
        if m.training and self.updated:
            setattr(m, self.label, new)
        return x - (new if self.uses_new else held)


@dataclass(frozen=True, kw_only=True)
class Counter(Block):
    """A count of the steps of training, which anneals the numbers."""

    accepts: ClassVar[tuple[str, ...]] = (ROWS, SEQUENCE)
    flavours: ClassVar[tuple[str, ...]] = ("nnx", "linen")
    stride: int = 1
    counted_first: bool = False
    """Whether the step counts itself."""

    @classmethod
    def draw(cls, rng: np.random.Generator, value: Value, name: str) -> "Counter":
        return cls(name=name)

    def layers(self) -> dict[str, parts.Part]:
        return {"steps": parts.State(whole=True)}

    def in_jax(self, m: Any, x: Any) -> Any:
        held = m.read("steps")
        new = held + self.stride if m.training else held
        m.write("steps", new)
        count = jnp.abs(new if self.counted_first else held).astype(x.dtype)
        return x * (1 + 1 / (2 + count))

    def in_torch(self, m: Any, x: Any) -> Any:
        held = m.steps
        new = held + self.stride if m.training else held
        m.steps = new
        count = (new if self.counted_first else held).abs().to(x.dtype)
        return x * (1 + 1 / (2 + count))


@partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _jax_clipped(x: Any, bound: float, by_norm: bool) -> Any:
    return x


def _jax_forward(x: Any, bound: float, by_norm: bool) -> Any:
    return x, None


def _jax_backward(bound: float, by_norm: bool, _: Any, g: Any) -> Any:
    if by_norm:
        return (g * jnp.minimum(1, bound / jnp.sqrt((g**2).sum())),)
    return (jnp.clip(g, -bound, bound),)


_jax_clipped.defvjp(_jax_forward, _jax_backward)


def _torch_clipped(x: Any, bound: float, by_norm: bool) -> Any:
    def clip(g: Any) -> Any:
        return g * (bound / (g**2).sum().sqrt()).clamp(max=1) if by_norm else g.clamp(-bound, bound)

    y = x.clone()
    if y.requires_grad:
        y.register_hook(clip)
    return y


@dataclass(frozen=True, kw_only=True)
class Backward(Block):
    """A linear layer, and the identity with another gradient: stopped, scaled, clipped or straight through."""

    accepts: ClassVar[tuple[str, ...]] = (ROWS, SEQUENCE)
    width: int
    kind: str
    """plain, scaled, clipped or rounded."""
    factor: float = 0.5
    bound: float = 0.02
    by_norm: bool = False
    through: bool = True
    """Whether the gradient passes the rounding."""
    window: float = 0.0
    """The numbers beyond which the gradient of the rounding is zero; 0 for none."""
    stopped: bool = False

    @classmethod
    def draw(cls, rng: np.random.Generator, value: Value, name: str) -> "Backward":
        return cls(name=name, width=value.features, kind=pick(rng, ("plain", "scaled", "clipped", "rounded")))

    def layers(self) -> dict[str, parts.Part]:
        return {"linear": parts.Linear(n_in=self.width, n_out=self.width)}

    def in_jax(self, m: Any, x: Any) -> Any:
        stop = jax.lax.stop_gradient
        y = m.linear(x)
        if self.kind == "scaled":
            y = self.factor * y + stop((1 - self.factor) * y)
        if self.kind == "clipped":
            clipped: Any = _jax_clipped(y, self.bound, self.by_norm)
            y = clipped
        if self.kind == "rounded":
            kept = jnp.where(jnp.abs(y) < self.window, y, stop(y)) if self.window else y
            whole = jnp.round(2 * y) / 2
            y = kept + stop(whole - kept) if self.through else stop(whole) + 0 * y
        return x + (stop(y) if self.stopped else y)

    def in_torch(self, m: Any, x: Any) -> Any:
        y = m.linear(x)
        if self.kind == "scaled":
            y = self.factor * y + ((1 - self.factor) * y).detach()
        if self.kind == "clipped":
            y = _torch_clipped(y, self.bound, self.by_norm)
        if self.kind == "rounded":
            kept = torch.where(y.abs() < self.window, y, y.detach()) if self.window else y
            whole = torch.round(2 * y) / 2
            y = kept + (whole - kept).detach() if self.through else whole.detach() + 0 * y
        return x + (y.detach() if self.stopped else y)


@dataclass(frozen=True, kw_only=True)
class Branches(Block):
    """Two linear layers, of which one receives no gradient."""

    accepts: ClassVar[tuple[str, ...]] = (ROWS, SEQUENCE)
    width: int
    stopped: str = "target"
    """The branch without a gradient: target, online, both or none."""

    @classmethod
    def draw(cls, rng: np.random.Generator, value: Value, name: str) -> "Branches":
        return cls(name=name, width=value.features)

    def layers(self) -> dict[str, parts.Part]:
        linear = parts.Linear(n_in=self.width, n_out=self.width)
        return {"online": linear, "target": linear}

    def in_jax(self, m: Any, x: Any) -> Any:
        online, target = m.online(x), m.target(x)
        online = jax.lax.stop_gradient(online) if self.stopped in ("online", "both") else online
        return online * (jax.lax.stop_gradient(target) if self.stopped in ("target", "both") else target)

    def in_torch(self, m: Any, x: Any) -> Any:
        online, target = m.online(x), m.target(x)
        online = online.detach() if self.stopped in ("online", "both") else online
        return online * (target.detach() if self.stopped in ("target", "both") else target)
