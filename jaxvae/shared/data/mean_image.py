"""The decoder's last bias from the mean training image."""

import numpy as np

from jaxvae.shared.config.spec import Spec
from jaxvae.shared.data import streaming
from jaxvae.shared.errors import InputError

_DARKEST = 1e-3  # the least distance of a mean pixel from 0 and 1, whose log-odds are infinite


def last_bias(spec: Spec, images: np.ndarray | None) -> np.ndarray | None:
    """Compute the initial value of the decoder's last bias, if the configuration takes it from the training images.

    Args:
        spec: The configuration.
        images: The training images, uint8 `[n, height, width, channels]`.

    Returns:
        The log-odds of the mean image, `[pixels]`; None unless the initial weights are `glorot-data`.

    Raises:
        InputError: If they are and no images are given.

    References:
        Burda, Grosse & Salakhutdinov 2016.
    """
    if spec.model.init != "glorot-data":
        return None
    if images is None:
        raise InputError("Initial weights of glorot-data need the training images; give them to init_state.")
    total = np.zeros(spec.model.pixels)
    for piece in streaming.pieces(images):
        seen = 255 * (piece > 127) if spec.images.binarization == "threshold" else piece
        total += seen.reshape(len(piece), -1).sum(0, dtype=np.float64)  # exact, of whole numbers
    mean = np.clip(total / len(images) / 255, _DARKEST, 1 - _DARKEST)
    return np.log(mean / (1 - mean)).astype(spec.training.stored)
