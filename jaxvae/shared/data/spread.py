"""Which test images a picture shows."""

import numpy as np


def spread(labels: np.ndarray, n: int) -> np.ndarray:
    """Choose images of all classes: the first ones, unless the images come class by class, as those of folders do.

    Args:
        labels: The labels of all images, `[images]`.
        n: The number of images to choose; all if there are fewer.

    Returns:
        The numbers of the chosen images, `[n]`: of images that come class by class one of each class in turn, those of
        a class evenly spaced.
    """
    if (labels[1:] < labels[:-1]).any():
        return np.arange(min(n, len(labels)))
    _, starts, counts = np.unique(labels, return_index=True, return_counts=True)
    ranks = np.concatenate([np.arange(count) for count in counts])
    order = np.lexsort((labels, ranks))[:n]  # one of each class in turn
    classes = np.repeat(np.arange(len(counts)), counts)[order]
    return starts[classes] + ranks[order] * counts[classes] // np.bincount(classes)[classes]
