"""Find the first place where two networks differ, and the fault that reproduces the numbers there."""

import contextlib
import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from parity_tests.harness.findings import Diagnosis, Layer
from parity_tests.harness.hooks.masks import Masks
from parity_tests.harness.hooks.record import LayerCall
from parity_tests.harness.modules.hypotheses.arrangement import arranged, known, placed
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
from parity_tests.harness.modules.mapping import Pair
from parity_tests.harness.modules.torch_state import copied, entries, whole

NOT_CALLED = "PyTorch calls it, and no call of it was recorded in JAX."

_CHANNELS_SECOND = (nn.modules.conv._ConvNd, nn.modules.batchnorm._NormBase, nn.GroupNorm)


Differs = Callable[[str, np.ndarray, np.ndarray], bool]
"""Whether the arrays of JAX and torch differ by more than rounding can; the first argument is the place."""


_MORE_INPUTS = {
    nn.RNNBase: ("sequence", "the initial state is"),
    nn.MultiheadAttention: ("query", "key, value and masks are"),
}
"""What the first input of a layer is, and what others it has."""
_MASK = r" dropped by mask \d+"
_NEAREST = 12  # inputs and outputs of layers, of which an expression may be made
_MOST = 0.75  # of an array that a message calls a part


class Stage(NamedTuple):
    """One call of a layer in both frameworks, in torch's layout."""

    name: str
    label: str
    """The layer's name in the torch module, and the number of its call."""
    layer: nn.Module
    in_jax: LayerCall
    in_torch: LayerCall
    order: int
    """Which of all calls in JAX it is."""
    path: str = ""
    """The layer's path in JAX."""

    @property
    def both(self) -> Layer:
        """The layer in both frameworks."""
        return Layer(self.path, self.label.partition("#")[0])


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


def stages(
    pairs: Sequence[Pair], module: nn.Module, in_jax: Mapping[str, LayerCall], in_torch: Mapping[str, LayerCall]
) -> Iterator[Stage | str]:
    """Yield the calls of the layers that hold a pair, in torch's order; only the name where JAX has no such call."""
    layers = by_layer(pairs)
    order = {label: i for i, label in enumerate(in_jax)}
    for label, torchs in in_torch.items():
        name, _, nth = label.partition("#")
        if (held := layers.get(name)) is None:
            continue
        path = path_in_jax(layers, name)
        jax_name = path.replace("/", ".")
        if (name and not jax_name) or "{" in jax_name:
            continue  # its arrays are in several layers of the JAX model
        shown = label if name else f"the module{label}"
        shown = shown if name == jax_name else f"{shown} ({jax_name or 'the module'} in JAX)"
        jax_label = f"{jax_name}#{nth}" if nth else jax_name
        jaxs = in_jax.get(jax_label)
        outer = jax_name.rpartition(".")[0]
        around = in_jax.get(outer)
        if jaxs and around and jaxs.output.size != torchs.output.size == around.output.size:
            jax_label, jaxs = outer, around  # torch's layer is a cell's whole loop
        layer = module.get_submodule(name)
        if jaxs and isinstance(layer, nn.RNNBase) and jaxs.output.size != torchs.output.size:
            continue  # a cell whose loop is no layer
        if jaxs is None:
            parts = f"{jax_name}." if jax_name else ""
            if not any(other.startswith(parts) for other in in_jax):  # else the parts of a cell are layers in JAX
                yield shown
            continue
        transform = held[0].transform
        x = transform.input_to_torch(channels_second(jaxs.input, layer))
        y = transform.output_to_torch(channels_second(jaxs.output, layer))
        if (bare := _without_activation(layer, label, in_torch)) is not None:
            ours = arranged(jaxs.output, bare[1].output, y)
            if distance(ours, bare[1].output) < distance(arranged(jaxs.output, torchs.output, y), torchs.output):
                layer, torchs = bare
        call = LayerCall(placed(jaxs.input, torchs.input, x), arranged(jaxs.output, torchs.output, y))
        if isinstance(layer, nn.RNNBase):
            call = _in_torchs_time(call, torchs, int(layer.batch_first))
        yield Stage(shown, label, layer, call, torchs, order[jax_label], path)


def _in_torchs_time(in_jax: LayerCall, in_torch: LayerCall, axis: int) -> LayerCall:
    """Turn the time of a recurrent layer round where torch's is given its sequence from the end, as with x.flip."""
    if in_jax.input.ndim != 3:
        return in_jax
    x, y = np.flip(in_jax.input, axis), np.flip(in_jax.output, axis)
    if not distance(x, in_torch.input) < distance(in_jax.input, in_torch.input):
        return in_jax
    return LayerCall(x, y if distance(y, in_torch.output) < distance(in_jax.output, in_torch.output) else in_jax.output)


def by_layer(pairs: Sequence[Pair]) -> dict[str, list[Pair]]:
    """Group pairs by the torch layer that holds their tensors."""
    layers: dict[str, list[Pair]] = {}
    for pair in pairs:
        layers.setdefault(whole(pair.name).rpartition(".")[0], []).append(pair)
    return layers


def path_in_jax(layers: Mapping[str, Sequence[Pair]], name: str) -> str:
    """Return the innermost module of JAX that holds all arrays of a torch layer and its parts; of the whole module, of
    those that it holds itself."""
    within = [pair for layer, some in layers.items() if f"{layer}.".startswith(f"{name}.") for pair in some]
    first = [pair.path.partition(" = ")[0] for pair in (within if name else layers.get("", ()))]  # of tied arrays
    return common([path.rpartition("/")[0] for path in first])


def paths(pairs: Sequence[Pair]) -> dict[str, str | None]:
    """Return the innermost module of JAX that holds all arrays of each torch module, and of its parts."""
    within: dict[str, dict[str, None]] = {}
    for pair in pairs:
        parts = whole(pair.name).split(".")[:-1]
        for i in range(1, len(parts) + 1):
            within.setdefault(".".join(parts[:i]), {})[pair.path.rpartition("/")[0]] = None
    return {"": "", **{name: common(list(held)) or None for name, held in within.items()}}


def _without_activation(
    layer: nn.Module, label: str, in_torch: Mapping[str, LayerCall]
) -> tuple[nn.Module, LayerCall] | None:
    """Return a layer, such as a norm, and its call without the activation that it holds; None if it holds none."""
    name, _, nth = label.partition("#")
    held = [child for child, part in layer.named_children() if not any(True for _ in part.parameters())]
    calls = [in_torch.get(f"{name}.{child}" + (f"#{nth}" if nth else "")) for child in held]
    first = next((call for call in calls if call is not None), None)
    if first is None or len(held) < len(list(layer.children())):
        return None
    bare = copied(layer)
    for child in held:
        setattr(bare, child, nn.Identity())
    return bare, LayerCall(in_torch[label].input, first.input)


def common(paths: Sequence[str]) -> str:
    """Return the innermost module that holds all paths."""
    split = [path.split("/") if path else [] for path in dict.fromkeys(paths)]
    return "/".join(part[0] for part in itertools.takewhile(lambda p: len(set(p)) == 1, zip(*split, strict=False)))


def channels_second(x: np.ndarray, layer: nn.Module) -> np.ndarray:
    """Convert the input or output of a Flax layer to the layout of the torch layer of its kind."""
    return np.moveaxis(x, -1, 1) if isinstance(layer, _CHANNELS_SECOND) and x.ndim > 2 else x


def worst_difference(in_jax: np.ndarray, in_torch: np.ndarray) -> str:
    """Describe the largest difference: its size, its index, both values, and the part of the array that differs."""
    if in_jax.shape != in_torch.shape:
        return f"its shape is {list(in_jax.shape)} in JAX and {list(in_torch.shape)} in PyTorch"
    wide = np.complex128 if "c" in (in_jax.dtype.kind, in_torch.dtype.kind) else np.float64
    with np.errstate(all="ignore"):
        difference = np.asarray(np.abs(in_jax.astype(wide) - in_torch.astype(wide)))
    difference[(in_jax == in_torch) | (np.isnan(in_jax) & np.isnan(in_torch))] = 0
    at = tuple(int(i) for i in np.unravel_index(int(np.nan_to_num(difference, nan=np.inf).argmax()), in_jax.shape))
    place = f"at {list(at)} " if at else ""
    size = abs(complex(in_torch[at]))
    share = f"by {difference[at] / size:.1e} of itself, " if size and np.isfinite(difference[at]) else ""
    return f"{share}{place}{in_jax[at]:.6g} in JAX and {in_torch[at]:.6g} in PyTorch{_part(difference, in_torch)}"


def _part(difference: np.ndarray, numbers: np.ndarray) -> str:
    """Say in which part of an array all entries lie that differ by more than rounding, if it is a small one."""
    if not difference.ndim:
        return ""
    sizes = np.abs(numbers[np.isfinite(numbers)])
    rounding = 64 * np.finfo(numbers.dtype).eps * sizes.max(initial=0) if numbers.dtype.kind in "fc" else 0
    ranges = [(int(at.min()), int(at.max()) + 1) for at in np.nonzero(~(difference <= rounding)) if len(at)]
    if not ranges or np.prod([end - start for start, end in ranges]) > _MOST * difference.size:
        return ""
    axes = zip(ranges, difference.shape, strict=True)
    shown = (":" if end - start == n else f"{start}:{end}" for (start, end), n in axes)
    return f", and only [{', '.join(shown)}] differs"
