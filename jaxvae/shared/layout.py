"""The parameter table of a model: every array's name and shape in each framework, and how one becomes the other.

The weight file uses PyTorch's names and layout. Nothing outside this file transposes a parameter.
"""

from typing import NamedTuple

import numpy as np

from jaxvae.shared.spec import ModelSpec


class Parameter(NamedTuple):
    """One array of the model."""

    name: str
    """In PyTorch's state_dict and in the weight file, e.g. `encoder.hidden.0.weight`."""
    shape: tuple[int, ...]
    """In PyTorch's layout."""
    path: tuple[str | int, ...]
    """Where the Flax dict holds it, e.g. `("encoder", "hidden", 0, "kernel")`."""
    axes: tuple[int, ...]
    """The transpose that takes PyTorch's layout to Flax's."""
    fan_in: int
    """Inputs of each output of its layer: both frameworks draw it from U(-1/sqrt(fan_in), 1/sqrt(fan_in))."""

    @property
    def flax_shape(self) -> tuple[int, ...]:
        return tuple(self.shape[axis] for axis in self.axes)


def table(spec: ModelSpec) -> tuple[Parameter, ...]:
    """Every parameter of the model, in the order of the weight file and of the initial draws."""
    return tuple(
        parameter
        for path, inputs, outputs in layers(spec)
        for parameter in (
            Parameter(_dotted(*path, "weight"), (outputs, inputs), (*path, "kernel"), (1, 0), inputs),
            Parameter(_dotted(*path, "bias"), (outputs,), (*path, "bias"), (0,), inputs),
        )
    )


def layers(spec: ModelSpec) -> list[tuple[tuple[str | int, ...], int, int]]:
    """The linear layers in the order of the computation: (path, inputs, outputs)."""
    down, up = (spec.pixels, *spec.hidden), (spec.latent, *reversed(spec.hidden))
    return [
        *((("encoder", "hidden", i), down[i], down[i + 1]) for i in range(len(spec.hidden))),
        (("encoder", "mean"), down[-1], spec.latent),
        (("encoder", "logvar"), down[-1], spec.latent),
        *((("decoder", "hidden", i), up[i], up[i + 1]) for i in range(len(spec.hidden))),
        (("decoder", "logits"), up[-1], spec.pixels),
    ]


def to_flax(parameter: Parameter, array: np.ndarray) -> np.ndarray:
    """`parameter.shape` to `parameter.flax_shape`."""
    return np.ascontiguousarray(array.transpose(parameter.axes))


def to_torch(parameter: Parameter, array: np.ndarray) -> np.ndarray:
    """`parameter.flax_shape` to `parameter.shape`."""
    return np.ascontiguousarray(array.transpose(np.argsort(parameter.axes)))


def _dotted(*path: str | int) -> str:
    return ".".join(map(str, path))
