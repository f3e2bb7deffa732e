"""Bring an array of one framework into the arrangement of the other's."""

import itertools
from collections.abc import Iterable, Iterator

import numpy as np

from parity_tests.harness.modules.hypotheses.base import distance

_NEAR = 1e-6
_MOST = 2**22  # entries; larger arrays are only tried as they are


def placed(array: np.ndarray, like: np.ndarray, usual: np.ndarray) -> np.ndarray:
    """Return what a layer is given in the other framework's arrangement.

    Only the arrangements in which the layer computes the same are tried, since another one is a fault.

    Args:
        array: The input in one framework.
        like: The input in the other framework.
        usual: The input in the arrangement that the layer implies.

    Returns:
        The input as it is if it is equal to `like`; otherwise `usual`, with the spatial axes merged or split as in
        `like` if these are the only ones that differ.
    """
    array, usual = (_repeated(given, like) for given in (array, usual))
    if array.shape == like.shape and distance(array, like) <= _NEAR < distance(usual, like):
        return array
    merged = usual.size == like.size and usual.ndim > 2 and like.ndim > 2 and usual.shape[:2] == like.shape[:2]
    return usual.reshape(like.shape) if merged else usual


def arranged(array: np.ndarray, like: np.ndarray, usual: np.ndarray) -> np.ndarray:
    """Return what a layer gives with its axes ordered, merged and split so that it equals `like`, if possible.

    Args:
        array: The output in one framework.
        like: The output in the other framework.
        usual: The output in the arrangement that the layer implies.

    Returns:
        The output in the shape of `like` if it is equal to it in some arrangement; otherwise as `placed` has it.
    """
    array, usual = (_repeated(given, like) for given in (array, usual))
    if distance(usual, like) <= _NEAR:
        return usual
    for candidate in _arrangements(array, like):
        if distance(candidate, like) <= _NEAR:
            return candidate
    return placed(array, like, usual)


def known(x: np.ndarray, arrays: Iterable[np.ndarray]) -> bool:
    """Return whether every number of an array is in one of the arrays."""
    values = np.unique(x)
    return any(array.size and bool(np.isin(values, array).all()) for array in arrays)


def _arrangements(array: np.ndarray, like: np.ndarray) -> Iterator[np.ndarray]:
    if array.size != like.size or array.size > _MOST or array.ndim > 5:
        return
    for axes in itertools.permutations(range(array.ndim)):
        yield array.transpose(axes).reshape(like.shape)


def _repeated(array: np.ndarray, like: np.ndarray) -> np.ndarray:
    """Return an array that is repeated along an axis in one framework only, as positions are along the batch, in the
    shape of the other's."""
    if array.shape == like.shape:
        return array
    rank = max(array.ndim, like.ndim)
    shape, wanted = ((1,) * (rank - x.ndim) + x.shape for x in (array, like))
    if any(n != m and 1 not in (n, m) for n, m in zip(shape, wanted, strict=True)):
        return array
    once = array.reshape(shape)
    for axis, (n, m) in enumerate(zip(shape, wanted, strict=True)):
        if m == 1 < n:
            first = once.take([0], axis)
            if not np.array_equal(once, np.broadcast_to(first, once.shape), equal_nan=once.dtype.kind in "fc"):
                return array
            once = first
    return np.broadcast_to(once, wanted).reshape(like.shape)
