"""A recording: what one model computed, and what made it."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from parity_tests.harness.recordings import file
from parity_tests.harness.recordings.arrays import Arrays, places

ROUNDING, WHOLE = "rounding/", "whole/"
LAYERS, BACKWARD = "layers", "backward"
"""The kinds of what the calls of layers are given and return, and of the gradients of these."""


class Tensor(NamedTuple):
    """A recorded tensor, or some of its entries."""

    values: np.ndarray
    """The tensor or, if it is sampled, its entries `[n]`."""
    shape: tuple[int, ...]
    """Of the whole tensor."""
    places: np.ndarray | None
    """The entries' indices in the flattened tensor; None if it is whole."""
    floor: np.ndarray
    """How far rounding moved each of the values; 0 where that was not measured."""


class Recording:
    """What one model computed in its own environment, see `record`.

    Pass it to `assert_parity` in place of the JAX model or of the torch module.

    Args:
        path: The file that `record` wrote.

    Attributes:
        about: What made it: framework, versions, devices, precision, dtype, options; plain JSON values.
        arrays: Every stored array by name.
        source: Where it is from: the path, or "this process".

    Raises:
        InputError: If the file is missing, is no recording, is of another version, or was changed or cut off.
    """

    def __init__(self, path: str | Path):
        self.about, self.arrays = file.read(Path(path))
        self.source = str(path)
        self.places: Arrays = {}
        """The kept entries of tensors that were not sampled by their own shape."""

    @classmethod
    def of(
        cls, about: dict[str, Any], arrays: Arrays, source: str = "this process", places: Arrays | None = None
    ) -> "Recording":
        """Return what was recorded in this process, without a file."""
        made = cls.__new__(cls)
        made.about, made.arrays, made.source, made.places = about, arrays, source, places or {}
        return made

    @property
    def framework(self) -> str:
        return self.about["framework"]

    @property
    def dtype(self) -> str:
        return self.about["dtype"]

    def names(self, kind: str) -> list[str]:
        """Return the names of one kind of tensors, such as `weights`, in their order."""
        return [name.removeprefix(f"{kind}/") for name in self.about["order"] if name.startswith(f"{kind}/")]

    def part(self, kind: str) -> Arrays:
        """Return the arrays of one kind by name; of weights and inputs, which are never sampled."""
        return {name: self.arrays[f"{kind}/{name}"] for name in self.names(kind)}

    def tensor(self, name: str) -> Tensor:
        """Return a tensor by its whole name, such as `outputs/output`."""
        values = self.arrays[name]
        floor = self.arrays.get(ROUNDING + name)
        floor = np.zeros(values.shape) if floor is None else floor.astype(np.float64)
        if name not in self.about["shapes"]:
            return Tensor(values, values.shape, None, floor)
        shape = tuple(self.about["shapes"][name])
        if name in self.places:
            return Tensor(values, shape, self.places[name], floor)
        return Tensor(values, shape, places(shape, self.about["sample"], self.about["key"]), floor)
