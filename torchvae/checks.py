"""Checks of a model, and of what it is given. They look at shapes, dtypes and names; see `argument_checks`."""

from typing import Any

import torch
from torch import Tensor, nn

from jaxvae.shared.config.parts import ModelSpec
from jaxvae.shared.config.spec import Spec, require_spec
from jaxvae.shared.errors import InputError
from jaxvae.shared.model.argument_checks import (
    refuse_key,
    require_arrays,
    require_bytes,
    require_kind,
    require_labels,
    require_latents,
    require_not_of,
    require_pixels,
    require_same_model,
)


def check_params(function: str, spec: ModelSpec, model: Any, dtype: str | None = None) -> None:
    """Check that a model is the configuration's, by the names, shapes and dtype of its parameters.

    Args:
        function: The function's name, for the message.
        spec: The model's configuration.
        model: The model.
        dtype: Their dtype, if one is required.

    Raises:
        InputError: If it is another model.
    """
    if torch.compiler.is_compiling():  # which would look at every tensor again before each call
        return
    module = getattr(model, "_orig_mod", model)  # of torch.compile
    if not isinstance(module, nn.Module):
        raise InputError(f"{function} needs a model, found {type(model).__name__}; bind makes one of a state_dict.")
    require_arrays(function, spec, _tensors(module), dtype, flax=False)
    require_same_model(function, getattr(module.encoder, "spec", spec), spec)


def _tensors(module: nn.Module, prefix: str = "") -> dict[str, Tensor]:
    """The module's tensors by name, in a quarter of the time of `state_dict`: it is looked at before every step."""
    # PyTorch's batch norm counts the batches it saw, which nothing asks for at a fixed momentum.
    own, left_out = {**module._parameters, **module._buffers}, module._non_persistent_buffers_set
    tensors = {
        prefix + name: t
        for name, t in own.items()
        if t is not None and name != "num_batches_tracked" and name not in left_out
    }
    for name, child in module._modules.items():
        if child is not None:
            tensors |= _tensors(child, f"{prefix}{name}.")
    return tensors


def require_own(function: str, **arrays: Any) -> None:
    """Raises InputError if an array, named by what it holds, is the other framework's."""
    require_not_of("jax", function, {name: array for name, array in arrays.items() if not isinstance(array, Tensor)})


def require_key(function: str, key: Any) -> None:
    """Raises InputError unless it is one key of the framework's."""
    if not isinstance(key, Tensor) or key.shape != (2,) or key.dtype != torch.uint32:
        refuse_key(function, key, "a torch.Tensor", "torchvae.random.fold_in")


def check_images(function: str, spec: Spec, model: Any, images: Any, labels: Any | None) -> None:
    """Check a model, and images and labels that it is given.

    Args:
        function: The function's name, for the message.
        spec: The configuration.
        model: The model.
        images: uint8, `[n, height, width, channels]`.
        labels: Classes, `[n]`, for a model with classes.

    Raises:
        InputError: If one is not what it should be.
    """
    require_spec(spec)
    check_params(function, spec.model, model, spec.training.stored)
    require_bytes(function, images, spec.model.image)
    require_labels(function, spec, labels, images.shape[0])


def check_pixels(function: str, spec: Spec, model: Any, x: Any, labels: Any | None) -> None:
    """Check a model, and pixels and labels that it is given.

    Args:
        function: The function's name, for the message.
        spec: The configuration.
        model: The model.
        x: Pixels in the configuration's range, `[batch, pixels]`.
        labels: Classes, `[batch]`, for a model with classes.

    Raises:
        InputError: If one is not what it should be.
    """
    require_spec(spec)
    check_params(function, spec.model, model, spec.training.stored)
    require_pixels(function, spec, x)
    require_kind(function, "pixels", x, Tensor)
    require_own(function, labels=labels)
    require_labels(function, spec, labels, x.shape[0])


def check_latents(function: str, spec: Spec, model: Any, z: Any, labels: Any | None, dtype: str | None = None) -> None:
    """Check a model, and latents and labels that it is given.

    Args:
        function: The function's name, for the message.
        spec: The configuration.
        model: The model.
        z: Latents, `[n, latent]`.
        labels: Classes, `[n]`, for a model with classes.
        dtype: The latents' dtype, if one is required.

    Raises:
        InputError: If one is not what it should be.
    """
    require_spec(spec)
    check_params(function, spec.model, model, spec.training.stored)
    require_latents(function, spec, z, dtype)
    if dtype is not None:
        require_kind(function, "latents", z, Tensor)
        require_own(function, labels=labels)
    require_labels(function, spec, labels, z.shape[0])
