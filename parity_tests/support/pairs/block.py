"""The base of all blocks: plain data that builds the same operations in both frameworks."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from parity_tests.support.pairs.parts import Part
from parity_tests.support.pairs.values import Value

Fields = tuple[tuple[str, Any], ...]


@dataclass(frozen=True, kw_only=True)
class Block:
    """Some operations with their parts. Its fields are what an edit can change in one framework."""

    accepts: ClassVar[tuple[str, ...]]
    """The kinds of arrays that it reads."""
    flavours: ClassVar[tuple[str, ...]] = ("nnx", "linen", "function")
    """The kinds of Flax models that can hold it."""
    name: str
    altered: tuple[tuple[str, Fields], ...] = ()
    """The fields of parts that an edit has changed, by the part's name."""

    @classmethod
    def draw(cls, rng: np.random.Generator, value: Value, name: str) -> "Block":
        """Draw one that reads the value."""
        raise NotImplementedError

    @classmethod
    def fits(cls, value: Value) -> bool:
        """Return whether it can read the value."""
        return value.kind in cls.accepts

    def after(self, value: Value) -> Value:
        """Return what it writes."""
        return value

    def layers(self) -> dict[str, Part]:
        """Return its parts by name, as both frameworks hold them."""
        return {}

    def parts(self) -> dict[str, Part]:
        """Return its parts by name, edited."""
        changed = {name: dict(fields) for name, fields in self.altered}
        return {name: replace(part, **changed.get(name, {})) for name, part in self.layers().items()}

    def in_jax(self, m: Any, x: Any) -> Any:
        """Apply it in JAX, with channels last; `m` holds the parts."""
        raise NotImplementedError

    def in_torch(self, m: Any, x: Any) -> Any:
        """Apply it in torch, with the channels of a grid second."""
        raise NotImplementedError


def pick(rng: np.random.Generator, options: Any) -> Any:
    """Draw one of the options, which keep their types."""
    options = list(options)
    return options[int(rng.integers(len(options)))]


def chance(rng: np.random.Generator, share: float) -> bool:
    """Return True with this probability."""
    return bool(rng.random() < share)
