"""What both packages are given of a batch, in numbers."""

from typing import NamedTuple

import numpy as np


class Batch(NamedTuple):
    """Pixels and everything drawn beside them."""

    x: np.ndarray
    """What is to be reconstructed, `[batch, pixels]`."""
    eps: np.ndarray
    """Standard normals `[batch, latent]`, or `[samples, batch, latent]`."""
    labels: np.ndarray | None = None
    """`[batch]`, of a model with classes."""
    prior: np.ndarray | None = None
    corruption: np.ndarray | None = None
    masks: tuple[np.ndarray, ...] = ()
    step: int = 0
    """Steps taken before."""
