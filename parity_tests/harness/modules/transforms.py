"""Convert the layout of one array between Flax and torch."""

from collections.abc import Callable
from math import prod
from typing import NamedTuple, TypeAlias

import numpy as np
from torch import nn

Array: TypeAlias = np.ndarray
Shape: TypeAlias = tuple[int, ...]


def _identity(array: Array) -> Array:
    return array


class Transform(NamedTuple):
    """Conversions between the JAX layout and the torch layout of one array.

    `to_torch` and `to_jax` are inverses of each other. The other two are needed only where a transform reorders the
    features that a layer reads or writes, so that the layer's inputs and outputs can be compared.
    """

    to_torch: Callable[[Array], Array] = _identity
    """Converts an array in the JAX layout to the torch layout."""
    to_jax: Callable[[Array], Array] = _identity
    """Converts an array in the torch layout to the JAX layout."""
    input_to_torch: Callable[[Array], Array] = _identity
    """Orders the input of the JAX layer as the input of the torch layer."""
    output_to_torch: Callable[[Array], Array] = _identity
    """Orders the output of the JAX layer as the output of the torch layer."""


_KERNELS = ("weight", "weight_v")  # weight_norm's direction has the layout of the weight

as_is = Transform()
"""The transform of an array that the JAX model holds in torch's layout."""

transposed = Transform(np.transpose, np.transpose)
"""The transform of a matrix that the JAX model holds in the other order of axes, where the layers are no Linear."""

flipped_kernel = Transform(  # the kernel rotated by 180 degrees
    to_torch=lambda kernel: np.flip(kernel, tuple(range(kernel.ndim - 2))).transpose(-2, -1, *range(kernel.ndim - 2)),
    to_jax=lambda weight: np.flip(weight, tuple(range(2, weight.ndim))).transpose(*range(2, weight.ndim), 0, 1),
)
"""The transform of the kernel of a Flax ConvTranspose without `transpose_kernel=True`."""


def flattened(rows: tuple[int, int, int] | None = None, columns: tuple[int, int, int] | None = None) -> Transform:
    """Make the transform of a Linear layer that reads or writes a flattened image.

    JAX flattens an image as H,W,C and torch as C,H,W, so the rows or the columns of the kernel are permuted. A layer
    that writes an image needs the transform for its bias too.

    Args:
        rows: The image that the layer reads, `(channels, height, width)`; None if it reads no image.
        columns: The image that the layer writes, `(channels, height, width)`; None if it writes no image.

    Returns:
        The transform for the pair of the kernel `[inputs, outputs]`, or of the bias `[outputs]`.
    """
    row, column = (_channels_first(image) if image else slice(None) for image in (rows, columns))

    def to_torch(array: Array) -> Array:
        return array[column] if array.ndim == 1 else array[row][:, column].T

    def to_jax(array: Array) -> Array:
        back = np.empty_like(array if array.ndim == 1 else array.T)
        if array.ndim == 1:
            back[column] = array
        else:
            back[np.arange(len(back))[row][:, None], np.arange(back.shape[1])[column]] = array.T
        return back

    return Transform(to_torch, to_jax, input_to_torch=lambda x: x[..., row], output_to_torch=lambda y: y[..., column])


def _channels_first(image: tuple[int, int, int]) -> Array:
    """Return the index of each entry of a C,H,W image in the same image flattened as H,W,C."""
    channels, height, width = image
    return np.arange(channels * height * width).reshape(height, width, channels).transpose(2, 0, 1).ravel()


def layout(layer: nn.Module, leaf: str, torch_shape: Shape = (), jax_shape: Shape = ()) -> Transform:
    """Return the transform of a tensor that the kind of its layer implies.

    The shape does not decide it: a square kernel has the same shape in both layouts. Only axes that Flax splits, such
    as the heads of attention, are merged by shape.

    Args:
        layer: The torch layer that holds the tensor.
        leaf: The tensor's name, `conv1.weight` or `weight`.
        torch_shape: The tensor's shape.
        jax_shape: The shape of the JAX array.

    Returns:
        The transform between Flax's layout and torch's.
    """
    name = leaf.rpartition(".")[2]
    if isinstance(layer, nn.modules.conv._ConvNd) and name in _KERNELS:
        return Transform(  # [out, in, ..], [in, out, ..] for a transposed convolution
            to_torch=lambda kernel: kernel.transpose(-1, -2, *range(kernel.ndim - 2)),
            to_jax=lambda weight: weight.transpose(*range(2, weight.ndim), 1, 0),
        )
    attends = isinstance(layer, nn.MultiheadAttention) and "weight" in name
    if attends or (isinstance(layer, nn.Linear) and name in _KERNELS):
        if len(jax_shape) > 2 and len(torch_shape) == 2 and _splits(jax_shape, torch_shape):
            return Transform(
                to_torch=lambda kernel: kernel.reshape(torch_shape[1], torch_shape[0]).T,
                to_jax=lambda weight: weight.T.reshape(jax_shape),
            )
        return transposed
    merged = len(jax_shape) > len(torch_shape) == 1 and prod(jax_shape) == torch_shape[0]
    squeezed = [n for n in jax_shape if n != 1] == [n for n in torch_shape if n != 1] and jax_shape != torch_shape
    scalar = torch_shape == (1,) and not jax_shape and isinstance(layer, nn.PReLU)
    if scalar or (jax_shape and (merged or squeezed)):
        return Transform(
            to_torch=lambda array: array.reshape(torch_shape), to_jax=lambda array: array.reshape(jax_shape)
        )
    return as_is


def _splits(jax_shape: Shape, torch_shape: Shape) -> bool:
    """Return whether the JAX axes, in order, are those of the transposed torch weight, split."""
    return any(
        (prod(jax_shape[:i]), prod(jax_shape[i:])) == (torch_shape[1], torch_shape[0]) for i in range(1, len(jax_shape))
    )
