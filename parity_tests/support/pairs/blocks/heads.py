"""The last block of a network, which makes the outputs: one array, a masked one, or several by place or name."""

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import flax.struct
import jax.numpy as jnp
import numpy as np
import torch

from parity_tests.support.pairs import parts
from parity_tests.support.pairs.block import Block, pick
from parity_tests.support.pairs.values import IMAGE, ROWS, SEQUENCE, SIGNAL, VOLUME, Value


class Moments(NamedTuple):
    """Two outputs by name and place."""

    mean: Any
    logvar: Any


@flax.struct.dataclass
class JaxMoments:
    """Two outputs by name, which JAX knows as a tree."""

    mean: Any
    logvar: Any


@dataclass
class TorchMoments:
    """Two outputs by name."""

    mean: Any
    logvar: Any


@dataclass(frozen=True, kw_only=True)
class One(Block):
    """The array as it is, in torch's layout."""

    accepts: ClassVar[tuple[str, ...]] = (ROWS, SEQUENCE, IMAGE, VOLUME)
    scale: float = 1.0

    @classmethod
    def draw(cls, rng: np.random.Generator, value: Value, name: str) -> "One":
        return cls(name=name)

    def in_jax(self, m: Any, x: Any) -> Any:
        return x * self.scale if x.ndim in (2, 3, 4) else jnp.moveaxis(x * self.scale, -1, 1)

    def in_torch(self, m: Any, x: Any) -> Any:
        return x * self.scale


@dataclass(frozen=True, kw_only=True)
class Signal(One):
    """A signal in torch's layout."""

    accepts: ClassVar[tuple[str, ...]] = (SIGNAL,)

    def in_jax(self, m: Any, x: Any) -> Any:
        return jnp.moveaxis(x * self.scale, -1, 1)


@dataclass(frozen=True, kw_only=True)
class Logits(Block):
    """Logits of which some are masked."""

    accepts: ClassVar[tuple[str, ...]] = (ROWS, SEQUENCE)
    width: int
    fill: float
    hidden: tuple[int, ...] = (1,)
    scale: float = 1.0

    @classmethod
    def draw(cls, rng: np.random.Generator, value: Value, name: str) -> "Logits":
        return cls(name=name, width=value.features, fill=pick(rng, (-np.inf, -1e9)))

    def layers(self) -> dict[str, parts.Part]:
        return {"logits": parts.Linear(n_in=self.width, n_out=5)}

    def in_jax(self, m: Any, x: Any) -> Any:
        return jnp.where(np.isin(np.arange(5), self.hidden), self.fill, self.scale * m.logits(x))

    def in_torch(self, m: Any, x: Any) -> Any:
        hidden = torch.tensor(np.isin(np.arange(5), self.hidden))
        return (self.scale * m.logits(x)).masked_fill(hidden, self.fill)


@dataclass(frozen=True, kw_only=True)
class Several(Block):
    """A mean and a log-variance, as a tuple, a dict, a named tuple or a dataclass."""

    accepts: ClassVar[tuple[str, ...]] = (ROWS, SEQUENCE)
    width: int
    form: str
    swapped: bool = False
    half: bool = False
    """Whether the log-variance is halved."""

    @classmethod
    def draw(cls, rng: np.random.Generator, value: Value, name: str) -> "Several":
        forms = ("tuple", "dict", "named tuple", "dataclass", "tuple and dict", "named tuple and dict")
        return cls(name=name, width=value.features, form=pick(rng, forms))

    def layers(self) -> dict[str, parts.Part]:
        linear = parts.Linear(n_in=self.width, n_out=4)
        return {"mean": linear, "logvar": linear}

    def in_jax(self, m: Any, x: Any) -> Any:
        two = self._two(m, x)
        forms = {"tuple": two, "dict": dict(zip(("mean", "logvar"), two, strict=True)), "named tuple": Moments(*two),
                 "dataclass": JaxMoments(*two)}  # fmt: skip
        return forms[self.form.partition(" and ")[0]]

    def in_torch(self, m: Any, x: Any) -> Any:
        two = self._two(m, x)
        forms = {"tuple": two, "dict": dict(zip(("mean", "logvar"), two, strict=True)), "named tuple": Moments(*two),
                 "dataclass": TorchMoments(*two)}  # fmt: skip
        return forms[self.form.rpartition(" and ")[2]]

    def _two(self, m: Any, x: Any) -> tuple[Any, Any]:
        mean, logvar = m.mean(x), m.logvar(x)
        logvar = logvar / 2 if self.half else logvar
        return (logvar, mean) if self.swapped else (mean, logvar)


@dataclass(frozen=True, kw_only=True)
class MapAndMean(Block):
    """An image and its means, by name."""

    accepts: ClassVar[tuple[str, ...]] = (IMAGE,)
    scale: float = 1.0
    crossed: bool = False
    """Whether the means are those of the squares."""

    @classmethod
    def draw(cls, rng: np.random.Generator, value: Value, name: str) -> "MapAndMean":
        return cls(name=name)

    def in_jax(self, m: Any, x: Any) -> Any:
        return {"pooled": (x**2 if self.crossed else x).mean((1, 2)), "map": self.scale * x}

    def in_torch(self, m: Any, x: Any) -> Any:
        return {"pooled": (x**2 if self.crossed else x).mean((2, 3)), "map": self.scale * x}
