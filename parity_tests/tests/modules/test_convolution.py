"""JAX's convolutions in groups as the comparison computes them, beside JAX's own."""

import jax
import numpy as np
import pytest
from jax import lax

from parity_tests.harness.hooks.settings import settings


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("seed", range(4))
def test_sums_are_the_convolution_in_groups_and_its_gradients(axes: int, seed: int):
    rng = np.random.default_rng([seed, axes])

    def some(low: int, high: int) -> tuple[int, ...]:
        return tuple(map(int, rng.integers(low, high, axes)))

    groups, channels, orders = (
        int(rng.integers(2, 4)),
        int(rng.integers(1, 3)),
        rng.permuted([range(axes + 2)] * 3, axis=1),
    )
    options = {
        "window_strides": some(1, 4),
        "padding": list(zip(some(-1, 3), some(-1, 3), strict=True)),
        "lhs_dilation": some(1, 3),
        "rhs_dilation": some(1, 3),
        "dimension_numbers": lax.ConvDimensionNumbers(*(tuple(map(int, order)) for order in orders)),
        "feature_group_count": groups,
    }
    shapes = (2, groups * channels, *some(4, 8)), (groups * int(rng.integers(1, 3)), channels, *some(1, 4))

    def results(*arrays: jax.Array) -> list[jax.Array]:
        result, pull = jax.vjp(lambda x, kernel: lax.conv_general_dilated(x, kernel, **options), *arrays)
        return [result, *pull(np.cos(np.arange(result.size)).reshape(result.shape))]

    with jax.enable_x64(True):
        arrays = [
            rng.normal(size=shape).transpose(np.argsort(order)) for shape, order in zip(shapes, orders, strict=False)
        ]
        expected = jax.jit(results)(*arrays)
        with settings("float64"):
            program = jax.make_jaxpr(results)(*arrays)
            actual = jax.jit(lambda *arrays: results(*arrays))(*arrays)  # a function that JAX has not traced before
    assert "conv_general_dilated" not in str(program)
    for mine, theirs in zip(actual, expected, strict=True):
        # Sums of at most 200 products of numbers of order 1, in another order.
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-12)
