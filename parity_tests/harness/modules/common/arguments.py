"""The arguments of a call: arrays, which a comparison moves, and whatever else a call takes."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Arguments = tuple[tuple[Any, ...], dict[str, Any]]
"""Of a call: the positional ones and those by keyword."""


class Inputs:
    """The arguments of a call.

    Args:
        *args: Arrays of NumPy or of either framework; dicts, lists and tuples of them; and options, which are passed on
            as they are, such as None, strings, and Python's own numbers and booleans.
        **kwargs: The same by keyword.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        self.args, self.kwargs = args, kwargs


class Form:
    """What a call takes, with a place for each array."""

    def __init__(self, leaves: Sequence[Any], unflatten: Callable[[list[Any]], Arguments]):
        self._leaves, self._unflatten = leaves, unflatten
        self.own = [leaf.array for leaf in leaves if isinstance(leaf, Own)]
        """The arrays that this call alone has."""

    def __call__(self, arrays: Sequence[Any], own: Callable[[np.ndarray], Any]) -> Arguments:
        """Return the arguments with these arrays; `own` converts those that this call alone has."""

        def filled(leaf: Any) -> Any:
            if isinstance(leaf, Place):
                array = arrays[leaf.number]
                return array if leaf.shape is None else array.reshape(leaf.shape)
            return own(leaf.array) if isinstance(leaf, Own) else leaf

        return self._unflatten([filled(leaf) for leaf in self._leaves])


class Place:
    """Stands for an array, which the call takes in another shape if one is given."""

    def __init__(self, number: int, shape: tuple[int, ...] | None = None):
        self.number, self.shape = number, shape


class Own:
    """An array that one call alone has."""

    def __init__(self, array: np.ndarray):
        self.array = array
