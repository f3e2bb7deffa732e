"""Measures of a model from plain arrays: the information in its latents, and its likelihood by quadrature."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

_ACTIVE = 0.01
_ROWS = 16  # latents compared with all posteriors at once, to fit a core's cache
_POINTS = 512  # points of a grid compared with all images at once
_COARSEST, _FINEST = 4, 64  # points of a grid per standard deviation of the prior


class Mean(NamedTuple):
    """A mean over images."""

    value: float
    error: float
    """Standard error of the mean; 0 for one image."""


class Quadrature(NamedTuple):
    """The log-likelihood of `n` images by quadrature."""

    nats: np.ndarray
    """log p(x) of each image: `[n]`, nats."""
    change: np.ndarray
    """Its change when the grid was last made twice as fine, which bounds the remaining error: `[n]`, nats."""


def mean(values: np.ndarray) -> Mean:
    """Return the mean of values `[n]` and its standard error."""
    n = len(values)
    return Mean(float(values.mean()), float(values.std(ddof=1) / math.sqrt(n)) if n > 1 else 0.0)


def active_units(means: np.ndarray) -> np.ndarray:
    """Find the latents that the encoder uses: those whose posterior mean has a variance over images above 0.01.

    Args:
        means: The posteriors' means, `[n, latent]`.

    Returns:
        bool `[latent]`.

    References:
        Burda, Grosse & Salakhutdinov 2016, Importance weighted autoencoders, section 5.2.
    """
    return means.var(0) > _ACTIVE


def kl_by_latent(means: np.ndarray, logvars: np.ndarray) -> np.ndarray:
    """Compute the KL divergence of each latent's posterior from N(0, 1), the mean over images.

    Args:
        means: The posteriors' means, `[n, latent]`.
        logvars: Their log-variances, `[n, latent]`.

    Returns:
        `[latent]`, nats per image.

    References:
        Kingma & Welling 2014, Auto-encoding variational Bayes, appendix B.
    """
    return 0.5 * (means**2 + np.expm1(logvars) - logvars).mean(0)


def mutual_information(means: np.ndarray, logvars: np.ndarray, z: np.ndarray) -> Mean:
    """Estimate the mutual information of image and latent: the mean of log q(z | x) - log q(z).

    q(z) is the mixture of all posteriors. The result is the KL minus the divergence of q(z) from the prior; n images
    show at most log n nats, so values near that are lower bounds.

    Args:
        means: The posteriors' means, `[n, latent]`.
        logvars: Their log-variances, `[n, latent]`.
        z: One draw from each posterior, `[n, latent]`.

    Returns:
        The mean over images and its standard error, nats.

    References:
        Hoffman & Johnson 2016, ELBO surgery.
    """
    precisions, constants, ratios = np.exp(-logvars).T.copy(), logvars.sum(1), []
    columns = means.T.copy()
    for start in range(0, len(z), _ROWS):
        part = z[start : start + _ROWS]
        squares = np.zeros((len(part), len(means)))
        for j in range(z.shape[1]):  # expanding the square would lose digits for narrow posteriors
            squares += (part[:, j, None] - columns[j]) ** 2 * precisions[j]
        log_q = -0.5 * (squares + constants)
        own = log_q[np.arange(len(part)), np.arange(start, start + len(part))]
        ratios.append(own - (_log_sum(log_q) - math.log(len(means))))
    return mean(np.concatenate(ratios))


def quadrature(
    log_p: Callable[[np.ndarray, np.ndarray], np.ndarray],
    images: int,
    half: int = 8,
    tolerance: float = 1e-4,
    on_points: Callable[[int], None] = lambda points: None,
) -> Quadrature:
    """Compute log p(x), the log of the integral of N(z; 0, I) p(x | z) over two latents, by sums over a grid.

    The grid is made finer for each image until the result changes by less than `tolerance`, or has 64 points per unit.
    For a smooth posterior the error is e^-20 as soon as a step is no longer than its standard deviation; with a ReLU's
    kinks each halving of the step leaves a quarter of the error.

    Args:
        log_p: Returns log p(x | z) of the images with numbers `[n]` at points `[points, 2]`: `[n, points]`, nats.
        images: The number of images.
        half: The grid covers [-half, half] in both latents.
        tolerance: In nats.
        on_points: Called with the number of points that were added.

    Returns:
        The log-likelihood of each image, and its last change.

    References:
        Trefethen & Weideman 2014, The exponentially convergent trapezoidal rule.
    """
    left, per = np.arange(images), _COARSEST
    most, total = np.full(images, -np.inf), np.zeros(images)
    nats, change = np.full(images, np.nan), np.full(images, np.inf)
    while len(left) and per <= _FINEST:
        for points in _new_points(half, per):
            log_w = log_p(left, points) - 0.5 * (points**2).sum(1) - math.log(2 * math.pi)
            now = np.maximum(most[left], log_w.max(1))
            total[left] = total[left] * np.exp(most[left] - now) + np.exp(log_w - now[:, None]).sum(1)
            most[left] = now
            on_points(len(points))
        before = nats[left]
        nats[left] = most[left] + np.log(total[left]) - 2 * math.log(per)
        if per > _COARSEST:
            change[left] = np.abs(nats[left] - before)
        left, per = left[~(change[left] < tolerance)], 2 * per
    return Quadrature(nats, change)


def _new_points(half: int, per: int) -> list[np.ndarray]:
    """The points of the grid with `per` points per unit that the next coarser one lacks, in parts `[points, 2]`."""
    steps = np.arange(-half * per, half * per + 1)
    grid = np.stack(np.meshgrid(steps, steps, indexing="ij"), -1).reshape(-1, 2)
    if per > _COARSEST:
        grid = grid[(grid % 2 != 0).any(1)]
    return np.array_split(grid / per, -(-len(grid) // _POINTS))


def _log_sum(a: np.ndarray) -> np.ndarray:
    most = a.max(1)
    return most + np.log(np.exp(a - most[:, None]).sum(1))
