"""Find the first layer of two recordings whose input agrees and whose output doesn't."""

import contextlib
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from parity_tests.harness.findings import Diagnosis
from parity_tests.harness.hooks.record import LayerCall
from parity_tests.harness.modules import rounding
from parity_tests.harness.recordings.comparing.align import (
    Aligned,
    ToRight,
    aligned,
    aligned_sums,
    as_it_is,
    difference,
)
from parity_tests.harness.recordings.comparing.pairing import Pair, Pairing, nearest
from parity_tests.harness.recordings.recording import ROUNDING, WHOLE, Recording

TOLERANCES = {"float32": 1e-5, "float64": 1e-12}
"""How near the numbers of a cause must come, as a share of a tensor's usual size."""
_CLEAR = 30.0  # times the tolerance that the difference of a faulty layer is, unless none is


class Sides(NamedTuple):
    """Two recordings that are compared."""

    left: Recording
    right: Recording
    pairing: Pairing
    labels: tuple[str, str]
    tolerance: float


def in_outputs(sides: Sides, output: Pair | None) -> Diagnosis | None:
    """Diagnose outputs that differ, or state after the call: the first layer that differs, and its cause if a known
    fault reproduces the numbers.

    Args:
        sides: The recordings.
        output: The output that differs; None if it is none.
    """
    end = None
    if output is not None:
        tensors = sides.left.tensor(f"outputs/{output.left}"), sides.right.tensor(f"outputs/{output.right}")
        end = aligned(*tensors, output.to_right)
    if sides.pairing.module is not None and _whole(sides):
        with contextlib.suppress(Exception), warnings.catch_warnings():  # the plain walk says where, if not why
            warnings.simplefilter("ignore")
            if found := _explained(sides, end):
                return found[0]._replace(more=tuple(found[1:]))
    for clear in (_CLEAR, 1.0):
        if (place := _first(sides, clear)) is not None:
            return place
    if end is None:
        return None
    calls = [one.right for one in _calls(sides)]
    text = difference(end, sides.labels)
    if not calls:
        return Diagnosis("the output", f"It differs: {text}; no layers were recorded in both.", None)
    last = calls[-1].partition("#")[0] or "the module"
    return Diagnosis(f"between {last} and the output", f"Every layer agrees and the output differs: {text}.", None)


def _whole(sides: Sides) -> bool:
    """Return whether every layer of both recordings is held whole."""
    return all(
        one.about["layers"] is None and not any(name.startswith("layers/") for name in one.about["shapes"])
        for one in (sides.left, sides.right)
    )


def _explained(sides: Sides, end: Aligned | None) -> list[Diagnosis]:
    """Return the layers that differ and their causes, as a comparison of live modules does."""
    from parity_tests.harness.hooks.torch_settings import torch_settings
    from parity_tests.harness.modules.hypotheses import localize

    left, right, pairing, _, tolerance = sides
    calls = _recorded(left), _recorded(right)
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
            stored = f"outputs/{end}" if not name else f"layers/{label}/{'output' if label == name else 'input'}"
            floor = right.arrays.get(ROUNDING + stored)
            floors = {} if floor is None or floor.shape != in_torch.shape else {"": floor.astype(np.float64)}
            return rounding.worst({"": in_jax}, {"": in_torch}, floors, right.dtype).size > clear * tolerance

        return one

    ends = LayerCall(x[0], y[0]), LayerCall(x[1], y[1])
    with torch_settings(right.dtype), np.errstate(all="ignore"):
        for clear in (_CLEAR, 1.0):
            found = localize.walk(
                pairing.arrangement.pairs, pairing.module, calls, ends, TOLERANCES[right.dtype], differs(clear), inputs
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


def _recorded(recording: Recording) -> Mapping[str, LayerCall]:
    held = recording.arrays
    return {
        label: LayerCall(held[f"layers/{label}/input"], held[f"layers/{label}/output"])
        for label in recording.about["calls"]
        if f"layers/{label}/input" in held
    }


def _first(sides: Sides, clear: float) -> Diagnosis | None:
    """Return the first call whose output differs, or the first place between calls."""
    allowed = clear * sides.tolerance
    before = "the input"
    for call in _calls(sides):
        y = _differing(sides, call, "output", allowed)
        shown = call.right or "the module"
        if y is None:
            before = shown
            continue
        x = _differing(sides, call, "input", allowed)
        if x is None:
            return Diagnosis(shown, f"Its input agrees and its output differs: {y}.", None)
        text = f"Every earlier layer agrees and the input of {shown} differs: {x}."
        return Diagnosis(f"between {before} and {shown}", text, None)
    return None


def _differing(sides: Sides, call: Pair, which: str, allowed: float) -> str | None:
    """Say how the input or the output of a call differs, or the sums of all its entries; None if it agrees."""
    pair = _tensor(sides, call, which)
    if pair.worst(sides.right.dtype).size > allowed:
        return difference(pair, sides.labels)
    names = f"layers/{call.left}/{which}", f"layers/{call.right}/{which}"
    if all(f"{WHOLE}{name}" in one.arrays for one, name in zip((sides.left, sides.right), names, strict=True)):
        sums = aligned_sums(sides.left, sides.right, names, _convert(sides, *names))
        if sums.worst(sides.right.dtype, least_of_sums(sums.right, sides.right.dtype)).size > allowed:
            return f"of the sums over all its entries, {difference(sums, sides.labels)}"
    return None


def least_of_sums(sums: np.ndarray, dtype: str) -> np.ndarray:
    """Return the smallest rounding error of what `totals` returns: that of as many roundings as there are entries."""
    return np.array([1, 1, 0, 0, 0, 1, 1])[: len(sums)] * sums[2] * rounding.unit(dtype)


def _calls(sides: Sides) -> Iterator[Pair]:
    """Yield the calls that both recordings hold, in the right one's order."""
    names = _layers(sides.pairing)
    for label in sides.right.about["calls"]:
        layer, _, nth = label.partition("#")
        if (mine := layer if names is None else names.get(layer)) is None:
            continue
        ours = f"{mine}#{nth}" if nth else mine
        if f"layers/{ours}/output" in sides.left.arrays and f"layers/{label}/output" in sides.right.arrays:
            yield Pair(ours, label)


def _layers(pairing: Pairing) -> dict[str, str] | None:
    """Return the JAX layer of each torch layer that holds a pair; None if both are named alike."""
    if pairing.module is None:
        return None
    held: dict[str, set[str]] = {}
    for pair in pairing.weights:
        held.setdefault(pair.right.rpartition(".")[0], set()).add(pair.left.rpartition("/")[0].replace("/", "."))
    return {layer: min(paths) for layer, paths in held.items() if len(paths) == 1}


def _tensor(sides: Sides, call: Pair, which: str) -> Aligned:
    ours, theirs = f"layers/{call.left}/{which}", f"layers/{call.right}/{which}"
    return aligned(sides.left.tensor(ours), sides.right.tensor(theirs), _convert(sides, ours, theirs))


def _convert(sides: Sides, ours: str, theirs: str) -> ToRight:
    same = sides.left.framework == sides.right.framework
    return as_it_is if same else nearest(sides.left, sides.right, ours, theirs)


def every_layer(sides: Sides) -> list[Pair]:
    """Return the calls that both recordings hold."""
    return list(_calls(sides))
