"""The calls of the layers of both models, paired and in torch's layout."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from torch import nn

from parity_tests.harness.findings import Layer
from parity_tests.harness.hooks.record import LayerCall
from parity_tests.harness.modules.hypotheses.arrangement import arranged, placed
from parity_tests.harness.modules.hypotheses.base import distance
from parity_tests.harness.modules.mapping import Pair
from parity_tests.harness.modules.torch_state import copied, whole

_CHANNELS_SECOND = (nn.modules.conv._ConvNd, nn.modules.batchnorm._NormBase, nn.GroupNorm)
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
