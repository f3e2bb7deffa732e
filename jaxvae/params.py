"""This framework's parameters and optimizer state, to and from named arrays in the weight file's layout.

The mapping is total: an array without a place and a place without an array are both errors."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import random

from jaxvae.devices import Device, require
from jaxvae.nets import Params
from jaxvae.shared.config.spec import Spec
from jaxvae.shared.errors import InputError
from jaxvae.shared.model import layout, weight_file
from jaxvae.train import TrainState


def save(path: Path | str, spec: Spec, params: Params) -> None:
    """Writes the weight file, which either package reads."""
    weight_file.save(Path(path), spec, to_arrays(spec, params))


def load(path: Path | str, device: Device | None = None) -> tuple[Spec, Params]:
    """A weight file's configuration and parameters, whichever package wrote it. Raises InputError for a file that is
    damaged or doesn't hold exactly its model's tensors."""
    spec, arrays = weight_file.load(Path(path))
    return spec, jax.device_put(from_arrays(spec, arrays), device)


def save_checkpoint(path: Path | str, spec: Spec, state: TrainState, train: np.ndarray) -> None:
    """Writes a checkpoint, from which either package goes on: the state, with the terms of its epoch's steps so far,
    `[steps, terms]`, as a Part has them."""
    optimizer = optimizer_to_arrays(spec, state.opt_state)
    params, key = to_arrays(spec, state.params), np.asarray(random.key_data(state.key))
    checkpoint = weight_file.Checkpoint(spec, params, optimizer, int(state.step), key, train)
    weight_file.save_checkpoint(Path(path), checkpoint)


def load_checkpoint(path: Path | str, device: Device | None = None) -> tuple[Spec, TrainState, np.ndarray]:
    """A checkpoint's configuration, state and terms, whichever package wrote it. Raises InputError for a file that is
    damaged or doesn't hold exactly what its run needs."""
    found = weight_file.load_checkpoint(Path(path))
    params = from_arrays(found.spec, found.weights)
    optimizer = optimizer_from_arrays(found.spec, found.optimizer)
    key = random.wrap_key_data(jnp.asarray(found.key), impl="threefry2x32")
    state = TrainState(params, optimizer, jnp.int32(found.step), key)
    return found.spec, jax.device_put(state, device), found.train


def to_arrays(spec: Spec, params: Params) -> dict[str, np.ndarray]:
    """Named arrays in the order of `layout.table`."""
    return _named(layout.table(spec.model), params)


def from_arrays(spec: Spec, arrays: Mapping[str, np.ndarray]) -> Params:
    """The nested dict of named arrays. Raises InputError unless they are exactly the model's."""
    weight_file.check(arrays, spec, "The arrays")
    return _nest(spec, arrays)


def optimizer_to_arrays(spec: Spec, opt_state: dict[str, optax.OptState]) -> dict[str, np.ndarray]:
    """Adam's state under PyTorch's names: `exp_avg.NAME`, `exp_avg_sq.NAME` and `step`; that of one of several phases
    behind the phase's name and a dot."""
    arrays = {}
    for phase, networks in spec.phases.items():
        state, table, prefix = opt_state[phase], weight_file.trained(spec, networks), phase and f"{phase}."
        assert isinstance(state, optax.ScaleByAdamState)
        for moment, tree in {"exp_avg": state.mu, "exp_avg_sq": state.nu}.items():
            arrays |= {f"{prefix}{moment}.{name}": a for name, a in _named(table, tree).items()}
        arrays[f"{prefix}step"] = np.asarray(state.count)
    return arrays


def optimizer_from_arrays(spec: Spec, arrays: Mapping[str, np.ndarray]) -> dict[str, optax.OptState]:
    """Adam's state from what `optimizer_to_arrays` of either package gave. Raises InputError unless that is what they
    are."""
    return {
        phase: optax.ScaleByAdamState(jnp.int32(found.step), _nest(spec, found.exp_avg), _nest(spec, found.exp_avg_sq))
        for phase, found in weight_file.moments(arrays, spec).items()
    }


def _named(table: tuple[layout.Parameter, ...], tree: Any) -> dict[str, np.ndarray]:
    leaves = {
        tuple(getattr(entry, "key") for entry in path): np.asarray(leaf)  # noqa: B009 (only dict entries have it)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
    strays = [path for path in leaves if path not in {parameter.path for parameter in table}]
    missing = [parameter.path for parameter in table if parameter.path not in leaves]
    if strays or missing:
        raise InputError(f"The parameters don't fit the model: without a place {strays}, without an array {missing}.")
    return {parameter.name: layout.to_torch(parameter, leaves[parameter.path]) for parameter in table}


def _nest(spec: Spec, arrays: Mapping[str, np.ndarray]) -> Params:
    """Nested as the parameters are, with None in place of arrays that aren't given."""
    require(spec.training.dtype)
    params: Params = {}
    for parameter in layout.table(spec.model):
        node, array = params, arrays.get(parameter.name)
        for name in parameter.path[:-1]:
            node = node.setdefault(name, {})
        node[parameter.path[-1]] = None if array is None else jnp.asarray(layout.to_flax(parameter, array))
    return params
