"""The inputs of a step, and its state as named arrays, without a framework."""

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


def averages(optimizer: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Split a state that holds, beside Adam's, the average of the weights as `average.NAME`: the average by the names
    of the weights, empty without one, and Adam's."""
    average = {name.removeprefix("average."): a for name, a in optimizer.items() if name.startswith("average.")}
    return average, {name: a for name, a in optimizer.items() if not name.startswith("average.")}


def evaluated(weights: dict[str, np.ndarray], optimizer: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays that a run evaluates: the average of the weights, if there is one, or else the weights."""
    return averages(optimizer)[0] or weights
