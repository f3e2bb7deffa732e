"""How one array of one framework is made of several arrays of the other."""

import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

Shape: TypeAlias = tuple[int, ...]

SUMMED = "each of the several takes the step of the one, so that their sum moves that many times as far"
TIED = "the several take steps of their own and come apart"
NORMED = "a size and a direction take other steps than the kernel that they make"
"""Why optimizer steps of the one and of the several aren't the same."""


class Joint(NamedTuple):
    """Conversions between one array and the several that it is made of, all in JAX's layout.

    Both take arrays of NumPy and of JAX, since gradients are taken through them. A mapping gives a `Joint` where a pair
    or a rule has several names in place of one, or several paths.
    """

    joined: Callable[[Sequence[Any]], Any]
    """Makes the one array of the several."""
    parted: Callable[[Any, Sequence[Shape]], list[Any]]
    """Makes the several arrays, of these shapes, of the one."""
    difference: str | None = None
    """Why optimizer steps of the one and of the several aren't the same; None where the numbers only lie elsewhere."""


def concatenated(axis: int = -1, groups: int = 1) -> Joint:
    """Make the joint of an array that holds several side by side, as one kernel holds those of query, key and value.

    Args:
        axis: The axis of JAX's layout along which they lie; -1 for the outputs of a kernel and for a bias. Further axes
            into which a part is split, such as the heads of attention, are merged.
        groups: In how many groups they lie by turns: 1 for `[q, k, v]`, the number of heads where each head has its
            own `[q, k, v]`, as in GPT-NeoX and BLOOM.

    Returns:
        The joint.
    """

    def joined(parts: Sequence[Any]) -> Any:
        if groups == 1:
            return numpy_of(parts).concatenate(list(parts), axis)
        apart = [_grouped(part, axis, groups) for part in parts]
        whole = numpy_of(parts).concatenate(apart, _after(axis))
        return _merged(whole, axis)

    def parted(whole: Any, shapes: Sequence[Shape]) -> list[Any]:
        last = whole.ndim - 1
        sizes = [int(np.prod(shape[last:])) if axis == -1 else shape[axis] for shape in shapes]
        if groups > 1:
            whole, sizes = _grouped(whole, axis, groups), [size // groups for size in sizes]
        at = [int(n) for n in np.cumsum(sizes)[:-1]]
        parts = numpy_of([whole]).split(whole, at, _after(axis) if groups > 1 else axis)
        parts = [_merged(part, axis) for part in parts] if groups > 1 else parts
        return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]

    return Joint(joined, parted)


def stacked(axis: int = 0) -> Joint:
    """Make the joint of an array that holds those of several layers of one kind, as `scan` and `vmap` do.

    Args:
        axis: The axis of the stack.

    Returns:
        The joint.
    """

    def parted(whole: Any, shapes: Sequence[Shape]) -> list[Any]:
        first = numpy_of([whole]).moveaxis(whole, axis, 0)
        return [first[i].reshape(shape) for i, shape in enumerate(shapes)]

    return Joint(lambda parts: numpy_of(parts).stack(list(parts), axis), parted)


def summed() -> Joint:
    """Make the joint of an array that is the sum of several, as the two biases of torch's LSTM are one in Flax's cell.

    Apart, the first is the whole sum and the others are zero; a comparison then draws the zeros anew.

    Returns:
        The joint.
    """

    def parted(whole: Any, shapes: Sequence[Shape]) -> list[Any]:
        zeros = numpy_of([whole]).zeros_like(whole)
        return [whole.reshape(shapes[0]), *(zeros.reshape(shape) for shape in shapes[1:])]

    return Joint(lambda parts: sum(parts[1:], parts[0]), parted, SUMMED)


def shared() -> Joint:
    """Make the joint of an array that stands for several that hold the same numbers, as tied weights do.

    Returns:
        The joint.
    """

    def parted(whole: Any, shapes: Sequence[Shape]) -> list[Any]:
        turned = [whole.T if whole.shape != shape and whole.T.shape == shape else whole for shape in shapes]
        return [array.reshape(shape) for array, shape in zip(turned, shapes, strict=True)]

    return Joint(lambda parts: parts[0], parted, TIED)


def weight_norm(axes: Sequence[int] = (-1,)) -> Joint:
    """Make the joint of a kernel and the two arrays of weight normalization, its size and its direction.

    Args:
        axes: The axes of the kernel that have a size each; the norm is over the others.

    Returns:
        The joint of `[size, direction]`.

    References:
        Salimans and Kingma, Weight Normalization (2016), https://arxiv.org/abs/1602.07868.
    """

    def norm(direction: Any) -> Any:
        kept = [axis % direction.ndim for axis in axes]
        over = tuple(axis for axis in range(direction.ndim) if axis not in kept)
        return numpy_of([direction]).sqrt((direction * direction).sum(over, keepdims=True))

    def joined(parts: Sequence[Any]) -> Any:
        size, direction = parts
        length = norm(direction)
        return size.reshape(length.shape) * direction / length

    def parted(whole: Any, shapes: Sequence[Shape]) -> list[Any]:
        return [norm(whole).reshape(shapes[0]), whole.reshape(shapes[1])]

    return Joint(joined, parted, NORMED)


def numpy_of(arrays: Sequence[Any]) -> Any:
    """Return the NumPy of the arrays: JAX's where one of them is traced or on a device."""
    jax = sys.modules.get("jax")  # without it there are none, as where torch alone is installed
    return jax.numpy if jax is not None and any(isinstance(array, jax.Array) for array in arrays) else np


def _after(axis: int) -> int:
    return axis if axis < 0 else axis + 1


def _grouped(array: Any, axis: int, groups: int) -> Any:
    at = axis % array.ndim
    return array.reshape(*array.shape[:at], groups, -1, *array.shape[at + 1 :])


def _merged(array: Any, axis: int) -> Any:
    at = axis % (array.ndim - 1)
    return array.reshape(*array.shape[:at], -1, *array.shape[at + 2 :])
