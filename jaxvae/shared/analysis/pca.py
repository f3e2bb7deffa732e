"""Principal component analysis, the linear baseline that runs are compared with.

On the training images, no linear autoencoder has a smaller squared error than PCA with as many components as it has
latents, so a run's gain over PCA is due to its nonlinearities.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from jaxvae.shared.errors import InputError

MOST = 64
"""Images in a row of a picture."""
_MAX_EXACT = 2000  # pixels


class Row(NamedTuple):
    """The reconstructions of test images by a run or by PCA, and their error."""

    name: str
    latent: int
    """Number of latents, or of principal components."""
    error: float
    """Squared error summed over an image's pixels in [0, 1]; the mean over all test images."""
    reconstructions: np.ndarray
    """Reconstructions of some test images: `[n, height, width, channels]` in [0, 1]."""
    baseline: bool = False
    """Whether this is PCA."""

    @property
    def per_pixel(self) -> float:
        """The mean squared error of a pixel."""
        return self.error / math.prod(self.reconstructions.shape[1:])


def row(
    name: str,
    latent: int,
    test: np.ndarray,
    reconstruct: Callable[[slice], np.ndarray],
    n: int,
    *,
    batch: int = 1000,
    chosen: np.ndarray | None = None,
) -> Row:
    """Reconstruct all test images by a model.

    Args:
        name: The model, for captions and messages.
        latent: The number of its latents.
        test: uint8 test images, `[images, height, width, channels]`.
        reconstruct: Returns the reconstructions of the images of a slice, in their shape and in [0, 1].
        n: The number of reconstructions to keep.
        batch: The length of a slice at most.
        chosen: The numbers of the images whose reconstructions are kept, `[n]`; by default the first ones.

    Returns:
        The squared error over all images, and the `n` reconstructions.

    Raises:
        InputError: If there are fewer than `n` images, or if the error is not finite.
    """
    require_shown(n, test)
    chosen = np.arange(n) if chosen is None else chosen
    total, shown = 0.0, np.empty((n, *test.shape[1:]))
    for start in range(0, len(test), batch):
        part = slice(start, start + batch)
        images = np.asarray(reconstruct(part), np.float64)
        if images.shape != test[part].shape:
            raise ValueError(f"reconstruct({part}) must give {test[part].shape}, found {images.shape}")
        total += float(np.square(images - test[part] / 255).sum())
        inside = (start <= chosen) & (chosen < start + batch)
        shown[inside] = images[chosen[inside] - start]
    if not math.isfinite(total):
        raise InputError(f"The reconstructions by {name} contain NaN or infinite values; train it again.")
    return Row(name, latent, total / len(test), np.clip(shown, 0, 1))


def pca(train: np.ndarray, test: np.ndarray, components: int, n: int, *, chosen: np.ndarray | None = None) -> Row:
    """Reconstruct all test images by principal component analysis.

    The error is that of the projection, before the reconstructions are clipped to [0, 1].

    Args:
        train: uint8 training images to fit, `[images, height, width, channels]`.
        test: uint8 test images, in the same shape.
        components: The number of principal components.
        n: The number of reconstructions to keep.
        chosen: The numbers of the images whose reconstructions are kept, `[n]`; by default the first ones.

    Returns:
        The squared error over all test images, and the `n` reconstructions.

    Raises:
        InputError: If the training images have fewer components, or if there are fewer than `n` test images.
    """
    from sklearn.decomposition import PCA

    pixels = math.prod(train.shape[1:])
    most = min(len(train) - 1, pixels)  # n images less their mean span n - 1 directions
    if most < 1:
        raise InputError(f"PCA needs at least two training images, found {len(train)}; leave it out.")
    if not 1 <= components <= most:
        raise InputError(
            f"PCA of {len(train):,} training images of {pixels:,} pixels has from 1 to {most:,} components, "
            f"found {components:,}; give another --components."
        )
    require_shown(n, test)
    # The eigenvectors of the pixels' covariance are exact, and seconds for MNIST where an SVD of the images is minutes.
    # Their cost grows with the cube of the pixels, so larger images use a randomized SVD.
    solver = "covariance_eigh" if pixels < _MAX_EXACT else "randomized"
    model = PCA(components, svd_solver=solver, random_state=0)
    with np.errstate(invalid="ignore"):  # the unused variance ratios are 0/0 if all images are the same
        model.fit(_flat(train))

    def reconstruct(part: slice) -> np.ndarray:
        return model.inverse_transform(model.transform(_flat(test[part]))).reshape(test[part].shape)

    return row("PCA", components, test, reconstruct, n, chosen=chosen)._replace(baseline=True)


def _flat(images: np.ndarray) -> np.ndarray:
    """uint8 images as rows of pixels in [0, 1], in float64, since a covariance squares rounding errors."""
    return images.reshape(len(images), -1) / 255


def require_shown(n: int, test: np.ndarray) -> None:
    """Raise InputError unless `n` of the test images can be shown in a row."""
    most = min(MOST, len(test))
    if not 1 <= n <= most:
        raise InputError(f"--n must be from 1 to {most}, the images that fit a row, found {n}.")
