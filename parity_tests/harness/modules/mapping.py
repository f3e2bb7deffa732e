"""Which array of a JAX model is which tensor of a torch module, and how the layout of either becomes the other's."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
from torch import nn

from jaxvae.shared.errors import InputError

Array: TypeAlias = np.ndarray
Shapes: TypeAlias = Mapping[str, tuple[int, ...]]


def _same(array: Array) -> Array:
    return array


class Transform(NamedTuple):
    """How one array's layout becomes the other framework's, each the other's inverse."""

    to_torch: Callable[[Array], Array] = _same
    to_jax: Callable[[Array], Array] = _same
    given: Callable[[Array], Array] = _same
    """How what the JAX layer is given is ordered as the torch layer's is, where this transform reorders it."""
    gave: Callable[[Array], Array] = _same
    """The same of what it gives."""


class Pair(NamedTuple):
    path: str
    """In the JAX model, without its collection: `conv1/kernel`."""
    name: str
    """In the torch module: `conv1.weight`."""
    transform: Transform


Target: TypeAlias = str | tuple[str, Transform]
MappingLike: TypeAlias = Mapping[str, Target] | Sequence[tuple[str, str] | tuple[str, str, Transform]] | None

as_is = Transform()
"""For an array that is held in torch's layout on the JAX side too."""

flipped_kernel = Transform(  # a true convolution's kernel against the gradient's: turned by half a turn
    to_torch=lambda kernel: np.flip(kernel, tuple(range(kernel.ndim - 2))).transpose(-2, -1, *range(kernel.ndim - 2)),
    to_jax=lambda weight: np.flip(weight, tuple(range(2, weight.ndim))).transpose(*range(2, weight.ndim), 0, 1),
)
"""For the kernel of a Flax ConvTranspose without `transpose_kernel=True`."""


def flattened(rows: tuple[int, int, int] | None = None, columns: tuple[int, int, int] | None = None) -> Transform:
    """For the kernel of a Linear whose rows read a flattened image, or whose columns (and then its bias too) write
    one: in H,W,C order in JAX and C,H,W in torch. The image is given as torch has it, `(channels, height, width)`."""
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

    return Transform(to_torch, to_jax, given=lambda x: x[..., row], gave=lambda y: y[..., column])


def _channels_first(image: tuple[int, int, int]) -> Array:
    """Where each entry of a C,H,W image lies in the same image flattened as H,W,C."""
    channels, height, width = image
    return np.arange(channels * height * width).reshape(height, width, channels).transpose(2, 0, 1).ravel()


def canonical(path: str) -> str:
    """`params.conv1.kernel`, `params/conv1/kernel` and `conv1/kernel` are one array."""
    return re.sub(r"^(params|batch_stats)/", "", path.replace(".", "/"))


def tensors(module: nn.Module) -> dict[str, nn.Module]:
    """The module's parameters and running statistics by name, each with the layer that holds it."""
    saved = module.state_dict(keep_vars=True)
    names = dict.fromkeys([*(n for n, _ in module.named_parameters()), *(n for n, _ in module.named_buffers())])
    # Flax counts no batches, and nothing is computed from the count while torch's momentum is a number.
    kept = [name for name in names if name in saved and not name.endswith("num_batches_tracked")]
    return {name: module.get_submodule(name.rpartition(".")[0]) for name in kept}


def resolve(shapes: Shapes, module: nn.Module, mapping: MappingLike = None) -> tuple[Pair, ...]:
    """Every array of the JAX model with its tensor of the torch module, in the module's order. `shapes` are the JAX
    arrays', by path. `mapping` is pairs `{path: name}`, rules `[(regex, replacement)]` of which the first that matches
    the whole path gives the name, or None: by names, then by kind and shape. A pair or a rule may end in a
    Transform, which then stands in the place of the layout that follows from the torch layer's kind."""
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
                f"mapping: {path!r} is given to {name!r}, which the torch module has not; it has {_list(layers)}: "
                "correct the pair."
            )
        pairs.append(Pair(path, name, transform or layout(layers[name], name)))
    _check_total(shapes, layers, pairs)
    for pair in pairs:
        _check_shape(shapes[pair.path], pair, layers[pair.name], module)
    return tuple(sorted(pairs, key=lambda pair: list(layers).index(pair.name)))


def layout(layer: nn.Module, name: str) -> Transform:
    """The transform of the tensor `name` by its layer's kind, for by its shape a square kernel could be either."""
    if name.rpartition(".")[2] != "weight":
        return as_is
    if isinstance(layer, nn.Linear):
        return Transform(np.transpose, np.transpose)
    if isinstance(layer, nn.modules.conv._ConvNd):  # [out, in, ..], and [in, out, ..] where it is transposed
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
            except (re.error, IndexError) as error:  # IndexError for a group of a name that the pattern has not
                raise InputError(
                    f"mapping: the rule {(pattern, replacement)!r} is no regex and replacement: {error}: correct it."
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
    unnamed: dict[str, dict[str, tuple[int, ...]]] = {}  # JAX layers no name fits, with their arrays' shapes
    for path, shape in shapes.items():
        layer, _, leaf = path.rpartition("/")
        parent = layer.replace("/", ".")
        names = [f"{parent}.{n}".lstrip(".") for n in (leaf, _LEAVES.get(leaf, leaf))]
        if name := next((name for name in names if name in left), None):
            left.pop(name)
            yield path, name
        else:
            unnamed.setdefault(layer, {})[leaf] = shape
    unfilled: dict[str, dict[str, tuple[str, tuple[int, ...]]]] = {}  # torch layers, in Flax's words and layout
    for name in left:
        parent, _, leaf = name.rpartition(".")
        shape = layout(layers[name], name).to_jax(np.empty(_tensor(module, name).shape)).shape
        unfilled.setdefault(parent, {})[_flax_leaf(layers[name], leaf)] = name, shape
    kinds = {parent: {leaf: shape for leaf, (_, shape) in found.items()} for parent, found in unfilled.items()}
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
            raise InputError(f"mapping: {_list(rivals)} are all given to {name!r}; give each a tensor of its own.")
    if sources := [path for path in shapes if path not in {pair.path for pair in pairs}]:
        raise InputError(f"mapping: nothing in the torch module takes {_list(sources)} of the JAX model: give pairs.")
    if targets := [name for name in layers if name not in names]:
        raise InputError(f"mapping: nothing in the JAX model fills {_list(targets)} of the torch module: give pairs.")


def _check_shape(found: tuple[int, ...], pair: Pair, layer: nn.Module, module: nn.Module) -> None:
    shape = tuple(_tensor(module, pair.name).shape)
    try:
        expected = pair.transform.to_jax(np.empty(shape)).shape
    except (ValueError, IndexError):
        raise InputError(
            f"mapping: the transform of {pair.path!r} can't take {pair.name!r}, which is {list(shape)}: correct it."
        ) from None
    if found == expected:
        return
    unlike = f"mapping: {pair.path!r} is {list(found)}, and {pair.name!r}, {list(shape)} of a {type(layer).__name__}"
    if found == shape:
        advice = "it is held in torch's layout, so give the pair the transform `as_is`"
    elif getattr(layer, "transposed", False) and found == flipped_kernel.to_jax(np.empty(shape)).shape:
        advice = "pass transpose_kernel=True to the Flax layer, or give the pair the transform `flipped_kernel`"
    else:
        advice = "correct the pair or the layer"
    raise InputError(f"{unlike}, needs {list(expected)}: {advice}.")


def _tensor(module: nn.Module, name: str):
    return module.state_dict(keep_vars=True)[name]


def _list(names) -> str:
    return ", ".join(map(repr, names)) or "none"
