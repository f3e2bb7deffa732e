"""Convert bytes to pixels, and corrupt them for the encoder."""

import torch
from torch import Tensor

from jaxvae.shared.config.spec import Spec, require_spec
from jaxvae.shared.model.argument_checks import require_bytes, require_kind, require_pixels
from torchvae import random


def scale(images: Tensor, dtype: str) -> Tensor:
    """Scale bytes to floats in [0, 1], equal to torchvision's ToTensor to the bit.

    Args:
        images: uint8, `[batch, height, width, channels]`.
        dtype: The dtype of the result.

    Returns:
        `[batch, pixels]`, flattened in height, width, channel order.

    Raises:
        InputError: If the images are not uint8.
    """
    require_bytes("scale", images)
    require_kind("scale", "images", images, Tensor)
    # By a tensor: CUDA turns a division by a number into a product, which misses 126 of the 256 values by an ulp.
    floats = images.flatten(1).to(getattr(torch, dtype))
    return floats.div_(torch.full((), 255, dtype=floats.dtype, device=floats.device))


def prepare_pixels(spec: Spec, images: Tensor, static: random.Key | None, dynamic: random.Key | None) -> Tensor:
    """Convert bytes to the configuration's pixels: scaled, binarised, in its range.

    Args:
        spec: The configuration.
        images: uint8, `[batch, height, width, channels]`.
        static: Keys of the images, `[batch]`, for static binarisation.
        dynamic: Keys of the step, `[batch]`, for dynamic binarisation; without them it is at half.

    Returns:
        `[batch, pixels]`.

    Raises:
        InputError: If the images are not uint8, or not of the model's size.
    """
    require_spec(spec)
    require_bytes("prepare_pixels", images, spec.model.image)
    require_kind("prepare_pixels", "images", images, Tensor)
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
    """Draw each pixel as 1 with its grey level as probability, else 0.

    Args:
        images: uint8, `[batch, height, width, channels]`.
        keys: A key for each image, `[batch]`.

    Returns:
        bool, `[batch, pixels]`.

    Raises:
        InputError: If the images are not uint8.
    """
    require_bytes("binarize", images)
    require_kind("binarize", "images", images, Tensor)
    grey = scale(images, "float32")
    # In float32 always, so that a float64 run sees the same images.
    return random.uniform(keys, grey.shape[1:], torch.float32) < grey


def corrupt(spec: Spec, x: Tensor, corruption: Tensor | None) -> Tensor:
    """Corrupt pixels as the encoder sees them in training.

    Args:
        spec: The configuration.
        x: Pixels, `[batch, pixels]`.
        corruption: Noise of standard deviation 1, or the factors of dropout, `[batch, pixels]`.

    Returns:
        `[batch, pixels]`; `x` itself without a corruption of pixels.

    Raises:
        InputError: If the pixels are not the model's.
    """
    require_spec(spec)
    require_pixels("corrupt", spec, x)
    require_kind("corrupt", "pixels", x, Tensor)
    match spec.images.corruption:
        case "gaussian":
            assert corruption is not None
            return x + spec.images.corruption_level * corruption
        case "dropout":
            assert corruption is not None
            return x * corruption
        case _:
            return x
