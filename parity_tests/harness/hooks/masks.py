"""The masks that the dropout of both frameworks takes during a comparison, call by call."""

import contextlib
from collections.abc import Iterator
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
        self.unlike: list[tuple[tuple[int, ...], tuple[int, ...] | None]] = []
        """The shapes of the masks in JAX's last call that torch's call of the same number doesn't drop, and torch's."""
        self.looking = False

    @contextlib.contextmanager
    def look(self) -> Iterator[None]:
        """Within it JAX traces what is no call of the model: it takes no mask, and no layer is recorded."""
        calls, before, self.looking = self.calls["jax"], self.looking, True
        try:
            yield
        finally:
            self.calls["jax"], self.looking = calls, before

    def below(self, k: int, shape: tuple[int, ...]) -> np.ndarray:
        return np.random.default_rng([k, *shape]).random(shape)


def begin(framework: Literal["jax", "torch"]) -> None:
    """Begin a call of a model: its first dropout takes the first mask."""
    if Masks.active is not None:
        Masks.active.calls[framework] = 0
        (Masks.active.shapes if framework == "torch" else Masks.active.unlike).clear()


def looking() -> bool:
    """Return whether JAX traces what is no call of the model."""
    return Masks.active is not None and Masks.active.looking
