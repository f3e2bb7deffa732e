"""Bring an array of one framework into the arrangement of the other's."""

import itertools
from collections.abc import Iterator

import numpy as np

from parity_tests.harness.modules.hypotheses.base import distance

_NEAR = 1e-6
_MOST = 2**22  # entries; larger arrays are tried as they are and with channels moved


def arranged(
    array: np.ndarray, like: np.ndarray, usual: np.ndarray, merged: bool = False, keep: bool = False
) -> np.ndarray:
    """Return the array with its axes in the order in which it is nearest to `like`.

    Args:
        array: An array of one framework.
        like: The array of the other framework.
        usual: The array in the arrangement that its layer implies, which is kept unless another one is equal.
        merged: Whether axes may also be merged and split.
        keep: Whether `usual` keeps its shape where no arrangement is equal, though it could be merged.

    Returns:
        The array in the shape of `like` if it is equal to it in some arrangement; otherwise `usual`.
    """
    if distance(usual, like) <= _NEAR:
        return usual
    for candidate in _arrangements(array, like, merged):
        if distance(candidate, like) <= _NEAR:
            return candidate
    return usual.reshape(like.shape) if merged and not keep and usual.size == like.size else usual


def _arrangements(array: np.ndarray, like: np.ndarray, merged: bool) -> Iterator[np.ndarray]:
    if array.size != like.size or array.size > _MOST:
        return
    for axes in itertools.permutations(range(array.ndim)) if array.ndim <= 5 else ():
        candidate = array.transpose(axes)
        if candidate.shape == like.shape:
            yield candidate
        elif merged:
            yield candidate.reshape(like.shape)
