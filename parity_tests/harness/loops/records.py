"""What a training run yields of each step, copied to NumPy as it is received."""

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx
from torch import nn

from jaxvae.shared.errors import InputError
from parity_tests.harness.modules.mapping import canonical
from parity_tests.harness.modules.torch_state import counts_batches, entries, numpy, persistent
from parity_tests.harness.modules.validation import kind, numbers

Arrays = dict[str, np.ndarray]
SIDES = ("JAX", "PyTorch")
HALF = ("bfloat16", "float16")
_COUNTS = ("step", "mu_product", "eta", "mu")
"""Single numbers of float32 that torch's optimizers keep of a parameter, which may be a single number itself."""
LOW = (*HALF, "mixed")
"""What runs in half precision are called: mixed, where what they yield is float32."""


class Start(NamedTuple):
    """The state before a step. A run yields it before its first step; a run that can be started again is given it.

    A field is in the run's own structure: what it yielded, as a tree of arrays. Of a `torch.nn.Module` and a torch
    optimizer it is the state dict, of a Flax NNX module or optimizer the `nnx.State`.
    """

    parameters: Any = None
    optimizer_state: Any = None
    ema: Any = None
    step: int = 0
    """The first step to take, counted from 0."""
    scaler: Any = None
    """What sets the loss scale of the step, if the run yields it: the run's own, as it yielded it."""


class Step(NamedTuple):
    """What a run has of one step, in the order in which a step computes it; None is what it has not.

    Trees hold arrays of either framework: dicts, lists, NamedTuples, Flax states. A `torch.nn.Module` stands for its
    parameters and buffers, in `gradients` for its `.grad`, and a torch optimizer for its state; so does each of several
    in a dict or a list.
    """

    batch: Any = None
    """What was drawn from the data: images, labels, tokens, or the indices of the rows."""
    inputs: Any = None
    """What the model receives, after preprocessing."""
    learning_rate: Any = None
    """The learning rate with which this step moves the parameters."""
    evaluation: Any = None
    """The loss of this batch before the step without what only training does: dropout, batch statistics."""
    loss: Any = None
    terms: Any = None
    """The parts of the loss and other figures of the step, by name."""
    gradients: Any = None
    """The gradients as the optimizer receives them, or as the model has them: the same in both runs."""
    optimizer_state: Any = None
    """After the step."""
    parameters: Any = None
    """After the step; running statistics, if they are among them, are compared by themselves."""
    ema: Any = None
    """The moving average of the parameters, after the step."""
    loss_scale: Any = None
    """The number by which mixed precision multiplied the loss of this step before its gradient was taken."""
    scaler: Any = None
    """What sets the loss scale of the next step, as a `torch.amp.GradScaler`; it is given back and not compared."""


class Snapshot(NamedTuple):
    """A tree as a run yielded it, copied."""

    tree: Any
    """In the structure in which the run is given it back."""
    arrays: Arrays
    """Its numbers, by path."""
    written: Callable[[Arrays], Any]
    """Makes the tree again with other numbers in some of its arrays, by path."""
    half: str = ""
    """The dtype of half precision in which any of its arrays is; their numbers are in float32."""


Raw = dict[str, Snapshot]
"""The fields of a step."""


def copied(fields: Mapping[str, Any], where: str, module: nn.Module | None) -> Raw:
    """Copy what a run yields, but for the number of a step.

    Args:
        fields: Those of a `Step` or a `Start`.
        where: The run and its step, for errors.
        module: The torch module whose parameters an optimizer holds.
    """
    return {
        name: _snapshot(value, name, f"{where}: {name}", module)
        for name, value in fields.items()
        if value is not None and name != "step"
    }


def _snapshot(value: Any, field: str, where: str, module: nn.Module | None) -> Snapshot:
    if field == "scaler":
        held = copy.deepcopy(value.state_dict() if isinstance(value, torch.amp.GradScaler) else value)
        return Snapshot(held, {}, lambda new: copy.deepcopy(held))
    if isinstance(value, torch.optim.Optimizer):
        return _optimizer(value, where, module)
    if isinstance(value, nn.Module):
        return _module(getattr(value, "_orig_mod", value), field)
    if isinstance(value, nnx.Module | nnx.Optimizer):
        value = nnx.state(value)
    parts = jax.tree_util.tree_flatten_with_path(value, is_leaf=_has_state)
    if any(_has_state(part) for _, part in parts[0]):
        return _several(*parts, field, where, module)
    leaves = jax.tree.leaves(value)
    if any(isinstance(leaf, torch.Tensor) for leaf in leaves):
        return _tensors(value, where)
    tree = jax.tree.map(lambda leaf: leaf if numbers(leaf) is None else np.array(leaf), value)
    arrays = {
        _path(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree) if numbers(leaf) is not None
    }
    if leaves and not arrays:
        raise InputError(f"{where} is {kind(leaves[0])}, expected arrays of numbers.")

    half = _half([array.dtype for array in arrays.values()])
    in_jax = jax.tree.map(lambda leaf: isinstance(leaf, jax.Array), value)

    def written(new: Arrays) -> Any:
        def one(path: Any, leaf: Any, in_jax: bool) -> Any:
            if not isinstance(leaf, np.ndarray):
                return leaf
            array = np.array(new.get(_path(path), leaf), leaf.dtype)
            return jnp.asarray(array) if in_jax else array

        return jax.tree_util.tree_map_with_path(one, tree, in_jax)

    return Snapshot(tree, {path: _single(array) for path, array in arrays.items()}, written, half)


def _has_state(value: Any) -> bool:
    """Return whether a value stands for its tensors."""
    return isinstance(value, nn.Module | torch.optim.Optimizer | nnx.Module | nnx.Optimizer)


def _several(
    parts: Sequence[tuple[Any, Any]], structure: Any, field: str, where: str, module: nn.Module | None
) -> Snapshot:
    """A tree of modules or optimizers, as of a generator and a discriminator, given back as a tree of their states."""
    held = {}
    for path, part in parts:
        separator = "." if isinstance(part, nn.Module | torch.Tensor) else "/"
        prefix = jax.tree_util.keystr(path, simple=True, separator=separator) + separator
        held[prefix] = _snapshot(part, field, where, module)

    def written(new: Arrays) -> Any:
        return structure.unflatten(
            one.written({name: new[prefix + name] for name in one.arrays if prefix + name in new})
            for prefix, one in held.items()
        )

    arrays = {prefix + name: array for prefix, one in held.items() for name, array in one.arrays.items()}
    half = next((one.half for one in held.values() if one.half), "")
    return Snapshot(structure.unflatten(one.tree for one in held.values()), arrays, written, half)


def module_of(value: Any) -> nn.Module | None:
    """Return the torch module that a run trains, of several one that holds them; None where it yields no modules."""
    if isinstance(value, nn.Module):
        return value
    if isinstance(value, Mapping) and value and all(isinstance(part, nn.Module) for part in value.values()):
        return nn.ModuleDict({str(name): part for name, part in value.items()})
    if isinstance(value, list | tuple) and value and all(isinstance(part, nn.Module) for part in value):
        return nn.ModuleList(value)
    return None


def _path(path: Any) -> str:
    """Return the path of an array, without the `value` of an NNX variable."""
    if path and isinstance(path[-1], jax.tree_util.GetAttrKey) and path[-1].name == "value":
        path = path[:-1]
    return canonical(jax.tree_util.keystr(path, simple=True, separator="/"))


def _module(module: nn.Module, field: str) -> Snapshot:
    prefix = "module." if isinstance(module, torch.optim.swa_utils.AveragedModel) else ""
    every, saved = entries(module), persistent(module)
    buffers = {name for name, _ in module.named_buffers()}
    names = [n for n, e in every.items() if n not in buffers or (n in saved and not counts_batches(n, e.layer))]
    if field == "gradients":
        gradients = {n: every[n].gradient().copy() for n in names if n not in buffers}
        half = _half([every[n].tensor.dtype for n in names])
        gradients = {n: _single(array) for n, array in gradients.items()}
        return Snapshot(gradients, gradients, lambda new: {**gradients, **new}, half)
    tree = {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}
    arrays = {
        name.removeprefix(prefix): _single(every[name].numpy().copy())
        for name in names
        if every[name].tensor.is_floating_point() and name.startswith(prefix)
    }
    return Snapshot(
        tree,
        arrays,
        lambda new: {**tree, **{prefix + name: _tensor(array, tree[prefix + name]) for name, array in new.items()}},
        _half([every[name].tensor.dtype for name in names]),
    )


def _tensors(value: Any, where: str) -> Snapshot:
    """A tree of torch's tensors, named with dots as a module's are."""

    def copied(leaf: Any) -> Any:
        return leaf.detach().clone() if isinstance(leaf, torch.Tensor) else copy.deepcopy(leaf)

    def name(path: Any) -> str:
        return jax.tree_util.keystr(path, simple=True, separator=".")

    if isinstance(value, Mapping) and {"state", "param_groups"} <= set(value):
        raise InputError(f"{where} is the optimizer's state dict, which has no names: yield the optimizer itself.")
    tree = jax.tree.map(copied, value)
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    arrays = {name(path): _single(np.array(a)) for path, leaf in leaves if (a := numbers(leaf)) is not None}

    def written(new: Arrays) -> Any:
        return jax.tree_util.tree_map_with_path(
            lambda path, leaf: _tensor(new[name(path)], leaf) if name(path) in new else copied(leaf), tree
        )

    return Snapshot(tree, arrays, written, _half([leaf.dtype for _, leaf in leaves if isinstance(leaf, torch.Tensor)]))


def _optimizer(optimizer: torch.optim.Optimizer, where: str, module: nn.Module | None) -> Snapshot:
    names = {} if module is None else {id(entry.tensor): name for name, entry in entries(module).items()}
    trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if missing := [parameter for parameter in trained if id(parameter) not in names]:
        raise InputError(
            f"{where} trains a tensor {list(missing[0].shape)} that is no parameter of the module, so it has no name: "
            "pass the module whose parameters it trains as parameters of the Step or as module=."
        )
    tree = copy.deepcopy(optimizer.state_dict())
    places = {
        f"{names[id(parameter)]}/{slot}": (i, slot)
        for i, parameter in enumerate(trained)
        for slot, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, torch.Tensor) and value.shape == parameter.shape and slot not in _COUNTS
    }
    held = {path: tree["state"][i][slot] for path, (i, slot) in places.items()}
    arrays = {path: _single(numpy(tensor)) for path, tensor in held.items()}

    def written(new: Arrays) -> Any:
        result = copy.deepcopy(tree)
        for path, array in new.items():
            i, slot = places[path]
            result["state"][i][slot] = _tensor(array, tree["state"][i][slot])
        return result

    return Snapshot(tree, arrays, written, _half([tensor.dtype for tensor in held.values()]))


def _half(dtypes: Iterable[Any]) -> str:
    """Return the first dtype of half precision, or nothing."""
    names = (str(dtype).removeprefix("torch.") for dtype in dtypes)
    return next((name for name in names if name in HALF), "")


def _single(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float32) if str(array.dtype) in HALF else array


def _tensor(array: np.ndarray, like: torch.Tensor) -> torch.Tensor:
    return torch.tensor(np.ascontiguousarray(array), dtype=like.dtype, device=like.device).reshape(array.shape)
