"""Pair tensors that are tied in one framework alone, as an embedding and the output layer often are."""

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import nn

from parity_tests.harness.modules.inference.pieces import Arrangement, Pair
from parity_tests.harness.modules.joining.joints import Shape
from parity_tests.harness.modules.joining.links import tied_to_first
from parity_tests.harness.modules.torch_state import copied, entries, whole


def untied(module: nn.Module) -> tuple[nn.Module, dict[str, str]]:
    """Return a copy whose tied parameters are apart, and the first name of each that was tied, by its other names."""
    first: dict[int, str] = {}
    other = {}
    for name, tensor in module.named_parameters(remove_duplicate=False):
        if (known := first.setdefault(id(tensor), name)) != name:
            other[name] = known
    if not other:
        return module, {}
    apart = copied(module, sharing=True)
    seen: set[int] = set()
    for name, layer in [*apart.named_modules(remove_duplicate=False)]:
        if id(layer) in seen and not any(layer.buffers()):  # a whole layer under two names
            parent, _, own = name.rpartition(".")
            setattr(apart.get_submodule(parent), own, copied(layer))
        seen.add(id(layer))
    for name in other:
        layer, _, leaf = name.rpartition(".")
        held = getattr(apart.get_submodule(layer), leaf)
        setattr(apart.get_submodule(layer), leaf, nn.Parameter(held.detach().clone(), held.requires_grad))
    return apart, other


def tied(module: nn.Module, names: Mapping[str, str]) -> nn.Module:
    """Make parameters of a module one with others, in place."""
    for name, first in names.items():
        (layer, _, leaf), (other, _, its) = name.rpartition("."), first.rpartition(".")
        setattr(module.get_submodule(layer), leaf, getattr(module.get_submodule(other), its))
    return module


def in_torch_alone(pairs: Sequence[Pair], shapes: Mapping[str, Shape], other: Mapping[str, str]) -> Arrangement:
    """Return the arrangement of pairs whose tensors are tied in torch, of which `other` has the first names."""
    groups: dict[str, list[Pair]] = {}
    for pair in pairs:
        groups.setdefault(other.get(pair.name, pair.name), []).append(pair)
    alone, links = [], []
    for name, group in groups.items():
        if len(group) == 1:
            alone.append(group[0]._replace(name=name))
            continue
        first = next(pair for pair in group if pair.name == name)
        turned = [first, *(pair for pair in group if pair is not first)]
        paths = [pair.path for pair in turned]
        links.append(tied_to_first(paths, [shapes[path] for path in paths], [pair.transform for pair in turned]))
        alone.append(first._replace(path=links[-1].parts[0]))
    return Arrangement(tuple(alone), tuple(links))


def in_jax_alone(module: nn.Module, taken: Collection[str]) -> dict[str, str]:
    """Find the tensors without a pair that hold the numbers of a paired one, or that are the output layer of the only
    embedding of their shape.

    Args:
        module: The torch module.
        taken: The names that are paired, ignored, or otherwise known.

    Returns:
        For each such tensor the name of the one that it is tied with in JAX.
    """
    every = entries(module)
    taken = {whole(name) for name in taken}
    parameters = [name for name, _ in module.named_parameters()]
    found = {}
    for name in parameters:
        tensor = every[name].tensor
        if name in taken or tensor.ndim < 2:
            continue
        alike = [other for other in parameters if other in taken and every[other].tensor.shape == tensor.shape]
        constant = bool((tensor == tensor.flatten()[0]).all())  # as many a last kernel is, of zeros
        equal = [other for other in alike if torch.equal(every[other].tensor, tensor) and not constant]
        tables = [other for other in alike if isinstance(every[other].layer, nn.Embedding)]
        chosen = equal if len(equal) == 1 else tables if isinstance(every[name].layer, nn.Linear) else []
        if len(chosen) == 1:
            found[name] = chosen[0]
    for name in parameters:  # the bias beside a matrix that is tied
        layer, _, leaf = name.rpartition(".")
        first = found.get(f"{layer}.weight", "").rpartition(".")[0]
        other = f"{first}.{leaf}"
        left = first and name not in taken and name not in found and other in taken
        if left and torch.equal(every[name].tensor, every[other].tensor):
            found[name] = other
    return found
