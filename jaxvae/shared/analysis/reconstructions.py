"""Reconstructions of chosen test images."""

import numpy as np

from jaxvae.shared.backend import Backend, Weights
from jaxvae.shared.config.spec import Spec
from jaxvae.shared.data.dataset import Dataset


def reconstruct(backend: Backend, spec: Spec, weights: Weights, dataset: Dataset, chosen: np.ndarray) -> np.ndarray:
    """Reconstruct test images through the posterior's mean, as among all test images.

    Args:
        backend: The package that reconstructs.
        spec: The configuration.
        weights: The weights.
        dataset: The images.
        chosen: The numbers of the test images, `[n]`.

    Returns:
        Pixel means in [0, 1], `[n, height, width, channels]`.
    """
    images, labels = dataset.test, dataset.test_labels
    if spec.images.binarization != "static":
        return backend.reconstruct(spec, weights, images[chosen], labels[chosen])
    n = chosen.max() + 1  # static binarisation draws by an image's number within a call
    return backend.reconstruct(spec, weights, images[:n], labels[:n])[chosen]
