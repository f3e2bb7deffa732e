"""Pair arrays with tensors by name, by kind of layer and shape, and by the order in which layers are called."""

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from math import prod

import numpy as np
from torch import nn

from jaxvae.shared.errors import InputError
from parity_tests.harness.modules.inference.words import ATTENTION, numbers, word
from parity_tests.harness.modules.torch_state import Entry, counts_batches, entries, persistent
from parity_tests.harness.modules.transforms import layout

Shapes = Mapping[str, tuple[int, ...]]
Leaves = dict[str, tuple[int, ...]]
_LEAVES = {"kernel": "weight", "scale": "weight", "embedding": "weight", "mean": "running_mean", "var": "running_var"}
_LEAVES |= {"negative_slope": "weight"}
_QUERY_KEY_VALUE = ("query", "key", "value")


def infer(
    shapes: Shapes,
    module: nn.Module,
    state: Collection[str],
    orders: Callable[[], tuple[list[str], list[str]]] | None,
    ignored: Collection[str] = (),
) -> Iterator[tuple[str, str, bool]]:
    """Yield the pairs of paths and names that are certain, and whether the order of calls told them from others; names
    that are ignored are in none.

    Raises:
        InputError: If several pairs are possible.
    """
    tensors = {id(held.tensor) for name, held in entries(module).items() if name in ignored}
    held = {_plain(name, ignored): one for name, one in _named(module).items() if id(one.tensor) not in tensors}
    left = dict.fromkeys(held)
    spelled = {_spelling(name): name for name in reversed(left)}
    unnamed: dict[str, Leaves] = {}  # JAX layers without a match by name: shapes by leaf
    for path, shape in shapes.items():
        layer, _, leaf = path.rpartition("/")
        parent = layer.replace("/", ".")
        names = [f"{parent}.{n}".lstrip(".") for n in (leaf, _LEAVES.get(leaf, leaf))]
        names += [spelled.get(_spelling(name), "") for name in names]
        if name := next((name for name in names if name in left), None):
            left.pop(name)
            yield path, _real(module, name, held), False
        else:
            unnamed.setdefault(layer, {})[leaf] = shape
    unfilled: dict[str, dict[str, str]] = {}  # torch layers: names by Flax leaf
    for name in left:
        parent, _, leaf = name.rpartition(".")
        unfilled.setdefault(parent, {})[_flax_leaf(held[name].layer, leaf)] = name
    yield from _by_kind(module, held, unnamed, unfilled, state, orders)


def left_over(shapes: Shapes, module: nn.Module, taken: Collection[str]) -> dict[str, str]:
    """Pair the state that has no pair yet with the buffers that have none, by name and shape.

    Raises:
        InputError: If an array could be several buffers.
    """
    every = entries(module)
    buffers = {
        name: tuple(every[name].tensor.shape)
        for name, tensor in module.named_buffers()
        if name not in taken and not counts_batches(name, every[name].layer) and name in every
    }
    pairs: dict[str, str] = {}
    for path, shape in shapes.items():
        layer, _, leaf = path.rpartition("/")
        spellings = {_spelling(f"{layer}.{n}".lstrip(".")) for n in (leaf, _LEAVES.get(leaf, leaf))}
        same = [name for name, other in buffers.items() if other == shape and name not in pairs.values()]
        named = [name for name in same if _spelling(name) in spellings]
        rivals = [other for other, its in shapes.items() if its == shape and other not in pairs]
        if len(named) == 1:
            pairs[path] = named[0]
        elif len(same) == len(rivals) == 1:
            pairs[path] = same[0]
        elif same and rivals:
            raise InputError(
                f"mapping: the state {_list(rivals)} of the JAX model could be any of the buffers {_list(same)} of the "
                "torch module: give pairs for them."
            )
    return pairs


def _by_kind(
    module: nn.Module,
    held: Mapping[str, Entry],
    unnamed: Mapping[str, Leaves],
    unfilled: Mapping[str, dict[str, str]],
    state: Collection[str],
    orders: Callable[[], tuple[list[str], list[str]]] | None,
) -> Iterator[tuple[str, str, bool]]:
    sequence: tuple[list[str], list[str]] | None = None
    for layer, arrays in unnamed.items():
        candidates = [p for p, names in unfilled.items() if _fits(arrays, names, held)]
        rivals, by_calls = [other for other in unnamed if unnamed[other] == arrays], False
        if len(candidates) == len(rivals) == 1:
            chosen = candidates[0]
        elif not candidates:
            continue
        elif len(named := _by_word(layer, rivals, candidates, (unnamed, unfilled))) == 1:
            chosen = named[0]
        else:
            candidates = named or candidates
            rivals = [r for r in rivals if _own(r) == _own(layer)] if named else rivals
            sequence = orders() if sequence is None and orders is not None else sequence
            ordered = _ordered(sequence, rivals, candidates)
            if layer not in ordered:
                if all(f"{layer}/{leaf}".lstrip("/") in state for leaf in arrays):
                    continue
                raise InputError(
                    f"mapping: by name, kind and shape the JAX layers {_list(rivals)} could each be any of "
                    f"{_list(candidates)} in the torch module: give pairs for them, "
                    "as in {'conv1/kernel': 'conv1.weight'}."
                )
            chosen, by_calls = ordered[layer], True
        for leaf in arrays:
            yield f"{layer}/{leaf}".lstrip("/"), _real(module, unfilled[chosen][leaf], held), by_calls


def _by_word(
    layer: str, rivals: list[str], candidates: list[str], every: tuple[Collection[str], Collection[str]]
) -> list[str]:
    """Return the candidates whose own name has the layer's meaning, if it tells them from others: the one in the place
    of the same number, if all layers of this meaning in both models, which are `every`, have the same numbers; or all
    of them."""
    mine, own = _own(layer), layer.rpartition("/")[2]
    literal = [c for c in candidates if c.rpartition(".")[2] == own and not re.search(r"\d", own)]
    named = literal or [c for c in candidates if mine in ATTENTION and _own(c) == mine]
    places = [sorted(_numbers(other) for other in layers if _own(other) == mine) for layers in every]
    same = [c for c in named if _numbers(c) == _numbers(layer)]
    if len(same) == 1 and places[0] == places[1] and len({*places[0]}) == len(places[0]):
        return same
    alike = [other for other in rivals if _own(other) == mine]
    return named if len(named) == len(alike) else []


def _numbers(layer: str) -> tuple[int, ...]:
    return numbers(re.split(r"[./](?=[^./]*$)", layer)[0] if re.search(r"[./]", layer) else "")


def _own(layer: str) -> str:
    return word(re.split(r"[./]", layer)[-1])


def _ordered(sequence: tuple[list[str], list[str]] | None, rivals: list[str], candidates: list[str]) -> dict[str, str]:
    """Pair layers of the same kind and shape in the order of their calls; empty if some are not called once."""
    if sequence is None or len(rivals) != len(candidates):
        return {}
    in_jax = _called([name.replace(".", "/") for name in sequence[0]], rivals, "/")
    in_torch = _called(sequence[1], candidates, ".")
    if len(in_jax) != len(rivals) or len(in_torch) != len(candidates):
        return {}
    return dict(zip(in_jax, in_torch, strict=True))


def _called(sequence: list[str], layers: list[str], mark: str) -> list[str]:
    """Return the layers in the order of their calls; a layer without calls of its own, as those of torch's attention,
    in that of its parent, if it is the parent's only one."""
    known = set(sequence)
    parents = {layer.rpartition(mark)[0]: layer for layer in layers if layer not in known}
    return [n for n in dict.fromkeys(parents.get(name, name) for name in sequence) if n in layers]


def _plain(name: str, ignored: Collection[str]) -> str:
    """Return the name that the direction of a weight normalization had without it, where its size is known already."""
    for direction, size in ((".original1", ".original0"), ("_v", "_g")):
        if name.endswith(direction) and name.removesuffix(direction) + size in ignored:
            return name.removesuffix(direction).replace(".parametrizations.", ".").removeprefix("parametrizations.")
    return name


def _named(module: nn.Module) -> dict[str, Entry]:
    """Return the tensors by name; the packed projections of attention are three, named as Flax names them."""
    saved, buffers = persistent(module), {name for name, _ in module.named_buffers()}
    found: dict[str, Entry] = {}
    for name, held in entries(module).items():
        if name in buffers and (name not in saved or counts_batches(name, held.layer)):
            continue
        parent, _, leaf = name.rpartition(".")
        prefix = f"{parent}." if parent else ""
        if isinstance(held.layer, nn.MultiheadAttention) and leaf in ("in_proj_weight", "in_proj_bias"):
            size = len(held.tensor) // 3
            for i, part in enumerate(_QUERY_KEY_VALUE):
                rows = slice(i * size, (i + 1) * size)
                found[f"{prefix}{part}.{leaf.removeprefix('in_proj_')}"] = held._replace(rows=rows)
        elif isinstance(held.layer, nn.MultiheadAttention) and leaf in (
            "q_proj_weight",
            "k_proj_weight",
            "v_proj_weight",
        ):
            found[f"{prefix}{_QUERY_KEY_VALUE['qkv'.index(leaf[0])]}.weight"] = held
        elif type(held.layer).__name__ == "NonDynamicallyQuantizableLinear":  # attention's own output layer
            found[f"{prefix.removesuffix('out_proj.')}out.{leaf}"] = held
        else:
            found[name] = held
    return found


def _real(module: nn.Module, name: str, held: Mapping[str, Entry]) -> str:
    """Return the torch module's own name, with its rows, of a name of `_named`."""
    mine = held[name]
    real = next(n for n, e in entries(module).items() if e.tensor is mine.tensor)
    return real if mine.rows == slice(None) else f"{real}[{mine.rows.start}:{mine.rows.stop}]"


def _spelling(name: str) -> tuple[str, ...]:
    """Return the words of a name: `layers_0/kernel`, `layers.0.weight` and `layers[0].weight` are one."""
    words = [word for word in re.split(r"[._/\[\]]+", name) if word]
    return (*words[:-1], _LEAVES.get(words[-1], words[-1])) if words else ()


def _fits(arrays: Leaves, names: Mapping[str, str], held: Mapping[str, Entry]) -> bool:
    """Return whether the JAX layer has the arrays of the torch layer, in Flax's layout."""
    if arrays.keys() != names.keys():
        return False
    for leaf, shape in arrays.items():
        tensor = held[names[leaf]]
        torch_shape = tuple(tensor.value.shape)
        if prod(torch_shape) != prod(shape):
            return False
        transform = layout(tensor.layer, tensor.leaf, torch_shape, shape)
        if transform.to_jax(np.empty(torch_shape)).shape != shape:
            return False
    return True


def _flax_leaf(layer: nn.Module, leaf: str) -> str:
    if leaf == "weight":
        if isinstance(layer, nn.Linear | nn.modules.conv._ConvNd | nn.MultiheadAttention):
            return "kernel"
        if isinstance(layer, nn.PReLU):
            return "negative_slope"
        return "embedding" if isinstance(layer, nn.Embedding) else "scale"
    return {"running_mean": "mean", "running_var": "var"}.get(leaf, leaf)


def _list(names) -> str:
    return ", ".join(map(repr, names)) or "none"
