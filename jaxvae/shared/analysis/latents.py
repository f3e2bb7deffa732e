"""The latents of a model, as its test images use them: which matter, where they lie, and what shows them best."""

from typing import Any, NamedTuple

import numpy as np

from jaxvae.shared.analysis import measures
from jaxvae.shared.config.spec import Spec
from jaxvae.shared.errors import InputError
from jaxvae.shared.model import requirements

PRIOR = 3.0
"""Deviations of the prior either way that are looked at."""


class Space(NamedTuple):
    """Where codes lie, and which of their numbers matter."""

    codes: np.ndarray
    """The posteriors' means: `[n, latent]`."""
    activity: np.ndarray
    """How much each latent says: its KL divergence, nats per image, or a code's variance. `[latent]`"""
    unit: str
    order: np.ndarray
    """The latents from the one that says most to the one that says least: `[latent]`."""
    low: np.ndarray
    """Where each begins, and where it ends: `[latent]`. What the prior and the test images span."""
    high: np.ndarray
    centre: np.ndarray
    """The prior's mean, or without a prior that of the codes: `[latent]`."""


def space(spec: Spec, posteriors: Any, name: str) -> Space:
    """Of the posteriors of test images, as the packages' encode_images gives them. Raises InputError if those of the
    run `name` are not finite."""
    codes, logvar = posteriors.mean, posteriors.logvar
    if not np.isfinite(codes).all() or not (logvar is None or np.isfinite(logvar).all()):
        raise InputError(f"{name} encodes to numbers that are not finite; train it again.")
    activity = codes.var(0) if logvar is None else measures.kl_by_latent(codes, logvar)
    low, high, centre = codes.min(0), codes.max(0), codes.mean(0)
    if requirements.has_prior(spec):
        high = np.maximum(PRIOR, np.ceil(np.abs(codes).max(0)))
        low, centre = -high, np.zeros(codes.shape[1])
    unit = "variance" if logvar is None else "nats"
    return Space(codes, activity, unit, np.argsort(-activity, kind="stable"), low, high, centre)


def flat(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The directions `[2, latent]` of the first two principal components of codes `[n, latent]`, and the share of the
    codes' variance that each has, `[2]`. One latent is the first direction, and nothing the second."""
    latent, total = codes.shape[1], codes.var(0).sum()
    if latent == 1:
        return np.eye(2, 1), np.array([1.0 if total > 0 else 0.0, 0.0])
    values, vectors = np.linalg.eigh(np.cov(codes.T, bias=True))
    first = vectors[:, ::-1][:, :2].T
    # The sign of an eigenvector is nobody's; so that it is the same each time.
    first = first * np.where(first[np.arange(2), np.abs(first).argmax(1)] < 0, -1, 1)[:, None]
    shares = values[::-1][:2].clip(0)  # of codes in a line the second may be rounded below
    return first, shares / total if total > 0 else 0 * shares
