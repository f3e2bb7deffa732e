"""Pair one matrix that holds several side by side with the several, by the names of the layers."""

from collections.abc import Mapping
from math import prod

import numpy as np
from torch import nn

from parity_tests.harness.modules.inference.pieces import Arrangement, Pair
from parity_tests.harness.modules.inference.words import fused, numbers, place, word
from parity_tests.harness.modules.joining.joints import Shape, concatenated
from parity_tests.harness.modules.joining.links import as_one, in_parts
from parity_tests.harness.modules.torch_state import Entry, entries
from parity_tests.harness.modules.transforms import layout

_LEAVES = {"kernel": "weight", "bias": "bias"}


def fusions(shapes: Mapping[str, Shape], module: nn.Module) -> Arrangement:
    """Pair layers such as `qkv`, `c_attn` or `gate_up_proj` with the several layers that do the same.

    Args:
        shapes: The shapes of the JAX arrays, by path.
        module: The torch module.

    Returns:
        The pairs and links; empty where no name lists the parts, or they don't fit.
    """
    every = entries(module)
    in_jax, in_torch = _layers(shapes, "/"), _layers(every, ".")
    found = Arrangement()
    for (parent, own), leaves in in_torch.items():
        if (words := fused(own)) and (parent, own) not in _same(in_jax, parent, own):
            rivals = {at: held for at in {at for at, _ in in_jax} if (held := _parts(in_jax, at, words))}
            if (chosen := _matching(parent, rivals)) is not None:
                found += _many_to_one(
                    chosen, words, rivals[chosen], f"{parent}.{own}".lstrip("."), leaves, shapes, every
                )
    for (parent, own), leaves in in_jax.items():
        if words := fused(own):
            found += _attention(parent, own, leaves, words, module, shapes)
            rivals = {at: held for at in {at for at, _ in in_torch} if (held := _parts(in_torch, at, words))}
            if (chosen := _matching(parent, rivals)) is not None:
                found += _one_to_many(f"{parent}/{own}".lstrip("/"), leaves, rivals[chosen], chosen, shapes, every)
    return found


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
