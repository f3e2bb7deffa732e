"""The inputs of a step, without a framework."""

from typing import NamedTuple

import numpy as np


class Batch(NamedTuple):
    """Pixels and the random numbers of a step."""

    x: np.ndarray
    """Pixels to reconstruct, `[batch, pixels]`."""
    eps: np.ndarray
    """Standard normals `[batch, latent]`, or `[samples, batch, latent]`."""
    labels: np.ndarray | None = None
    """`[batch]`, for a model with classes."""
    prior: np.ndarray | None = None
    corruption: np.ndarray | None = None
    masks: tuple[np.ndarray, ...] = ()
    step: int = 0
    """Number of steps taken before."""
