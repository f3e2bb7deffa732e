"""The settings of both frameworks during a comparison."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, cast

import jax
import torch

from parity_tests.harness.hooks.convolution import summed_convolutions
from parity_tests.harness.hooks.recasting import exact_attention

_cuda, _cudnn, _mkldnn = cast(tuple[Any, ...], (torch.backends.cuda, torch.backends.cudnn, torch.backends.mkldnn))
_OPERATIONS = (_cuda.matmul, _cudnn.conv, _cudnn.rnn, _mkldnn.matmul, _mkldnn.conv, _mkldnn.rnn)


@contextlib.contextmanager
def settings(dtype: str) -> Iterator[None]:
    """Set both frameworks up for a comparison in `dtype`, and restore them afterwards.

    JAX gets 64 bits for float64 and the dtype promotion that optax and Flax rely on; matrix products have full
    precision in both. Reuse of keys is allowed, since each level repeats the previous one.
    """
    with contextlib.ExitStack() as stack:
        # JAX's own contexts: inside one of them a change of jax.config has no effect, and would persist.
        stack.enter_context(jax.enable_x64(dtype == "float64"))
        stack.enter_context(jax.numpy_dtype_promotion("standard"))
        stack.enter_context(jax.numpy_rank_promotion("allow"))
        stack.enter_context(jax.debug_key_reuse(False))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(exact_attention(dtype))
        stack.enter_context(summed_convolutions(dtype))
        stack.callback(torch.set_default_dtype, torch.get_default_dtype())
        torch.set_default_dtype(getattr(torch, dtype))  # a module may make tensors in its call
        stack.enter_context(exact_products())
        yield


@contextlib.contextmanager
def exact_products() -> Iterator[None]:
    """Let both frameworks compute products with all bits, and restore their settings afterwards."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(jax.default_matmul_precision("highest"))
        for operation in _OPERATIONS:
            stack.callback(setattr, operation, "fp32_precision", operation.fp32_precision)
        # Torch's older switches set the same, and reading them raises where the two disagree.
        older: list[tuple[Callable[[], Any], Callable[[Any], None]]] = [
            (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
            (lambda: torch.backends.cudnn.allow_tf32, _allow_tf32),
        ]
        for read, write in older:
            with contextlib.suppress(RuntimeError):
                stack.callback(write, read())
        torch.set_float32_matmul_precision("highest")
        _allow_tf32(False)
        for operation in _OPERATIONS:
            operation.fp32_precision = "ieee"
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
        if dtype == "tf32":
            stack.enter_context(jax.default_matmul_precision("tensorfloat32"))
            stack.callback(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision())
            stack.callback(_allow_tf32, torch.backends.cudnn.allow_tf32)
            torch.set_float32_matmul_precision("high")
            _allow_tf32(True)
        yield


def _allow_tf32(value: bool) -> None:
    torch.backends.cudnn.allow_tf32 = value
