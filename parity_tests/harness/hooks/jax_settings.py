"""The settings of JAX during a comparison."""

import contextlib
from collections.abc import Iterator

import jax

from parity_tests.harness.hooks.convolution import summed_convolutions
from parity_tests.harness.hooks.recasting import exact_attention


@contextlib.contextmanager
def jax_settings(dtype: str) -> Iterator[None]:
    """Set JAX up for a comparison in `dtype`, and restore it afterwards.

    It gets 64 bits for float64 and the dtype promotion that optax and Flax rely on; matrix products have full
    precision. Reuse of keys is allowed, since each level repeats the previous one.
    """
    with contextlib.ExitStack() as stack:
        # JAX's own contexts: inside one of them a change of jax.config has no effect, and would persist.
        stack.enter_context(jax.enable_x64(dtype == "float64"))
        stack.enter_context(jax.default_matmul_precision("highest"))
        stack.enter_context(jax.numpy_dtype_promotion("standard"))
        stack.enter_context(jax.numpy_rank_promotion("allow"))
        stack.enter_context(jax.debug_key_reuse(False))
        stack.enter_context(exact_attention(dtype))
        stack.enter_context(summed_convolutions(dtype))
        yield
