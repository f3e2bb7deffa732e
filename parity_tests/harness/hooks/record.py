"""Recorded calls of a network's layers, in either framework."""

from typing import NamedTuple

import numpy as np


class LayerCall(NamedTuple):
    """The first input and the output of one call of a layer."""

    input: np.ndarray
    output: np.ndarray


def add(calls: dict[str, LayerCall], name: str, x: np.ndarray, y: np.ndarray) -> None:
    """Record a call under the layer's name; the second call is `NAME#2`."""
    n = 1
    while (label := name if n == 1 else f"{name}#{n}") in calls:
        n += 1
    calls[label] = LayerCall(x, y)
