"""A JAX model and a torch module that hold the same numbers."""

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch import nn

from parity_tests.harness.modules import layouts
from parity_tests.harness.modules.adapters import Network, flatten, replaced
from parity_tests.harness.modules.common.arguments import Arguments
from parity_tests.harness.modules.common.structure import chosen
from parity_tests.harness.modules.inputs import Call
from parity_tests.harness.modules.mapping import Pair
from parity_tests.harness.modules.outputs import array, paired
from parity_tests.harness.modules.torch_state import entries, entry, rows, tensor, whole

Arrays = dict[str, np.ndarray]


class Both(NamedTuple):
    """The two networks in one precision, their pairs, and the inputs of both."""

    net: Network
    module: nn.Module
    pairs: tuple[Pair, ...]
    inputs: list[np.ndarray]
    dtype: str
    channels_last: bool = True
    input_layouts: layouts.Layouts = None
    output_layouts: dict[Any, layouts.Layout] = {}  # noqa: RUF012, it is filled as outputs are first seen
    call: Call | None = None
    """The arguments of both, of which the inputs are the arrays; None if the inputs are all of them."""
    order: Mapping[str, str] | None = None
    """Which output of the JAX model is which of the torch module's, where the caller says so."""

    @property
    def jax_inputs(self) -> list[jax.Array]:
        return [jnp.asarray(x) for x in self.moved(self.inputs)]

    @property
    def torch_inputs(self) -> list[torch.Tensor]:
        return self.on_device(self.inputs)

    @property
    def torch_arguments(self) -> Arguments:
        return self.in_torch(self.torch_inputs)

    @property
    def names(self) -> list[str]:
        """The inputs' names."""
        return [f"inputs[{i}]" for i in range(len(self.inputs))] if self.call is None else self.call.names

    @property
    def given(self) -> Arrays:
        """What the two are called with, by name."""
        own = {} if self.call is None else self.call.own_arrays
        return dict(zip(self.names, self.inputs, strict=True)) | own

    @property
    def first(self) -> np.ndarray:
        return self.inputs[0] if self.inputs else np.empty(0)

    def in_torch(self, tensors: list[torch.Tensor]) -> Arguments:
        """Return the arguments of the torch module with these inputs."""
        own = lambda array: self.on_device([array])[0]  # noqa: E731
        return (tuple(tensors), {}) if self.call is None else self.call.in_torch(tensors, own)

    def moved(self, inputs: list[np.ndarray]) -> list[np.ndarray]:
        """Return the inputs in JAX's layout."""
        return [
            layouts.to_jax(x, layouts.of_input(self.input_layouts, i, x.ndim, self.channels_last))
            for i, x in enumerate(inputs)
        ]

    def on_device(self, inputs: list[np.ndarray]) -> list[torch.Tensor]:
        device = next((p.device for p in self.module.parameters()), torch.device("cpu"))
        return [tensor(x).clone().to(device) for x in inputs]

    def arrays(self) -> Arrays:
        """Return the arrays of the JAX model, by path."""
        return flatten(self.net.params) | flatten(self.net.state)

    def named(self, arrays: Mapping[str, np.ndarray]) -> Arrays:
        """Return those of the JAX arrays that are in `arrays`, by torch's names and in torch's layout."""
        return {pair.name: pair.transform.to_torch(arrays[pair.path]) for pair in self.pairs if pair.path in arrays}

    def tensors(self, module: nn.Module) -> Arrays:
        every = entries(module)
        return {pair.name: entry(module, pair.name, every).numpy() for pair in self.pairs}

    def gradients(self, module: nn.Module) -> Arrays:
        """Return torch's gradients of every pair, zeros where there is none."""
        every = entries(module)
        return {pair.name: entry(module, pair.name, every).gradient() for pair in self.differentiated()}

    def differentiated(self) -> list[Pair]:
        """Return the pairs whose gradients are compared: all, whichever framework trains them.

        A bare function doesn't say which of its arrays are trained: those that torch keeps as buffers are not.
        """
        if self.net.watch is not None:
            return list(self.pairs)
        buffers = {name for name, _ in self.module.named_buffers()}
        return [pair for pair in self.pairs if whole(pair.name) not in buffers]

    def fill_torch(self) -> None:
        """Copy the JAX arrays into the torch module."""
        every = entries(self.module)
        with torch.no_grad():
            for name, values in self.named(self.arrays()).items():
                entry(self.module, name, every).value.copy_(tensor(values))

    def filled_from_torch(self) -> "Both":
        """Return the two with the torch module's numbers in the JAX model."""
        return self.filled(self.tensors(self.module))

    def filled(self, tensors: Arrays) -> "Both":
        """Return the two with these numbers, by torch's names, in the JAX model."""
        return self.holding(
            {pair.path: pair.transform.to_jax(tensors[pair.name]) for pair in self.pairs if pair.name in tensors}
        )

    def holding(self, arrays: Mapping[str, Any]) -> "Both":
        """Return the two with these arrays, by path, in the JAX model."""
        net = self.net
        return self._replace(net=net._replace(params=replaced(net.params, arrays), state=replaced(net.state, arrays)))

    def chosen(self, outputs: Any, in_jax: bool) -> Any:
        """Return what is compared of the outputs of one of the models."""
        places = None if self.order is None else {*(self.order.keys() if in_jax else self.order.values())}
        return chosen(outputs, places)

    def outputs(self, in_jax: Any, in_torch: Any) -> tuple[Arrays, Arrays]:
        """Return the outputs of both models by their place in torch, in torch's layout."""
        mine, other = {}, {}
        found = paired(in_jax, in_torch, self.order)
        layouts.check_places(self.output_layouts, "output_layouts", list(found))
        for i, (place, (ours, theirs)) in enumerate(found.items()):
            left, right = array(ours), array(theirs)
            if place not in self.output_layouts:
                given = self.output_layouts.get(i)
                self.output_layouts[place] = given or layouts.of_output(
                    None, i, place, left, right, self.channels_last, self.dtype
                )
            mine[place], other[place] = layouts.to_torch(left, self.output_layouts[place]), right
        return mine, other

    def exchanged(self, in_jax: Any, in_torch: Any, given: Collection[Any]) -> tuple[str, ...]:
        """Return the outputs whose last two axes are of one size and exchanged in JAX, as the numbers alone tell;
        `given` are the places and numbers of those whose layout is given."""
        held = [layouts.of_input(self.input_layouts, i, x.ndim, False) for i, x in enumerate(self.inputs)]
        if any(layout != "same" for layout in held):
            return ()
        return tuple(
            f"{place} (its last two axes are exchanged in JAX; say so by output_layouts)"
            for i, (place, array) in enumerate(self.outputs(in_jax, in_torch)[1].items())
            if array.ndim == 3 and array.shape[1] == array.shape[2] and not {place, i} & {*given}
            if self.output_layouts[place] == "channels_last"
        )


def joined(arrays: Arrays) -> Arrays:
    """Join the rows of a tensor that are in several pairs."""
    parts: dict[str, list[tuple[int, np.ndarray]]] = {}
    for name, values in arrays.items():
        parts.setdefault(whole(name), []).append((rows(name), values))
    ordered = {name: [values for _, values in sorted(held, key=lambda part: part[0])] for name, held in parts.items()}
    return {name: np.concatenate(held) if len(held) > 1 else held[0] for name, held in ordered.items()}
