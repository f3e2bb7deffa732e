"""The settings of PyTorch during a comparison."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, cast

import torch

_cuda, _cudnn, _mkldnn = cast(tuple[Any, ...], (torch.backends.cuda, torch.backends.cudnn, torch.backends.mkldnn))
_OPERATIONS = (_cuda.matmul, _cudnn.conv, _cudnn.rnn, _mkldnn.matmul, _mkldnn.conv, _mkldnn.rnn)


@contextlib.contextmanager
def torch_settings(dtype: str) -> Iterator[None]:
    """Set PyTorch up for a comparison in `dtype`, and restore it afterwards; matrix products have full precision."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.callback(torch.set_default_dtype, torch.get_default_dtype())
        torch.set_default_dtype(getattr(torch, dtype))  # a module may make tensors in its call
        stack.enter_context(layer_by_layer())
        stack.enter_context(torch_products())
        yield


@contextlib.contextmanager
def layer_by_layer() -> Iterator[None]:
    """Let torch's transformer layers call their parts, as they do in training: without gradients they compute it all
    in one function, and leave out padded places."""
    mha = cast(Any, torch.backends.mha)
    before = mha.get_fastpath_enabled()
    mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        mha.set_fastpath_enabled(before)


@contextlib.contextmanager
def torch_products() -> Iterator[None]:
    """Let PyTorch compute products with all bits, and restore its settings afterwards."""
    with contextlib.ExitStack() as stack:
        for operation in _OPERATIONS:
            stack.callback(setattr, operation, "fp32_precision", operation.fp32_precision)
        # Torch's older switches set the same, and reading them raises where the two disagree.
        older: list[tuple[Callable[[], Any], Callable[[Any], None]]] = [
            (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
            (lambda: torch.backends.cudnn.allow_tf32, allow_tf32),
        ]
        for read, write in older:
            with contextlib.suppress(RuntimeError):
                stack.callback(write, read())
        torch.set_float32_matmul_precision("highest")
        allow_tf32(False)
        for operation in _OPERATIONS:
            operation.fp32_precision = "ieee"
        yield


def allow_tf32(value: bool) -> None:
    torch.backends.cudnn.allow_tf32 = value
