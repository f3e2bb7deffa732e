"""A pair of models from one description, or from two of which an edit changed one, with inputs, losses and names."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch

from parity_tests.harness.modules.mapping import Transform
from parity_tests.support.pairs import network, parts
from parity_tests.support.pairs.network import Net
from parity_tests.support.pairs.values import TOKENS

LOSSES: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    "square": (lambda y: (y**2).mean(), lambda y: (y**2).mean()),
    "waves": (lambda y: (y**2 + jnp.sin(3 * y)).mean(), lambda y: (y**2 + torch.sin(3 * y)).mean()),
    "logsumexp": (
        lambda y: jax.nn.logsumexp(y, -1).mean(),
        lambda y: y.logsumexp(-1).mean(),
    ),
}
"""Losses of one output, by name."""


class Named(NamedTuple):
    """One array of a network by its names in both frameworks."""

    path: str
    name: str
    tensor: parts.Tensor


@dataclass(frozen=True)
class Case:
    """Two descriptions of a network, which are equal but for an edit, and how to compare them."""

    in_jax: Net
    in_torch: Net
    train: bool
    loss: str | None
    named: bool
    """Whether the mapping is given; else the harness pairs by name."""

    @property
    def inputs(self) -> np.ndarray:
        """The input in torch's layout."""
        net = self.in_jax
        rng, shape = np.random.default_rng([net.seed, 1]), net.start.shape(net.batch)
        return rng.integers(net.start.features, size=shape) if net.start.kind == TOKENS else rng.normal(size=shape)

    @property
    def losses(self) -> tuple[Callable[[Any], Any], Callable[[Any], Any]] | None:
        """The two losses, which add up those of every output."""
        if self.loss is None:
            return None
        ours, theirs = LOSSES[self.loss]
        return lambda tree: sum(map(ours, leaves(tree))), lambda tree: sum(map(theirs, leaves(tree)))

    @property
    def mapping(self) -> Mapping[str, Any] | None:
        """Which Flax array is which tensor, or None where the names tell."""
        every = list(arrays(self.in_jax))
        if not self.named and not any(each.tensor.to_jax for each in every):
            return None
        return {each.path: _target(each) for each in every}

    @property
    def outputs(self) -> Mapping[str, str] | None:
        """Which output is which, where one model returns positions and the other names."""
        if getattr(self.in_jax.blocks[-1], "form", "") != "tuple and dict":
            return None
        return {"output[0]": "output['mean']", "output[1]": "output['logvar']"}

    def models(self) -> tuple[Any, Any, torch.nn.Module]:
        """Build the Flax model, its variables and the torch module, with the frameworks' own initial values."""
        model, variables = network.in_jax(self.in_jax, self.inputs)
        return model, variables, network.in_torch(self.in_torch)


def arrays(net: Net) -> Iterator[Named]:
    """Yield the arrays that both models hold."""
    for block in net.blocks:
        for part, held in block.parts().items():
            for tensor in held.tensors():
                path = "/".join(filter(None, (block.name, part, tensor.in_jax)))
                yield Named(path, ".".join(filter(None, (block.name, part, tensor.in_torch))), tensor)


def _target(each: Named) -> Any:
    """Return what a mapping says of an array: its name in torch, with its rows and its conversion where it has them."""
    name = each.name if each.tensor.rows is None else "{}[{}:{}]".format(each.name, *each.tensor.rows)
    return (name, Transform(each.tensor.to_torch, each.tensor.to_jax)) if each.tensor.to_jax else name


_ORDER = ("mean", "logvar", "map", "pooled")
"""The names of outputs, in the order in which they stand in a tuple."""


def leaves(tree: Any) -> list[Any]:
    """Return the arrays of a model's outputs in one order, whether they have places or names."""
    names = getattr(tree, "_fields", ()) or ([field.name for field in fields(tree)] if is_dataclass(tree) else ())
    if names:
        tree = {name: getattr(tree, name) for name in names}
    if isinstance(tree, Mapping):
        return [array for name in sorted(tree, key=_ORDER.index) for array in leaves(tree[name])]
    return [array for each in tree for array in leaves(each)] if isinstance(tree, tuple | list) else [tree]
