"""This framework's parameters and optimizer state, to and from named arrays in the weight file's layout.

The mapping is total: an array without a place and a place without an array are both errors."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from jaxvae.shared import layout, weights
from jaxvae.shared.errors import InputError
from jaxvae.shared.spec import Spec
from torchvae.nets import VAE, bind
from torchvae.train import make_optimizer


def save(path: Path | str, spec: Spec, model: VAE) -> None:
    """Writes the weight file, which either package reads."""
    weights.save(Path(path), spec, to_arrays(spec, model))


def load(path: Path | str, device: torch.device | None = None) -> tuple[Spec, VAE]:
    """A weight file's configuration and model, whichever package wrote it. Raises InputError for a file that is damaged
    or doesn't hold exactly its model's tensors."""
    spec, arrays = weights.load(Path(path))
    return spec, from_arrays(spec, arrays).to(device)


def to_arrays(spec: Spec, model: VAE) -> dict[str, np.ndarray]:
    """Named arrays in the order of `layout.table`."""
    leaves = {name: tensor.numpy(force=True).copy() for name, tensor in model.state_dict().items()}
    table = layout.table(spec.model)
    strays = [name for name in leaves if name not in {parameter.name for parameter in table}]
    missing = [parameter.name for parameter in table if parameter.name not in leaves]
    if strays or missing:
        raise InputError(f"The parameters don't fit the model: without a place {strays}, without an array {missing}.")
    return {parameter.name: leaves[parameter.name] for parameter in table}


def from_arrays(spec: Spec, arrays: Mapping[str, np.ndarray]) -> VAE:
    """The model of named arrays. Raises InputError unless they are exactly the model's."""
    weights.check(arrays, spec, "The arrays")
    return bind(spec.model, {name: torch.tensor(array) for name, array in arrays.items()})


def optimizer_to_arrays(spec: Spec, optimizer: torch.optim.Optimizer) -> dict[str, np.ndarray]:
    """Adam's state under PyTorch's names: `exp_avg.NAME`, `exp_avg_sq.NAME` and `step`."""
    tensors = [tensor for group in optimizer.param_groups for tensor in group["params"]]
    named = list(zip([parameter.name for parameter in layout.table(spec.model)], tensors, strict=True))
    arrays = {
        f"{moment}.{name}": optimizer.state[tensor].get(moment, torch.zeros_like(tensor)).numpy(force=True).copy()
        for moment in ("exp_avg", "exp_avg_sq")
        for name, tensor in named
    }
    return {**arrays, "step": np.asarray(int(optimizer.state[tensors[0]].get("step", 0)), np.int32)}


def optimizer_from_arrays(spec: Spec, arrays: Mapping[str, np.ndarray], model: VAE) -> torch.optim.Optimizer:
    """Adam's state from what `optimizer_to_arrays` of either package gave, over the model's parameters. Raises
    InputError unless that is what they are."""
    moments = dict(zip(("exp_avg", "exp_avg_sq"), weights.moments(arrays, spec), strict=True))
    optimizer = make_optimizer(spec, model)
    for name, tensor in model.named_parameters():
        optimizer.state[tensor] = {
            "step": torch.tensor(float(arrays["step"]), device=tensor.device),
            **{moment: torch.tensor(named[name], device=tensor.device) for moment, named in moments.items()},
        }
    return optimizer
