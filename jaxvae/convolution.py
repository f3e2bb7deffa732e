"""Convolutions with square kernels and PyTorch's padding, strided and transposed, over images `[batch, height, width,
channels]`.

XLA has fast convolutions for accelerators. On CPUs its matrix products are fast, but the gradients of strided and
transposed convolutions are slow loops, which make a training step 40 times slower. On CPUs everything here is
therefore a matrix product, in which the patch of pixels that an output sees is a row."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxvae.devices import has_gpu
from jaxvae.products import CONVOLUTIONS, product
from jaxvae.shared.config.choices import Precision

_Convolution = Callable[[Array, Array], Array]
_SMALL = 2


def convolve(x: Array, kernel: Array, stride: int, padding: int, precision: Precision = "float32") -> Array:
    """Convolve images, to heights and widths of floor((n + 2 * padding - k) / stride) + 1. kernel: `[k, k, inputs,
    outputs]`; precision: of the products."""

    return product(precision, functools.partial(_convolved, stride, padding), x, kernel, CONVOLUTIONS)


def transposed(
    x: Array, kernel: Array, stride: int, padding: int, more: tuple[int, int], precision: Precision = "float32"
) -> Array:
    """Apply the transpose of `convolve`. kernel: `[k, k, outputs, inputs]`; more: rows and columns to add to the
    smallest output, since several sizes have the same convolution."""
    edge = len(kernel)
    size = ((n - 1) * stride - 2 * padding + edge + rows for n, rows in zip(x.shape[1:3], more, strict=True))
    shape = jax.ShapeDtypeStruct((x.shape[0], *size, kernel.shape[2]), x.dtype)

    def op(x: Array, kernel: Array, asked: Any) -> Array:
        def by_xla(x: Array, kernel: Array) -> Array:
            return jax.linear_transpose(lambda y: _by_xla(stride, padding, asked, y, kernel), shape)(x)[0]

        def by_products(x: Array, kernel: Array) -> Array:
            return _overlaid(_product(x, _rows(kernel).T, asked), edge, stride, padding, shape)

        return _on(x, kernel, max(x.shape[1:3]), by_products, by_xla)

    def to_kernel(x: Array, g: Array, asked: Any) -> Array:
        return jax.linear_transpose(lambda kernel: _convolved(stride, padding, g, kernel, asked), kernel)(x)[0]

    # JAX's own gradient of the kernel is a convolution of x with zeros between its pixels, for which a GPU's library
    # has no kernel: XLA writes the zeros down and transposes both operands.
    gradients = (functools.partial(_convolved, stride, padding), to_kernel) if has_gpu() else None
    return product(precision, op, x, kernel, CONVOLUTIONS, gradients)


def _convolved(stride: int, padding: int, x: Array, kernel: Array, asked: Any) -> Array:
    smaller = max((n + 2 * padding - len(kernel)) // stride + 1 for n in x.shape[1:3])
    by_products, by_xla = (functools.partial(by, stride, padding, asked) for by in (_by_products, _by_xla))
    return _on(x, kernel, smaller, by_products, by_xla)


def _on(x: Array, kernel: Array, smaller: int, by_products: _Convolution, by_xla: _Convolution) -> Array:
    """Apply what suits the device. smaller: the larger side of the smaller map."""
    # XLA takes the gradients of so small maps for other convolutions, whose operands it transposes.
    on_gpu = by_products if smaller <= _SMALL else by_xla
    return lax.platform_dependent(x, kernel, cpu=by_products, cuda=on_gpu, default=by_xla)


def _by_xla(stride: int, padding: int, asked: Any, x: Array, kernel: Array) -> Array:
    numbers = ("NHWC", "HWIO", "NHWC")
    pads = ((padding, padding),) * 2
    return lax.conv_general_dilated(x, kernel, (stride, stride), pads, dimension_numbers=numbers, precision=asked)


def _by_products(stride: int, padding: int, asked: Any, x: Array, kernel: Array) -> Array:
    edge, (inputs, outputs) = len(kernel), kernel.shape[2:]
    if stride == 1 and outputs < inputs and padding < edge:  # products to few outputs are less than those of patches
        flipped = kernel[::-1, ::-1].swapaxes(2, 3)
        size = (n + 2 * padding - edge + 1 for n in x.shape[1:3])
        shape = jax.ShapeDtypeStruct((x.shape[0], *size, outputs), x.dtype)
        return _overlaid(_product(x, _rows(flipped).T, asked), edge, 1, edge - 1 - padding, shape)
    return _product(_patches(x, edge, stride, padding), _rows(kernel), asked)


def _patches(x: Array, edge: int, stride: int, padding: int) -> Array:
    """The pixels that each output sees, zeros beyond the edge: `[batch, height, width, edge^2 * channels]` of the
    outputs."""
    rows = _neighbours(x, 1, edge, stride, padding)
    return jnp.concatenate([part for row in rows for part in _neighbours(row, 2, edge, stride, padding)], -1)


def _overlaid(patches: Array, edge: int, stride: int, padding: int, shape: jax.ShapeDtypeStruct) -> Array:
    """The transpose of `_patches`: what all patches have in a pixel, added up."""
    cut = functools.partial(_patches, edge=edge, stride=stride, padding=padding)
    return jax.linear_transpose(cut, shape)(patches)[0]


def _neighbours(x: Array, axis: int, edge: int, stride: int, padding: int) -> list[Array]:
    """The pixels that the outputs see along an axis: of all outputs the first, then the second, and so on."""
    n = x.shape[axis]
    outputs = (n + 2 * padding - edge) // stride + 1
    if outputs == 1:
        stride = min(stride, edge)  # nothing is skipped; a stride far above the map would be that much padding
    steps = outputs - 1 + -(-edge // stride)
    x = _padded(x, axis, padding, steps * stride - n - padding)
    # A split, since its transpose is a concatenation; that of strided slices is a sum of dilated arrays.
    apart = x.reshape(*x.shape[:axis], steps, stride, *x.shape[axis + 1 :])
    phases = [part.squeeze(axis + 1) for part in lax.split(apart, (1,) * stride, axis + 1)]
    return [lax.slice_in_dim(phases[i % stride], i // stride, i // stride + outputs, axis=axis) for i in range(edge)]


def _padded(x: Array, axis: int, before: int, after: int) -> Array:
    sizes = [(before, after, 0) if i == axis else (0, 0, 0) for i in range(x.ndim)]
    return lax.pad(x, jnp.zeros((), x.dtype), sizes)


def _rows(kernel: Array) -> Array:
    """`[k^2 * kernel.shape[2], kernel.shape[3]]`"""
    return kernel.reshape(-1, kernel.shape[3])


def _product(x: Array, matrix: Array, asked: Any) -> Array:
    """Of the last axis. As plain matrices: with more axes XLA copies both before it contracts them for a gradient."""
    rows = jnp.dot(x.reshape(-1, x.shape[-1]), matrix, precision=asked)
    return rows.reshape(*x.shape[:-1], matrix.shape[1])
