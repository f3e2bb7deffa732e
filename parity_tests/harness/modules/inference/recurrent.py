"""Pair Flax's recurrent cells with torch's recurrent layers, whose gates and biases lie otherwise."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from torch import nn

from jaxvae.shared.errors import InputError
from parity_tests.harness.modules.inference.pieces import Arrangement, Pair
from parity_tests.harness.modules.inference.words import Orders, place, turn
from parity_tests.harness.modules.joining.joints import Shape, numpy_of, summed
from parity_tests.harness.modules.joining.links import Link, in_parts
from parity_tests.harness.modules.transforms import as_is, transposed

_GATES = {nn.LSTM: "ifgo", nn.LSTMCell: "ifgo", nn.GRU: "rzn", nn.GRUCell: "rzn", nn.RNN: " ", nn.RNNCell: " "}
"""In torch's order, by the letters that Flax's cells name them with; one without a letter is all of a simple cell."""
_APART = "n"  # the reset gate multiplies the state's share of this one, so that its biases don't add
_SIDES = ("i", "h")


class _Cell(NamedTuple):
    """A cell in JAX: the path of each array by the side, the gate or all gates, and the leaf."""

    path: str
    arrays: dict[tuple[str, str, str], str]
    inputs: int
    hidden: int
    gates: str


class _Weights(NamedTuple):
    """The tensors of one direction of one layer in torch, by side, with the number of its inputs."""

    name: str
    kernels: dict[str, str]
    biases: dict[str, str]
    inputs: int
    hidden: int
    gates: str
    reverse: bool


def recurrent(shapes: Mapping[str, Shape], module: nn.Module, orders: Orders = None) -> Arrangement:
    """Pair the cells of a JAX model with the recurrent layers of a torch module.

    Torch adds a bias to the input's product and one to the state's, of which Flax's cells have the sum, or one of them.

    Args:
        shapes: The shapes of the JAX arrays, by path.
        module: The torch module.
        orders: Returns the layers of both models in the order of their calls.

    Returns:
        The pairs and links; empty if the torch module has no recurrent layer, or the JAX model no cell.

    Raises:
        InputError: If cells and layers can't be told apart.
    """
    layers = list(_layers(module))
    cells = [cell for cell in _cells(shapes) if any(_alike(cell, layer) for layer in layers)]
    found = Arrangement()
    for layer in layers:
        fitting = [cell for cell in cells if _alike(cell, layer)]
        rivals = [other for other in layers if _alike(fitting[0], other)] if fitting else []
        named = [cell for cell in fitting if _within(cell, layer)]
        same = [other for other in rivals if other.name == layer.name]
        if len(named) == len(same):  # else the two have other names
            fitting, rivals = named, same
        if len(fitting) != len(rivals):
            continue
        turned = [cell for cell in fitting if _backward(cell)]
        if turned and len(turned) == sum(other.reverse for other in rivals):
            fitting = [cell for cell in fitting if _backward(cell) == layer.reverse]
            rivals = [other for other in rivals if other.reverse == layer.reverse]
        fitting = sorted(fitting, key=_natural)
        by_calls = len({_stem(cell.path) for cell in fitting}) > 1
        if by_calls and (ordered := _ordered(fitting, rivals, orders)) is None:
            raise InputError(
                f"mapping: the cells {', '.join(repr(cell.path) for cell in fitting)} of the JAX model could each be "
                f"any of torch's recurrent layers {', '.join(repr(other.kernels['i']) for other in rivals)}: give "
                "pairs for their arrays."
            )
        if by_calls:
            fitting, rivals = ordered
        paired = _paired(fitting[rivals.index(layer)], layer, shapes)
        found += paired._replace(pairs=tuple(pair._replace(by_calls=by_calls) for pair in paired.pairs))
    return found


def _layers(module: nn.Module) -> Iterator[_Weights]:
    for name, layer in module.named_modules():
        gates = next((gates for kind, gates in _GATES.items() if isinstance(layer, kind)), None)
        if gates is None:
            continue
        prefix = f"{name}." if name else ""
        suffixes = [""]
        if isinstance(layer, nn.RNNBase):
            turned = ("", "_reverse") if layer.bidirectional else ("",)
            suffixes = [f"_l{i}{turn}" for i in range(layer.num_layers) for turn in turned]
        for suffix in suffixes:
            kernels = {side: f"weight_{side}h{suffix}" for side in _SIDES}
            biases = {side: f"bias_{side}h{suffix}" for side in _SIDES} if getattr(layer, "bias", True) else {}
            own = dict(layer.named_parameters(recurse=False))
            if getattr(layer, "proj_size", 0) or not {*kernels.values(), *biases.values()} <= {*own}:
                continue  # a projection, or weight normalization
            size = getattr(layer, kernels["i"]).shape
            yield _Weights(
                name,
                *({side: prefix + tensor for side, tensor in each.items()} for each in (kernels, biases)),
                inputs=size[1],
                hidden=size[0] // len(gates),
                gates=gates,
                reverse=suffix.endswith("_reverse"),
            )


def _cells(shapes: Mapping[str, Shape]) -> Iterator[_Cell]:
    parents: dict[str, dict[str, str]] = {}
    for path in shapes:
        if (match := re.fullmatch(r"(?:(.*)/)?([^/]+/(?:kernel|bias))", path)) is not None:
            parents.setdefault(match[1] or "", {})[match[2]] = path
    for parent, held in parents.items():
        for gates in sorted(set(_GATES.values()), key=len, reverse=True):
            arrays = {}
            for leaf, path in held.items():
                layer, kind = leaf.split("/")
                if (match := re.fullmatch(rf"([ih])([{gates}]?)_?|dense_([ih])", layer)) is not None:
                    arrays[match[1] or match[3], "" if match[3] else match[2], kind] = path
            kernels = {side: sorted(g for s, g, kind in arrays if (s, kind) == (side, "kernel")) for side in _SIDES}
            wanted = [""] if gates == " " else sorted(gates)
            if kernels["i"] == kernels["h"] and kernels["i"] in ([""], wanted) and kernels["i"]:
                first = shapes[arrays["i", kernels["i"][0], "kernel"]]
                whole = kernels["i"] == [""]
                state = shapes[arrays["h", kernels["h"][0], "kernel"]]
                if len(first) != 2 or len(state) != 2 or state[1] != state[0] * (len(gates) if whole else 1):
                    continue
                yield _Cell(parent, arrays, first[0], state[0], gates)
                break


def _alike(cell: _Cell, layer: _Weights) -> bool:
    return (cell.inputs, cell.hidden, cell.gates) == (layer.inputs, layer.hidden, layer.gates)


def _within(cell: _Cell, layer: _Weights) -> bool:
    """Return whether the layer's name is part of the cell's."""
    return {*place(layer.name)} <= {*place(cell.path)}


def _ordered(
    cells: Sequence[_Cell], layers: Sequence[_Weights], orders: Orders
) -> tuple[list[_Cell], list[_Weights]] | None:
    """Return both in the order of their calls; None if some are not called, or cells of one name are layers of two."""
    in_jax, in_torch = orders() if orders else ([], [])
    mine = sorted(cells, key=lambda cell: turn(in_jax, cell.path))
    theirs = sorted(layers, key=lambda layer: turn(in_torch, layer.name))
    called = turn(in_jax, mine[-1].path) < len(in_jax) and turn(in_torch, theirs[-1].name) < len(in_torch)
    stems = {(_stem(cell.path), _stem(layer.name)) for cell, layer in zip(mine, theirs, strict=True)}
    return (mine, theirs) if called and len(stems) == len({stem for stem, _ in stems}) else None


def _stem(name: str) -> str:
    return re.sub(r"\d+", "", name)


def _backward(cell: _Cell) -> bool:
    return re.search(r"backward|reverse|bwd|(?<![^/_])bw(?![^/_\d])", cell.path) is not None


def _natural(cell: _Cell) -> list[tuple[int, str]]:
    return [(int(word or -1), other) for other, word in re.findall(r"(\D*)(\d*)", cell.path)]


def _paired(cell: _Cell, layer: _Weights, shapes: Mapping[str, Shape]) -> Arrangement:
    size, gates = layer.hidden, layer.gates

    def rows(name: str, first: int, last: int) -> str:
        return name if (first, last) == (0, len(gates)) else f"{name}[{first * size}:{last * size}]"

    pairs, links, zeros = [], [], []
    whole = ("i", "", "kernel") in cell.arrays
    for gate, first, last in [("", 0, len(gates))] if whole else [(g, i, i + 1) for i, g in enumerate(gates)]:
        kernels = {side: cell.arrays[side, gate, "kernel"] for side in _SIDES}
        pairs += [Pair(path, rows(layer.kernels[side], first, last), transposed) for side, path in kernels.items()]
        held = {side: cell.arrays[side, gate, "bias"] for side in _SIDES if (side, gate, "bias") in cell.arrays}
        if not layer.biases:
            continue
        if len(held) != 1:
            own = {side: rows(layer.biases[side], first, last) for side in _SIDES}
            pairs += [Pair(path, own[side], as_is) for side, path in held.items()]
            zeros += [] if held else own.values()
            continue
        ((side, path),) = held.items()
        mine, other = layer.biases[side], layer.biases[_SIDES[side == "i"]]
        added = next((i for i in range(first, last) if gates[i] == _APART), last)
        if added == first:
            pairs.append(Pair(path, rows(mine, first, last), as_is))
        else:
            link = _in_two(path, shapes, (added - first) * size)
            links.append(link)
            pairs.append(Pair(link.parts[0], rows(mine, first, last), as_is))
            pairs.append(Pair(link.parts[1], rows(other, first, added), as_is))
        if added < last:
            zeros.append(rows(other, added, last))
    return Arrangement(tuple(pairs), tuple(links), {}, tuple(zeros))


def _in_two(path: str, shapes: Mapping[str, Shape], first: int) -> Link:
    """Link a bias with two, of which the second is added to its first entries."""
    size = shapes[path][0]
    if first == size:
        return in_parts(path, shapes[path], [shapes[path]] * 2, summed())

    def joined(parts: Sequence[Any]) -> list[Any]:
        one, other = parts
        return [one + numpy_of(parts).concatenate([other, other[: size - first] * 0])]

    def parted(arrays: Sequence[Any]) -> list[Any]:
        return [arrays[0], arrays[0][:first] * 0]

    parts = f"{path}[0]", f"{path}[1]"
    return Link((path,), (shapes[path],), parts, (shapes[path], (first,)), parted, joined, summed().difference)
