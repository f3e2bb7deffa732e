"""What a recording asks of a model, in either framework, and the options of a recording."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from parity_tests.harness.recordings.arrays import Arrays

Change = Callable[[np.ndarray], np.ndarray]


class Options(NamedTuple):
    """How a model is recorded."""

    dtype: str = "float64"
    train: bool = False
    method: str | None = None
    loss: Callable[[Any], Any] | None = None
    optimizer: Any = None
    scheduler: Any = None
    steps: int = 5
    layers: Sequence[str] | None = None
    sample: int | None = None
    key: int = 0
    draw: bool = False
    share_dropout: bool = False


class Numbers(NamedTuple):
    """What a model computes once."""

    arrays: Arrays
    """By name: `outputs/..`, `state/..`, `layers/../input`, `loss/..`, `gradients/..`, `backward/../input`,
    `steps/1/weights/..`."""
    outputs: Any
    """The structure of the outputs, as JSON."""
    calls: list[str]
    """Every call of a layer, in order."""


class Model(Protocol):
    """A model with its inputs, at the numbers that are recorded."""

    @property
    def framework(self) -> str:
        """`jax` or `torch`."""
        ...

    def weights(self) -> Arrays:
        """Return every parameter and every other array of the model by name."""
        ...

    def outline(self, calls: bool) -> dict[str, Any]:
        """Return what a mapping needs to know: `framework`, `state`, and `calls`, if they are asked for."""
        ...

    def fill(self, weights: Arrays) -> None:
        """Put other numbers into some of the weights, by name."""
        ...

    def about(self) -> dict[str, Any]:
        """Return what else a comparison needs to know of the model, and what computed it: plain JSON values."""
        ...

    def numbers(
        self, dtype: str, change: Change | None = None, within: Change | None = None, layers: bool = True
    ) -> Numbers:
        """Compute everything once.

        Args:
            dtype: The precision.
            change: Moves each input and each weight; None to leave them.
            within: Moves the input of each layer.
            layers: Whether the layers' inputs and outputs are wanted.
        """
        ...

    def slopes(self, dtype: str) -> Mapping[str, np.ndarray]:
        """Return the gradients of a mixture of all outputs, by the names of weights and inputs."""
        ...

    def loss_slopes(self, dtype: str) -> Arrays:
        """Return the gradient of the loss with respect to each output, by its place."""
        ...

    def outputs(self, changed: Arrays, dtype: str) -> Arrays:
        """Return the outputs with other numbers in some weights and inputs, by their names."""
        ...


def parts_of(arrays: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Return those whose name begins with `prefix/`, without it."""
    return {name.removeprefix(f"{prefix}/"): a for name, a in arrays.items() if name.startswith(f"{prefix}/")}


def noisy(gradient: np.ndarray, change: Change | None, dtype: str) -> np.ndarray:
    """Return a gradient that is moved as rounding may move it: in float64 by a unit of its largest entry, see
    `rounding.least_of_gradients`, and else by a unit in the last place of each of its entries."""
    if change is None or gradient.dtype.kind not in "fc" or not gradient.size:
        return gradient
    if dtype != "float64":
        return change(gradient)
    size = np.abs(gradient[np.isfinite(gradient)]).max(initial=0.0)
    return gradient + (change(np.full(gradient.shape, size, gradient.dtype)) - gradient.dtype.type(size))
