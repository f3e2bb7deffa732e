"""Classifiers of scikit-learn, which measure what latents and samples say about labels."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

NEIGHBOURS, COMPONENTS = 5, 50


class Labelled(NamedTuple):
    """Rows of numbers `[n, columns]` and their classes `[n]`."""

    rows: np.ndarray
    labels: np.ndarray


def neighbours(train: Labelled, test: Labelled) -> float:
    """The accuracy of the vote of the 5 nearest neighbours, by Euclidean distance.

    Args:
        train: What is fitted.
        test: What is classified.

    Returns:
        The share of the test labels that are right.
    """
    from sklearn.neighbors import KNeighborsClassifier

    return _accuracy(KNeighborsClassifier(min(NEIGHBOURS, len(train.rows))), train, test)


def logistic(train: Labelled, test: Labelled) -> float:
    """The accuracy of multinomial logistic regression on standardized columns, with scikit-learn's L2 penalty.

    Args:
        train: What is fitted, of two classes or more.
        test: What is classified.

    Returns:
        The share of the test labels that are right.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return _accuracy(make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)), train, test)


def chance(train: Labelled, test: Labelled) -> float:
    """The accuracy of always naming the most frequent class of `train`."""
    classes, counts = np.unique(train.labels, return_counts=True)
    return float((test.labels == classes[counts.argmax()]).mean())


def components(train: np.ndarray, test: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Project images to the principal components of those for training.

    Args:
        train: uint8 `[images, height, width, channels]`.
        test: uint8, of the same shape.
        n: The number of components; fewer if there are not as many.

    Returns:
        `[images, components]` of each.
    """
    from sklearn.decomposition import PCA

    model = PCA(min(n, len(train) - 1, train[0].size), random_state=0)
    return model.fit_transform(_flat(train)), model.transform(_flat(test))


def judge(images: np.ndarray, labels: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Fit a support vector machine (RBF kernel) to the first 50 principal components of images.

    Args:
        images: uint8 `[images, height, width, channels]`.
        labels: Their classes, two or more, `[images]`.

    Returns:
        A function from images in [0, 1] to their classes.
    """
    from sklearn.decomposition import PCA
    from sklearn.pipeline import make_pipeline
    from sklearn.svm import SVC

    model = make_pipeline(PCA(min(COMPONENTS, len(images) - 1, images[0].size), random_state=0), SVC())
    model.fit(_flat(images), labels)
    return lambda others: model.predict(others.reshape(len(others), -1))


def _flat(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), -1) / 255


def _accuracy(model: Any, train: Labelled, test: Labelled) -> float:
    model.fit(*train)
    return float((model.predict(test.rows) == test.labels).mean())
