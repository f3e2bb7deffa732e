"""Tables that map the tensors of other programs to those of this project.

A table is a list of rules, one for each layer or kind of layer. It works in both directions and is total: an unmapped
tensor and an unfilled one are both errors.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np

from jaxvae.shared.config.parts import ModelSpec
from jaxvae.shared.config.spec import Spec
from jaxvae.shared.errors import InputError
from jaxvae.shared.model import layout
from jaxvae.shared.text import named

Shape = tuple[int, ...]
Laid = Literal["torch", "torch-hwc", "flax"]


class Rule(NamedTuple):
    """Maps the tensors of a layer, as in `Rule("net.{2i}.*", "encoder.hidden.{i}.*")`.

    `{i}` counts the hidden layers of a network from 0 and `{n}` is their number; either may be multiplied and shifted,
    as in `{2i+1}` and `{n-1}`. `*` stands for each tensor of the layer: weight and bias, or Flax's kernel and bias.
    `first.* + second.*` in `target` are the rows of one tensor in `source` one after another, `first.* | second.*` its
    rows in turn; of a kernel in Flax's layout they are its last axis. A later rule for the same tensor replaces an
    earlier one.
    """

    source: str
    """Names in the other program."""
    target: str
    """Names in `layout.table` and the weight file."""
    laid: Laid = "torch"
    """Layout of the other program's tensors. `torch`: weights are [out, in], and images and convolutions are flattened
    as channel, height, width. `torch-hwc`: the same, with images flattened as height, width, channel. `flax`: as
    `torch-hwc`, with kernels [in, out]."""


class Entry(NamedTuple):
    """One tensor of the other program, and the arrays it contains."""

    source: str
    """Its name in the other program."""
    parameters: tuple[layout.Parameter, ...]
    """The arrays, of one shape, whose rows in PyTorch's layout stand in the tensor one after another, or in turn."""
    laid: Laid
    in_turn: bool = False


def entries(model: ModelSpec, rules: Sequence[Rule]) -> list[Entry]:
    """List the tensors that a table maps to a model's arrays.

    Args:
        model: The model.
        rules: The table.

    Returns:
        One entry for each tensor of the other program, in the order of the rules.

    Raises:
        InputError: If an array has no rule or two, a rule has no array or arrays of several shapes, or two rules give
            the same tensor.
    """
    table, result = layout.table(model), {}
    by_pattern = _by_pattern(table)
    for rule in rules:
        n = _hidden_layers(model, rule.target)
        for i in range(n) if re.search(r"\{\d*i", rule.source + rule.target) else [0]:
            source, target = (_fill(pattern, i, n) for pattern in (rule.source, rule.target))
            parts = [by_pattern.get(part, []) for part in re.split(r" [+|] ", target)]
            if not all(parts):
                rule_for = f"The rule for {named([rule.source])} names {named([target])}"
                raise InputError(f"{rule_for}, which the model doesn't have.")
            if " + " in target and " | " in target:
                raise InputError(f"The rule for {named([rule.source])} has both + and |; give one of them.")
            if len({tuple((parameter.network, parameter.shape) for parameter in part) for part in parts}) > 1:
                what = f"The rule for {named([rule.source])} joins {named([target])}"
                raise InputError(f"{what}, which are not of one network and one shape; give each its own tensor.")
            for parameters in zip(*parts, strict=True):
                leaf = parameters[0].path[-1] if rule.laid == "flax" else parameters[0].name.rpartition(".")[2]
                name = source.replace("*", str(leaf))
                result[parameters[0].name] = Entry(name, parameters, rule.laid, " | " in target)
    covered = Counter(parameter.name for entry in result.values() for parameter in entry.parameters)
    if again := sorted(name for name, n in covered.items() if n > 1):
        raise InputError(f"The table names {named(again)} more than once; name each array of the model once.")
    if missing := [parameter.name for parameter in table if parameter.name not in covered]:
        raise InputError(f"The table has no rule for {named(missing)}; add one for each.")
    sources = [entry.source for entry in result.values()]
    if twice := sorted(name for name, n in Counter(sources).items() if n > 1):
        raise InputError(f"The table has {named(twice)} in two entries; map each tensor once.")
    return list(result.values())


def mismatches(model: ModelSpec, rules: Sequence[Rule], shapes: Mapping[str, Shape]) -> list[str]:
    """List why tensors do not fit a model: one clause for each that is missing, unexpected or misshapen.

    Args:
        model: The model.
        rules: The table.
        shapes: The tensors' shapes by name.
    """
    expected = {entry.source: _source_shape(entry) for entry in entries(model, rules)}
    missing = [f"it lacks {name} {list(shape)}" for name, shape in expected.items() if name not in shapes]
    extra = [f"it has an unexpected {name} {list(shape)}" for name, shape in shapes.items() if name not in expected]
    misshapen = [
        f"{name} should be {list(shape)}, found {list(shapes[name])}"
        for name, shape in expected.items()
        if name in shapes and shapes[name] != shape
    ]
    return missing + extra + misshapen


def from_source(
    spec: Spec, rules: Sequence[Rule], arrays: Mapping[str, np.ndarray], where: str
) -> dict[str, np.ndarray]:
    """Rename and lay out another program's arrays as in the weight file.

    Args:
        spec: The configuration.
        rules: The table.
        arrays: The other program's arrays by name.
        where: Their origin, as the subject of the error sentence.

    Returns:
        The model's arrays, in PyTorch's layout and the configuration's type.

    Raises:
        InputError: If an array is missing, unexpected or misshapen; the message names the first twenty.
    """
    problems = mismatches(spec.model, rules, {name: array.shape for name, array in arrays.items()})
    if problems:
        raise InputError(f"{where} doesn't fit the model: {named(problems, '; ', 20)}.")
    result = {}
    for entry in entries(spec.model, rules):
        for parameter, rows in zip(entry.parameters, _apart(entry, arrays[entry.source]), strict=True):
            if entry.laid == "flax":
                rows = layout.to_torch(parameter, rows)
            for axis, order in _flattening(spec.model, parameter, entry.laid):
                rows = np.take(rows, order, axis)
            result[parameter.name] = np.array(rows, spec.training.stored, order="C")
    return {parameter.name: result[parameter.name] for parameter in layout.table(spec.model)}


def to_source(spec: Spec, rules: Sequence[Rule], arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Rename and lay out the model's arrays as the other program has them.

    Args:
        spec: The configuration.
        rules: The table.
        arrays: The model's arrays, as in the weight file.

    Returns:
        The other program's arrays, in the order of the rules.
    """
    result = {}
    for entry in entries(spec.model, rules):
        parts = []
        for parameter in entry.parameters:
            rows = arrays[parameter.name]
            for axis, order in _flattening(spec.model, parameter, entry.laid):
                rows = np.take(rows, np.argsort(order), axis)
            parts.append(layout.to_flax(parameter, rows) if entry.laid == "flax" else rows)
        if len(parts) > 1:
            axis = _joined_axis(entry)
            joined = np.stack([np.moveaxis(part, axis, 0) for part in parts], int(entry.in_turn))
            parts = [np.moveaxis(joined.reshape(-1, *joined.shape[2:]), 0, axis)]
        result[entry.source] = parts[0]
    return result


def _apart(entry: Entry, array: np.ndarray) -> list[np.ndarray]:
    """The arrays that a tensor of the other program contains, in its layout."""
    n, axis = len(entry.parameters), _joined_axis(entry)
    if n == 1:
        return [array]
    rows = np.moveaxis(array, axis, 0)
    parts = [rows[i::n] for i in range(n)] if entry.in_turn else np.split(rows, n)
    return [np.moveaxis(part, 0, axis) for part in parts]


def _joined_axis(entry: Entry) -> int:
    """The axis of the rows of several arrays: PyTorch's first one, which Flax has last."""
    return -1 if entry.laid == "flax" else 0


def _hidden_layers(model: ModelSpec, target: str) -> int:
    """The number of hidden layers of the network that a rule's target is in."""
    network = target.partition(".")[0]
    return len(layout.hidden_layers(model, network) if model.network == "layers" else model.hidden)


def _fill(pattern: str, i: int, n: int) -> str:
    def number(match: re.Match[str]) -> str:
        times, letter, more = match.groups()
        return str(int(times or 1) * {"i": i, "n": n}[letter] + int(more or 0))

    return re.sub(r"\{(\d*)([in])([+-]\d+)?\}", number, pattern)


def _by_pattern(table: tuple[layout.Parameter, ...]) -> dict[str, list[layout.Parameter]]:
    """The arrays of each name, and of each layer's name with `*` for its arrays."""
    result: dict[str, list[layout.Parameter]] = {}
    for parameter in table:
        for pattern in (parameter.name, parameter.name.rpartition(".")[0] + ".*"):
            result.setdefault(pattern, []).append(parameter)
    return result


def _source_shape(entry: Entry) -> Shape:
    first, n = entry.parameters[0], len(entry.parameters)
    shape = list(first.flax_shape if entry.laid == "flax" else first.shape)
    if n > 1:
        shape[_joined_axis(entry)] *= n
    return tuple(shape)


def flattens_images(model: ModelSpec) -> bool:
    """Whether a linear layer takes or gives an image, whose pixels a program may have in another order."""
    return any(_takes_image(model, layer) or _gives_image(model, layer) for layer in layout.layers(model))


def _takes_image(model: ModelSpec, layer: layout.Layer) -> bool:
    if layer.path[0] != "encoder" or layer.kind != "linear" or layer.flattened is not None:
        return False
    return layer.path[1:3] == ("hidden", 0) or not layout.hidden_layers(model, "encoder")


def _gives_image(model: ModelSpec, layer: layout.Layer) -> bool:
    return layer.path[0] == "decoder" and layer.path[1] in layout.tails(model) and layer.kind == "linear"


def _flattening(model: ModelSpec, parameter: layout.Parameter, laid: Laid) -> Iterator[tuple[int, np.ndarray]]:
    """The axis that runs over flattened images, and the other program's index for each of the weight file's on it."""
    height, width, channels = model.image
    layer = layout.by_path(model).get(parameter.path[:-1])
    if laid != "torch" or channels == 1 or layer is None:
        return
    order = np.arange(model.pixels).reshape(channels, height, width).transpose(1, 2, 0).ravel()
    if _takes_image(model, layer) and parameter.path[-1] == "kernel":
        yield 1, np.concatenate([order, np.arange(model.pixels, model.pixels + model.classes)])
    if _gives_image(model, layer):
        yield 0, order
