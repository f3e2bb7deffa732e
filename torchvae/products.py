"""Products of float32 numbers in a lower precision: each operand is rounded to terms of fewer bits, and the products of
terms, which are exact, are added in float32."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.nn import functional, grad
from torch.overrides import TorchFunctionMode

from jaxvae.shared.config.choices import Precision


class _Product(NamedTuple):
    """A product `y` of `x` and `w`, and those that its gradients are."""

    y: Callable[[Tensor, Tensor], Tensor]
    to_x: Callable[[Tensor, Tensor], Tensor]
    """Of the gradient of `y` and `w`."""
    to_w: Callable[[Tensor, Tensor], Tensor]
    """Of `x` and the gradient of `y`."""


def terms(precision: Precision, x: Tensor) -> tuple[Tensor, ...]:
    """Round numbers to the terms that stand for them in products.

    Args:
        precision: The precision.
        x: float32 numbers of any shape.

    Returns:
        The terms, float32, the largest first: two of bf16x3, and otherwise one.
    """
    match precision:
        case "float32":
            return (x,)
        case "tf32":
            bits = x.view(torch.int32)
            # To the nearest with 13 bits less, and to an even one if two are as near.
            even = (bits + 0xFFF + ((bits >> 13) & 1)) & ~0x1FFF
            return (torch.where(x.isfinite(), even.view(torch.float32), x),)
        case "bfloat16":
            return (x.bfloat16().float(),)
        case "bf16x3":
            first = x.bfloat16().float()
            return first, (x - first).bfloat16().float()


def in_precision(precision: Precision) -> contextlib.AbstractContextManager[Any]:
    """Return a context in which layers multiply in a precision. Their gradients do too, wherever they are computed.

    Args:
        precision: The precision.

    References:
        Henry, Tang & Heinecke 2019, "Leveraging the bfloat16 Artificial Intelligence Datatype for Higher-Precision
        Computations", for `bf16x3`.
    """
    return contextlib.nullcontext() if precision == "float32" else _Layers(precision)


class _Layers(TorchFunctionMode):
    """Takes the place of the functions that layers call."""

    def __init__(self, precision: Precision):
        super().__init__()
        self.precision: Precision = precision

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        layer = _LAYERS.get(func)
        return func(*args, **(kwargs or {})) if layer is None else layer(self.precision, *args, **(kwargs or {}))


class _Multiplied(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, precision: Precision, product: _Product, x: Tensor, w: Tensor) -> Tensor:
        ctx.precision, ctx.product = precision, product
        ctx.save_for_backward(x, w)
        return _multiplied(precision, product.y, x, w)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, None, Tensor | None, Tensor | None]:
        (g,), (x, w) = gradients, ctx.saved_tensors
        to_x = _multiplied(ctx.precision, ctx.product.to_x, g, w) if ctx.needs_input_grad[2] else None
        to_w = _multiplied(ctx.precision, ctx.product.to_w, x, g) if ctx.needs_input_grad[3] else None
        return None, None, to_x, to_w


def _multiplied(precision: Precision, op: Callable[[Tensor, Tensor], Tensor], x: Tensor, w: Tensor) -> Tensor:
    with _tensor_cores(x.device):
        if precision == "tf32" and x.device.type == "cuda":
            return op(x, w)
        (a, *b), (c, *d) = terms(precision, x), terms(precision, w)
        return (op(b[0], c) + op(a, d[0])) + op(a, c) if b else op(a, c)  # the product of both small terms is left out


@contextlib.contextmanager
def _tensor_cores(device: torch.device) -> Iterator[None]:
    """Have a GPU multiply in TF32, which rounds no term of TF32 or bfloat16."""
    if device.type != "cuda":
        yield
        return
    matrices, convolutions = torch.backends.cuda.matmul, cast(Any, torch.backends.cudnn).conv
    before = matrices.fp32_precision, convolutions.fp32_precision
    try:
        matrices.fp32_precision = convolutions.fp32_precision = "tf32"
        yield
    finally:
        matrices.fp32_precision, convolutions.fp32_precision = before


_MATRICES = _Product(functional.linear, torch.matmul, lambda x, g: g.flatten(0, -2).T @ x.flatten(0, -2))


def _linear(precision: Precision, x: Tensor, w: Tensor, bias: Tensor | None = None) -> Tensor:
    y = _Multiplied.apply(precision, _MATRICES, x, w)
    return y if bias is None else y + bias


def _conv(
    precision: Precision, x: Tensor, w: Tensor, bias: Tensor | None, stride: Any, padding: Any, *rest: Any
) -> Tensor:
    product = _Product(
        lambda x, w: torch.conv2d(x, w, None, stride, padding, *rest),
        lambda g, w: grad.conv2d_input(x.shape, w, g, stride, padding, *rest),
        lambda x, g: grad.conv2d_weight(x, w.shape, g, stride, padding, *rest),
    )
    y = _Multiplied.apply(precision, product, x, w)
    return y if bias is None else y + bias[:, None, None]


def _conv_transpose(
    precision: Precision,
    x: Tensor,
    w: Tensor,
    bias: Tensor | None,
    stride: Any,
    padding: Any,
    more: Any,
    groups: int = 1,
    dilation: Any = 1,
) -> Tensor:
    product = _Product(
        lambda x, w: torch.conv_transpose2d(x, w, None, stride, padding, more, groups, dilation),
        lambda g, w: torch.conv2d(g, w, None, stride, padding, dilation, groups),
        lambda x, g: grad.conv2d_weight(g, w.shape, x, stride, padding, dilation, groups),
    )
    y = _Multiplied.apply(precision, product, x, w)
    return y if bias is None else y + bias[:, None, None]


_LAYERS: dict[Any, Callable[..., Tensor]] = {
    functional.linear: _linear,
    torch.conv2d: _conv,
    torch.conv_transpose2d: _conv_transpose,
}
