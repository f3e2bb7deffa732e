"""Find the first place where two networks differ, and the fault that reproduces the numbers there."""

import contextlib
import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import numpy as np
import torch
from torch import nn

from parity_tests.harness.findings import Diagnosis, Layer
from parity_tests.harness.hooks.masks import Masks
from parity_tests.harness.hooks.record import LayerCall
from parity_tests.harness.modules.hypotheses.arrangement import known
from parity_tests.harness.modules.hypotheses.attention import cause_in_attention
from parity_tests.harness.modules.hypotheses.base import distance
from parity_tests.harness.modules.hypotheses.between_layers import cause_between
from parity_tests.harness.modules.hypotheses.branches import (
    Source,
    cause_in_branch,
    cause_in_image,
    cause_in_joining,
    cause_in_wiring,
)
from parity_tests.harness.modules.hypotheses.expressions import EXPRESSION, expression
from parity_tests.harness.modules.hypotheses.layers import cause_in_layer, rounded
from parity_tests.harness.modules.hypotheses.positions import cause_in_positions
from parity_tests.harness.modules.hypotheses.shared_masks import OTHER_ORDER
from parity_tests.harness.modules.hypotheses.stages import Stage, common, stages, worst_difference
from parity_tests.harness.modules.mapping import Pair
from parity_tests.harness.modules.torch_state import copied, entries, whole

NOT_CALLED = "PyTorch calls it, and no call of it was recorded in JAX."

Differs = Callable[[str, np.ndarray, np.ndarray], bool]
"""Whether the arrays of JAX and torch differ by more than rounding can; the first argument is the place."""


_MORE_INPUTS = {
    nn.RNNBase: ("sequence", "the initial state is"),
    nn.MultiheadAttention: ("query", "key, value and masks are"),
}
"""What the first input of a layer is, and what others it has."""
_MASK = r" dropped by mask \d+"
_NEAREST = 12  # inputs and outputs of layers, of which an expression may be made


def walk(
    pairs: Sequence[Pair],
    module: nn.Module,
    calls: tuple[Mapping[str, LayerCall], Mapping[str, LayerCall]],
    ends: tuple[LayerCall, LayerCall],
    tolerance: float,
    differs: Differs | None = None,
    inputs: Sequence[np.ndarray] = (),
    every: Sequence[Stage | str] | None = None,
    arrays: Mapping[str, np.ndarray] = {},
) -> list[Diagnosis]:
    """Diagnose every layer that computes something else, and the first place between layers that does.

    Outputs are compared before what lies between: an input that only lies otherwise in memory is no difference. Once a
    layer's input differs, the layer is computed on the input of JAX, so that later faults are found too.

    Args:
        pairs: The pairs of arrays.
        module: The torch module, with the state from before the calls.
        calls: The recorded calls of JAX and of torch.
        ends: The input and the output of the whole network in JAX and in torch, in torch's layout.
        tolerance: How near the numbers of a cause must come.
        differs: Whether two arrays differ; None to go by `tolerance`.
        inputs: The inputs of the network. A layer that is given one, or a tensor of the module, tells nothing about the
            layers before it.
        every: What `stages` yields, if that is known already.
        arrays: What either network is given, by name; an array may be a mask of attention.

    Returns:
        The diagnoses in the order of the calls; empty if all agree.
    """
    differs = differs or (lambda _, in_jax, in_torch: distance(in_jax, in_torch) > tolerance)
    earlier = [("the input", ends[0].input, ends[1].input)]
    found: list[Diagnosis] = []
    every = list(stages(pairs, module, *calls)) if every is None else every
    tables = {name: held.numpy() for name, held in entries(module).items()}
    every_array = {**arrays, **tables}
    containers = _containers(every)
    named = [(s.label.partition("#")[0], s) for s in every if isinstance(s, Stage)]
    places = [(s.name, s.in_jax.output, s.in_torch.output) for own, s in named if own not in containers]
    held = {name: table for name, table in tables.items() if name.rpartition(".")[0] in containers}
    between_layers = partial(_between, tolerance=tolerance, places=places, tables=tables, arrays=arrays, held=held)
    uncompared = _uncompared(pairs, every, calls[0])
    agreed = -1
    for stage in every:
        if isinstance(stage, str):
            if not found:
                return [
                    Diagnosis(stage, NOT_CALLED, None, layer=Layer(torch=stage.partition(" (")[0].partition("#")[0]))
                ]
            continue
        name, label, layer, in_jax, in_torch, order, _ = stage
        known_before, own = len(found), label.partition("#")[0]
        if not own and containers:
            continue  # what follows its last layer is before the output
        around = [
            layer for at, layer in uncompared
            if agreed < at < order and not label.startswith(f"{layer}.") and not layer.startswith(f"{own}.")
        ]  # fmt: skip
        if not differs(label, in_jax.output, in_torch.output):
            if not around or not known(in_jax.input, [*(a for _, a, _ in earlier), *inputs, *tables.values()]):
                agreed = order
            earlier += [(f"the input of {name}", in_jax.input, in_torch.input), (name, in_jax.output, in_torch.output)]
            continue
        inputs_agree = not differs(f"{label}, input", in_jax.input, in_torch.input)
        if own in containers and (inputs_agree or _found_within(own, found)):
            if not _found_within(own, found):
                given = [*earlier[:-1], (f"the input of {name}", in_jax.input, in_torch.input), earlier[-1]]
                last = between_layers(given, f"the output of {name}", in_jax.output, in_torch.output)
                found.append(_around(last, around))
        elif inputs_agree:
            given = {**every_array, **{place: theirs for place, _, theirs in earlier}}
            one = _in_layer(name, layer, in_jax, in_torch.output, tolerance, "Its input agrees", given)
            if one.cause or not found or not isinstance(layer, (*_MORE_INPUTS,)):  # else what it attends to may differ
                found.append(one)
        else:
            if not found:
                found.append(_around(between_layers(earlier, name, in_jax.input, in_torch.input), around))
            elif (between := between_layers(earlier, name, in_jax.input, in_torch.input)).cause:
                found.append(between._replace(difference=f"Other operations give the input of {name}.", jump=0.0))
            plain = _computed(layer, in_jax.input, in_torch)
            # Rounding was measured on torch's input, so that here the difference has to be one of size too.
            apart = plain is not None and distance(in_jax.output, plain) > tolerance
            if plain is not None and apart and differs(label, in_jax.output, plain):
                found.append(_in_layer(name, layer, in_jax, plain, tolerance, "On the same input"))
        found[known_before:] = [one._replace(layer=stage.both) for one in found[known_before:]]
        earlier += [(f"the input of {name}", in_jax.input, in_torch.input), (name, in_jax.output, in_torch.output)]
    if not ends[0].output.size or not (found or differs("", ends[0].output, ends[1].output)):
        return found
    last = between_layers(earlier, "the output", ends[0].output, ends[1].output)
    if not found:
        return [_around(last, [layer for at, layer in uncompared if agreed < at])]
    return [*found, last._replace(difference="Other operations give the output.", jump=0.0)] if last.cause else found


def _containers(every: Sequence[Stage | str]) -> set[str]:
    """Return the modules that hold layers which can be compared, and may hold parameters too."""
    split = [stage.label.partition("#")[0].split(".") for stage in every if isinstance(stage, Stage)]
    return {".".join(parts[:i]) for parts in split if parts != [""] for i in range(len(parts))}


def _found_within(name: str, found: Sequence[Diagnosis]) -> bool:
    return any(one.layer and (one.layer.torch or "").startswith(f"{name}.") for one in found)


def _uncompared(
    pairs: Sequence[Pair], every: Sequence[Stage | str], in_jax: Mapping[str, LayerCall]
) -> list[tuple[int, str]]:
    """Return the layers whose calls can't be compared, as those of a cell that is several layers in JAX, and when JAX
    first calls a part of each."""
    compared = {stage.label.partition("#")[0] for stage in every if isinstance(stage, Stage)}
    paths: dict[str, list[str]] = {}
    for pair in pairs:
        paths.setdefault(whole(pair.name).rpartition(".")[0], []).append(pair.path.rpartition("/")[0])
    found = []
    for layer, held in paths.items():
        prefix = common(held).replace("/", ".")
        at = next((i for i, label in enumerate(in_jax) if f"{label}.".startswith(f"{prefix}.")), None)
        if layer and prefix and layer not in compared and at is not None:
            found.append((at, layer))
    return found


def _around(found: Diagnosis, layers: Sequence[str]) -> Diagnosis:
    """Say that the difference may lie in layers that can't be compared by themselves."""
    return found._replace(where=f"{found.where}, or in {', '.join(layers)}") if layers else found


def _in_layer(
    name: str,
    layer: nn.Module,
    in_jax: LayerCall,
    in_torch: np.ndarray,
    tolerance: float,
    start: str,
    arrays: Mapping[str, np.ndarray] = {},
) -> Diagnosis:
    for kind, (given, rest) in _MORE_INPUTS.items():
        if isinstance(layer, kind):
            start = f"{start.replace('input', given)} ({rest} not compared)"
    text = f"{start} and its output differs: {worst_difference(in_jax.output, in_torch)}."
    text = text.replace("On the same input and", "On the same input")
    cause = None
    with contextlib.suppress(Exception):  # whatever a hypothesis can't compute, the place is known
        cause = cause_in_layer(layer, in_jax.input, in_jax.output, in_torch, tolerance, arrays)
    return Diagnosis(name, text, cause, jump=distance(in_jax.output, in_torch))


def _computed(layer: nn.Module, x: np.ndarray, in_torch: LayerCall) -> np.ndarray | None:
    """Compute the torch layer on the input that JAX's layer was given; None where the layer takes more than that."""
    if x.shape != in_torch.input.shape:
        return None
    with contextlib.suppress(Exception), torch.no_grad():
        like = next((p for p in layer.parameters()), torch.empty(0))
        again = copied(layer)(torch.as_tensor(in_torch.input.copy(), device=like.device))
        if isinstance(again, torch.Tensor) and distance(again.numpy(force=True), in_torch.output) < 1e-6:
            output = copied(layer)(torch.as_tensor(np.ascontiguousarray(x), device=like.device))
            return output.numpy(force=True)
    return None


def _between(
    earlier: Sequence[tuple[str, np.ndarray, np.ndarray]],
    name: str,
    in_jax: np.ndarray,
    in_torch: np.ndarray,
    tolerance: float,
    places: Sequence[Source],
    tables: Mapping[str, np.ndarray],
    arrays: Mapping[str, np.ndarray],
    held: Mapping[str, np.ndarray],
) -> Diagnosis:
    """Diagnose the operations before `name`: those after the previous call or, where the network branches, after one
    of the calls before it, or after the sum of the two; `held` are the parameters that no layer holds."""
    place = name if name.startswith("the output") else f"the input of {name}"
    text = f"Every earlier layer agrees and {place} differs: {worst_difference(in_jax, in_torch)}."
    found = None
    with contextlib.suppress(Exception):  # whatever a hypothesis can't compute, the place is known
        found = _between_causes(earlier, name, in_jax, in_torch, tolerance, places, tables, arrays)
    where, cause = found or (f"between {earlier[-1][0]} and {name}", cause_in_joining(in_jax, in_torch, tolerance))
    if cause is None:
        with contextlib.suppress(Exception):
            near = [*earlier[: -_NEAREST - 1 : -1], *((place, array, array) for place, array in arrays.items())]
            held = dict(
                sorted(held.items(), key=lambda one: one[0].rpartition(".")[0] not in f"{name} {earlier[-1][0]}")
            )
            dropouts = Masks.active.factors(in_torch.shape) if Masks.active else {}
            ours, theirs = (
                expression([(place, sides[i]) for place, *sides in near], held, target, tolerance, dropouts)
                for i, target in enumerate((in_jax, in_torch))
            )
            if ours and theirs and ours != theirs:
                bare = [sorted(re.sub(_MASK, "", shown).split(" + ")) for shown in (ours, theirs)]
                cause = (OTHER_ORDER if bare[0] == bare[1] else EXPRESSION).of(ours, theirs)
            elif ours != theirs:
                text += f" It is {ours} in JAX." if ours else f" It is {theirs} in PyTorch."
    return Diagnosis(where, text, cause, jump=distance(in_jax, in_torch))


def _between_causes(
    earlier: Sequence[tuple[str, np.ndarray, np.ndarray]],
    name: str,
    in_jax: np.ndarray,
    in_torch: np.ndarray,
    tolerance: float,
    places: Sequence[Source],
    tables: Mapping[str, np.ndarray],
    arrays: Mapping[str, np.ndarray],
) -> tuple[str, str] | None:
    if cause := rounded(in_jax, in_torch):
        return (f"between {earlier[-1][0]} and {name}", cause)
    last, recent = earlier[-1], earlier[-2:-10:-1]
    sums = [
        (f"{last[0]} + {n}", last[1] + a, last[2] + b)
        for n, a, b in recent
        if _addable(a, last[1]) and _addable(b, last[2])
    ]
    for source, jax_source, torch_source in (last, *recent, *sums):
        if cause := cause_between((jax_source, in_jax), (torch_source, in_torch), tolerance):
            return (f"between {source} and {name}", cause)
    target = in_jax, in_torch
    if cause := cause_in_branch(last, recent, target, tolerance) or cause_in_image(last, target, tolerance):
        return (f"between {last[0]} and {name}", cause)
    embedded = [one for before, one in itertools.pairwise(earlier[:-9]) if before[1].dtype.kind in "iu"]
    for source, jax_source, torch_source in (last, *recent, *embedded):
        if cause := cause_in_positions((jax_source, torch_source), target, tables, tolerance):
            return (f"between {source} and {name}", cause)
    for layers, mine, theirs in _projections(earlier, in_torch):
        if cause := cause_in_attention(mine, theirs, target, tolerance, {**arrays, **tables}):
            return (f"between {layers} and {name}", cause)
    of_output = name.startswith("the output")
    if cause := cause_in_wiring([earlier[0], *places], target, tolerance, "it is" if of_output else "it is given"):
        return (name if of_output else f"between {last[0]} and {name}", cause)
    return None


def _projections(
    earlier: Sequence[tuple[str, np.ndarray, np.ndarray]], target: np.ndarray
) -> Iterator[tuple[str, list[np.ndarray], list[np.ndarray]]]:
    """Yield the layers whose outputs may be attention's query, key and value, and these in JAX and in torch: three
    layers, or one or two whose features are several of them side by side."""
    layers = [stage for stage in earlier if not stage[0].startswith("the input")]
    size = int(np.prod(target.shape[2:]))
    several = [
        (layers[-3:], (1, 1, 1)),
        (layers[-1:], (3,)),
        (layers[-2:], (1, 2)),
        (layers[-3:-2] + layers[-1:], (1, 2)),
    ]
    several.append((layers[-4:-3] + layers[-2:], (1, 1, 1)))  # a norm may stand before the keys
    for last, parts in several:
        if len(last) == len(parts) and all(a.shape == b.shape and a.ndim >= 3 for _, a, b in last):
            wide = [int(np.prod(b.shape[2:])) for *_, b in last]
            shared = parts == (1, 1, 1) and wide[0] == size and wide[1] == wide[2] and not size % wide[1]
            if shared or wide == [size * part for part in parts]:
                sides = [
                    [piece for stage, part in zip(last, parts, strict=True) for piece in np.split(stage[i], part, -1)]
                    for i in (1, 2)
                ]
                yield ", ".join(stage[0] for stage in last), sides[0], sides[1]


def _addable(a: np.ndarray, b: np.ndarray) -> bool:
    return a.ndim == b.ndim and all(n == m or 1 in (n, m) for n, m in zip(a.shape, b.shape, strict=True))
