"""Pair the arrays of a JAX model with the tensors of a torch module, and convert the layout of each."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
from torch import nn

from jaxvae.shared.errors import InputError

Array: TypeAlias = np.ndarray
Shapes: TypeAlias = Mapping[str, tuple[int, ...]]


def _identity(array: Array) -> Array:
    return array


class Transform(NamedTuple):
    """Conversions between the JAX layout and the torch layout of one array.

    `to_torch` and `to_jax` are inverses of each other. The other two are needed only where a transform reorders the
    features that a layer reads or writes, so that the layer's inputs and outputs can be compared.
    """

    to_torch: Callable[[Array], Array] = _identity
    """Converts an array in the JAX layout to the torch layout."""
    to_jax: Callable[[Array], Array] = _identity
    """Converts an array in the torch layout to the JAX layout."""
    input_to_torch: Callable[[Array], Array] = _identity
    """Orders the input of the JAX layer as the input of the torch layer."""
    output_to_torch: Callable[[Array], Array] = _identity
    """Orders the output of the JAX layer as the output of the torch layer."""


class Pair(NamedTuple):
    """One array of the JAX model and the torch tensor that holds the same numbers."""

    path: str
    """The path in the JAX model, without its collection: `conv1/kernel`."""
    name: str
    """The name in the torch module: `conv1.weight`."""
    transform: Transform
    """The conversion between their layouts."""


Target: TypeAlias = str | tuple[str, Transform]
MappingLike: TypeAlias = Mapping[str, Target] | Sequence[tuple[str, str] | tuple[str, str, Transform]] | None

as_is = Transform()
"""The transform of an array that the JAX model holds in torch's layout."""

flipped_kernel = Transform(  # the kernel rotated by 180 degrees
    to_torch=lambda kernel: np.flip(kernel, tuple(range(kernel.ndim - 2))).transpose(-2, -1, *range(kernel.ndim - 2)),
    to_jax=lambda weight: np.flip(weight, tuple(range(2, weight.ndim))).transpose(*range(2, weight.ndim), 0, 1),
)
"""The transform of the kernel of a Flax ConvTranspose without `transpose_kernel=True`."""


def flattened(rows: tuple[int, int, int] | None = None, columns: tuple[int, int, int] | None = None) -> Transform:
    """Make the transform of a Linear layer that reads or writes a flattened image.

    JAX flattens an image as H,W,C and torch as C,H,W, so the rows or the columns of the kernel are permuted. A layer
    that writes an image needs the transform for its bias too.

    Args:
        rows: The image that the layer reads, `(channels, height, width)`; None if it reads no image.
        columns: The image that the layer writes, `(channels, height, width)`; None if it writes no image.

    Returns:
        The transform for the pair of the kernel `[inputs, outputs]`, or of the bias `[outputs]`.
    """
    row, column = (_channels_first(image) if image else slice(None) for image in (rows, columns))

    def to_torch(array: Array) -> Array:
        return array[column] if array.ndim == 1 else array[row][:, column].T

    def to_jax(array: Array) -> Array:
        back = np.empty_like(array if array.ndim == 1 else array.T)
        if array.ndim == 1:
            back[column] = array
        else:
            back[np.arange(len(back))[row][:, None], np.arange(back.shape[1])[column]] = array.T
        return back

    return Transform(to_torch, to_jax, input_to_torch=lambda x: x[..., row], output_to_torch=lambda y: y[..., column])


def _channels_first(image: tuple[int, int, int]) -> Array:
    """Return the index of each entry of a C,H,W image in the same image flattened as H,W,C."""
    channels, height, width = image
    return np.arange(channels * height * width).reshape(height, width, channels).transpose(2, 0, 1).ravel()


def canonical(path: str) -> str:
    """Return one spelling of a path: `params.conv1.kernel`, `params/conv1/kernel` and `conv1/kernel` are one array."""
    return re.sub(r"^(params|batch_stats)/", "", path.replace(".", "/"))


def tensors(module: nn.Module) -> dict[str, nn.Module]:
    """Return the layer that holds each parameter and running statistic of the module, by the tensor's name."""
    saved = module.state_dict(keep_vars=True)
    names = dict.fromkeys([*(n for n, _ in module.named_parameters()), *(n for n, _ in module.named_buffers())])
    # Flax does not count batches, and torch uses the count only where momentum is None.
    kept = [name for name in names if name in saved and not name.endswith("num_batches_tracked")]
    return {name: module.get_submodule(name.rpartition(".")[0]) for name in kept}


def resolve(shapes: Shapes, module: nn.Module, mapping: MappingLike = None) -> tuple[Pair, ...]:
    """Pair every array of the JAX model with a tensor of the torch module.

    Args:
        shapes: The shapes of the JAX arrays, by path.
        module: The torch module.
        mapping: Pairs `{path: name}`; or rules `[(regex, replacement)]`, of which the first that matches the whole path
            gives the name; or None, to pair by name and then by kind of layer and shape. A pair or a rule may end in a
            `Transform`, which replaces the transform that the kind of the torch layer implies.

    Returns:
        The pairs, in the order of the torch module. Every array and every tensor is in exactly one pair.

    Raises:
        InputError: If an array or a tensor is left over, is paired twice, is unknown or has another shape, or if
            several pairs are possible.
    """
    layers = tensors(module)
    if mapping is None:
        chosen: dict[str, Target] = dict(_infer(shapes, module, layers))
    elif isinstance(mapping, Mapping):
        chosen = {canonical(path): target for path, target in mapping.items()}
    else:
        chosen = dict(_ruled(shapes, mapping))
    pairs = []
    for path, target in chosen.items():
        name, transform = (target, None) if isinstance(target, str) else target
        if path not in shapes:
            raise InputError(f"mapping: the JAX model has no array {path!r}; it has {_list(shapes)}: correct the pair.")
        if name not in layers:
            raise InputError(
                f"mapping: {path!r} is paired with {name!r}, but the torch module has only {_list(layers)}: "
                "correct the pair."
            )
        pairs.append(Pair(path, name, transform or layout(layers[name], name)))
    _check_total(shapes, layers, pairs)
    for pair in pairs:
        _check_shape(shapes[pair.path], pair, layers[pair.name], module)
    return tuple(sorted(pairs, key=lambda pair: list(layers).index(pair.name)))


def layout(layer: nn.Module, name: str) -> Transform:
    """Return the transform of a tensor that the kind of its layer implies.

    The shape does not decide it: a square kernel has the same shape in both layouts.

    Args:
        layer: The torch layer that holds the tensor.
        name: The tensor's name, `conv1.weight`.

    Returns:
        The transform between Flax's layout and torch's.
    """
    if name.rpartition(".")[2] != "weight":
        return as_is
    if isinstance(layer, nn.Linear):
        return Transform(np.transpose, np.transpose)
    if isinstance(layer, nn.modules.conv._ConvNd):  # [out, in, ..], [in, out, ..] for a transposed convolution
        return Transform(
            to_torch=lambda kernel: kernel.transpose(-1, -2, *range(kernel.ndim - 2)),
            to_jax=lambda weight: weight.transpose(*range(2, weight.ndim), 1, 0),
        )
    return as_is


def _ruled(shapes: Shapes, rules: Sequence[tuple]):
    for path in shapes:
        for pattern, replacement, *transform in rules:
            try:
                match = re.fullmatch(pattern, path)
                name = match and match.expand(replacement)
            except (re.error, IndexError) as error:  # IndexError: the replacement names an unknown group
                raise InputError(
                    f"mapping: the rule {(pattern, replacement)!r} is not a valid regex and replacement: {error}: "
                    "correct it."
                ) from None
            if name is not None:
                yield path, (name, *transform) if transform else name
                break


_LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "embedding": "weight",
    "mean": "running_mean",
    "var": "running_var",
}


def _infer(shapes: Shapes, module: nn.Module, layers: Mapping[str, nn.Module]):
    left = dict.fromkeys(layers)
    unnamed: dict[str, dict[str, tuple[int, ...]]] = {}  # JAX layers without a match by name: shapes by leaf
    for path, shape in shapes.items():
        layer, _, leaf = path.rpartition("/")
        parent = layer.replace("/", ".")
        names = [f"{parent}.{n}".lstrip(".") for n in (leaf, _LEAVES.get(leaf, leaf))]
        if name := next((name for name in names if name in left), None):
            left.pop(name)
            yield path, name
        else:
            unnamed.setdefault(layer, {})[leaf] = shape
    unfilled: dict[str, dict[str, tuple[str, tuple[int, ...]]]] = {}  # torch layers: names and shapes by Flax leaf
    for name in left:
        parent, _, leaf = name.rpartition(".")
        shape = layout(layers[name], name).to_jax(np.empty(_tensor(module, name).shape)).shape
        unfilled.setdefault(parent, {})[_flax_leaf(layers[name], leaf)] = name, shape
    kinds = {parent: {leaf: shape for leaf, (_, shape) in leaves.items()} for parent, leaves in unfilled.items()}
    for layer, arrays in unnamed.items():
        candidates = [parent for parent, kind in kinds.items() if kind == arrays]
        rivals = [other for other, kind in unnamed.items() if kind == arrays]
        if len(candidates) == len(rivals) == 1:
            yield from ((f"{layer}/{leaf}".lstrip("/"), unfilled[candidates[0]][leaf][0]) for leaf in arrays)
        elif candidates:
            raise InputError(
                f"mapping: by name, kind and shape the JAX layers {_list(rivals)} could each be any of "
                f"{_list(candidates)} in the torch module: give pairs for them, "
                "as in {'conv1/kernel': 'conv1.weight'}."
            )


def _flax_leaf(layer: nn.Module, leaf: str) -> str:
    if leaf == "weight":
        if isinstance(layer, nn.Linear | nn.modules.conv._ConvNd):
            return "kernel"
        return "embedding" if isinstance(layer, nn.Embedding) else "scale"
    return {"running_mean": "mean", "running_var": "var"}.get(leaf, leaf)


def _check_total(shapes: Shapes, layers: Mapping[str, nn.Module], pairs: Sequence[Pair]) -> None:
    names = [pair.name for pair in pairs]
    for name in names:
        if names.count(name) > 1:
            rivals = [pair.path for pair in pairs if pair.name == name]
            raise InputError(f"mapping: {_list(rivals)} are all paired with {name!r}; pair each with another tensor.")
    if sources := [path for path in shapes if path not in {pair.path for pair in pairs}]:
        raise InputError(f"mapping: no torch tensor is paired with {_list(sources)} of the JAX model: give pairs.")
    if targets := [name for name in layers if name not in names]:
        raise InputError(f"mapping: no JAX array is paired with {_list(targets)} of the torch module: give pairs.")


def _check_shape(jax_shape: tuple[int, ...], pair: Pair, layer: nn.Module, module: nn.Module) -> None:
    shape = tuple(_tensor(module, pair.name).shape)
    try:
        expected = pair.transform.to_jax(np.empty(shape)).shape
    except (ValueError, IndexError):
        raise InputError(
            f"mapping: the transform of {pair.path!r} can't convert {pair.name!r}, which is {list(shape)}: correct it."
        ) from None
    if jax_shape == expected:
        return
    problem = (
        f"mapping: {pair.path!r} is {list(jax_shape)}, and {pair.name!r}, {list(shape)} of a {type(layer).__name__}"
    )
    if jax_shape == shape:
        advice = "it is held in torch's layout, so give the pair the transform `as_is`"
    elif getattr(layer, "transposed", False) and jax_shape == flipped_kernel.to_jax(np.empty(shape)).shape:
        advice = "pass transpose_kernel=True to the Flax layer, or give the pair the transform `flipped_kernel`"
    else:
        advice = "correct the pair or the layer"
    raise InputError(f"{problem}, needs {list(expected)}: {advice}.")


def _tensor(module: nn.Module, name: str):
    return module.state_dict(keep_vars=True)[name]


def _list(names) -> str:
    return ", ".join(map(repr, names)) or "none"
