"""What a mapping consists of."""

from collections.abc import Mapping
from typing import NamedTuple

from parity_tests.harness.modules.joining.links import Link
from parity_tests.harness.modules.transforms import Transform


class Pair(NamedTuple):
    """One array of the JAX model and the torch tensor that holds the same numbers."""

    path: str
    """The path in the JAX model, without its collection: `conv1/kernel`."""
    name: str
    """The name in the torch module: `conv1.weight`."""
    transform: Transform
    """The conversion between their layouts."""
    by_calls: bool = False
    """Whether the order in which layers are called told it from others, and nothing else."""


class Arrangement(NamedTuple):
    """Which array is which tensor, and what has to be rearranged so that it is one."""

    pairs: tuple[Pair, ...] = ()
    links: tuple[Link, ...] = ()
    """Arrays of the JAX model that are in parts in the torch module or the reverse; the pairs are of their parts."""
    shared: Mapping[str, str] = {}
    """Tensors of the torch module that hold the numbers of another one, as tied weights do in JAX."""
    zeros: tuple[str, ...] = ()
    """Tensors of the torch module, or rows, which JAX doesn't have and which are zero there."""
    stacks: Mapping[str, str] = {}
    """JAX layers that stand for several by turns, as under `scan`, and the container of these in torch, dotted."""

    def __add__(self, other: "Arrangement") -> "Arrangement":  # type: ignore[override]
        return Arrangement(
            self.pairs + other.pairs,
            self.links + other.links,
            {**self.shared, **other.shared},
            self.zeros + other.zeros,
            {**self.stacks, **other.stacks},
        )

    def __bool__(self) -> bool:
        return any(self)

    def below(self, path: str, name: str) -> "Arrangement":
        """Return the arrangement of a part of the two models as one of the whole."""
        return Arrangement(
            tuple(pair._replace(path=f"{path}/{pair.path}", name=f"{name}.{pair.name}") for pair in self.pairs),
            tuple(link.below(path) for link in self.links),
            {f"{name}.{one}": f"{name}.{other}" for one, other in self.shared.items()},
            tuple(f"{name}.{one}" for one in self.zeros),
            {f"{path}.{one}": f"{name}.{other}" for one, other in self.stacks.items()},
        )

    @property
    def paths(self) -> set[str]:
        """The JAX arrays that are in it."""
        linked = {part for link in self.links for part in link.parts}
        return {pair.path for pair in self.pairs} - linked | {path for link in self.links for path in link.paths}
