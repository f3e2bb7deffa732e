"""How test images use a model's latents: the active ones, their range, and a plane to show them in."""

from typing import Literal, NamedTuple, get_args

import numpy as np

from jaxvae.shared.analysis import measures
from jaxvae.shared.backend import Latents
from jaxvae.shared.config.spec import Spec
from jaxvae.shared.errors import InputError
from jaxvae.shared.model import requirements
from jaxvae.shared.text import shown

By = Literal["auto", "latents", "pca", "tsne"]
"""How latents are projected to a plane."""

MIN_TSNE = 5
"""The least images for t-SNE."""

PRIOR = 3.0
"""Half the range of a latent with a prior, in standard deviations; more if test images need it."""


class Space(NamedTuple):
    """The range and the activity of each latent."""

    codes: np.ndarray
    """The posteriors' means: `[n, latent]`."""
    activity: np.ndarray
    """KL divergence of each latent in nats per image, or without a density the variance of its code: `[latent]`."""
    unit: str
    """Unit of the activity: `nats` or `variance`."""
    order: np.ndarray
    """The latents by falling activity: `[latent]`."""
    low: np.ndarray
    """Lower end of each latent's range, which covers the prior and the test images: `[latent]`."""
    high: np.ndarray
    """Upper end: `[latent]`."""
    centre: np.ndarray
    """The prior's mean, or without a prior that of the codes: `[latent]`."""


def space(spec: Spec, posteriors: Latents, name: str) -> Space:
    """Compute the range and the activity of each latent.

    Args:
        spec: The configuration of the run.
        posteriors: The posteriors of test images, as `encode_images` returns them.
        name: The run, for messages.

    Returns:
        The latent space.

    Raises:
        InputError: If a mean or a log-variance is not finite.
    """
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
    """Find the first two principal components of codes.

    Args:
        codes: `[n, latent]`.

    Returns:
        The directions, `[2, latent]`, and the fraction of the codes' variance along each, `[2]`. With one latent, that
        is the first direction and the second is zero.
    """
    latent, total = codes.shape[1], codes.var(0).sum()
    if latent == 1:
        return np.eye(2, 1), np.array([1.0 if total > 0 else 0.0, 0.0])
    values, vectors = np.linalg.eigh(np.cov(codes.T, bias=True))
    first = vectors[:, ::-1][:, :2].T
    # The sign of an eigenvector is arbitrary; this makes it the same each time.
    first = first * np.where(first[np.arange(2), np.abs(first).argmax(1)] < 0, -1, 1)[:, None]
    variances = values[::-1][:2].clip(0)  # rounding can make the second one negative
    return first, variances / total if total > 0 else 0 * variances


def project(latents: np.ndarray, by: By = "auto", seed: int = 0, unit: str = "") -> tuple[np.ndarray, tuple[str, str]]:
    """Project latents to a plane.

    Args:
        latents: `[n, latent]`.
        by: The method.
        seed: The seed for t-SNE.
        unit: What follows the name of a latent.

    Returns:
        The points, `[n, 2]`, and the names of their axes.

    Raises:
        InputError: If there are too few images for t-SNE, if there are not two latents to show as they are, or if there
            is no such method.
    """
    if by not in get_args(By):
        raise InputError(f"Latents are projected by one of {', '.join(get_args(By))}, found {shown(by)}; choose one.")
    if by == "latents" and latents.shape[1] != 2:
        raise InputError(f"--by latents shows two latents, and the model has {latents.shape[1]}; choose another.")
    if by in ("auto", "latents") and latents.shape[1] == 2:
        return latents, (f"latent 1{unit}", f"latent 2{unit}")
    if by == "tsne":
        from sklearn.manifold import TSNE

        if len(latents) < MIN_TSNE:
            raise InputError(f"t-SNE needs at least {MIN_TSNE} images, found {len(latents)}; give a larger --n.")
        perplexity = min(30.0, (len(latents) - 1) / 3)
        model = TSNE(2, perplexity=perplexity, init="pca", random_state=seed % 2**32)
        return model.fit_transform(latents), ("t-SNE 1", "t-SNE 2")
    directions, shares = flat(latents)
    names = [f"component {i + 1}, {100 * share:.0f} % of the variance" for i, share in enumerate(shares)]
    if latents.shape[1] == 1:
        names = [f"latent 1{unit}", ""]
    return (latents - latents.mean(0)) @ directions.T, (names[0], names[1])
