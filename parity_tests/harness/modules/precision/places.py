"""What each layer, and what lies between layers, adds to the distance from float64: each is computed in float64 on the
numbers that it was given as it was run."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch import nn

from parity_tests.harness.hooks import torch_layers
from parity_tests.harness.hooks.compiled import compiled
from parity_tests.harness.modules import torch_state
from parity_tests.harness.modules.hypotheses.stages import by_layer, path_in_jax
from parity_tests.harness.modules.pair import Both

OUTPUT = "the output"


class Values(NamedTuple):
    """The floats of one call of a layer, or those that the model returns."""

    given: list[Any]
    returned: list[Any]


Calls = dict[str, Values]


class Place(NamedTuple):
    """A layer's own computation, or the operations between the layers before it and its input."""

    label: str
    """The layer in torch, and the number of its call; OUTPUT for the end of the model."""
    jax_label: str
    before: str
    """The layer that returned last before it, for the operations between; empty for the layer itself."""

    @property
    def name(self) -> str:
        shown = self.label if self.label in (self.jax_label, OUTPUT) else f"{self.label} ({self.jax_label} in JAX)"
        return f"between {self.before} and {shown}" if self.before else shown

    def of(self, calls: Calls) -> list[Any]:
        """Return the arrays that are computed here."""
        held = calls[self.label]
        return held.given if self.before else held.returned


def matched(both: Both) -> dict[str, str]:
    """Return the calls of the layers that hold pairs and are called in both frameworks, torch's labels to JAX's, in
    torch's order.

    Raises:
        LookupError: If JAX's layers can't be reached.
    """
    watch = both.net.watch
    if watch is None or both.net.tapped is None:
        raise LookupError("a bare function has no layers")
    module = torch_state.copied(both.module)
    with torch_layers.record(module) as in_torch, torch.no_grad():
        torch_state.called(module, both.torch_arguments)
    in_jax = watch(both.net.params, both.net.state, *both.jax_inputs)
    layers, found = by_layer(both.pairs), {}
    for label in in_torch:
        name, _, nth = label.partition("#")
        if name not in layers or not name or not (jax_name := path_in_jax(layers, name).replace("/", ".")):
            continue
        jax_label = f"{jax_name}#{nth}" if nth else jax_name
        if jax_label in in_jax and jax_label not in found.values():
            found[label] = jax_label
    return found


def places(labels: Mapping[str, str]) -> Iterator[Place]:
    """Yield the places of both models in torch's order."""
    before = "the input"
    for label, jax_label in labels.items():
        yield Place(label, jax_label, before)
        yield Place(label, jax_label, "")
        before = label
    yield Place(OUTPUT, OUTPUT, before)


def floats(tree: Any) -> list[Any]:
    """Return the arrays of floats in a tree of either framework."""
    return [leaf for leaf in jax.tree.leaves(tree) if _is_float(leaf)]


def replaced(tree: Any, arrays: Iterable[Any]) -> Any:
    """Return the tree with these arrays in the place of its floats."""
    others = iter(arrays)
    return jax.tree.map(lambda leaf: next(others) if _is_float(leaf) else leaf, tree)


def _is_float(leaf: Any) -> bool:
    if isinstance(leaf, torch.Tensor):
        return leaf.is_floating_point()
    return isinstance(leaf, jax.Array | np.ndarray) and jnp.issubdtype(leaf.dtype, jnp.floating)


class Walk:
    """The calls of the matched layers of both models in one precision."""

    def __init__(self, both: Both, labels: Mapping[str, str]):
        self._labels, self._in_torch = dict(labels), {jaxs: torchs for torchs, jaxs in labels.items()}
        self._net = both.net
        self._program = compiled(self.in_jax)

    def in_jax(self, forced: Calls | None, params: Any, state: Any, *inputs: jax.Array) -> Calls:
        """Call the JAX model and return the values of its layers, under torch's labels.

        Args:
            forced: Values that each layer is given and returns in the place of its own, which are returned all the
                same; None for its own.
            params: The model's parameters.
            state: Its other arrays.
            *inputs: Its inputs.
        """
        calls: Calls = {}

        def tap(call: Callable[..., Any], args: tuple[Any, ...], jax_label: str) -> Any:
            if (label := self._in_torch.get(jax_label)) is None:
                return call(*args)
            given = floats(args)
            if forced is None:
                outputs = call(*args)
                calls[label] = Values(given, floats(outputs))
                return outputs
            outputs = call(*replaced(args, forced[label].given))
            calls[label] = Values(given, floats(outputs))
            return replaced(outputs, forced[label].returned)

        assert self._net.tapped is not None
        outputs = self._net.tapped(tap, params, state, *inputs)
        return calls | {OUTPUT: Values(floats(outputs), [])}

    def jax_calls(self, both: Both, forced: Calls | None) -> Calls:
        """Return the values of JAX's layers at the numbers of `both`."""
        return self._program(forced, both.net.params, both.net.state, *both.jax_inputs)

    def torch_calls(
        self, both: Both, forced: Calls | None, entered: Callable[[str, bool], None] | None = None
    ) -> Calls:
        """Return the values of torch's layers at the numbers of `both`; `entered` is told of each place as it ends."""
        module, calls, counts = torch_state.copied(both.module), Calls(), dict[str, int]()
        note = entered or (lambda label, returned: None)
        with contextlib.ExitStack() as stack:
            for name, layer in module.named_modules():
                if name in {label.partition("#")[0] for label in self._labels}:
                    hooks = _hooks(name, self._labels, calls, forced, counts, note)
                    stack.callback(layer.register_forward_pre_hook(hooks[0], with_kwargs=True).remove)
                    stack.callback(layer.register_forward_hook(hooks[1]).remove)
            with torch.no_grad():
                outputs = torch_state.called(module, both.torch_arguments)
        note(OUTPUT, False)
        return calls | {OUTPUT: Values(floats(outputs), [])}


def _hooks(
    name: str,
    labels: Mapping[str, str],
    calls: Calls,
    forced: Calls | None,
    counts: dict[str, int],
    note: Callable[[str, bool], None],
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    def label_of(n: int) -> str:
        return name if n == 1 else f"{name}#{n}"

    def before(layer: nn.Module, args: Any, kwargs: Any) -> Any:
        counts[name] = counts.get(name, 0) + 1
        if (label := label_of(counts[name])) not in labels:
            return None
        note(label, False)
        calls[label] = Values(floats((args, kwargs)), [])
        return None if forced is None else replaced((args, kwargs), forced[label].given)

    def after(layer: nn.Module, args: Any, outputs: Any) -> Any:
        if (label := label_of(counts[name])) not in labels:
            return None
        note(label, True)
        calls[label] = calls[label]._replace(returned=floats(outputs))
        return None if forced is None else replaced(outputs, forced[label].returned)

    return before, after
