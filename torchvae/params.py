"""This framework's parameters and optimizer state, to and from named arrays in the weight file's layout.

The mapping is total: an unexpected array and a missing one are both errors."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from jaxvae.shared.config.own import Parts, using
from jaxvae.shared.config.spec import Spec, require_spec
from jaxvae.shared.model import layout, optimizer_state, tensor_checks, weight_file
from torchvae.checks import check_params
from torchvae.nets import bind
from torchvae.networks import VAE
from torchvae.parallel import home
from torchvae.train import TrainState, init_optimizers, is_adam


def save(path: Path | str, spec: Spec, model: VAE) -> None:
    """Write the weight file, which either package reads.

    Args:
        path: The file.
        spec: The configuration.
        model: The model.

    Raises:
        InputError: If the parameters are not the model's, or the file's folder doesn't exist.
    """
    require_spec(spec)
    check_params("save", spec.model, model, spec.training.stored)
    weight_file.save(path, spec, to_arrays(spec, model))


def load(path: Path | str, device: torch.device | None = None, *, parts: Parts | None = None) -> tuple[Spec, VAE]:
    """Read a weight file, whichever package wrote it.

    Args:
        path: The file, or the folder of a run.
        device: Where the parameters go.
        parts: The own parts that the model was made with, if it was made with any.

    Returns:
        The configuration, and the model.

    Raises:
        InputError: If the file is corrupt, doesn't hold exactly its model's tensors, or was made with other own parts.
    """
    with using(parts):
        spec, arrays = weight_file.load(path)
    return spec, from_arrays(spec, arrays).to(device)


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
    check_params("save_checkpoint", spec.model, state.model, spec.training.stored)
    optimizer = optimizer_to_arrays(spec, state.optimizer)
    params, key = to_arrays(spec, state.model), state.key.numpy(force=True)
    average = None if state.average is None else to_arrays(spec, state.average)
    checkpoint = weight_file.Checkpoint(spec, params, optimizer, int(state.step), key, train, average)
    weight_file.save_checkpoint(path, checkpoint)


def load_checkpoint(
    path: Path | str, device: torch.device | str | None = None, *, parts: Parts | None = None
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
    model = from_arrays(checkpoint.spec, checkpoint.weights).to(device)
    optimizer = optimizer_from_arrays(checkpoint.spec, checkpoint.optimizer, model)
    key = torch.tensor(checkpoint.key, device=device)
    average = None if checkpoint.average is None else from_arrays(checkpoint.spec, checkpoint.average).to(device)
    return checkpoint.spec, TrainState(model, optimizer, checkpoint.step, key, average), checkpoint.train


def to_arrays(spec: Spec, model: VAE) -> dict[str, np.ndarray]:
    """Convert the parameters to named arrays.

    Args:
        spec: The configuration.
        model: The model.

    Returns:
        NumPy arrays in PyTorch's names and layout, in the order of `layout.table`.

    Raises:
        InputError: If an entry is missing or unexpected, or of another shape.
    """
    require_spec(spec)
    check_params("to_arrays", spec.model, model)
    leaves = {name: tensor.numpy(force=True).copy() for name, tensor in model.state_dict().items()}
    return {parameter.name: leaves[parameter.name] for parameter in layout.table(spec.model)}


def from_arrays(spec: Spec, arrays: Mapping[str, np.ndarray]) -> VAE:
    """Convert named arrays to a model.

    Args:
        spec: The configuration.
        arrays: The arrays in PyTorch's names and layout, as `to_arrays` of either package gives them.

    Returns:
        The model, on the CPU.

    Raises:
        InputError: If they are not exactly the model's arrays.
    """
    tensor_checks.check(arrays, spec, "The arrays")
    return bind(spec.model, {name: torch.tensor(array) for name, array in arrays.items()})


def optimizer_to_arrays(spec: Spec, optimizer: dict[str, torch.optim.Optimizer]) -> dict[str, np.ndarray]:
    """Convert Adam's state to named arrays.

    Args:
        spec: The configuration.
        optimizer: The optimizer state of each phase.

    Returns:
        `exp_avg.NAME`, `exp_avg_sq.NAME` and `step`, as PyTorch names them; with several phases, each behind the
        phase's name and a dot.

    Raises:
        InputError: If it is another optimizer's state.
    """
    optimizer_state.require_adam(map(is_adam, optimizer.values()))
    arrays = {}
    for phase, networks in spec.phases.items():
        adam, prefix = optimizer[phase], phase and f"{phase}."
        tensors = _ordered(spec, networks, adam)
        for moment in ("exp_avg", "exp_avg_sq"):
            arrays |= {
                f"{prefix}{moment}.{name}": adam.state[tensor]
                .get(moment, torch.zeros_like(tensor))
                .numpy(force=True)
                .copy()
                for name, tensor in tensors.items()
            }
        step = adam.state[next(iter(tensors.values()))].get("step", 0)
        arrays[f"{prefix}step"] = np.asarray(int(step), np.int32)
    return arrays


def optimizer_from_arrays(spec: Spec, arrays: Mapping[str, np.ndarray], model: VAE) -> dict[str, torch.optim.Optimizer]:
    """Convert named arrays to Adam's state.

    Args:
        spec: The configuration.
        arrays: What `optimizer_to_arrays` of either package gave.
        model: The model whose parameters the optimizers update.

    Returns:
        The optimizer of each phase.

    Raises:
        InputError: If the arrays are not exactly those.
    """
    optimizer = init_optimizers(spec, model)
    for phase, moments in optimizer_state.moments(arrays, spec).items():
        adam = optimizer[phase]
        for name, tensor in _ordered(spec, spec.phases[phase], adam).items():
            adam.state[tensor] = {
                "step": torch.tensor(float(moments.step), device=tensor.device),
                "exp_avg": torch.tensor(moments.exp_avg[name], device=tensor.device),
                "exp_avg_sq": torch.tensor(moments.exp_avg_sq[name], device=tensor.device),
            }
    return optimizer


def _ordered(spec: Spec, networks: tuple[str, ...], adam: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """The optimizer's tensors by name."""
    tensors = [tensor for group in adam.param_groups for tensor in group["params"]]
    return dict(zip([parameter.name for parameter in optimizer_state.trained(spec, networks)], tensors, strict=True))
