"""Attention of plain linear layers, with heads, masks and rotary positions, and torch's own."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import torch

from parity_tests.support.pairs import parts
from parity_tests.support.pairs.block import Block, chance, pick
from parity_tests.support.pairs.values import SEQUENCE, Value


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What attention does between its linear layers."""

    heads: int
    mask: str = ""
    """causal, or empty."""
    fill: float = -np.inf
    offset: int = 0
    """How far the causal mask is moved."""
    upward: bool = False
    """Whether the mask hides the past instead."""
    late: bool = False
    """Whether the mask is applied after the softmax."""
    scale: str = "head"
    """By the root of head, of width, or one."""
    axis: int = -1
    temperature: float = 1.0
    split_features_first: bool = False
    """Whether a head's features lie apart instead of together."""
    order: str = "qkv"
    """Which projection serves as query, key and value."""
    rotary: float = 0.0
    """The base of the rotary frequencies; 0 for none."""
    halves: bool = False
    """Whether rotary pairs lie half a head apart instead of side by side."""
    backwards: bool = False
    """Whether the rotation is the other way."""

    def factor(self, width: int) -> float:
        """Return the factor of the logits."""
        size = {"head": width // self.heads, "width": width, "one": 1}[self.scale]
        return size**-0.5 / self.temperature

    def hidden(self, rows: int, columns: int) -> np.ndarray:
        """Return where the mask hides."""
        hidden = np.triu(np.ones((rows, columns), bool), 1 + self.offset)
        return hidden.T if self.upward else hidden

    def angles(self, steps: int, half: int) -> np.ndarray:
        """Return the rotary angles `[steps, half]`."""
        frequencies = self.rotary ** -(np.arange(half) / half)
        return (-1 if self.backwards else 1) * np.outer(np.arange(steps), frequencies)


def jax_attention(s: Scores, q: Any, k: Any, v: Any) -> Any:
    """Attend in JAX; arrays are `[batch, steps, width]`."""
    named = {"q": q, "k": k, "v": v}
    width = q.shape[-1]

    def split(x: Any) -> Any:
        if s.split_features_first:
            return x.reshape(*x.shape[:2], -1, s.heads).transpose(0, 3, 1, 2)
        return x.reshape(*x.shape[:2], s.heads, -1).transpose(0, 2, 1, 3)

    q, k, v = (split(named[letter]) for letter in s.order)
    if s.rotary:
        q, k = (_jax_rotated(s, x) for x in (q, k))
    scores = q @ k.swapaxes(-1, -2) * s.factor(width)
    hidden = s.hidden(*scores.shape[-2:]) if s.mask else None
    if hidden is not None and not s.late:
        scores = jnp.where(hidden, s.fill, scores)
    weights = jax.nn.softmax(scores, s.axis)
    if hidden is not None and s.late:
        weights = jnp.where(hidden, 0, weights)
    y = (weights @ v).transpose(0, 2, 1, 3)
    y = y.swapaxes(-1, -2) if s.split_features_first else y
    return y.reshape(*y.shape[:2], width)


def _jax_rotated(s: Scores, x: Any) -> Any:
    angles = s.angles(x.shape[-2], x.shape[-1] // 2)
    cos, sin = jnp.asarray(np.cos(angles), x.dtype), jnp.asarray(np.sin(angles), x.dtype)
    a, b = jnp.split(x, 2, -1) if s.halves else (x[..., ::2], x[..., 1::2])
    a, b = a * cos - b * sin, a * sin + b * cos
    return jnp.concatenate([a, b], -1) if s.halves else jnp.stack([a, b], -1).reshape(x.shape)


def torch_attention(s: Scores, q: Any, k: Any, v: Any) -> Any:
    """Attend in torch; arrays are `[batch, steps, width]`."""
    named = {"q": q, "k": k, "v": v}
    width = q.shape[-1]

    def split(x: Any) -> Any:
        if s.split_features_first:
            return x.unflatten(-1, (-1, s.heads)).permute(0, 3, 1, 2)
        return x.unflatten(-1, (s.heads, -1)).transpose(1, 2)

    q, k, v = (split(named[letter]) for letter in s.order)
    if s.rotary:
        q, k = (_torch_rotated(s, x) for x in (q, k))
    scores = q @ k.mT * s.factor(width)
    hidden = torch.tensor(s.hidden(*scores.shape[-2:])) if s.mask else None
    if hidden is not None and not s.late:
        scores = scores.masked_fill(hidden, s.fill)
    weights = scores.softmax(s.axis)
    if hidden is not None and s.late:
        weights = weights.masked_fill(hidden, 0)
    y = (weights @ v).transpose(1, 2)
    return (y.mT if s.split_features_first else y).flatten(2)


def _torch_rotated(s: Scores, x: Any) -> Any:
    angles = s.angles(x.shape[-2], x.shape[-1] // 2)
    cos, sin = (torch.tensor(wave(angles)).to(x.dtype) for wave in (np.cos, np.sin))
    a, b = x.chunk(2, -1) if s.halves else (x[..., ::2], x[..., 1::2])
    a, b = a * cos - b * sin, a * sin + b * cos
    return torch.cat([a, b], -1) if s.halves else torch.stack([a, b], -1).flatten(-2)


@dataclass(frozen=True, kw_only=True)
class Attention(Block):
    """Attention of four linear layers; the memory of cross attention is learned. The output often starts at zero."""

    accepts: ClassVar[tuple[str, ...]] = (SEQUENCE,)
    width: int
    scores: Scores
    cross: bool = False
    zero: bool = False
    residual: bool = False
    keys_frozen: bool = False

    @classmethod
    def fits(cls, value: Value) -> bool:
        return super().fits(value) and value.features % 4 == 0

    @classmethod
    def draw(cls, rng: np.random.Generator, value: Value, name: str) -> "Attention":
        cross, residual = chance(rng, 0.25), chance(rng, 0.6)
        scores = Scores(heads=2)
        if not cross and chance(rng, 0.6):
            scores = replace(scores, mask="causal", fill=pick(rng, (-np.inf, -1e9)))
        if not cross and chance(rng, 0.4):
            scores = replace(scores, rotary=pick(rng, (100.0, 10000.0)), halves=chance(rng, 0.5))
        zero = residual and chance(rng, 0.3)
        return cls(name=name, width=value.features, scores=scores, cross=cross, zero=zero, residual=residual)

    def layers(self) -> dict[str, parts.Part]:
        linear = parts.Linear(n_in=self.width, n_out=self.width)
        held: dict[str, parts.Part] = {"query": linear, "key": linear, "value": linear}
        if self.cross:
            held["memory"] = parts.Weight(shape=(3, self.width))
        return {**held, "out": parts.Linear(n_in=self.width, n_out=self.width, zero=self.zero)}

    def in_jax(self, m: Any, x: Any) -> Any:
        given = jnp.broadcast_to(m.memory[...], (len(x), 3, self.width)) if self.cross else x
        key = jax.lax.stop_gradient(m.key(given)) if self.keys_frozen else m.key(given)
        y = m.out(jax_attention(self.scores, m.query(x), key, m.value(given)))
        return x + y if self.residual else y

    def in_torch(self, m: Any, x: Any) -> Any:
        given = m.memory.expand(len(x), -1, -1) if self.cross else x
        key = m.key(given).detach() if self.keys_frozen else m.key(given)
        y = m.out(torch_attention(self.scores, m.query(x), key, m.value(given)))
        return x + y if self.residual else y


@dataclass(frozen=True, kw_only=True)
class TorchAttention(Block):
    """torch's MultiheadAttention, beside one linear layer for all three projections in Flax."""

    accepts: ClassVar[tuple[str, ...]] = (SEQUENCE,)
    width: int
    scores: Scores

    @classmethod
    def fits(cls, value: Value) -> bool:
        return super().fits(value) and value.features % 4 == 0

    @classmethod
    def draw(cls, rng: np.random.Generator, value: Value, name: str) -> "TorchAttention":
        scores = Scores(heads=2, mask="causal" if chance(rng, 0.5) else "")
        return cls(name=name, width=value.features, scores=scores)

    def layers(self) -> dict[str, parts.Part]:
        return {"attention": parts.InProjection(features=self.width, heads=self.scores.heads)}

    def in_jax(self, m: Any, x: Any) -> Any:
        q, k, v = jnp.split(m.attention.in_proj(x), 3, -1)
        return m.attention.out_proj(jax_attention(self.scores, q, k, v))

    def in_torch(self, m: Any, x: Any) -> Any:
        s, own = self.scores, m.attention
        if replace(s, heads=own.num_heads, mask="") == Scores(heads=own.num_heads):
            hidden = torch.tensor(s.hidden(x.shape[1], x.shape[1])) if s.mask else None
            return own(x, x, x, need_weights=False, attn_mask=hidden)[0]
        q, k, v = torch.nn.functional.linear(x, own.in_proj_weight, own.in_proj_bias).chunk(3, -1)
        return own.out_proj(torch_attention(s, q, k, v))


@dataclass(frozen=True, kw_only=True)
class FlaxAttention(TorchAttention):
    """Flax's MultiHeadAttention, whose heads are an axis, beside torch's MultiheadAttention."""

    flavours: ClassVar[tuple[str, ...]] = ("nnx",)

    @classmethod
    def draw(cls, rng: np.random.Generator, value: Value, name: str) -> "FlaxAttention":
        return cls(name=name, width=value.features, scores=Scores(heads=2))

    def layers(self) -> dict[str, parts.Part]:
        return {"attention": parts.Heads(features=self.width, heads=2)}

    def in_jax(self, m: Any, x: Any) -> Any:
        s, own = self.scores, m.attention
        if s == Scores(heads=2):
            return own(x)
        q, k, v = (layer(x).reshape(x.shape) for layer in (own.query, own.key, own.value))
        y = jax_attention(s, q, k, v)
        return own.out(y.reshape(*x.shape[:2], 2, -1))
