"""Blocks that make, mix and end sequences: embeddings, positions, pooling over time."""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
import torch

from parity_tests.support.pairs import parts
from parity_tests.support.pairs.block import Block, chance, pick
from parity_tests.support.pairs.values import ROWS, SEQUENCE, TOKENS, Value


@dataclass(frozen=True, kw_only=True)
class Embedding(Block):
    """A table of embeddings, which may be scaled by the root of their width."""

    accepts: ClassVar[tuple[str, ...]] = (TOKENS,)
    words: int
    width: int
    scaled: bool
    offset: int = 0
    masked: bool = False
    """Whether word 0 has the embedding zero."""

    @classmethod
    def draw(cls, rng: np.random.Generator, value: Value, name: str) -> "Embedding":
        return cls(name=name, words=value.features, width=pick(rng, (4, 8)), scaled=chance(rng, 0.3))

    def after(self, value: Value) -> Value:
        return Value(SEQUENCE, self.width, value.sides)

    def layers(self) -> dict[str, parts.Part]:
        return {"table": parts.Embed(entries=self.words, features=self.width)}

    def in_jax(self, m: Any, x: Any) -> Any:
        y = m.table((x + self.offset) % self.words) * (self.width**0.5 if self.scaled else 1)
        return jnp.where((x == 0)[..., None], 0, y) if self.masked else y

    def in_torch(self, m: Any, x: Any) -> Any:
        y = m.table((x + self.offset) % self.words) * (self.width**0.5 if self.scaled else 1)
        return y.masked_fill((x == 0)[..., None], 0) if self.masked else y


@dataclass(frozen=True, kw_only=True)
class Positions(Block):
    """Positions added to a sequence: learned, or sines that torch holds in a buffer."""

    accepts: ClassVar[tuple[str, ...]] = (SEQUENCE,)
    steps: int
    width: int
    learned: bool
    base: float = 100.0
    first: int = 0
    cosines_first: bool = False
    interleaved: bool = False
    factor: float = 1.0

    @classmethod
    def fits(cls, value: Value) -> bool:
        return super().fits(value) and value.features % 2 == 0

    @classmethod
    def draw(cls, rng: np.random.Generator, value: Value, name: str) -> "Positions":
        return cls(name=name, steps=value.sides[0], width=value.features, learned=chance(rng, 0.5))

    def layers(self) -> dict[str, parts.Part]:
        if self.learned:
            return {"positions": parts.Weight(shape=(self.steps, self.width))}
        return {"positions": parts.Constant(numbers=tuple(map(tuple, self._table().tolist())))}

    def in_jax(self, m: Any, x: Any) -> Any:
        table = m.positions[...] if self.learned else jnp.asarray(self._table())
        return x + self.factor * (jnp.roll(table, -self.first, 0) if self.learned else table)

    def in_torch(self, m: Any, x: Any) -> Any:
        return x + self.factor * (m.positions.roll(-self.first, 0) if self.learned else m.positions)

    def _table(self) -> np.ndarray:
        half = self.width // 2
        angles = np.outer(np.arange(self.steps) + self.first, self.base ** -(np.arange(half) / half))
        waves = [np.cos(angles), np.sin(angles)] if self.cosines_first else [np.sin(angles), np.cos(angles)]
        table = np.stack(waves, -1).reshape(self.steps, -1) if self.interleaved else np.concatenate(waves, -1)
        return table.astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class ComplexRotary(Block):
    """Pairs of features turned by a complex buffer that is not saved."""

    accepts: ClassVar[tuple[str, ...]] = (SEQUENCE,)
    steps: int
    width: int
    base: float = 100.0
    first: int = 0
    conjugate: bool = False
    real_part: bool = False

    @classmethod
    def fits(cls, value: Value) -> bool:
        return super().fits(value) and value.features % 2 == 0

    @classmethod
    def draw(cls, rng: np.random.Generator, value: Value, name: str) -> "ComplexRotary":
        return cls(name=name, steps=value.sides[0], width=value.features)

    def layers(self) -> dict[str, parts.Part]:
        return {"turns": parts.Constant(numbers=tuple(map(tuple, self._turns().tolist())), persistent=False)}

    def in_jax(self, m: Any, x: Any) -> Any:
        pairs = x.reshape(*x.shape[:-1], -1, 2)
        y = (pairs[..., 0] + 1j * pairs[..., 1]) * jnp.asarray(self._turns())
        return jnp.stack([y.real, y.imag], -1).reshape(x.shape)

    def in_torch(self, m: Any, x: Any) -> Any:
        pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())
        return torch.view_as_real(pairs * m.turns).flatten(-2)

    def _turns(self) -> np.ndarray:
        half = self.width // 2
        angles = np.outer(np.arange(self.steps) + self.first, self.base ** -(np.arange(half) / half))
        turns = np.exp((-1j if self.conjugate else 1j) * angles).astype(np.complex64)
        return turns.real.astype(np.complex64) if self.real_part else turns


@dataclass(frozen=True, kw_only=True)
class TimePool(Block):
    """One row of a sequence: its mean, its largest, its first or last step."""

    accepts: ClassVar[tuple[str, ...]] = (SEQUENCE,)
    kind: str

    @classmethod
    def draw(cls, rng: np.random.Generator, value: Value, name: str) -> "TimePool":
        return cls(name=name, kind=pick(rng, ("mean", "max", "first", "last")))

    def after(self, value: Value) -> Value:
        return Value(ROWS, value.features)

    def in_jax(self, m: Any, x: Any) -> Any:
        return {"mean": lambda: x.mean(1), "max": lambda: x.max(1), "first": lambda: x[:, 0],
                "last": lambda: x[:, -1]}[self.kind]()  # fmt: skip

    def in_torch(self, m: Any, x: Any) -> Any:
        return {"mean": lambda: x.mean(1), "max": lambda: x.amax(1), "first": lambda: x[:, 0],
                "last": lambda: x[:, -1]}[self.kind]()  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class TimeMixer(Block):
    """A linear layer over time, and a shift of half the features by a step."""

    accepts: ClassVar[tuple[str, ...]] = (SEQUENCE,)
    steps: int
    shift: int = 1
    wraps: bool = False
    transposed: bool = False
    """Whether the steps of each batch run backwards into the mixer."""

    @classmethod
    def draw(cls, rng: np.random.Generator, value: Value, name: str) -> "TimeMixer":
        return cls(name=name, steps=value.sides[0])

    def layers(self) -> dict[str, parts.Part]:
        return {"mixer": parts.Linear(n_in=self.steps, n_out=self.steps)}

    def in_jax(self, m: Any, x: Any) -> Any:
        half = x.shape[-1] // 2
        moved = jnp.roll(x[..., :half], self.shift, 1)
        if not self.wraps:
            moved = moved.at[:, 0 if self.shift > 0 else -1].set(0)
        y = jnp.concatenate([moved, x[..., half:]], -1).swapaxes(1, 2)
        return m.mixer(y[..., ::-1] if self.transposed else y).swapaxes(1, 2)

    def in_torch(self, m: Any, x: Any) -> Any:
        half = x.shape[-1] // 2
        moved = x[..., :half].roll(self.shift, 1)
        if not self.wraps:
            edge = torch.arange(self.steps) == (0 if self.shift > 0 else self.steps - 1)
            moved = moved.masked_fill(edge[:, None], 0)
        y = torch.cat([moved, x[..., half:]], -1).mT
        return m.mixer(y.flip(-1) if self.transposed else y).mT
