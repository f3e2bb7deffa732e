"""Arrange the arrays of a JAX model as a torch module has them, where names and shapes alone don't pair them."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

from torch import nn

from jaxvae.shared.errors import InputError
from parity_tests.harness.modules.inference import ties, weight_norms
from parity_tests.harness.modules.inference.fusions import fusions
from parity_tests.harness.modules.inference.pieces import Arrangement, Pair
from parity_tests.harness.modules.inference.recurrent import recurrent
from parity_tests.harness.modules.inference.stacks import stacks
from parity_tests.harness.modules.inference.words import Orders
from parity_tests.harness.modules.joining.joints import Shape
from parity_tests.harness.modules.torch_state import whole


class Left(NamedTuple):
    """What is left to arrange; the arguments of `Recognition.pair`."""

    shapes: Mapping[str, Shape]
    """The shapes of the JAX arrays, by path."""
    module: nn.Module
    state: Collection[str]
    """The paths of those that are no parameters."""
    orders: Orders
    """Returns the layers of both models in the order of their calls."""
    taken: Collection[str]
    """The names of the module's tensors that are arranged already, or are left out."""


@dataclasses.dataclass(frozen=True)
class Recognition:
    """Arranges parts of two models.

    `pair` pairs arrays and tensors one by one, all but the names that it is given last, or raises InputError; with
    `total=False` tensors of the torch module may be left over.
    """

    pair: Callable[..., tuple[Pair, ...]]

    def __call__(
        self,
        shapes: Mapping[str, Shape],
        module: nn.Module,
        state: Collection[str] = (),
        orders: Orders = None,
        ignored: Collection[str] = (),
    ) -> Arrangement:
        """Return the arrangement of all arrays and tensors.

        Raises:
            InputError: If there is none, or several are possible.
        """
        left, pairs = Left(shapes, module, state, orders, ignored), None
        with contextlib.suppress(InputError):
            pairs = self.pair(*left)
            if not _crossed(pairs):
                return Arrangement(pairs)
        try:
            return self._rearranged(left)
        except InputError:
            if pairs is None:
                raise
            return Arrangement(pairs)

    def _rearranged(self, left: Left) -> Arrangement:
        """Arrange arrays and tensors that can't all be paired one by one."""
        shapes, module, state, orders, ignored = left

        def of_a_layer(one: Mapping[str, Shape], layer: nn.Module, path: str, name: str) -> Arrangement:
            within = {other.removeprefix(f"{path}/") for other in state if other.startswith(f"{path}/")}
            sequence = None if orders is None else functools.partial(_below, orders, path.replace("/", "."), name)
            return self(one, layer, within, sequence)

        found = Arrangement()
        found += recurrent(shapes, module, orders)
        refused: list[str] = []
        found += stacks(_without(shapes, found), module, of_a_layer, refused, orders)
        found += fusions(_without(shapes, found), module, orders)
        taken = {whole(name) for name in (*(pair.name for pair in found.pairs), *found.zeros)} | {*ignored}
        try:
            return found + self._rest(left._replace(shapes=_without(shapes, found), taken=taken))
        except InputError as error:
            raise InputError(f"mapping: {refused[0]}") if refused else error from None

    def _rest(self, left: Left) -> Arrangement:
        """Arrange what is left, of which tensors may have weight normalization."""
        normed = weight_norms.normed(left.module)
        kept, sizes = weight_norms.without_sizes(left.shapes)
        if not normed and {*sizes.values()} <= {*left.state}:
            return self._tied(left)
        given = {short: left.shapes[path] for short, path in kept.items()}
        own = {short for short, path in kept.items() if path in left.state}
        taken = {*left.taken, *(one.size for one in normed.values())}
        found = self._tied(left._replace(shapes=given, state=own, taken=taken))
        return weight_norms.arranged(found, left.shapes, left.module, kept, sizes)

    def _tied(self, left: Left) -> Arrangement:
        """Arrange arrays of which some may be tied in one framework alone."""
        shapes, module, taken = left.shapes, left.module, left.taken
        apart, other = ties.untied(module)
        if other:
            with contextlib.suppress(InputError):  # they are not tied in both
                return Arrangement(self.pair(*left))
            untied = left._replace(module=apart)
            with contextlib.suppress(InputError):  # some are, whose other names have no array of their own
                pairs = self.pair(*untied, total=False)
                in_both = {*other} - {pair.name for pair in pairs}
                found = self.pair(*untied._replace(taken={*taken, *in_both}))
                return ties.in_torch_alone(found, shapes, other)
            return ties.in_torch_alone(self.pair(*untied), shapes, other)
        try:
            pairs = self.pair(*left, total=False)
        except InputError:
            pairs = self.pair(*left)  # what is left over in torch is in its message too
        names = {*taken, *(pair.name for pair in pairs)}
        shared = ties.in_jax_alone(module, names)
        self.pair(*left._replace(taken={*taken, *shared}))
        return Arrangement(pairs, shared=shared)


def _crossed(pairs: Collection[Pair]) -> bool:
    """Return whether modules of each framework are paired with several of the other."""
    parents = {(_parent(pair.path, "/"), _parent(pair.name, ".")) for pair in pairs}
    return all(len({parent[i] for parent in parents}) < len(parents) for i in range(2))


def _parent(name: str, mark: str) -> str:
    """Return the module that holds the layer of an array."""
    return name.rpartition(mark)[0].rpartition(mark)[0]


def _without(shapes: Mapping[str, Shape], found: Arrangement) -> dict[str, Shape]:
    taken = found.paths
    return {path: shape for path, shape in shapes.items() if path not in taken}


def _below(orders: Callable[[], tuple[list[str], list[str]]], path: str, name: str) -> tuple[list[str], list[str]]:
    """Return the orders of the calls within a part of each model."""
    return tuple(  # type: ignore[return-value]
        [label.removeprefix(f"{prefix}.") for label in labels if label.startswith(f"{prefix}.")]
        for labels, prefix in zip(orders(), (path, name), strict=True)
    )
