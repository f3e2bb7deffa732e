"""Checks of a model, and of what it is given. They look at shapes, dtypes and names; see `argument_checks`."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxvae.shared.config.parts import ModelSpec
from jaxvae.shared.config.spec import Spec, require_spec
from jaxvae.shared.errors import InputError
from jaxvae.shared.model.argument_checks import (
    refuse_key,
    require_arrays,
    require_bytes,
    require_labels,
    require_latents,
    require_not_of,
    require_pixels,
)
from jaxvae.shared.text import shown

_F = TypeVar("_F", bound=Callable[..., Any])
_WORDS = {"x": "pixels"}  # of arguments in messages


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


def require_own(function: str, **arrays: Any) -> None:
    """Raises InputError if an array, named by what it holds, is the other framework's."""
    require_not_of("torch", function, arrays)


def require_key(function: str, key: Any) -> None:
    """Raises InputError unless it is one key of the framework's."""
    if isinstance(key, jax.Array | np.ndarray):
        typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
        if key.ndim == 0 if typed else key.ndim == 1 and key.dtype == np.uint32:
            return
    refuse_key(function, key, "a jax.Array", "jax.random.fold_in")


def names_tensors(jitted: _F) -> _F:
    """Have a compiled function name an argument of PyTorch's, of which JAX says before the function's own checks that
    it is no array."""

    @functools.wraps(inspect.unwrap(jitted))  # as jax.jit does
    def call(*arguments: Any, **named: Any) -> Any:
        try:
            return jitted(*arguments, **named)
        except TypeError as error:
            refused = error
        given = dict(zip(inspect.signature(jitted).parameters, arguments, strict=False)) | named
        require_own(jitted.__name__, **{_WORDS.get(name, name): value for name, value in given.items()})
        raise refused

    for name in ("lower", "trace", "eval_shape", "clear_cache"):
        setattr(call, name, getattr(jitted, name))
    return call  # type: ignore[return-value]


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
    require_spec(spec)
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
    require_spec(spec)
    check_params(function, spec.model, params, spec.training.stored)
    require_pixels(function, spec, x)
    require_own(function, pixels=x, labels=labels)
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
    require_spec(spec)
    check_params(function, spec.model, params, spec.training.stored)
    require_latents(function, spec, z, dtype)
    if dtype is not None:
        require_own(function, latents=z, labels=labels)
    require_labels(function, spec, labels, z.shape[0])
