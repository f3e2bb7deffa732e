"""Checks of named tensors: that none is missing or extra, and that shapes, dtypes and values are right."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jaxvae.shared.config.spec import Spec
from jaxvae.shared.errors import InputError
from jaxvae.shared.model import layout, safetensors_reader
from jaxvae.shared.text import named

Expected = tuple[str, tuple[int | None, ...]]
"""A tensor's dtype, and its shape with None where any size is valid."""


class Described(NamedTuple):
    """What is known of a tensor without its numbers."""

    shape: tuple[int, ...]
    dtype: str


Shaped = np.ndarray | safetensors_reader.Tensor | Described


def expected_weights(spec: Spec, table: Sequence[layout.Parameter] | None = None) -> dict[str, Expected]:
    """The expected tensors of a model, or of a part of its `layout.table`."""
    table = layout.table(spec.model) if table is None else table
    return {parameter.name: (spec.training.stored, parameter.shape) for parameter in table}


def check(
    arrays: Mapping[str, np.ndarray], spec: Spec, where: str, table: Sequence[layout.Parameter] | None = None
) -> None:
    """Check that arrays are the weights of a configuration.

    Args:
        arrays: The arrays by name.
        spec: The configuration.
        where: What they are called in a message.
        table: The parameters they should be, if not all of the model's.

    Raises:
        InputError: If a name is missing or extra, or a shape, a dtype or a value is wrong; the message names it.
    """
    fit(arrays, expected_weights(spec, table), where)
    finite(arrays, where)


def fit(tensors: Mapping[str, Shaped], expected: Mapping[str, Expected], where: str, advice: str = "") -> None:
    """Check the names, dtypes and shapes of tensors.

    Args:
        tensors: The tensors by name.
        expected: Their dtypes and shapes, by the same names.
        where: What they are called in a message.
        advice: The end of a message, from its semicolon: what to do.

    Raises:
        InputError: If a name is missing or extra, or a dtype or a shape is wrong; the message names it.
    """
    missing = [name for name in expected if name not in tensors]
    extra = sorted(name for name in tensors if name not in expected)
    if missing:
        raise InputError(f"{where} lacks the tensor {named(missing)} that its configuration needs{advice}.")
    if extra:
        raise InputError(f"{where} has the tensor {named(extra)} that its configuration doesn't have{advice}.")
    for name, (dtype, shape) in expected.items():
        tensor = tensors[name]
        same = len(shape) == len(tensor.shape) and all(s in (None, t) for s, t in zip(shape, tensor.shape, strict=True))
        if not same:
            sizes = ", ".join("steps" if size is None else str(size) for size in shape)
            raise InputError(
                f"{where}: tensor {name} should have the shape [{sizes}], found {list(map(int, tensor.shape))}{advice}."
            )
        if str(tensor.dtype) != dtype:
            raise InputError(f"{where}: tensor {name} should be {dtype}, found {tensor.dtype}{advice}.")


def finite(arrays: Mapping[str, np.ndarray], where: str) -> None:
    """Raises InputError, which names the first place of a NaN or an infinity, unless all arrays are finite."""
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            index = [int(i) for i in np.argwhere(~np.isfinite(array))[0]]
            raise InputError(f"{where}: tensor {name} must be finite, found {array[tuple(index)]} at {index}.")
