"""A JAX model and a torch module that hold the same numbers."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch import nn

from jaxvae.shared.errors import InputError
from parity_tests.harness.modules.adapters import Network, flatten, replaced
from parity_tests.harness.modules.mapping import Pair
from parity_tests.harness.modules.validation import kind, numbers

Arrays = dict[str, np.ndarray]


class Both(NamedTuple):
    """The two networks in one precision, their pairs, and the inputs of both."""

    net: Network
    module: nn.Module
    pairs: tuple[Pair, ...]
    inputs: list[np.ndarray]
    dtype: str
    channels_last: bool

    @property
    def jax_inputs(self) -> list[jax.Array]:
        moved = [np.moveaxis(x, 1, -1) if x.ndim == 4 and self.channels_last else x for x in self.inputs]
        return [jnp.asarray(x) for x in moved]

    @property
    def torch_inputs(self) -> list[torch.Tensor]:
        device = next((p.device for p in self.module.parameters()), torch.device("cpu"))
        return [torch.tensor(x, device=device) for x in self.inputs]

    def arrays(self) -> Arrays:
        """Return the arrays of the JAX model, by path."""
        return flatten(self.net.params) | flatten(self.net.statistics)

    def named(self, arrays: Mapping[str, np.ndarray]) -> Arrays:
        """Return those of the JAX arrays that are in `arrays`, by torch's names and in torch's layout."""
        return {pair.name: pair.transform.to_torch(arrays[pair.path]) for pair in self.pairs if pair.path in arrays}

    def tensors(self, module: nn.Module) -> Arrays:
        state = module.state_dict(keep_vars=True)
        return {pair.name: state[pair.name].numpy(force=True) for pair in self.pairs}

    def fill_torch(self) -> None:
        state = self.module.state_dict(keep_vars=True)
        with torch.no_grad():
            for name, array in self.named(self.arrays()).items():
                state[name].copy_(torch.tensor(np.ascontiguousarray(array)))

    def filled_from_torch(self) -> Network:
        tensors = self.tensors(self.module)
        arrays = {pair.path: pair.transform.to_jax(tensors[pair.name]) for pair in self.pairs}
        net = self.net
        return net._replace(params=replaced(net.params, arrays), statistics=replaced(net.statistics, arrays))

    def outputs(self, tree: Any) -> Arrays:
        """Return a model's outputs by name, in torch's layout."""
        named = {}
        for path, leaf in jax.tree_util.tree_leaves_with_path(_plain(tree)):
            array = numbers(leaf)
            if array is None:
                raise InputError(
                    "outputs: expected arrays of real numbers, alone or in tuples, lists and dicts, found "
                    f"{kind(leaf)}: make both models return those."
                )
            last = self.channels_last and array.ndim == 4 and not isinstance(leaf, torch.Tensor)
            named[f"output{jax.tree_util.keystr(path)}"] = np.moveaxis(array, -1, 1) if last else array
        return named


def _plain(tree: Any) -> Any:
    """Convert mappings and sequences of any class, such as ModelOutput, to dicts and lists; to JAX they are leaves."""
    if isinstance(tree, Mapping):
        return {name: _plain(value) for name, value in tree.items()}
    if isinstance(tree, list | tuple):
        plain = [_plain(value) for value in tree]
        return type(tree)(*plain) if hasattr(tree, "_fields") else plain
    return tree
