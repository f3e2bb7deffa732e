"""Bytes to pixels, and what is done to pixels before the encoder sees them."""

import torch
from torch import Tensor

from jaxvae.shared.config.spec import Spec
from torchvae import random


def scale(images: Tensor, dtype: str) -> Tensor:
    """uint8 images `[batch, height, width, channels]` as floats in [0, 1], flattened: `[batch, pixels]`, equal to
    torchvision's ToTensor to the bit."""
    # By a tensor: CUDA turns a division by a number into a product, which misses 126 of the 256 values by an ulp.
    floats = images.flatten(1).to(getattr(torch, dtype))
    return floats.div_(torch.full((), 255, dtype=floats.dtype, device=floats.device))


def prepare_pixels(spec: Spec, images: Tensor, static: random.Key | None, dynamic: random.Key | None) -> Tensor:
    """uint8 images as the configuration wants their pixels: scaled, binarised, in its range. `[batch, pixels]`.

    `static` and `dynamic` are keys, one for each image, from which it is binarised if the configuration says so: those
    of the image, and those of the step. Without the latter dynamic binarisation is at half."""
    dtype, how = spec.training.stored, spec.images.binarization
    if how == "none":
        x = scale(images, dtype)
    elif how == "static":
        assert static is not None
        x = binarize(images, static).to(getattr(torch, dtype))
    elif how == "dynamic" and dynamic is not None:
        x = binarize(images, dynamic).to(getattr(torch, dtype))
    else:
        x = (images.reshape(len(images), -1) > 127).to(getattr(torch, dtype))
    return 2.0 * x - 1.0 if spec.images.range == "signed" else x


def binarize(images: Tensor, keys: random.Key) -> Tensor:
    """Each pixel 1 with its grey level for probability, else 0, an image from each key: bool `[batch, pixels]`."""
    grey = scale(images, "float32")
    # In float32 always, so that a float64 run sees the same images.
    return random.uniform(keys, grey.shape[1:], torch.float32) < grey


def corrupt(spec: Spec, x: Tensor, corruption: Tensor | None) -> Tensor:
    """Pixels `[batch, pixels]` as the encoder sees them in training: with the noise added, which is of deviation 1, or
    times the factors of dropout."""
    match spec.images.corruption:
        case "gaussian":
            assert corruption is not None
            return x + spec.images.corruption_level * corruption
        case "dropout":
            assert corruption is not None
            return x * corruption
        case _:
            return x
