"""Where to compute, and how precisely."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from jaxvae.shared.config.choices import Dtype, Shard
from jaxvae.shared.errors import InputError
from torchvae.parallel import share


def prepare(
    name: str = "auto", dtype: Dtype = "float32", devices: int | None = None, shard: Shard | None = None
) -> torch.device:
    """Choose a device and prepare the framework for it. Call it before the first tensor is made.

    Args:
        name: `auto` (a gpu if there is one), `cpu` or `gpu`.
        dtype: The precision to compute in.
        devices: Must be 1 or None, since each of torchvae's processes has one device.
        shard: What the processes share beside batches: with `parameters` each holds some rows of all weights and of the
            optimizer's state.

    Returns:
        The device.

    Raises:
        InputError: If there is no such device, or if there is one process to shard for.
    """
    if devices not in (None, 1):
        raise InputError(
            f"--devices must be 1, as each of torchvae's processes has one, found {devices}; start as many processes: "
            f"torchrun --nproc-per-node {devices} -m torchvae train."
        )
    torch.set_float32_matmul_precision("highest")  # float32 products, where a GPU would take TF32
    torch.backends.cudnn.allow_tf32 = False
    if name == "tpu":
        raise InputError("torchvae computes on a cpu or a gpu, not on a tpu; use jaxvae for that, or --device auto.")
    if name == "gpu" and not torch.cuda.is_available():
        raise InputError("PyTorch finds no gpu here; use --device auto, or install PyTorch for it.")
    share(shard)
    return torch.device("cuda" if name == "gpu" or (name == "auto" and torch.cuda.is_available()) else "cpu")


def device_of(model: nn.Module) -> torch.device:
    """Return the device of the model's parameters."""
    return next(model.parameters()).device


def device_label(device: torch.device) -> str:
    """Return the device's platform and model, for the run's record."""
    return f"gpu ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else "cpu (cpu)"


def to_tensor(array: Any, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """Return an array of any kind as a tensor on a device. `as_tensor` would warn of NumPy's if it can't be written to,
    as JAX's can't."""
    if isinstance(array, Tensor):
        return array.to(device, dtype or array.dtype)
    return torch.tensor(np.asarray(array), dtype=dtype, device=device)
