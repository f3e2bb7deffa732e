"""Where to compute, and how precisely."""

import torch
from torch import nn

from jaxvae.shared.config.choices import Dtype
from jaxvae.shared.errors import InputError


def prepare(name: str = "auto", dtype: Dtype = "float32", devices: int | None = None) -> torch.device:
    """The device called `auto` (a GPU if there is one), `cpu` or `gpu`, ready for computing in `dtype`. Raises
    InputError where there is no such device, or where more than one is asked for: each process has its own."""
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
    return torch.device("cuda" if name == "gpu" or (name == "auto" and torch.cuda.is_available()) else "cpu")


def device_of(model: nn.Module) -> torch.device:
    """Where the model's parameters are."""
    return next(model.parameters()).device


def device_label(device: torch.device) -> str:
    """For the run's record: platform and model."""
    return f"gpu ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else "cpu (cpu)"
