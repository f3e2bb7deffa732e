"""Products of float32 numbers in a lower precision: each operand is rounded to terms of fewer bits, and the products of
terms, which are exact, are added in float32."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax import Array, lax

from jaxvae.shared.config.choices import Precision

Product = Callable[[Array, Array, Any], Array]
"""A function of two operands that is linear in each, and of the precision that XLA is asked for."""

_FULL, _PRESET = lax.Precision.HIGHEST, lax.DotAlgorithmPreset
_BITS = {"tf32": 10, "bf16x3": 7, "bfloat16": 7}
"""Of a term's fraction, beside the leading 1."""
_TPU = {"bf16x3": lax.Precision.HIGH, "bfloat16": lax.Precision.DEFAULT}
MATRICES: Mapping[str, Mapping[str, Any]] = {
    "cuda": {
        "tf32": _PRESET.TF32_TF32_F32,
        "bf16x3": _PRESET.BF16_BF16_F32_X3,
        "bfloat16": _PRESET.BF16_BF16_F32,
    },
    "tpu": _TPU,
}
"""What a device that has such products of matrices is asked for."""
CONVOLUTIONS: Mapping[str, Mapping[str, Any]] = {"cuda": {"tf32": lax.Precision.DEFAULT}, "tpu": _TPU}
"""The same of convolutions."""
_EXACT = {"cuda": lax.Precision.DEFAULT}
"""What multiplies terms without rounding them, where less than full precision does: TF32 has the bits of bfloat16."""


def terms(precision: Precision, x: Array) -> tuple[Array, ...]:
    """Round numbers to the terms that stand for them in products.

    Args:
        precision: The precision.
        x: float32 numbers of any shape.

    Returns:
        The terms, float32, the largest first: two of bf16x3, and otherwise one.
    """
    if precision == "float32":
        return (x,)
    first = lax.reduce_precision(x, exponent_bits=8, mantissa_bits=_BITS[precision])
    if precision != "bf16x3":
        return (first,)
    return first, lax.reduce_precision(x - first, exponent_bits=8, mantissa_bits=_BITS[precision])


def product(
    precision: Precision,
    op: Product,
    x: Array,
    w: Array,
    native: Mapping[str, Mapping[str, Any]] = MATRICES,
    gradients: tuple[Product, Product] | None = None,
) -> Array:
    """Multiply in a lower precision, with gradients whose products have it too.

    Args:
        precision: The precision.
        op: The product.
        x: Its left operand.
        w: Its right operand.
        native: What the devices have of their own. On all others the operands are rounded first.
        gradients: Of the result's gradient and w the gradient of x, and of x and the result's that of w; by default
            the transposes of `op`. With them there is no forward-mode derivative.

    Returns:
        The product, added in float32.

    References:
        Henry, Tang & Heinecke 2019, "Leveraging the bfloat16 Artificial Intelligence Datatype for Higher-Precision
        Computations", for `bf16x3`.
    """
    if precision == "float32" and gradients is None:
        return op(x, w, _FULL)

    def on(platform: str) -> Callable[[Array, Array], Array]:
        if precision == "float32":
            return lambda x, w: op(x, w, _FULL)
        asked = native.get(platform, {}).get(precision)
        if asked is not None:
            return lambda x, w: op(x, w, asked)
        exact = _EXACT.get(platform, _FULL)
        return lambda x, w: _of_terms(precision, lambda x, w: op(x, w, exact), x, w)

    @jax.custom_vjp
    def multiplied(x: Array, w: Array) -> Array:
        return lax.platform_dependent(x, w, **{name: on(name) for name in native}, default=on("cpu"))

    def backward(operands: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
        def to_x(g: Array, w: Array, asked: Any) -> Array:
            return jax.linear_transpose(lambda x: op(x, w, asked), operands[0])(g)[0]

        def to_w(x: Array, g: Array, asked: Any) -> Array:
            return jax.linear_transpose(lambda w: op(x, w, asked), operands[1])(g)[0]

        (x, w), (of_x, of_w) = operands, gradients or (to_x, to_w)
        return product(precision, of_x, g, w, native), product(precision, of_w, x, g, native)

    multiplied.defvjp(lambda x, w: (multiplied(x, w), (x, w)), backward)
    return multiplied(x, w)


@functools.cache
def dot_general(precision: Precision) -> Callable[..., Array]:
    """Return a function that takes the place of `lax.dot_general` in a layer of Flax."""

    def multiply(x: Array, w: Array, dimensions: Any, **options: Any) -> Array:
        def op(x: Array, w: Array, asked: Any) -> Array:
            return lax.dot_general(x, w, dimensions, **(options | {"precision": asked}))

        return product(precision, op, x, w)

    return multiply


def _of_terms(precision: Precision, op: Callable[[Array, Array], Array], x: Array, w: Array) -> Array:
    (a, *b), (c, *d) = terms(precision, x), terms(precision, w)
    return (op(b[0], c) + op(a, d[0])) + op(a, c) if b else op(a, c)  # the product of both small terms is left out
