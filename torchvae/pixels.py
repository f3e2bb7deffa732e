"""Bytes to pixels."""

import torch
from torch import Tensor


def scale(images: Tensor, dtype: str) -> Tensor:
    """uint8 images `[batch, height, width, channels]` as floats in [0, 1], flattened: `[batch, pixels]`, equal to
    torchvision's ToTensor to the bit."""
    # By a tensor: CUDA turns a division by a number into a product, which misses 126 of the 256 values by an ulp.
    floats = images.flatten(1).to(getattr(torch, dtype))
    return floats.div_(torch.full((), 255, dtype=floats.dtype, device=floats.device))
