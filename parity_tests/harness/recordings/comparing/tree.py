"""The tree of the layers of two recordings, with the difference of each."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence

from parity_tests.harness import tree
from parity_tests.harness.findings import Diagnosis, Figure, Finding, Layer, Node
from parity_tests.harness.modules import rounding
from parity_tests.harness.modules.common import way_back
from parity_tests.harness.recordings.comparing.backward import owners_of
from parity_tests.harness.recordings.comparing.layers import CLEAR, Layers
from parity_tests.harness.recordings.comparing.names import GRADIENTS, INPUTS, WEIGHTS
from parity_tests.harness.recordings.recording import BACKWARD, LAYERS

_REASON = (
    f"{rounding.REASON}, of which few samples are drawn; {CLEAR:g} times the tolerance, since some are small by chance"
)
Sizes = Mapping[str, float]
"""How far tensors differ, in rounding errors, by the right recording's names."""


def grown(
    layers: Layers, findings: Sequence[Finding], diagnosis: Diagnosis | None, levels: Mapping[str, Sizes]
) -> Node:
    """Make the tree of layers after a comparison.

    Args:
        layers: Those of both recordings.
        findings: What was found.
        diagnosis: The diagnosis, if they differ.
        levels: The differences of weights, of the state after the call and of gradients, by the names of these levels.
    """
    failed = next((finding.level for finding in findings if not finding.passed), "")
    figures: dict[str, list[Figure]] = {"": [_of_level(finding) for finding in findings]}
    for name, figure in (
        *_forward(layers, failed.startswith((INPUTS, WEIGHTS))),
        *_of_tensors(layers, failed, {level: sizes for level, sizes in levels.items() if level != GRADIENTS}),
        *_backward(layers, bool(failed) and not failed.startswith(GRADIENTS), levels.get(GRADIENTS, {})),
    ):
        figures.setdefault(name, []).append(figure)
    kinds, held = _names(layers)
    entries = {
        _path(name): tree.Entry(tuple(figures.get(name, ())), layer, kinds.get(name, ""))
        for name, layer in held.items()
    }
    named = [] if diagnosis is None else [one.layer for one in (diagnosis, *diagnosis.more)]
    differ = [_path(_name(layer)) if layer else () for layer in named]
    return tree.grown("the network", entries, differ, differ[0] if differ else None, not failed)


def _of_level(finding: Finding) -> Figure:
    direction = "backward" if "gradient" in finding.level else "forward" if "output" in finding.level else ""
    values = finding.size, finding.tolerance, finding.unit, finding.reason
    return Figure(finding.level, direction, finding.dtype, *values)


def _forward(layers: Layers, before: bool) -> Iterator[tuple[str, Figure]]:
    """Yield the difference of each call's output; `before`: inputs or weights differ already."""
    for call in layers.calls:
        clear, reason = (CLEAR, _REASON) if layers.sides.across else (1.0, rounding.REASON)
        allowed = clear * layers.sides.tolerance
        follows = before or not call.size(LAYERS, "input", layers.dtype) <= allowed
        name, _, nth = call.label.partition("#")
        values = layers.dtype, call.size(LAYERS, "output", layers.dtype), allowed, rounding.UNIT, reason, follows
        yield name, Figure(f"output of call {nth}" if nth else "output", "forward", *values)


def _of_tensors(layers: Layers, failed: str, levels: Mapping[str, Sizes]) -> Iterator[tuple[str, Figure]]:
    for level, sizes in levels.items():
        follows = bool(failed) and failed != level
        allowed = 0.0 if level == WEIGHTS else layers.sides.tolerance
        for name, size in sizes.items():
            layer, _, tensor = name.replace("/", ".").rpartition(".")
            values = layers.dtype, size, allowed, rounding.UNIT, rounding.REASON, follows
            yield layer, Figure(tensor, "", *values)


def _backward(layers: Layers, before: bool, gradients: Sizes) -> Iterator[tuple[str, Figure]]:
    """Yield the difference of the gradient of each call's output and of each parameter; `before`: what they are
    computed from differs already."""
    sides, follows = layers.sides, before
    found: dict[str, Figure] = {}
    every = {call.label: call for call in layers.calls}
    owners = {name: owners_of(name, sides.right) for name in gradients}
    left = {name: gradients[name] for name in owners}
    for stop in way_back.stops(list(every), owners):
        if stop.kind == "parameter":
            values = layers.dtype, left.pop(stop.name), sides.tolerance, rounding.UNIT, rounding.REASON, follows
            found[stop.name] = Figure(stop.name.replace("/", ".").rpartition(".")[2], "backward", *values)
            continue
        size, allowed = every[stop.name].size(BACKWARD, stop.kind, layers.dtype), CLEAR * sides.tolerance
        if stop.kind == "output" and (BACKWARD, "output") in every[stop.name].parts:
            nth = stop.name.partition("#")[2]
            values = layers.dtype, size, allowed, rounding.UNIT, _REASON, follows
            of = f"gradient of the output of call {nth}" if nth else "gradient of the output"
            found[stop.name] = Figure(of, "backward", *values)
        follows = follows or not size <= allowed
    for name, size in left.items():
        values = layers.dtype, size, sides.tolerance, rounding.UNIT, rounding.REASON, before
        found[name] = Figure(name.replace("/", ".").rpartition(".")[2], "backward", *values)
    for label in every:
        if label in found:
            yield label.partition("#")[0], found[label]
    for name in gradients:
        yield name.replace("/", ".").rpartition(".")[0], found[name]


def _names(layers: Layers) -> tuple[dict[str, str], dict[str, Layer]]:
    """Return the classes of the layers, of torch, and every layer in the order of the model."""
    sides = layers.sides
    right = sides.right
    if right.framework == "torch":
        described = right.about["skeleton"]["layers"]
        within: Mapping[str, str | None] = {}
        if sides.across:
            from parity_tests.harness.modules.hypotheses.stages import paths

            with contextlib.suppress(Exception):  # the tree has torch's names in any case
                within = paths(sides.pairing.arrangement.pairs)
        return (
            {one["name"]: one["class"] for one in described},
            {one["name"]: Layer(within.get(one["name"]), one["name"]) for one in described},
        )
    calls = [label.partition("#")[0] for label in right.about["calls"]]
    holders = [name.replace("/", ".").rpartition(".")[0] for name in right.names("weights")]
    return {}, {name: Layer(jax=name.replace(".", "/")) for name in dict.fromkeys(["", *calls, *holders])}


def _name(layer: Layer) -> str:
    return layer.torch if layer.torch is not None else (layer.jax or "").replace("/", ".")


def _path(name: str) -> tree.Path:
    return tuple(name.split(".")) if name else ()
