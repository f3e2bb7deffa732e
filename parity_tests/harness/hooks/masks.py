"""The masks that the dropout of both frameworks takes during a comparison, call by call."""

from typing import Literal

import numpy as np


class Masks:
    """The masks of one comparison: those of the k-th call are made of the same uniform numbers in both frameworks."""

    active: "Masks | None" = None
    """Those of the comparison that is running, if it shares any."""

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []
        """Of the masks in torch's last call."""
        self.calls = {"jax": 0, "torch": 0}

    def below(self, k: int, shape: tuple[int, ...]) -> np.ndarray:
        return np.random.default_rng([k, *shape]).random(shape)


def begin(framework: Literal["jax", "torch"]) -> None:
    """Begin a call of a model: its first dropout takes the first mask."""
    if Masks.active is not None:
        Masks.active.calls[framework] = 0
        if framework == "torch":
            Masks.active.shapes.clear()
