"""The layers that the networks are made of, each from its entry in `layout.layers`."""

from typing import Any, assert_never

import torch
from torch import Tensor, nn

from jaxvae.shared.model import layout
from torchvae.operations import full
from torchvae.parallel import processes, summed

_MOMENTUM, _EPS = 0.1, 1e-5


class Block(nn.Module):
    """A layer, strided or transposed convolution or linear, and its batch norm if it has one, from a map to a map."""

    def __init__(self, layer: layout.Layer):
        super().__init__()
        self.linear = make(layer) if layer.kind == "linear" else None
        self.conv = None if layer.kind == "linear" else make(layer)
        self.norm = BatchNorm(layout.channels(layer)) if layer.normed else None
        self.size, self.plain = layer.size, layer.plain

    def forward(self, x: Tensor) -> Tensor:
        if self.conv is not None:
            x = self.conv(x)
        elif self.linear is not None:
            x = self.linear(x.flatten(1)).reshape(x.shape[0], -1, *self.size)
        return x if self.norm is None else self.norm(x)


class BatchNorm(nn.BatchNorm2d):
    """PyTorch's batch norm, except in float64 training and for batches that several processes share. PyTorch adds the
    numbers one after another in float64. If they are float64 themselves, equal ones, of which a dark border has
    thousands, round the same way each time, and 2e-13 of a mean is lost. `torch.var_mean` adds in a tree."""

    def __init__(self, features: int):
        super().__init__(features, eps=_EPS, momentum=_MOMENTUM)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or (x.dtype != torch.float64 and processes() == 1):
            return super().forward(x)
        given, x = x.dtype, full(x)
        if processes() == 1:
            var, mean = torch.var_mean(x, (0, 2, 3), correction=0)
            count = x.numel() // len(mean)
        else:
            count = summed(torch.tensor(x.numel() // x.shape[1], dtype=x.dtype, device=x.device))
            mean = summed(x.sum((0, 2, 3))) / count
            var = summed(((x - mean[:, None, None]) ** 2).sum((0, 2, 3))) / count
        with torch.no_grad():
            for running, now in ((self.running_mean, mean), (self.running_var, var * (count / (count - 1)))):
                assert running is not None
                running.mul_(1 - _MOMENTUM).add_(_MOMENTUM * now)
        factor = self.weight / torch.sqrt(var + self.eps)
        y = (x - mean[:, None, None]) * factor[:, None, None] + self.bias[:, None, None]
        return y.to(given)


def make(layer: layout.Layer) -> Any:
    """Make the layer of an entry of `layout.layers`."""
    given = layer.inputs, layer.outputs, layer.kernel, layer.stride, layer.padding
    match layer.kind:
        case "linear":
            return nn.Linear(layer.inputs, layer.outputs)
        case "conv":
            return nn.Conv2d(*given) if layer.normed else _Conv(*given)
        case "conv-transpose":
            return (nn.ConvTranspose2d if layer.normed else _ConvTranspose)(*given, layer.output_padding)
        case "norm":
            return BatchNorm(layer.outputs)
        case "scalar":
            return nn.Parameter(torch.zeros(()))
        case kind:
            assert_never(kind)


class _Conv(nn.Conv2d):
    """A convolution without batch norm, as the one to pixels, that adds its bias separately: in the gradient of a
    convolution's own bias a CPU adds float32 numbers one after another, which lost 8e-5 over a batch of 100,000
    pixels."""

    def forward(self, input: Tensor) -> Tensor:
        return _with_bias(self._conv_forward(input, self.weight, None), self.bias)


class _ConvTranspose(nn.ConvTranspose2d):
    """The same of a transposed convolution."""

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        y = nn.functional.conv_transpose2d(input, self.weight, None, self.stride, self.padding, self.output_padding)  # type: ignore[arg-type]
        return _with_bias(y, self.bias)


def _with_bias(y: Tensor, bias: Tensor | None) -> Tensor:
    assert bias is not None
    return y + bias[:, None, None].to(y.dtype)
