"""Find the first layer of two recordings whose input agrees and whose output doesn't."""

import contextlib
import warnings
from typing import Any

import numpy as np

from parity_tests.harness.findings import Diagnosis
from parity_tests.harness.hooks.record import LayerCall
from parity_tests.harness.modules import rounding
from parity_tests.harness.recordings.comparing.align import Aligned, aligned, difference
from parity_tests.harness.recordings.comparing.layers import CLEAR, Layers, Sides
from parity_tests.harness.recordings.comparing.pairing import Pair
from parity_tests.harness.recordings.recording import LAYERS, ROUNDING

TOLERANCES = {"float32": 1e-5, "float64": 1e-12}
"""How near the numbers of a cause must come, as a share of a tensor's usual size."""


def in_outputs(layers: Layers, output: Pair | None) -> Diagnosis | None:
    """Diagnose outputs that differ, or state after the call: the first layer that differs, and its cause if a known
    fault reproduces the numbers.

    Args:
        layers: Those of both recordings.
        output: The output that differs; None if it is none.
    """
    sides, end = layers.sides, None
    if output is not None:
        tensors = sides.left.tensor(f"outputs/{output.left}"), sides.right.tensor(f"outputs/{output.right}")
        end = aligned(*tensors, output.to_right)
    if sides.across and layers.whole:
        with contextlib.suppress(Exception), warnings.catch_warnings():  # the plain walk says where, if not why
            warnings.simplefilter("ignore")
            if found := _explained(layers, end):
                return found[0]._replace(more=tuple(found[1:]))
    for clear in (CLEAR, 1.0):
        if (place := _first(layers, clear)) is not None:
            return place
    if end is None:
        return None
    text = difference(end, sides.labels)
    if not layers.calls:
        return Diagnosis("the output", f"It differs: {text}; no layers were recorded in both.", None)
    last = layers.calls[-1].name.partition("#")[0]
    return Diagnosis(f"between {last} and the output", f"Every layer agrees and the output differs: {text}.", None)


def _explained(layers: Layers, end: Aligned | None) -> list[Diagnosis]:
    """Return the layers that differ and their causes, as a comparison of live modules does."""
    from parity_tests.harness.hooks.torch_settings import torch_settings
    from parity_tests.harness.modules.hypotheses import localize

    left, right, pairing, _, tolerance = layers.sides
    first = pairing.inputs[0] if pairing.inputs else None
    x = [np.empty(0)] * 2
    if first is not None:
        x = [first.to_right(left.arrays[f"inputs/{first.left}"]), right.arrays[f"inputs/{first.right}"]]
    y = [np.empty(0)] * 2 if end is None else [end.left, end.right]
    inputs = [right.arrays[f"inputs/{name}"] for name in right.names("inputs")]

    def differs(clear: float) -> Any:
        def one(name: str, in_jax: np.ndarray, in_torch: np.ndarray) -> bool:
            if in_jax.shape != in_torch.shape:
                return True
            label = name.removesuffix(", input")
            stored = f"{ROUNDING}{LAYERS}/{label}/{'output' if label == name else 'input'}"
            floor = right.arrays.get(stored) if name or end is None else end.floors[1]
            floors = {} if floor is None or floor.shape != in_torch.shape else {"": floor.astype(np.float64)}
            return rounding.worst({"": in_jax}, {"": in_torch}, floors, right.dtype).size > clear * tolerance

        return one

    ends = LayerCall(x[0], y[0]), LayerCall(x[1], y[1])
    with torch_settings(right.dtype), np.errstate(all="ignore"):
        for clear in (CLEAR, 1.0):
            found = localize.walk(
                pairing.arrangement.pairs,
                pairing.module,
                layers.recorded,
                ends,
                TOLERANCES[right.dtype],
                differs(clear),
                inputs,
                layers.stages,
                dict(zip(right.names("inputs"), inputs, strict=True)),
            )
            if found:
                return found
    return []


def cause_in_loss(sides: Sides) -> str | None:
    """Return why the losses of one output differ, if its gradients were recorded whole."""
    from parity_tests.harness.modules.hypotheses import loss

    left, right, (pair, *others) = sides.left, sides.right, sides.pairing.outputs
    slopes = f"slopes/{pair.left}", f"slopes/{pair.right}"
    if others or slopes[0] not in left.arrays or slopes[1] not in right.arrays:
        return None
    values = [float(one.arrays["loss/the loss"]) for one in (left, right)]
    mine, theirs = (values[0], pair.to_right(left.arrays[slopes[0]])), (values[1], right.arrays[slopes[1]])
    with contextlib.suppress(Exception):  # whatever a hypothesis can't compute, the numbers are known
        return loss.cause_in_loss(right.arrays[f"outputs/{pair.right}"], mine, theirs, TOLERANCES[right.dtype])
    return None


def cause_in_weight(mine: np.ndarray, other: np.ndarray) -> str | None:
    """Return how a weight was carried over wrongly by hand."""
    from parity_tests.harness.modules.hypotheses import state

    with contextlib.suppress(Exception):  # whatever a hypothesis can't compute, the place is known
        return state.cause_in_weight(mine, other, 0.0)
    return None


def cause_in_statistics(sides: Sides, where: str) -> str | None:
    """Return why running statistics of a batch norm differ after a call, if its input was recorded whole."""
    from parity_tests.harness.modules.hypotheses import state

    right, pairing = sides.right, sides.pairing
    norm = where.rpartition(".")[0]
    names = state.statistics(pairing.arrangement.pairs, pairing.module).get(norm, ())
    pairs = [next((pair for pair in pairing.weights if pair.name == name), None) for name in names]
    x = f"layers/{norm}/input"
    if where not in names or None in pairs or x not in right.arrays or x in right.about["shapes"]:
        return None
    mine = np.stack([sides.left.arrays[f"state/{pair.left}"] for pair in pairs if pair is not None])
    other = np.stack([right.arrays[f"state/{pair.right}"] for pair in pairs if pair is not None])
    layer, tolerance = pairing.module.get_submodule(norm), TOLERANCES[right.dtype]
    with contextlib.suppress(Exception):  # whatever a hypothesis can't compute, the place is known
        return state.cause_in_statistics(layer, right.arrays[x], mine, other, tolerance)
    return None


def _first(layers: Layers, clear: float) -> Diagnosis | None:
    """Return the first call whose output differs, or the first place between calls."""
    before = "the input"
    for call in layers.calls:
        y = layers.differing(call, LAYERS, "output", clear)
        if y is None:
            before = call.name
            continue
        x = layers.differing(call, LAYERS, "input", clear)
        if x is None:
            return Diagnosis(call.name, f"Its input agrees and its output differs: {y}.", None, layer=call.layer)
        text = f"Every earlier layer agrees and the input of {call.name} differs: {x}."
        return Diagnosis(f"between {before} and {call.name}", text, None, layer=call.layer)
    return None
