"""This framework's parameters and optimizer state, to and from named arrays in the weight file's layout.

The mapping is total: an unexpected array and a missing one are both errors."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import random

from jaxvae.checks import check_params
from jaxvae.devices import Device, require
from jaxvae.nets import Params
from jaxvae.parallel import home
from jaxvae.shared.config.own import Parts, using
from jaxvae.shared.config.spec import Spec, require_spec
from jaxvae.shared.errors import InputError
from jaxvae.shared.model import layout, optimizer_state, tensor_checks, weight_file
from jaxvae.train import TrainState, is_adam


def save(path: Path | str, spec: Spec, params: Params) -> None:
    """Write the weight file, which either package reads.

    Args:
        path: The file.
        spec: The configuration.
        params: The model's parameters.

    Raises:
        InputError: If the parameters are not the model's, or the file's folder doesn't exist.
    """
    require_spec(spec)
    check_params("save", spec.model, params, spec.training.stored)
    weight_file.save(path, spec, to_arrays(spec, params))


def load(path: Path | str, device: Device | None = None, *, parts: Parts | None = None) -> tuple[Spec, Params]:
    """Read a weight file, whichever package wrote it.

    Args:
        path: The file, or the folder of a run.
        device: Where the parameters go.
        parts: The own parts that the model was made with, if it was made with any.

    Returns:
        The configuration, and the parameters.

    Raises:
        InputError: If the file is corrupt, doesn't hold exactly its model's tensors, or was made with other own parts.
    """
    with using(parts):
        spec, arrays = weight_file.load(path)
    return spec, jax.device_put(from_arrays(spec, arrays), device)


def save_checkpoint(path: Path | str, spec: Spec, state: TrainState, train: np.ndarray) -> None:
    """Write a checkpoint, from which either package resumes.

    Args:
        path: The file.
        spec: The configuration.
        state: The training state.
        train: The mean terms of the epoch's steps so far, `[steps, terms]`, nats per image.

    Raises:
        InputError: If the state is not the configuration's, or the file's folder doesn't exist.
    """
    require_spec(spec)
    check_params("save_checkpoint", spec.model, state.params, spec.training.stored)
    optimizer = optimizer_to_arrays(spec, state.opt_state)
    params, key = to_arrays(spec, state.params), np.asarray(random.key_data(state.key))
    average = None if state.average is None else to_arrays(spec, state.average)
    checkpoint = weight_file.Checkpoint(spec, params, optimizer, int(state.step), key, train, average)
    weight_file.save_checkpoint(path, checkpoint)


def load_checkpoint(
    path: Path | str, device: Device | None = None, *, parts: Parts | None = None
) -> tuple[Spec, TrainState, np.ndarray]:
    """Read a checkpoint, whichever package wrote it.

    Args:
        path: The file.
        device: Where the state goes.
        parts: The own parts that the model was made with, if it was made with any.

    Returns:
        The configuration, the state, and the mean terms of the epoch's steps so far, `[steps, terms]`.

    Raises:
        InputError: If the file is corrupt, doesn't hold exactly what its run needs, or was made with other own parts.
    """
    with using(parts):
        checkpoint = weight_file.load_checkpoint(path)
    device = home(device)
    with jax.default_device(device):
        params = from_arrays(checkpoint.spec, checkpoint.weights)
        optimizer = optimizer_from_arrays(checkpoint.spec, checkpoint.optimizer)
        key = random.wrap_key_data(jnp.asarray(checkpoint.key), impl="threefry2x32")
        average = None if checkpoint.average is None else from_arrays(checkpoint.spec, checkpoint.average)
        state = TrainState(params, optimizer, jnp.int32(checkpoint.step), key, average)
    return checkpoint.spec, jax.device_put(state, device), checkpoint.train


def to_arrays(spec: Spec, params: Params) -> dict[str, np.ndarray]:
    """Convert the parameters to named arrays.

    Args:
        spec: The configuration.
        params: The model's parameters.

    Returns:
        NumPy arrays in PyTorch's names and layout, in the order of `layout.table`.

    Raises:
        InputError: If an entry is missing or unexpected, or of another shape.
    """
    require_spec(spec)
    check_params("to_arrays", spec.model, params)
    return _named(layout.table(spec.model), params)


def from_arrays(spec: Spec, arrays: Mapping[str, np.ndarray]) -> Params:
    """Convert named arrays to parameters.

    Args:
        spec: The configuration.
        arrays: The arrays in PyTorch's names and layout, as `to_arrays` of either package gives them.

    Returns:
        The nested dict.

    Raises:
        InputError: If they are not exactly the model's arrays.
    """
    tensor_checks.check(arrays, spec, "The arrays")
    return _nest(spec, arrays)


def optimizer_to_arrays(spec: Spec, opt_state: dict[str, optax.OptState]) -> dict[str, np.ndarray]:
    """Convert Adam's state to named arrays.

    Args:
        spec: The configuration.
        opt_state: The optimizer state of each phase.

    Returns:
        `exp_avg.NAME`, `exp_avg_sq.NAME` and `step`, as PyTorch names them; with several phases, each behind the
        phase's name and a dot.

    Raises:
        InputError: If it is another optimizer's state.
    """
    optimizer_state.require_adam(map(is_adam, opt_state.values()))
    arrays = {}
    for phase, networks in spec.phases.items():
        state, table, prefix = opt_state[phase], optimizer_state.trained(spec, networks), phase and f"{phase}."
        assert isinstance(state, optax.ScaleByAdamState)
        for moment, tree in {"exp_avg": state.mu, "exp_avg_sq": state.nu}.items():
            arrays |= {f"{prefix}{moment}.{name}": a for name, a in _named(table, tree).items()}
        arrays[f"{prefix}step"] = np.asarray(state.count)
    return arrays


def optimizer_from_arrays(spec: Spec, arrays: Mapping[str, np.ndarray]) -> dict[str, optax.OptState]:
    """Convert named arrays to Adam's state.

    Args:
        spec: The configuration.
        arrays: What `optimizer_to_arrays` of either package gave.

    Returns:
        The optimizer state of each phase.

    Raises:
        InputError: If the arrays are not exactly those.
    """
    return {
        phase: optax.ScaleByAdamState(jnp.int32(adam.step), _nest(spec, adam.exp_avg), _nest(spec, adam.exp_avg_sq))
        for phase, adam in optimizer_state.moments(arrays, spec).items()
    }


def _named(table: tuple[layout.Parameter, ...], tree: Any) -> dict[str, np.ndarray]:
    leaves = {
        tuple(getattr(entry, "key") for entry in path): np.asarray(leaf)  # noqa: B009 (only dict entries have it)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
    strays = [path for path in leaves if path not in {parameter.path for parameter in table}]
    missing = [parameter.path for parameter in table if parameter.path not in leaves]
    if strays or missing:
        raise InputError(f"The parameters don't fit the model: unexpected entries {strays}, missing entries {missing}.")
    for parameter in table:
        if (shape := leaves[parameter.path].shape) != parameter.flax_shape:
            raise InputError(
                f"The parameters don't fit the model: {'.'.join(map(str, parameter.path))} should have the shape "
                f"{list(parameter.flax_shape)}, found {list(shape)}; give the configuration that they were made with."
            )
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
