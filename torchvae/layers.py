"""The layers that the networks are made of, each from its entry in `layout.layers`, and the operations between them."""

from typing import Any, NamedTuple, assert_never

import torch
from torch import Tensor, nn

from jaxvae.shared.config.parts import ModelSpec
from jaxvae.shared.model import layout
from torchvae.distributions import AnyPosterior, PointPosterior, Posterior, ScalePosterior
from torchvae.parallel import processes, summed

_MOMENTUM, _EPS = 0.1, 1e-5


class Training(NamedTuple):
    """What the networks are given in training only."""

    weights: Tensor
    """The share of each image in the batch, `[batch]`; 0 for images that only fill it up."""
    masks: tuple[Tensor, ...] = ()
    """Factors on the hidden units, shaped as `layout.hidden_units`; empty without dropout."""


class Block(nn.Module):
    """A convolution, strided or transposed, and its batch norm."""

    def __init__(self, layer: layout.Layer):
        super().__init__()
        self.conv = make(layer)
        self.norm = BatchNorm(layer.outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))


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
    given = layer.inputs, layer.outputs, layout.KERNEL, layer.stride, layout.PADDING
    match layer.kind:
        case "linear":
            return nn.Linear(layer.inputs, layer.outputs)
        case "conv":
            return nn.Conv2d(*given) if layer.normed else _Last(*given)
        case "conv-transpose":
            return nn.ConvTranspose2d(*given, layer.output_padding)
        case "norm":
            return BatchNorm(layer.outputs)
        case "scalar":
            return nn.Parameter(torch.zeros(()))
        case kind:
            assert_never(kind)


def activate(spec: ModelSpec, x: Tensor) -> Tensor:
    """Apply the activation that follows a hidden layer."""
    match spec.activation:
        case "relu":
            return torch.relu(x)
        case "tanh":
            return torch.tanh(x)
        case "leaky-relu":
            return nn.functional.leaky_relu(x, 0.01)
        case "leaky-relu-0.2":
            return nn.functional.leaky_relu(x, 0.2)
        case "softplus":
            # F.softplus is x itself from 20 on, 2e-9 off.
            return -nn.functional.logsigmoid(-full(x)).to(x.dtype)
        case "elu":
            return nn.functional.elu(x)


def full(x: Tensor) -> Tensor:
    """Cast bfloat16 numbers to float32, for what is not computed in bfloat16."""
    return x.float() if x.dtype == torch.bfloat16 else x


def one_hot(spec: ModelSpec, labels: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Encode labels one-hot.

    Args:
        spec: The model.
        labels: Classes from 0, `[batch]`.
        dtype: The dtype of the result.

    Returns:
        Ones and zeros, `[batch, classes]`.

    Raises:
        ValueError: If there are no labels.
    """
    if labels is None:
        raise ValueError(f"A model of {spec.classes} classes requires labels.")
    return (labels[:, None] == torch.arange(spec.classes, device=labels.device)).to(dtype)


def with_labels(spec: ModelSpec, x: Tensor, labels: Tensor | None) -> Tensor:
    """Append the one-hot labels to the input `[batch, features]` of a model with classes."""
    return torch.cat([x, one_hot(spec, labels, x.dtype)], -1) if spec.classes else x


def dropped(x: Tensor, training: Training | None, layer: int) -> Tensor:
    """Apply the mask of a hidden layer, counted through encoder and decoder, where there is dropout."""
    if training is None or not training.masks:
        return x
    mask = training.masks[layer]
    mask = mask.to(x.dtype)
    return x * (mask if mask.ndim == 2 else mask.permute(0, 3, 1, 2))  # drawn in height, width, channel order


def posterior(spec: ModelSpec, parts: list[Tensor]) -> AnyPosterior:
    """Build the posterior from the outputs of the encoder's heads, each `[batch, latent]`."""
    parts = [full(part) for part in parts]
    match spec.posterior:
        case "gaussian":
            return Posterior(*parts)
        case "log-sigma":
            return Posterior(parts[0], 2.0 * parts[1])
        case "relu-sigma":
            return ScalePosterior(*map(torch.relu, parts))
        case "point":
            return PointPosterior(*parts)
        case "relu-point":
            return PointPosterior(*map(torch.relu, parts))


class _Last(nn.Conv2d):
    """A convolution to pixels that adds its bias separately: in the gradient of a convolution's own bias a CPU adds
    float32 numbers one after another, which lost 8e-5 over a batch of 100,000 pixels."""

    def forward(self, input: Tensor) -> Tensor:
        y = self._conv_forward(input, self.weight, None)
        assert self.bias is not None
        return y + self.bias[:, None, None].to(y.dtype)
