"""The settings of both frameworks during a comparison."""

import contextlib
from collections.abc import Iterator

import jax
import torch

from parity_tests.harness.hooks.jax_settings import jax_settings
from parity_tests.harness.hooks.torch_settings import allow_tf32, layer_by_layer, torch_products, torch_settings


@contextlib.contextmanager
def settings(dtype: str) -> Iterator[None]:
    """Set both frameworks up for a comparison in `dtype`, and restore them afterwards."""
    with jax_settings(dtype), torch_settings(dtype):
        yield


@contextlib.contextmanager
def exact_products() -> Iterator[None]:
    """Let both frameworks compute products with all bits, and restore their settings afterwards."""
    with jax.default_matmul_precision("highest"), torch_products():
        yield


@contextlib.contextmanager
def as_run(dtype: str) -> Iterator[None]:
    """Leave both frameworks as the caller runs them, and restore what a model changes.

    Products keep the precision that is set, so that TF32 is compared where it is on; "tf32" turns it on in both. JAX
    has its 32 bits, but for "as run" in a process that has turned 64 on.
    """
    with contextlib.ExitStack() as stack:
        if dtype != "as run":
            stack.enter_context(jax.enable_x64(False))
        stack.enter_context(jax.numpy_dtype_promotion("standard"))
        stack.enter_context(jax.numpy_rank_promotion("allow"))
        stack.enter_context(jax.debug_key_reuse(False))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(layer_by_layer())
        if dtype == "tf32":
            stack.enter_context(jax.default_matmul_precision("tensorfloat32"))
            stack.callback(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision())
            stack.callback(allow_tf32, torch.backends.cudnn.allow_tf32)
            torch.set_float32_matmul_precision("high")
            allow_tf32(True)
        yield
