"""Paths through latent space: lines, arcs, axes and a plane. float64, so that both packages decode the same values."""

from statistics import NormalDist

import numpy as np

from jaxvae.shared.errors import InputError
from jaxvae.shared.text import shown

_MIN_SINE = 1e-6  # of an arc's angle; below, arccos has lost half of its digits and the arc is drawn as a line


def linear(start: np.ndarray, end: np.ndarray, steps: int) -> np.ndarray:
    """Interpolate along straight lines.

    Args:
        start: `[n, latent]`.
        end: `[n, latent]`.
        steps: Points of each line, both ends included.

    Returns:
        `[n, steps, latent]`.
    """
    t = np.linspace(0.0, 1.0, steps)[:, None]
    return (1 - t) * start[:, None] + t * end[:, None]


def spherical(start: np.ndarray, end: np.ndarray, steps: int) -> np.ndarray:
    """Interpolate along arcs about the origin, on which latents keep the norm that draws from the prior have.

    Args:
        start: `[n, latent]`.
        end: `[n, latent]`.
        steps: Points of each arc, both ends included.

    Returns:
        `[n, steps, latent]`; a straight line where both ends lie in the same or in opposite directions.

    References:
        Shoemake 1985, Animating rotation with quaternion curves; White 2016, Sampling generative networks.
    """
    norms = np.linalg.norm(start, axis=1) * np.linalg.norm(end, axis=1)
    cosine = np.clip((start * end).sum(1) / np.where(norms > 0, norms, 1.0), -1, 1)
    angle = np.where(norms > 0, np.arccos(cosine), 0.0)[:, None, None]
    curved = np.abs(np.sin(angle)) > _MIN_SINE
    t, sine = np.linspace(0.0, 1.0, steps)[:, None], np.where(curved, np.sin(angle), 1.0)
    arc = (np.sin((1 - t) * angle) * start[:, None] + np.sin(t * angle) * end[:, None]) / sine
    return np.where(curved, arc, linear(start, end, steps))


def along(z: np.ndarray, dimensions: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Vary one latent dimension at a time.

    Args:
        z: The latent to start from, `[latent]`.
        dimensions: The dimensions to vary, `[n]`.
        values: The values of each, `[n, steps]`.

    Returns:
        `[n, steps, latent]`.

    Raises:
        InputError: If a dimension is none of the latent's, or has no values.
    """
    dimensions, values = np.asarray(dimensions), np.asarray(values)
    if not all(0 <= dimension < len(z) for dimension in dimensions):
        raise InputError(
            f"The latent has the dimensions 0 to {len(z) - 1}, found {shown(dimensions.tolist())}; choose of these."
        )
    if values.ndim != 2 or len(values) != len(dimensions):
        raise InputError(
            f"Values of {len(dimensions)} dimensions need the shape [{len(dimensions)}, steps], found "
            f"{list(values.shape)}; give a row of values for each."
        )
    path = np.broadcast_to(z, (*values.shape, len(z))).copy()
    for row, dimension in enumerate(dimensions):
        path[row, :, dimension] = values[row]
    return path


def quantiles(steps: int) -> np.ndarray:
    """Return the quantiles of N(0, 1) in the middle of each of `steps` equally likely parts: `[steps]`, rising."""
    return np.array([NormalDist().inv_cdf((i + 0.5) / steps) for i in range(steps)])


def plane(steps: int) -> np.ndarray:
    """Return the plane of two latents at the quantiles of N(0, I).

    Args:
        steps: Points in a row and in a column.

    Returns:
        `[steps, steps, 2]`: the first latent rises to the right, the second upwards; the first row is the top one.

    References:
        Kingma & Welling 2014, Auto-encoding variational Bayes, figure 4.
    """
    marks = quantiles(steps)
    return np.stack(np.meshgrid(marks, marks[::-1]), -1)
