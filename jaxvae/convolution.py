"""Convolutions with 3x3 kernels and a padding of 1, strided and transposed, over images `[batch, height, width,
channels]`.

XLA has fast convolutions for accelerators. On CPUs its matrix products are fast, but the gradients of strided and
transposed convolutions are slow loops, which make a training step 40 times slower. On CPUs everything here is
therefore a matrix product, in which the patch of pixels that an output sees is a row."""

import functools

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxvae.shared.model.layout import KERNEL, PADDING


def convolve(x: Array, kernel: Array, stride: int) -> Array:
    """Convolve images, to heights and widths of ceil(n / stride). kernel: `[3, 3, inputs, outputs]`; stride: 1 or 2."""
    return lax.platform_dependent(
        x, kernel, cpu=functools.partial(_by_products, stride), default=functools.partial(_by_xla, stride)
    )


def transposed(x: Array, kernel: Array, stride: int, more: tuple[int, int]) -> Array:
    """Apply the transpose of `convolve`. kernel: `[3, 3, outputs, inputs]`; more: rows and columns to add to the
    smallest output, since several sizes have the same convolution."""
    size = ((n - 1) * stride - 2 * PADDING + KERNEL + rows for n, rows in zip(x.shape[1:3], more, strict=True))
    shape = jax.ShapeDtypeStruct((x.shape[0], *size, kernel.shape[2]), x.dtype)
    return lax.platform_dependent(
        x,
        kernel,
        cpu=lambda x, kernel: _overlaid(_product(x, _rows(kernel).T), stride, shape),
        default=lambda x, kernel: jax.linear_transpose(lambda y: _by_xla(stride, y, kernel), shape)(x)[0],
    )


def _by_xla(stride: int, x: Array, kernel: Array) -> Array:
    padding = ((PADDING, PADDING),) * 2
    numbers = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, dimension_numbers=numbers, precision="highest"
    )


def _by_products(stride: int, x: Array, kernel: Array) -> Array:
    if stride == 1 and kernel.shape[3] < kernel.shape[2]:  # nine products of few outputs are less than nine inputs
        flipped = kernel[::-1, ::-1].swapaxes(2, 3)
        shape = jax.ShapeDtypeStruct((*x.shape[:3], kernel.shape[3]), x.dtype)
        return _overlaid(_product(x, _rows(flipped).T), stride, shape)
    return _product(_patches(x, stride), _rows(kernel))


def _patches(x: Array, stride: int) -> Array:
    """The 3x3 pixels around each output, zeros beyond the edge: `[batch, height / stride, width / stride, 9 *
    channels]`."""
    return jnp.concatenate([part for row in _neighbours(x, 1, stride) for part in _neighbours(row, 2, stride)], -1)


def _overlaid(patches: Array, stride: int, shape: jax.ShapeDtypeStruct) -> Array:
    """The transpose of `_patches`: what all patches have in a pixel, added up."""
    return jax.linear_transpose(functools.partial(_patches, stride=stride), shape)(patches)[0]


def _neighbours(x: Array, axis: int, stride: int) -> tuple[Array, Array, Array]:
    """The pixels before, at and after each output along an axis."""
    if stride == 1:
        return _shifted(x, axis, 1), x, _shifted(x, axis, -1)
    # A split, since its transpose is a concatenation; that of strided slices is a sum of dilated arrays.
    half = (x.shape[axis] + 1) // 2
    pairs = _padded(x, axis, 0, 2 * half - x.shape[axis]).reshape(*x.shape[:axis], half, 2, *x.shape[axis + 1 :])
    at, after = (part.squeeze(axis + 1) for part in lax.split(pairs, (1, 1), axis + 1))
    return _shifted(after, axis, 1), at, after


def _shifted(x: Array, axis: int, by: int) -> Array:
    return _padded(x, axis, by, -by)


def _padded(x: Array, axis: int, before: int, after: int) -> Array:
    sizes = [(before, after, 0) if i == axis else (0, 0, 0) for i in range(x.ndim)]
    return lax.pad(x, jnp.zeros((), x.dtype), sizes)


def _rows(kernel: Array) -> Array:
    """`[9 * kernel.shape[2], kernel.shape[3]]`"""
    return kernel.reshape(KERNEL**2 * kernel.shape[2], kernel.shape[3])


def _product(x: Array, matrix: Array) -> Array:
    """Of the last axis. As plain matrices: with more axes XLA copies both before it contracts them for a gradient."""
    rows = jnp.dot(x.reshape(-1, x.shape[-1]), matrix, precision="highest")
    return rows.reshape(*x.shape[:-1], matrix.shape[1])
