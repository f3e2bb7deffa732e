"""Principal component analysis, the linear baseline that runs are compared with.

On its training images, no autoencoder without nonlinearities does better than PCA with as many components as it has
latents; what a run gains over PCA is what its nonlinearities are worth."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from jaxvae.shared.errors import InputError

MOST = 64
"""Images of a picture's row."""
_EXACT = 2000  # pixels


class Row(NamedTuple):
    """What reconstructs the test images, and how well."""

    name: str
    latent: int
    """Number of latents, or of principal components."""
    error: float
    """Squared error summed over an image's pixels, these in [0, 1]; the mean over all test images."""
    reconstructions: np.ndarray
    """Of the first test images: `[n, height, width, channels]` in [0, 1]."""
    baseline: bool = False
    """Whether this is PCA."""

    @property
    def per_pixel(self) -> float:
        """The mean squared error of a pixel."""
        return self.error / math.prod(self.reconstructions.shape[1:])


def row(
    name: str, latent: int, test: np.ndarray, reconstruct: Callable[[slice], np.ndarray], n: int, *, batch: int = 1000
) -> Row:
    """The row of a model. `reconstruct` is told which of the uint8 `test` images `[images, height, width, channels]`,
    `batch` at most, and gives `[those, height, width, channels]` in [0, 1]; so it may be fed labels or noise with them.

    Raises InputError unless there are `n` images to show, and if the error is not finite."""
    require_shown(n, test)
    total, shown = 0.0, []
    for start in range(0, len(test), batch):
        part = slice(start, start + batch)
        found = np.asarray(reconstruct(part), np.float64)
        if found.shape != test[part].shape:
            raise ValueError(f"reconstruct({part}) must give {test[part].shape}, found {found.shape}")
        total += float(np.square(found - test[part] / 255).sum())
        shown.append(found[: max(0, n - start)])
    if not math.isfinite(total):
        raise InputError(f"{name} reconstructs to numbers that are not finite; train it again.")
    return Row(name, latent, total / len(test), np.clip(np.concatenate(shown), 0, 1))


def pca(train: np.ndarray, test: np.ndarray, components: int, n: int) -> Row:
    """The row of PCA, fitted to uint8 `train` images: `test` images projected onto that many components and back.

    Its error is that of the projection itself, the least of any linear one on the training images; the pictures are
    clipped to [0, 1]. Raises InputError unless the training images have so many components."""
    from sklearn.decomposition import PCA

    pixels = math.prod(train.shape[1:])
    most = min(len(train) - 1, pixels)  # the mean takes one image's worth; a further direction would be arbitrary
    if most < 1:
        raise InputError(f"PCA needs at least two training images, found {len(train)}; leave it out.")
    if not 1 <= components <= most:
        raise InputError(
            f"PCA of {len(train):,} training images of {pixels:,} pixels has from 1 to {most:,} components, "
            f"found {components:,}; give another --components."
        )
    require_shown(n, test)
    # The pixels' covariance is exact and takes MNIST's 60,000 images seconds, where an SVD of the images takes minutes;
    # its eigenvectors take time as the cube of the pixels, so that many of these are left to a randomized SVD.
    solver = "covariance_eigh" if pixels < _EXACT else "randomized"
    model = PCA(components, svd_solver=solver, random_state=0)
    with np.errstate(invalid="ignore"):  # shares of the variance, unused here, are 0/0 where all images are the same
        model.fit(_flat(train))

    def reconstruct(part: slice) -> np.ndarray:
        return model.inverse_transform(model.transform(_flat(test[part]))).reshape(test[part].shape)

    return row("PCA", components, test, reconstruct, n)._replace(baseline=True)


def _flat(images: np.ndarray) -> np.ndarray:
    """uint8 images as rows of pixels in [0, 1], in float64: a covariance squares what rounding leaves."""
    return images.reshape(len(images), -1) / 255


def require_shown(n: int, test: np.ndarray) -> None:
    most = min(MOST, len(test))
    if not 1 <= n <= most:
        raise InputError(f"--n must be from 1 to {most}, as many test images as are shown at most, found {n}.")
