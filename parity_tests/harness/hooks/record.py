"""Recorded calls of a network's layers, in either framework."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np


class LayerCall(NamedTuple):
    """The first array that one call of a layer was given, and the first that it returned."""

    input: np.ndarray
    output: np.ndarray


def add(calls: dict[str, LayerCall], name: str, x: np.ndarray, y: np.ndarray) -> str:
    """Record a call under the layer's name, the second as `NAME#2`, and return this label."""
    n = 1
    while (label := name if n == 1 else f"{name}#{n}") in calls:
        n += 1
    calls[label] = LayerCall(x, y)
    return label


def first(values: Iterable[Any], kinds: Any) -> Any:
    """Return the first array among values, tuples, lists and dicts of them; None if there is none."""
    for value in values:
        if isinstance(value, kinds):
            return value
        if isinstance(value, dict):
            value = tuple(value.values())
        if isinstance(value, tuple | list) and (inner := first(value, kinds)) is not None:
            return inner
    return None
