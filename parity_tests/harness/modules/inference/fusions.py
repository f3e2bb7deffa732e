"""Pair one matrix that holds several side by side with the several, by the names of the layers."""

from collections.abc import Callable, Mapping, Sequence
from math import prod

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
    found = Arrangement()
    fused_in_torch = [key for key in in_torch if fused(key[1]) and key not in _same(in_jax, *key)]
    turned = orders and (lambda: (orders()[1], orders()[0]))
    for (parent, own), chosen in _partners(fused_in_torch, in_jax, turned).items():
        words = fused(own)
        layer, leaves = f"{parent}.{own}".lstrip("."), in_torch[parent, own]
        found += _many_to_one(chosen, words, _parts(in_jax, chosen, words), layer, leaves, shapes, every)
    fused_in_jax = [key for key in in_jax if fused(key[1])]
    for parent, own in fused_in_jax:
        found += _attention(parent, own, in_jax[parent, own], fused(own), module, shapes)
    fused_in_jax = [key for key in fused_in_jax if "/".join(key).lstrip("/") + "/kernel" not in found.paths]
    for (parent, own), chosen in _partners(fused_in_jax, in_torch, orders).items():
        layer, leaves = f"{parent}/{own}".lstrip("/"), in_jax[parent, own]
        found += _one_to_many(layer, leaves, _parts(in_torch, chosen, fused(own)), chosen, shapes, every)
    return found


def _partners(
    fused_layers: Sequence[tuple[str, str]], others: Mapping[tuple[str, str], set[str]], orders: Orders
) -> dict[tuple[str, str], str]:
    """Return the module of the other framework that holds the parts of each fused layer: the one in the same place,
    of the same number, or whose turn of being called it is.

    Args:
        fused_layers: The parent and the own name of each fused layer of one framework.
        others: The layers of the other framework.
        orders: Returns the layers of both frameworks, the first's first, in the order of their calls.
    """
    found: dict[tuple[str, str], str] = {}
    for words in dict.fromkeys(fused(own) for _, own in fused_layers):
        left = [key for key in fused_layers if fused(key[1]) == words]
        rivals = [at for at in dict.fromkeys(at for at, _ in others) if _parts(others, at, words)]
        for key in left:
            same = [at for at in rivals if place(at) == place(key[0])]
            if same:
                found[key] = same[0]
        left = [key for key in left if key not in found]
        rivals = [at for at in rivals if at not in found.values()]
        numbered = {numbers(at): at for at in rivals}
        if len(numbered) == len(left) and {numbers(at) for at, _ in left} == {*numbered}:
            found |= {key: numbered[numbers(key[0])] for key in left}
        elif len(left) == len(rivals) and (len(left) == 1 or orders):
            ours, theirs = orders() if orders else ([], [])
            left.sort(key=lambda key: _turn(ours, key[0]))
            rivals.sort(key=lambda at: _turn(theirs, at))
            found |= dict(zip(left, rivals, strict=True))
    return found


def _turn(sequence: Sequence[str], parent: str) -> int:
    """Return the place of a module's first layer in the order of calls."""
    dotted = parent.replace("/", ".")
    called = (i for i, label in enumerate(sequence) if not dotted or label.startswith(f"{dotted}."))
    return next(called, len(sequence))


def _same(layers: Mapping[tuple[str, str], set[str]], parent: str, own: str) -> set[tuple[str, str]]:
    return {(parent, own) for at, name in layers if name == own and place(at) == place(parent)}


def _layers(names: Mapping[str, object], mark: str) -> dict[tuple[str, str], set[str]]:
    """Return the leaves of each layer, by the name of its parent and its own."""
    found: dict[tuple[str, str], set[str]] = {}
    for name in names:
        layer, _, leaf = name.rpartition(mark)
        parent, _, own = layer.rpartition(mark)
        found.setdefault((parent, own), set()).add(leaf)
    return found


def _parts(layers: Mapping[tuple[str, str], set[str]], parent: str, words: tuple[str, ...]) -> list[str]:
    """Return the parent's layers with these meanings, in this order; empty if there aren't one of each."""
    held = [[own for at, own in layers if at == parent and word(own) == meaning] for meaning in words]
    return [names[0] for names in held] if all(len(names) == 1 for names in held) else []


def _matching(parent: str, rivals: Mapping[str, object]) -> str | None:
    """Return the module of the other framework that is in the same place: of the same name, or the same number."""
    for key in (place, numbers):
        same = [at for at in rivals if key(at) == key(parent)]
        if len(same) == 1:
            return same[0]
    return None


def _in_jax(held: Entry, name: str, torch_shape: Shape) -> Shape:
    return layout(held.layer, name, torch_shape).to_jax(np.empty(torch_shape)).shape


def _many_to_one(
    parent: str, words: tuple[str, ...], parts: list[str], layer: str, leaves: set[str],
    shapes: Mapping[str, Shape], every: Mapping[str, Entry],
) -> Arrangement:  # fmt: skip
    pairs, links = [], []
    for mine, other in _LEAVES.items():
        paths = [f"{parent}/{part}/{mine}".lstrip("/") for part in parts]
        if other not in leaves or any(path not in shapes for path in paths):
            continue
        held = every[name := f"{layer}.{other}"]
        shape = _in_jax(held, other, tuple(held.tensor.shape))
        given = [shapes[path] for path in paths]
        first = {one[: len(shape) - 1] for one in given}
        if sum(map(prod, given)) != prod(shape) or first != {shape[:-1]}:
            return Arrangement()
        link = as_one(paths, given, f"{parent}/{{{','.join(parts)}}}/{mine}".lstrip("/"), shape, concatenated())
        links.append(link)
        pairs.append(Pair(link.parts[0], name, layout(held.layer, other, tuple(held.tensor.shape), shape)))
    return Arrangement(tuple(pairs), tuple(links))


def _one_to_many(
    layer: str, leaves: set[str], parts: list[str], parent: str,
    shapes: Mapping[str, Shape], every: Mapping[str, Entry],
) -> Arrangement:  # fmt: skip
    pairs, links = [], []
    for mine, other in _LEAVES.items():
        names = [f"{parent}.{part}.{other}".lstrip(".") for part in parts]
        if mine not in leaves or any(name not in every for name in names):
            continue
        held = [every[name] for name in names]
        given = [_in_jax(one, other, tuple(one.tensor.shape)) for one in held]
        path = f"{layer}/{mine}"
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
    parent: str, own: str, leaves: set[str], words: tuple[str, ...], module: nn.Module, shapes: Mapping[str, Shape]
) -> Arrangement:
    """Pair a fused layer with torch's own attention, which holds the three in one tensor too."""
    if words != fused("qkv"):
        return Arrangement()
    rivals = {n: layer for n, layer in module.named_modules() if isinstance(layer, nn.MultiheadAttention)}
    chosen = _matching(parent, rivals)
    if chosen is None or rivals[chosen].in_proj_weight is None:
        return Arrangement()
    pairs = []
    for leaf, name in (("kernel", "in_proj_weight"), ("bias", "in_proj_bias")):
        path, tensor = f"{parent}/{own}/{leaf}".lstrip("/"), getattr(rivals[chosen], name)
        if leaf in leaves and tensor is not None:
            if prod(shapes[path]) != tensor.numel():
                return Arrangement()
            transform = layout(rivals[chosen], name, tuple(tensor.shape), shapes[path])
            pairs.append(Pair(path, f"{chosen}.{name}".lstrip("."), transform))
    return Arrangement(tuple(pairs))
