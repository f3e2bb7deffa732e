"""Find the layer of two recordings from which, on the way back from the loss, another gradient comes."""

import contextlib
from collections.abc import Mapping

import numpy as np

from parity_tests.harness.findings import Diagnosis, Layer
from parity_tests.harness.modules.common import way_back
from parity_tests.harness.recordings.comparing.align import Aligned, difference
from parity_tests.harness.recordings.comparing.layers import CLEAR, Call, Layers
from parity_tests.harness.recordings.recording import BACKWARD, Recording

_NEAR = {"float32": 1e-2, "float64": 1e-9}
"""How near the numbers of a cause must come, as a share of a gradient's usual size."""


def first(layers: Layers, gradients: Mapping[str, tuple[Aligned, float]]) -> Diagnosis:
    """Diagnose gradients that differ, from the loss on: by the first layer whose output's gradient agrees while that of
    its input or of one of its parameters differs, or by the place before the first whose output's gradient differs.

    Args:
        layers: Those of both recordings.
        gradients: The gradient of each parameter, by the right recording's name, and its difference in rounding errors.
    """
    sides = layers.sides
    every = {call.label: call for call in layers.calls}
    wrong = {name: pair for name, (pair, size) in gradients.items() if not size <= sides.tolerance}
    owners = {name: owners_of(name, sides.right) for name in gradients}
    later: list[Call] = []
    name_after = "the loss"
    for stop in way_back.stops(list(every), owners):
        if stop.kind == "parameter":
            if stop.name in wrong:
                return _of_parameter(layers, stop.name, wrong[stop.name])
            continue
        call = every[stop.name]
        if (found := layers.differing(call, BACKWARD, stop.kind, CLEAR)) is not None:
            cause = _cause(layers, call, stop.kind, later)
            where = way_back.place(stop, call.name, name_after)
            return Diagnosis(where, way_back.text(stop, call.name, found), cause, layer=call.layer)
        if stop.kind == "output":
            name_after = call.name
            later.append(call)
    name = next(reversed(wrong))
    return _of_parameter(layers, name, wrong[name])


def layer_of(layers: Layers, name: str) -> Layer:
    """Return the layer that holds a parameter of the right recording."""
    sides = layers.sides
    if sides.right.framework == "jax":
        return Layer(jax=name.rpartition("/")[0])
    paths = [pair.left for pair in sides.pairing.weights if pair.name == name] if sides.across else []
    return Layer(paths[0].rpartition("/")[0] if paths else None, name.rpartition(".")[0])


def owners_of(name: str, right: Recording) -> list[str]:
    """Return the layers that hold a parameter of a recording; of one that has several names, all."""
    if right.framework == "jax":
        return [name.rpartition("/")[0].replace("/", ".")]
    tensors = right.about["skeleton"]["tensors"]
    first = next((one["same"] for one in tensors if one["name"] == name.partition("[")[0]), name)
    return [one["name"].rpartition(".")[0] for one in tensors if one["same"] == first]


def _of_parameter(layers: Layers, name: str, pair: Aligned) -> Diagnosis:
    layer = layer_of(layers, name)
    held = (layer.torch if layer.torch is not None else (layer.jax or "").replace("/", ".")) or "the module"
    shown = difference(pair, layers.sides.labels)
    call = next((one for one in layers.calls if one.label == held), None)
    cause = _cause_in_parameter(layers, name, pair)
    if call is None or (BACKWARD, "output") not in call.parts:
        text = f"The loss agrees and the gradient, last layer first, differs: {shown}."
        return Diagnosis(name, text, cause, layer=layer)
    stop = way_back.Stop("parameter", name)
    return Diagnosis(way_back.place(stop, call.name, ""), way_back.text(stop, call.name, shown), cause, layer=layer)


def _cause(layers: Layers, call: Call, which: str, later: list[Call]) -> str | None:
    """Return why the gradient that comes back to a call differs, if it is known whole."""
    if not (layers.sides.across and layers.whole):
        return None
    from parity_tests.harness.modules.hypotheses.backward import cause_backward

    def pair(call: Call, which: str) -> tuple[np.ndarray, np.ndarray] | None:
        parts = call.parts.get((BACKWARD, which))
        return None if not parts else (parts[0].pair.left, parts[0].pair.right)

    given, back = pair(call, which), [(one.name, pair(one, "input")) for one in later]
    with contextlib.suppress(Exception):  # whatever a hypothesis can't compute, the place is known
        held = [(name, *both) for name, both in back if both is not None]
        return None if given is None else cause_backward(*given, held, _NEAR[layers.dtype])
    return None


def _cause_in_parameter(layers: Layers, name: str, pair: Aligned) -> str | None:
    """Return why the gradient of a parameter differs where that of its layer's output doesn't."""
    if not layers.sides.across:
        return None
    from parity_tests.harness.modules.hypotheses.backward import cause_in_gradient

    tensors = layers.sides.right.about["skeleton"]["tensors"]
    frozen = any(not one["trained"] for one in tensors if one["name"] == name.partition("[")[0])
    return None if pair.left.shape != pair.right.shape else cause_in_gradient(pair.left, pair.right, frozen)
