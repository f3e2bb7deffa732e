"""The calls of a network's layers, whichever framework made them."""

from typing import NamedTuple

import numpy as np


class Layer(NamedTuple):
    """One call of a layer."""

    given: np.ndarray
    gave: np.ndarray


def add(calls: dict[str, Layer], name: str, given: np.ndarray, gave: np.ndarray) -> None:
    """Under the layer's name, numbered from its second call on: `NAME#2`."""
    n = 1
    while (label := name if n == 1 else f"{name}#{n}") in calls:
        n += 1
    calls[label] = Layer(given, gave)
