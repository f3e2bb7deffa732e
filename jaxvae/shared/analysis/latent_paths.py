"""Where in latent space to look: lines, arcs, axes and a plane. All float64, so that both packages decode the same."""

from statistics import NormalDist

import numpy as np

_SAME = 1e-6  # the sine of an angle below which an arc is a line: an arc cosine near 1 has half the digits


def linear(start: np.ndarray, end: np.ndarray, steps: int) -> np.ndarray:
    """From each latent of `start` `[n, latent]` straight to that of `end`, both among them: `[n, steps, latent]`."""
    t = np.linspace(0.0, 1.0, steps)[:, None]
    return (1 - t) * start[:, None] + t * end[:, None]


def spherical(start: np.ndarray, end: np.ndarray, steps: int) -> np.ndarray:
    """The same along an arc about the origin (Shoemake 1985), on which latents keep the norm that draws from the prior
    have (White 2016); a line where both lie in one direction, or opposite."""
    norms = np.linalg.norm(start, axis=1) * np.linalg.norm(end, axis=1)
    cosine = np.clip((start * end).sum(1) / np.where(norms > 0, norms, 1.0), -1, 1)
    angle = np.where(norms > 0, np.arccos(cosine), 0.0)[:, None, None]
    curved = np.abs(np.sin(angle)) > _SAME
    t, sine = np.linspace(0.0, 1.0, steps)[:, None], np.where(curved, np.sin(angle), 1.0)
    arc = (np.sin((1 - t) * angle) * start[:, None] + np.sin(t * angle) * end[:, None]) / sine
    return np.where(curved, arc, linear(start, end, steps))


def along(z: np.ndarray, dimensions: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The latent `z` `[latent]` with one of the `dimensions` `[n]` at a time set to each of its `values`
    `[n, steps]`: `[n, steps, latent]`."""
    found = np.broadcast_to(z, (*values.shape, len(z))).copy()
    for row, dimension in enumerate(dimensions):
        found[row, :, dimension] = values[row]
    return found


def quantiles(steps: int) -> np.ndarray:
    """Those of N(0, 1) in the middle of each of so many equally likely parts: `[steps]`, rising."""
    return np.array([NormalDist().inv_cdf((i + 0.5) / steps) for i in range(steps)])


def plane(steps: int) -> np.ndarray:
    """The plane of two latents through the quantiles of N(0, I), the first rising to the right and the second upwards:
    `[steps, steps, 2]`, its first row uppermost (Kingma & Welling 2014, figure 4)."""
    marks = quantiles(steps)
    return np.stack(np.meshgrid(marks, marks[::-1]), -1)
