"""What the networks compute between their layers: labels, activations, dropout and the posterior."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from jaxvae.shared.config.parts import ModelSpec
from torchvae.distributions import AnyPosterior, PointPosterior, Posterior, ScalePosterior


class Training(NamedTuple):
    """What the networks are given in training only."""

    weights: Tensor
    """The share of each image in the batch, `[batch]`; 0 for images that only fill it up."""
    masks: tuple[Tensor, ...] = ()
    """Factors on the hidden units, shaped as `layout.hidden_units`; empty without dropout."""


def activate(spec: ModelSpec, x: Tensor) -> Tensor:
    """Apply the activation that follows a hidden layer."""
    match spec.activation:
        case "relu":
            return torch.relu(x)
        case "tanh":
            return torch.tanh(x)
        case "leaky-relu":
            return nn.functional.leaky_relu(x, spec.slope)
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


def maps(spec: ModelSpec, x: Tensor, labels: Tensor | None) -> Tensor:
    """Make images of pixels `[batch, pixels]`, with the one-hot labels of a model with classes as channels."""
    # By its shape: len() would have to be a number, which an exported program's batch size is not.
    # In PyTorch's own order in memory too: with channels last its batch norm adds float32 numbers one after another
    # in float32 on a CPU, and is off by 3e-4.
    x = x.reshape(x.shape[0], *spec.image).permute(0, 3, 1, 2).clone(memory_format=torch.contiguous_format)
    if spec.classes:  # each class is a plane of ones or zeros
        planes = one_hot(spec, labels, x.dtype)[:, :, None, None]
        x = torch.cat([x, planes.expand(-1, -1, *x.shape[2:])], 1)
    return x


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
