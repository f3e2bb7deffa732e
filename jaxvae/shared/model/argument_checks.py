"""Checks of the arguments of both packages' public functions.

An array is anything with a shape and a dtype: of NumPy, JAX or PyTorch, or one that is being traced. Its numbers are
looked at in NumPy's arrays only: no device is waited for, and a compiled program stays as it is."""

import functools
from collections.abc import Mapping
from typing import Any, NoReturn

import numpy as np

from jaxvae.shared.config import own
from jaxvae.shared.config.parts import ModelSpec, TrainingSpec
from jaxvae.shared.config.spec import Spec
from jaxvae.shared.errors import InputError
from jaxvae.shared.model import layout, tensor_checks
from jaxvae.shared.text import shown

_ARRAYS = {"torch": "torch.Tensor", "jax": "jax.Array", "jaxlib": "jax.Array"}  # by the package of the type
_CONVERTED = {
    "torch": ("an array of JAX or NumPy", "np.asarray({})"),
    "jax": ("a torch.Tensor", "torch.tensor(np.asarray({}))"),
}
_MADE_WITH = "; give the configuration that it was made with"
_PREPARE = "prepare_pixels converts uint8 images to pixels"


def require_bytes(function: str, images: Any, image: tuple[int, int, int] | None = None) -> None:
    """Check images.

    Args:
        function: The function's name, for the message.
        images: uint8, `[n, height, width, channels]`.
        image: The model's height, width and channels; None if any are valid.

    Raises:
        InputError: If they are of another dtype or another size.
    """
    if (found := _dtype(images)) != "uint8":
        advice = "convert them" if "int" in found else "convert images in [0, 1] to (255 * images).round() as uint8"
        raise InputError(f"{function} needs uint8 images, 0 to 255, found {found}; {advice}.")
    if image is not None and (len(images.shape) != 4 or tuple(images.shape[1:]) != image):
        raise InputError(
            f"{function} needs images of the model's size, {_sizes('n', *image)}, found {_sizes(*images.shape)}; give "
            "images of that size, or the model another `image`."
        )


def require_pixels(function: str, spec: Spec, x: Any) -> None:
    """Check pixels.

    Args:
        function: The function's name, for the message.
        spec: The configuration.
        x: Pixels in its range, `[batch, pixels]`, of the dtype that it stores.

    Raises:
        InputError: If they are of another dtype or shape, or out of range in a NumPy array.
    """
    if (found := _dtype(x)) != spec.training.stored:
        raise InputError(f"{function} needs pixels of {spec.training.stored}, found {found}; {_PREPARE}.")
    if len(x.shape) != 2 or x.shape[1] != spec.model.pixels:
        expected = _sizes("batch", spec.model.pixels)
        raise InputError(f"{function} needs pixels of the shape {expected}, found {_sizes(*x.shape)}; {_PREPARE}.")
    if isinstance(x, np.ndarray) and x.size:
        least, most = (-1 if spec.images.range == "signed" else 0), 1
        if not (x.min() >= least and x.max() <= most):
            raise InputError(
                f"{function} needs pixels from {least} to {most}, found {x.min():.4g} to {x.max():.4g}; {_PREPARE}."
            )


def require_floats(function: str, x: Any) -> None:
    """Raises InputError if pixels are no floats."""
    if "float" not in (found := _dtype(x)):
        raise InputError(f"{function} needs pixels of floats, found {found}; {_PREPARE}.")


def require_latents(function: str, spec: Spec, z: Any, dtype: str | None = None, rows: int | None = None) -> None:
    """Check latents.

    Args:
        function: The function's name, for the message.
        spec: The configuration.
        z: Floats, `[n, latent]`.
        dtype: Their dtype; None if any floats are valid.
        rows: The number of images; None for any.

    Raises:
        InputError: If they are of another dtype or shape.
    """
    found = _dtype(z)
    if "float" not in found or (dtype is not None and found != dtype):
        raise InputError(f"{function} needs latents of {spec.training.stored}, found {found}; convert them.")
    if len(z.shape) != 2 or z.shape[1] != spec.model.latent or rows not in (None, z.shape[0]):
        expected = _sizes(rows or "n", spec.model.latent)
        raise InputError(
            f"{function} needs latents of the shape {expected}, found {_sizes(*z.shape)}; give one row for each image."
        )


def require_noise(function: str, spec: Spec, eps: Any, rows: int) -> None:
    """Check the standard normals of a batch's latents.

    Args:
        function: The function's name, for the message.
        spec: The configuration.
        eps: `[rows, latent]`, or `[samples, rows, latent]` for several samples.
        rows: The number of images.

    Raises:
        InputError: If they are of another shape.
    """
    samples = () if spec.objective.samples == 1 else (spec.objective.samples,)
    if tuple(eps.shape) != (expected := (*samples, rows, spec.model.latent)):
        raise InputError(
            f"{function} needs draws.eps of the shape {_sizes(*expected)}, found {_sizes(*eps.shape)}; draw them for "
            f"these images: draw(spec, key, {rows})."
        )


def require_labels(function: str, spec: Spec, labels: Any | None, rows: int, *, more: bool = False) -> None:
    """Check the labels of images, if the model has classes.

    Args:
        function: The function's name, for the message.
        spec: The configuration.
        labels: Integers, `[n]`.
        rows: The number of images.
        more: Whether there may be more labels than images.

    Raises:
        InputError: If there are none, if they are no integers or of another shape, or if a NumPy array has others than
            the model's.
    """
    if not (classes := spec.model.classes):
        return
    advice = f"give a class from 0 to {classes - 1} for each image"
    if labels is None:
        raise InputError(f"{function}: a model of {classes} classes needs labels, found none; {advice}.")
    if "int" not in (found := _dtype(labels)):
        raise InputError(f"{function} needs integer labels, found {found}; {advice}.")
    if len(labels.shape) != 1 or not (labels.shape[0] == rows or (more and labels.shape[0] > rows)):
        raise InputError(
            f"{function} needs labels of the shape {_sizes(rows)}, found {_sizes(*labels.shape)}; {advice}."
        )
    if isinstance(labels, np.ndarray) and labels.size and not (labels.min() >= 0 and labels.max() < classes):
        raise InputError(f"{function}: found labels from {labels.min()} to {labels.max()}; {advice}.")


def require_kind(function: str, name: str, array: Any, kind: type) -> None:
    """Check that an array is one that the framework computes with, and not, say, NumPy's, as a data set has it.

    Args:
        function: The function's name, for the message.
        name: What the array holds.
        array: The array.
        kind: The type that it has to have.

    Raises:
        InputError: If it has another type.
    """
    if not isinstance(array, kind):
        needed, converted = f"{kind.__module__}.{kind.__name__}", f"torch.tensor(np.asarray({name}))"
        raise InputError(f"{function} needs {name} in a {needed}, found {_kind(array)}; convert {name}: {converted}.")


def require_not_of(framework: str, function: str, arrays: Mapping[str, Any]) -> None:
    """Check that arrays are not another framework's, which the module of their type tells without an import of it.

    Args:
        framework: The other framework: `torch` or `jax`.
        function: The function's name, for the message.
        arrays: The arrays by what they hold.

    Raises:
        InputError: If one is; the message says how to convert it.
    """
    for name, array in arrays.items():
        if (found := _kind(array)) == _ARRAYS[framework]:
            own, converted = _CONVERTED[framework]
            raise InputError(
                f"{function} needs {name} in {own}, found {found}; convert {name}: {converted.format(name)}."
            )


def require_state(function: str, state: Any, kind: type, training: TrainingSpec) -> None:
    """Raises InputError unless a state is of the framework's type, with an average of the weights where the training
    has one."""
    if not isinstance(state, kind):
        raise InputError(
            f"{function} needs a {kind.__name__}, found {_kind(state)}; give init_state(spec), or a later step's state."
        )
    if (state.average is not None) != (training.ema > 0):
        has = "no average" if state.average is None else "an average"
        raise InputError(
            f"{function}: the configuration has ema {training.ema:g}, the state has {has} of the weights; give a state "
            "of init_state with this configuration."
        )


def require_count(function: str, name: str, count: Any, least: int = 1) -> None:
    """Raises InputError if a number of images is no integer, or below `least`."""
    if not isinstance(count, int | np.integer) or count < least:
        raise InputError(
            f"{function} needs {name} of at least {least}, an integer, found {shown(count)}; give another."
        )


def refuse_key(function: str, key: Any, kind: str, fold_in: str) -> NoReturn:
    """Raises InputError: a function was given something else than one key of its framework's."""
    found = f"{_kind(key)} of {_dtype(key)} {_sizes(*key.shape)}" if hasattr(key, "shape") else shown(key)
    raise InputError(
        f"{function} needs one key in {kind}, found {found}; give root_key(seed), or {fold_in}(key, t) of one."
    )


def require_model_spec(function: str, spec: Any, kind: type[own.Parts]) -> None:
    """Check what a model is made of.

    Args:
        function: The name of what makes it, for the message.
        spec: The model's configuration.
        kind: The package's class of own parts.

    Raises:
        InputError: If it is another configuration, as the whole one, or has the other package's own parts.
    """
    if not isinstance(spec, ModelSpec):
        raise InputError(f"{function} needs a ModelSpec, found {_kind(spec)}; give spec.model, or ModelSpec(...).")
    if type(spec.parts) not in (own.Parts, kind):
        mine, other = (one.__module__.partition(".")[0] for one in (kind, type(spec.parts)))
        raise InputError(f"{function} needs {mine}.Parts, found {other}.Parts; write the parts for {mine}.")


def require_callback(function: str, on_epoch: Any) -> None:
    """Raises InputError if what is called after each epoch can't be, as the labels of images in its place."""
    if not callable(on_epoch):
        raise InputError(
            f"{function} needs a function for on_epoch, found {_kind(on_epoch)}; give labels=, optimizer= by name."
        )


def require_arrays(function: str, spec: ModelSpec, arrays: Mapping[str, Any], dtype: str | None, *, flax: bool) -> None:
    """Check a model's parameters.

    Args:
        function: The function's name, for the message.
        spec: The model.
        arrays: The parameters by name.
        dtype: Their dtype; None if any is valid.
        flax: Whether names and shapes are Flax's: the path with dots, and `flax_shape`. PyTorch's otherwise.

    Raises:
        InputError: If a name is missing or extra, or a dtype or a shape is wrong; the message names it.
    """
    shapes = _shapes(spec, flax)
    if {name: tuple(array.shape) for name, array in arrays.items()} == shapes:
        dtypes = {array.dtype for array in arrays.values()}
        if dtype is None or {str(one).removeprefix("torch.") for one in dtypes} == {dtype}:
            return
    found = {name: tensor_checks.Described(tuple(array.shape), _dtype(array)) for name, array in arrays.items()}
    # Without a dtype each tensor is expected to have its own.
    own = lambda name: found[name].dtype if name in found else ""  # noqa: E731
    expected = {name: (dtype or own(name), shape) for name, shape in shapes.items()}
    tensor_checks.fit(found, expected, f"{function}: the model", _MADE_WITH)


def require_same_model(function: str, made: ModelSpec, spec: ModelSpec) -> None:
    """Raises InputError if a module made for one model computes something else than another one with its tensors."""
    for name in ("image", "classes", "encoder", "decoder", "activation", "slope", "posterior"):
        if (found := getattr(made, name)) != (expected := getattr(spec, name)):
            raise InputError(
                f"{function}: the model was made with {name} {found}, the configuration has {expected}{_MADE_WITH}."
            )


@functools.cache
def _shapes(spec: ModelSpec, flax: bool) -> dict[str, tuple[int, ...]]:
    table = layout.table(spec)
    if flax:
        return {".".join(map(str, parameter.path)): parameter.flax_shape for parameter in table}
    return {parameter.name: parameter.shape for parameter in table}


def _dtype(array: Any) -> str:
    """The name of a dtype, which PyTorch's has a prefix to; the type's of what is no array."""
    return str(getattr(array, "dtype", type(array).__name__)).removeprefix("torch.")


def _kind(value: Any) -> str:
    """The name of a value's type, of an array the name that its framework gives it."""
    framework = type(value).__module__.partition(".")[0] if hasattr(value, "dtype") else ""
    return _ARRAYS.get(framework, type(value).__name__)


def _sizes(*sizes: Any) -> str:
    return f"[{', '.join(map(str, sizes))}]"
