"""Copies of a torch module, and its parameters and buffers by name, whole or in slices."""

import copy
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from jaxvae.shared.errors import InputError
from parity_tests.harness.hooks import masks
from parity_tests.harness.modules.common.names import STORED

_SLICE = re.compile(r"(.+)\[(\d+):(\d+)\]")
_PARAMETRIZED = {"original": "", "original0": "_g", "original1": "_v"}
_COMPLEX = {"float32": torch.complex64, "float64": torch.complex128}


class Entry(NamedTuple):
    """A tensor of a module, or some of its rows."""

    tensor: torch.Tensor
    rows: slice
    layer: nn.Module
    """The layer that holds the tensor."""
    leaf: str
    """The tensor's name in its layer."""

    @property
    def value(self) -> torch.Tensor:
        return self.tensor.detach()[self.rows] if self.tensor.ndim else self.tensor.detach()

    def numpy(self) -> np.ndarray:
        return numpy(self.value)

    def gradient(self) -> np.ndarray:
        if self.tensor.grad is None:
            return np.zeros(tuple(self.value.shape), self.numpy().dtype)
        grad = self.tensor.grad.to_dense() if self.tensor.grad.is_sparse else self.tensor.grad
        return numpy(grad[self.rows] if self.tensor.ndim else grad)


def plain(module: nn.Module) -> nn.Module:
    """Return the module that `torch.compile` or data parallelism wraps, or the module itself; of one whose tensors are
    shared among devices (DTensor) a copy that has them whole, which all processes have to ask for.

    Raises:
        InputError: If a lazy layer has not been called yet, if a layer is TorchScript, whose kind can't be seen, or if
            the module is one of FSDP's, which can't be copied.
    """
    while isinstance(module, nn.parallel.DistributedDataParallel | nn.DataParallel) or hasattr(module, "_orig_mod"):
        module = getattr(module, "_orig_mod", None) or module.module  # type: ignore[assignment]
    if any(type(layer).__name__.startswith(("FSDP", "FullyShardedDataParallel")) for layer in module.modules()):
        raise InputError(
            "torch_module: it is sharded by FSDP, which can't be copied: load its full state dict, as "
            "get_model_state_dict of torch.distributed.checkpoint.state_dict returns it, into a plain module, and pass "
            "that."
        )
    if any(hasattr(t, "full_tensor") for t in (*module.parameters(), *module.buffers())):
        module = _gathered(copied(module))
    for name, layer in module.named_modules():
        if isinstance(layer, torch.jit.ScriptModule):
            which = f"the layer {name!r}" if name else "the module"
            raise InputError(
                f"torch_module: {which} is TorchScript, in which the kinds of layers can't be seen: pass the module "
                "that it was scripted or traced from."
            )
    for name, parameter in module.named_parameters():
        if isinstance(parameter, nn.parameter.UninitializedParameter):
            raise InputError(
                f"torch_module: {name!r} of a lazy layer has no shape yet: call the module on an input once before."
            )
    return module


def copied(module: nn.Module, sharing: bool = False) -> nn.Module:
    """Copy a module, with tensors that are computed from parameters, such as those of weight_norm.

    `sharing`: whether the copy's parameters share their memory with the module's; its gradients and buffers never do.
    """
    memo: dict[int, Any] = {}
    for parameter in module.parameters() if sharing else ():
        if type(parameter) is nn.Parameter:
            memo[id(parameter)] = nn.Parameter(parameter.detach(), parameter.requires_grad)
    for layer in module.modules():
        for held in (vars(layer), layer._buffers):
            for value in held.values():
                if isinstance(value, torch.Tensor) and not value.is_leaf:
                    memo[id(value)] = value.detach().clone()
    return copy.deepcopy(module, memo)


def recast(module: nn.Module, dtype: str) -> nn.Module:
    """Convert a module's floats to `dtype` and its complex numbers to the complex dtype of twice the size, in place;
    to "as run" nothing."""
    if dtype == "as run":
        return module
    dtype = STORED.get(dtype, dtype)

    def one(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.is_complex():
            return tensor.to(_COMPLEX.get(dtype, tensor.dtype))
        return tensor.to(getattr(torch, dtype)) if tensor.is_floating_point() else tensor

    return module._apply(one)


def entries(module: nn.Module) -> dict[str, Entry]:
    """Return every parameter and every buffer of the module by name, each tensor once."""
    found: dict[str, Entry] = {}
    layers = dict(module.named_modules())
    for named in (module.named_parameters(), module.named_buffers()):
        for name, tensor in named:
            parent, _, leaf = name.rpartition(".")
            owner, parametrized, tensors = parent.rpartition("parametrizations.")
            if parametrized and leaf in _PARAMETRIZED:  # the layer's own tensor stands behind a parametrization
                parent, leaf = owner.removesuffix("."), f"{tensors}{_PARAMETRIZED[leaf]}"
            found.setdefault(name, Entry(tensor, slice(None), layers[parent], leaf))
    return found


def entry(module: nn.Module, name: str, every: Mapping[str, Entry] | None = None) -> Entry:
    """Return a tensor by its name, or some rows of it, as in `rnn.weight_ih_l0[0:8]`.

    Raises:
        KeyError: If there is no such tensor.
    """
    every = entries(module) if every is None else every
    if (match := _SLICE.fullmatch(name)) is None:
        return every[name]
    whole = every[match[1]]
    return whole._replace(rows=slice(int(match[2]), int(match[3])))


def whole(name: str) -> str:
    """Return the name of the tensor, of which `name` may be some rows."""
    match = _SLICE.fullmatch(name)
    return match[1] if match else name


def rows(name: str) -> int:
    """Return the first row of the tensor that `name` means."""
    match = _SLICE.fullmatch(name)
    return int(match[2]) if match else 0


def persistent(module: nn.Module) -> set[str]:
    """Return the names of the buffers that a state dict has."""
    saved = module.state_dict(keep_vars=True)
    return {name for name, _ in module.named_buffers() if name in saved}


def counts_batches(name: str, layer: nn.Module) -> bool:
    """Return whether the buffer counts a normalization's batches, which Flax does not count and nothing reads."""
    return name.endswith("num_batches_tracked") and getattr(layer, "momentum", None) is not None


def called(module: nn.Module, arguments: tuple[Sequence[Any], Mapping[str, Any]]) -> Any:
    """Call the module with torch's generator at the same seed each time, and leave the generator as it was."""
    with torch.random.fork_rng():
        begin_call()
        positional, keywords = arguments
        return module(*positional, **keywords)


def _gathered(module: nn.Module) -> nn.Module:
    """Replace the tensors of a module that are shared among devices by whole ones, and drop what a plan of
    `parallelize_module` does to share its inputs and outputs."""
    for layer in module.modules():
        for hooks in (layer._forward_pre_hooks, layer._forward_hooks):
            for number in [i for i, hook in hooks.items() if _shares(hook)]:
                del hooks[number]
        for name, tensor in (*layer.named_parameters(recurse=False), *layer.named_buffers(recurse=False)):
            if hasattr(tensor, "full_tensor"):
                whole = tensor.detach().full_tensor()  # type: ignore[attr-defined]
                held = nn.Parameter(whole, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else whole
                setattr(layer, name, held)
    return module


def _shares(hook: Any) -> bool:
    return str(getattr(hook, "__module__", "")).startswith("torch.distributed.tensor")


def begin_call() -> None:
    """Seed torch's generators with 0, and begin with the first of the masks that are shared."""
    masks.begin("torch")
    if torch.accelerator.is_available():
        torch.manual_seed(0)
    else:  # torch.manual_seed notes each call and its stack, for a GPU that is found later
        torch.default_generator.manual_seed(0)


def same_parameters(one: nn.Module, other: nn.Module) -> bool:
    """Return whether the parameters of a module and of a copy of it are the same."""
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return all(torch.equal(ours, theirs) for ours, theirs in pairs)


def perturbed(module: nn.Module, change: Callable[[np.ndarray], np.ndarray]) -> nn.Module:
    """Copy the module with each of its float tensors changed."""
    every = {name: held.numpy() for name, held in entries(module).items()}
    return changed(module, {name: change(array) for name, array in every.items() if array.dtype.kind in "fc"})


def changed(module: nn.Module, numbers: Mapping[str, np.ndarray]) -> nn.Module:
    """Copy the module with other numbers in some of its tensors, by name.

    The other parameters share their memory with the module's, and those that change with the given arrays.
    """
    module = copied(module, sharing=True)
    every = entries(module)
    in_part = {whole(name) for name in numbers if name not in every}
    with torch.no_grad():
        for name in in_part:
            every[name].tensor.data = every[name].tensor.data.clone()
        for name, array in numbers.items():
            held, values = entry(module, name, every), tensor(array)
            if name in every and type(held.tensor) is nn.Parameter:
                held.tensor.data = values.to(held.tensor).contiguous()
            else:
                held.value.copy_(values)
    return module


def tensor(array: np.ndarray) -> torch.Tensor:
    """Return a tensor of the array's numbers, to be read only; it shares their memory where torch can."""
    if array.dtype.name == "bfloat16":
        return tensor(array.view(np.int16)).view(torch.bfloat16)
    shared = array.flags.writeable and all(stride >= 0 for stride in array.strides)
    return torch.as_tensor(array if shared else array.copy())


def numpy(tensor: torch.Tensor) -> np.ndarray:
    """Return a tensor's numbers; of bfloat16, which numpy has not, in float32."""
    wide = tensor.detach().float() if tensor.dtype == torch.bfloat16 else tensor.detach()
    return wide.resolve_conj().resolve_neg().numpy(force=True)
