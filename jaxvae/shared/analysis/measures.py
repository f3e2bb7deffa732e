"""How good a model is, from plain arrays: what its latents carry, and the likelihood of its images by quadrature."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

_ACTIVE = 0.01
_ROWS = 16  # latents set against all posteriors at once, in a core's cache
_POINTS = 512  # of a grid, set against all images at once
_COARSEST, _FINEST = 4, 64  # points of a grid to a unit of the prior's deviation


class Mean(NamedTuple):
    """Over images."""

    value: float
    error: float
    """The standard error of the mean; 0 for one image."""


class Quadrature(NamedTuple):
    """Of each image `[n]`."""

    nats: np.ndarray
    """log p(x)."""
    change: np.ndarray
    """How far it moved when the grid was last made twice as fine; what is left is less."""


def mean(values: np.ndarray) -> Mean:
    """The mean of `[n]`."""
    n = len(values)
    return Mean(float(values.mean()), float(values.std(ddof=1) / math.sqrt(n)) if n > 1 else 0.0)


def active_units(means: np.ndarray) -> np.ndarray:
    """Which latents the encoder uses, from the posteriors' means `[n, latent]`: those whose variance over images is
    above 0.01 (Burda, Grosse & Salakhutdinov 2016, section 5.2). bool `[latent]`"""
    return means.var(0) > _ACTIVE


def kl_by_latent(means: np.ndarray, logvars: np.ndarray) -> np.ndarray:
    """The KL divergence of each latent from N(0, 1), the mean over images, nats: `[latent]`, from `[n, latent]` (Kingma
    & Welling 2014, appendix B)."""
    return 0.5 * (means**2 + np.expm1(logvars) - logvars).mean(0)


def mutual_information(means: np.ndarray, logvars: np.ndarray, z: np.ndarray) -> Mean:
    """Between image and latent, nats: the mean of log q(z | x) - log q(z), with q(z) the mixture of all n posteriors
    (Hoffman & Johnson 2016), at one latent `z` of each posterior, all `[n, latent]`.

    n images can't show more than log n nats: what comes near that is a lower bound. It is the KL less the divergence of
    q(z) from the prior."""
    precisions, constants, found = np.exp(-logvars).T.copy(), logvars.sum(1), []
    columns = means.T.copy()
    for start in range(0, len(z), _ROWS):
        part = z[start : start + _ROWS]
        squares = np.zeros((len(part), len(means)))
        for j in range(z.shape[1]):  # as differences: squares multiplied out lose the digits of a narrow posterior's
            squares += (part[:, j, None] - columns[j]) ** 2 * precisions[j]
        log_q = -0.5 * (squares + constants)
        own = log_q[np.arange(len(part)), np.arange(start, start + len(part))]
        found.append(own - (_log_sum(log_q) - math.log(len(means))))
    return mean(np.concatenate(found))


def quadrature(
    log_p: Callable[[np.ndarray, np.ndarray], np.ndarray],
    images: int,
    half: int = 8,
    tolerance: float = 1e-4,
    on_points: Callable[[int], None] = lambda points: None,
) -> Quadrature:
    """log of the integral of N(z; 0, I) p(x | z) over two latents, by sums over a grid on [-half, half]^2, made finer
    for each image until it moves by less than `tolerance` nats, or has 64 points to a unit. The sums over a smooth
    posterior are exact but for e^-20 as soon as its deviation spans a step (Trefethen & Weideman 2014); a ReLU's kinks
    leave a quarter of the error at each halving.

    log_p: of the images of these numbers `[n]` at points `[points, 2]`: `[n, points]`. `on_points` is told how many
    more are done."""
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
    """The points of the grid of `per` to a unit that the one half as fine lacks, in parts `[some, 2]`."""
    steps = np.arange(-half * per, half * per + 1)
    grid = np.stack(np.meshgrid(steps, steps, indexing="ij"), -1).reshape(-1, 2)
    if per > _COARSEST:
        grid = grid[(grid % 2 != 0).any(1)]
    return np.array_split(grid / per, -(-len(grid) // _POINTS))


def _log_sum(a: np.ndarray) -> np.ndarray:
    most = a.max(1)
    return most + np.log(np.exp(a - most[:, None]).sum(1))
