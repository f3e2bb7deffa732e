"""Checks of a model, and of what it is given. They look at shapes, dtypes and names; see `argument_checks`."""

from typing import Any

import jax

from jaxvae.shared.config.parts import ModelSpec
from jaxvae.shared.config.spec import Spec
from jaxvae.shared.errors import InputError
from jaxvae.shared.model.argument_checks import (
    require_arrays,
    require_bytes,
    require_labels,
    require_latents,
    require_pixels,
)
from jaxvae.shared.text import shown


def check_params(function: str, spec: ModelSpec, params: Any, dtype: str | None = None) -> None:
    """Check that a model is the configuration's, by the names, shapes and dtype of its parameters.

    Args:
        function: The function's name, for the message.
        spec: The model's configuration.
        params: The model's parameters.
        dtype: Their dtype, if one is required.

    Raises:
        InputError: If it is another model.
    """
    leaves = jax.tree_util.tree_leaves_with_path(params)
    if any(not hasattr(leaf, "shape") for _, leaf in leaves):
        raise InputError(f"{function} needs a model's parameters, nested dicts of arrays, found {shown(params)}.")
    arrays = {".".join(str(getattr(entry, "key", entry)) for entry in path): leaf for path, leaf in leaves}
    require_arrays(function, spec, arrays, dtype, flax=True)


def check_images(function: str, spec: Spec, params: Any, images: Any, labels: Any | None) -> None:
    """Check a model, and images and labels that it is given.

    Args:
        function: The function's name, for the message.
        spec: The configuration.
        params: The model's parameters.
        images: uint8, `[n, height, width, channels]`.
        labels: Classes, `[n]`, for a model with classes.

    Raises:
        InputError: If one is not what it should be.
    """
    check_params(function, spec.model, params, spec.training.stored)
    require_bytes(function, images, spec.model.image)
    require_labels(function, spec, labels, images.shape[0])


def check_pixels(function: str, spec: Spec, params: Any, x: Any, labels: Any | None) -> None:
    """Check a model, and pixels and labels that it is given.

    Args:
        function: The function's name, for the message.
        spec: The configuration.
        params: The model's parameters.
        x: Pixels in the configuration's range, `[batch, pixels]`.
        labels: Classes, `[batch]`, for a model with classes.

    Raises:
        InputError: If one is not what it should be.
    """
    check_params(function, spec.model, params, spec.training.stored)
    require_pixels(function, spec, x)
    require_labels(function, spec, labels, x.shape[0])


def check_latents(function: str, spec: Spec, params: Any, z: Any, labels: Any | None, dtype: str | None = None) -> None:
    """Check a model, and latents and labels that it is given.

    Args:
        function: The function's name, for the message.
        spec: The configuration.
        params: The model's parameters.
        z: Latents, `[n, latent]`.
        labels: Classes, `[n]`, for a model with classes.
        dtype: The latents' dtype, if one is required.

    Raises:
        InputError: If one is not what it should be.
    """
    check_params(function, spec.model, params, spec.training.stored)
    require_latents(function, spec, z, dtype)
    require_labels(function, spec, labels, z.shape[0])
