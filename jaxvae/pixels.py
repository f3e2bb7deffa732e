"""Convert bytes to pixels, and corrupt them for the encoder."""

import jax
import numpy as np
from jax import Array, random

from jaxvae.checks import require_own
from jaxvae.shared.config.spec import Spec, require_spec
from jaxvae.shared.model.argument_checks import require_bytes, require_pixels


def scale(images: Array, dtype: str) -> Array:
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
    require_own("scale", images=images)
    # 1 / 255 = 257 / 65536 + 1 / (255 * 65536), of which the first product is exact; the sum is rounded as the quotient
    # for every byte. XLA would turn a division by 255 into one product, which misses 126 of the 256 values by an ulp.
    x = images.reshape(len(images), -1).astype(dtype)
    return x * np.asarray(257 / 65536, dtype) + x * np.asarray(1 / (255 * 65536), dtype)


def prepare_pixels(spec: Spec, images: Array, static: Array | None, dynamic: Array | None) -> Array:
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
    require_own("prepare_pixels", images=images)
    dtype, how = spec.training.stored, spec.images.binarization
    if how == "none":
        x = scale(images, dtype)
    elif how == "static":
        assert static is not None
        x = binarize(images, static).astype(dtype)
    elif how == "dynamic" and dynamic is not None:
        x = binarize(images, dynamic).astype(dtype)
    else:
        x = (images.reshape(len(images), -1) > 127).astype(dtype)
    return 2.0 * x - 1.0 if spec.images.range == "signed" else x


def binarize(images: Array, keys: Array) -> Array:
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
    require_own("binarize", images=images)
    grey = scale(images, "float32")
    # In float32 always, so that a float64 run sees the same images.
    return jax.vmap(lambda key: random.uniform(key, grey.shape[1:], "float32"))(keys) < grey


def corrupt(spec: Spec, x: Array, corruption: Array | None) -> Array:
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
    require_own("corrupt", pixels=x)
    match spec.images.corruption:
        case "gaussian":
            assert corruption is not None
            return x + spec.images.corruption_level * corruption
        case "dropout":
            assert corruption is not None
            return x * corruption
        case _:
            return x
