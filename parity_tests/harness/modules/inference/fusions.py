"""Pair one matrix that holds several side by side with the several, by the names of the layers."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from math import prod
from typing import NamedTuple

import numpy as np
from torch import nn

from parity_tests.harness.modules.inference.pieces import Arrangement, Pair
from parity_tests.harness.modules.inference.words import fused, numbers, place, word
from parity_tests.harness.modules.joining.joints import Shape, concatenated
from parity_tests.harness.modules.joining.links import as_one, in_parts
from parity_tests.harness.modules.torch_state import Entry, entries
from parity_tests.harness.modules.transforms import layout

Orders = Callable[[], tuple[list[str], list[str]]] | None
_LEAVES = {"kernel": "weight", "bias": "bias"}


class _Holder(NamedTuple):
    """A module that holds some matrices: in one layer, in a layer for each, or as torch's own attention does."""

    parent: str
    own: str
    """The name of the one layer; empty where it has several."""
    parts: tuple[str, ...] = ()
    """The names of the several."""

    @property
    def layer(self) -> tuple[str, str]:
        return self.parent, self.own


def fusions(shapes: Mapping[str, Shape], module: nn.Module, orders: Orders = None) -> Arrangement:
    """Pair layers such as `qkv`, `c_attn` or `gate_up_proj` with the several layers that do the same.

    Args:
        shapes: The shapes of the JAX arrays, by path.
        module: The torch module.
        orders: Returns the layers of both models in the order of their calls.

    Returns:
        The pairs and links; empty where no name lists the parts, or they don't fit.
    """
    every = entries(module)
    in_jax, in_torch = _layers(shapes, "/"), _layers(every, ".")
    own = [
        name
        for name, layer in module.named_modules()
        if isinstance(layer, nn.MultiheadAttention) and layer.in_proj_weight is not None
    ]
    found = Arrangement()
    for words in dict.fromkeys(words for _, name in (*in_jax, *in_torch) if (words := fused(name))):
        attention = own if words == fused("qkv") else []
        theirs = [*_holders(in_torch, words), *(_Holder(name, "") for name in attention)]
        for mine, other in _partners(_holders(in_jax, words), theirs, orders):
            if mine.own and other.parent in attention:
                found += _attention(mine, in_jax[mine.layer], module.get_submodule(other.parent), other.parent, shapes)
            elif mine.own and other.parts:
                found += _one_to_many(mine, in_jax[mine.layer], other, shapes, every)
            elif mine.parts and other.own:
                found += _many_to_one(mine, other, in_torch[other.layer], shapes, every)
    return found


def _holders(layers: Mapping[tuple[str, str], set[str]], words: tuple[str, ...]) -> list[_Holder]:
    """Return the modules of one framework that hold matrices of these meanings."""
    held = [_Holder(parent, own) for parent, own in layers if fused(own) == words]
    parents = dict.fromkeys(parent for parent, _ in layers)
    return held + [_Holder(at, "", parts) for at in parents if (parts := _parts(layers, at, words))]


def _partners(
    in_jax: Sequence[_Holder], in_torch: Sequence[_Holder], orders: Orders
) -> Iterator[tuple[_Holder, _Holder]]:
    """Pair the modules in the same place; of the others those of the same numbers, or else in the order of calls."""
    same = [(one, other) for one in in_jax for other in in_torch if place(one.parent) == place(other.parent)]
    yield from same
    left = [one for one in in_jax if not any(one is mine for mine, _ in same)]
    rivals = [other for other in in_torch if not any(other is theirs for _, theirs in same)]
    numbered = {numbers(other.parent): other for other in rivals}
    if len(numbered) == len(rivals) and sorted(numbered) == sorted(numbers(one.parent) for one in left):
        yield from ((one, numbered[numbers(one.parent)]) for one in left)
    elif len(left) == len(rivals) and (len(left) == 1 or orders):
        called = orders() if orders else ([], [])
        left.sort(key=lambda one: _turn(called[0], one.parent))
        rivals.sort(key=lambda other: _turn(called[1], other.parent))
        yield from zip(left, rivals, strict=True)


def _turn(sequence: Sequence[str], parent: str) -> int:
    """Return the place of a module's first layer in the order of calls."""
    dotted = parent.replace("/", ".")
    called = (i for i, label in enumerate(sequence) if not dotted or label.startswith(f"{dotted}."))
    return next(called, len(sequence))


def _layers(names: Mapping[str, object], mark: str) -> dict[tuple[str, str], set[str]]:
    """Return the leaves of each layer, by the name of its parent and its own."""
    found: dict[tuple[str, str], set[str]] = {}
    for name in names:
        layer, _, leaf = name.rpartition(mark)
        parent, _, own = layer.rpartition(mark)
        found.setdefault((parent, own), set()).add(leaf)
    return found


def _parts(layers: Mapping[tuple[str, str], set[str]], parent: str, words: tuple[str, ...]) -> tuple[str, ...]:
    """Return the parent's layers with these meanings, in this order; empty if there aren't one of each."""
    held = [[own for at, own in layers if at == parent and word(own) == meaning] for meaning in words]
    return tuple(names[0] for names in held) if all(len(names) == 1 for names in held) else ()


def _in_jax(held: Entry, name: str, torch_shape: Shape) -> Shape:
    return layout(held.layer, name, torch_shape).to_jax(np.empty(torch_shape)).shape


def _many_to_one(
    mine: _Holder, theirs: _Holder, leaves: set[str], shapes: Mapping[str, Shape], every: Mapping[str, Entry]
) -> Arrangement:
    pairs, links = [], []
    for leaf, other in _LEAVES.items():
        paths = [f"{mine.parent}/{part}/{leaf}".lstrip("/") for part in mine.parts]
        if other not in leaves or any(path not in shapes for path in paths):
            continue
        held = every[name := f"{theirs.parent}.{theirs.own}.{other}".lstrip(".")]
        shape = _in_jax(held, other, tuple(held.tensor.shape))
        given = [shapes[path] for path in paths]
        first = {one[: len(shape) - 1] for one in given}
        if sum(map(prod, given)) != prod(shape) or first != {shape[:-1]}:
            return Arrangement()
        part = f"{mine.parent}/{{{','.join(mine.parts)}}}/{leaf}".lstrip("/")
        links.append(as_one(paths, given, part, shape, concatenated()))
        pairs.append(Pair(part, name, layout(held.layer, other, tuple(held.tensor.shape), shape)))
    return Arrangement(tuple(pairs), tuple(links))


def _one_to_many(
    mine: _Holder, leaves: set[str], theirs: _Holder, shapes: Mapping[str, Shape], every: Mapping[str, Entry]
) -> Arrangement:
    pairs, links = [], []
    for leaf, other in _LEAVES.items():
        names = [f"{theirs.parent}.{part}.{other}".lstrip(".") for part in theirs.parts]
        if leaf not in leaves or any(name not in every for name in names):
            continue
        held = [every[name] for name in names]
        given = [_in_jax(one, other, tuple(one.tensor.shape)) for one in held]
        path = f"{mine.parent}/{mine.own}/{leaf}".lstrip("/")
        if sum(map(prod, given)) != prod(shapes[path]) or len({one[:-1] for one in given}) > 1:
            return Arrangement()
        link = in_parts(path, shapes[path], given, concatenated())
        links.append(link)
        pairs += [
            Pair(part, name, layout(one.layer, other, tuple(one.tensor.shape), shape))
            for part, name, one, shape in zip(link.parts, names, held, given, strict=True)
        ]
    return Arrangement(tuple(pairs), tuple(links))


def _attention(
    mine: _Holder, leaves: set[str], layer: nn.Module, name: str, shapes: Mapping[str, Shape]
) -> Arrangement:
    """Pair a fused layer with torch's own attention, which holds the three in one tensor too."""
    pairs = []
    for leaf, other in (("kernel", "in_proj_weight"), ("bias", "in_proj_bias")):
        path, tensor = f"{mine.parent}/{mine.own}/{leaf}".lstrip("/"), getattr(layer, other)
        if leaf in leaves and tensor is not None:
            if prod(shapes[path]) != tensor.numel():
                return Arrangement()
            transform = layout(layer, other, tuple(tensor.shape), shapes[path])
            pairs.append(Pair(path, f"{name}.{other}".lstrip("."), transform))
    return Arrangement(tuple(pairs))
