"""Other people's models as tables: what their tensors are called, and how they lie.

A table is rules, one for each layer or kind of layers. It goes both ways, and is total: a tensor without a place and a
place without a tensor are both errors."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np

from jaxvae.shared.config.networks import NETWORKS
from jaxvae.shared.config.parts import ModelSpec
from jaxvae.shared.config.spec import Spec
from jaxvae.shared.errors import InputError
from jaxvae.shared.model import layout

Shape = tuple[int, ...]
Laid = Literal["torch", "torch-hwc", "flax"]


class Rule(NamedTuple):
    """What the tensors of a layer are called there and here: `Rule("net.{2i}.*", "encoder.hidden.{i}.*")`.

    `{i}` counts the hidden layers of a network from 0, `{n}` is how many there are; either may be multiplied and moved,
    as in `{2i+1}` and `{n-1}`. A `*` stands for each tensor of the layer: weight, bias and so on, or Flax's kernel and
    its like. `first.* + second.*` here are the rows of one tensor there. Of two rules for the same, the later holds."""

    theirs: str
    ours: str
    """As in `layout.table` and the weight file."""
    laid: Laid = "torch"
    """`torch`: weights are [out, in], and images and convolutions are flattened as channel, height, width; `torch-hwc`:
    the same with images flattened as height, width, channel; `flax`: so too, and kernels are [in, out]."""


class Place(NamedTuple):
    """One of their tensors."""

    theirs: str
    ours: tuple[layout.Parameter, ...]
    """Ours whose rows, in PyTorch's layout, it holds one after another."""
    laid: Laid


def places(model: ModelSpec, rules: Sequence[Rule]) -> list[Place]:
    """Where each of the model's arrays is. Raises InputError for an array without a rule, and the reverse."""
    table, n, found = layout.table(model), len(model.hidden), {}
    for rule in rules:
        for i in range(n) if re.search(r"\{\d*i", rule.theirs + rule.ours) else [0]:
            theirs, ours = (_fill(pattern, i, n) for pattern in (rule.theirs, rule.ours))
            parts = [_matching(table, part) for part in ours.split(" + ")]
            if not all(parts):
                raise InputError(f"The rule for {rule.theirs} is of {ours}, which the model doesn't have.")
            for parameters in zip(*parts, strict=True):
                leaf = parameters[0].path[-1] if rule.laid == "flax" else parameters[0].name.rpartition(".")[2]
                found[parameters[0].name] = Place(theirs.replace("*", str(leaf)), parameters, rule.laid)
    covered = {parameter.name for place in found.values() for parameter in place.ours}
    if missing := [parameter.name for parameter in table if parameter.name not in covered]:
        raise InputError(f"The table has no rule for {', '.join(missing)}; add one for each.")
    theirs = [place.theirs for place in found.values()]
    if twice := sorted({name for name in theirs if theirs.count(name) > 1}):
        raise InputError(f"The table has {', '.join(twice)} in two places; give each tensor one.")
    return list(found.values())


def complaints(model: ModelSpec, rules: Sequence[Rule], shapes: Mapping[str, Shape]) -> list[str]:
    """What keeps tensors of these names and shapes from being the model's."""
    found = {place.theirs: _their_shape(place) for place in places(model, rules)}
    told = [f"it lacks {name} {list(shape)}" for name, shape in found.items() if name not in shapes]
    told += [f"it has {name} {list(shape)} without a place" for name, shape in shapes.items() if name not in found]
    return told + [
        f"{name} should be {list(shape)}, found {list(shapes[name])}"
        for name, shape in found.items()
        if name in shapes and shapes[name] != shape
    ]


def to_ours(spec: Spec, rules: Sequence[Rule], arrays: Mapping[str, np.ndarray], where: str) -> dict[str, np.ndarray]:
    """Their arrays under our names, in PyTorch's layout and the configuration's dtype. Raises InputError, naming each,
    if one is missing, extra or misshapen."""
    told = complaints(spec.model, rules, {name: array.shape for name, array in arrays.items()})
    if told:
        raise InputError(f"{where} doesn't fit the model: {'; '.join(told)}.")
    found = {}
    for place in places(spec.model, rules):
        array, start = arrays[place.theirs], 0
        if place.laid == "flax":
            array = layout.to_torch(place.ours[0], array)
        for parameter in place.ours:
            rows = array[start : start + parameter.shape[0]] if len(place.ours) > 1 else array
            start += rows.shape[0] if rows.ndim else 0
            for axis, order in _flattening(spec.model, parameter, place.laid):
                rows = np.take(rows, order, axis)
            found[parameter.name] = np.array(rows, spec.training.stored, order="C")
    return {parameter.name: found[parameter.name] for parameter in layout.table(spec.model)}


def to_theirs(spec: Spec, rules: Sequence[Rule], arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Our arrays under their names and in their layout, in the order of the rules."""
    found = {}
    for place in places(spec.model, rules):
        parts = []
        for parameter in place.ours:
            rows = arrays[parameter.name]
            for axis, order in _flattening(spec.model, parameter, place.laid):
                rows = np.take(rows, np.argsort(order), axis)
            parts.append(rows)
        array = np.concatenate(parts) if len(parts) > 1 else parts[0]
        found[place.theirs] = layout.to_flax(place.ours[0], array) if place.laid == "flax" else array
    return found


def _fill(pattern: str, i: int, n: int) -> str:
    def number(found: re.Match[str]) -> str:
        times, letter, more = found.groups()
        return str(int(times or 1) * {"i": i, "n": n}[letter] + int(more or 0))

    return re.sub(r"\{(\d*)([in])([+-]\d+)?\}", number, pattern)


def _matching(table: tuple[layout.Parameter, ...], pattern: str) -> list[layout.Parameter]:
    stem, star, _ = pattern.partition("*")
    return [p for p in table if (p.name.rpartition(".")[0] + "." == stem if star else p.name == pattern)]


def _their_shape(place: Place) -> Shape:
    first = place.ours[0]
    if place.laid == "flax":
        return first.flax_shape
    return (sum(p.shape[0] for p in place.ours), *first.shape[1:]) if len(place.ours) > 1 else first.shape


def _flattening(model: ModelSpec, parameter: layout.Parameter, laid: Laid) -> Iterator[tuple[int, np.ndarray]]:
    """The axis along which the parameter meets flattened images of the other order, and for each of our places on it
    the place there."""
    height, width, channels = model.image
    if laid != "torch" or NETWORKS[model.network].spatial or channels == 1:
        return
    places = np.arange(model.pixels).reshape(channels, height, width).transpose(1, 2, 0).ravel()
    network, layer = parameter.path[:2]
    if (
        network == "encoder"
        and parameter.path[-1] == "kernel"
        and (parameter.path[1:3] == ("hidden", 0) or not model.hidden)
    ):
        yield 1, np.concatenate([places, np.arange(model.pixels, model.pixels + model.classes)])
    if network == "decoder" and layer in layout.tails(model) and parameter.shape:
        yield 0, places
