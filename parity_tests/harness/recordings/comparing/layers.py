"""The layers of two recordings: what each call of one was given and returned, and the gradients of both."""

import contextlib
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np

from parity_tests.harness.findings import Layer
from parity_tests.harness.hooks.record import LayerCall
from parity_tests.harness.recordings.comparing.align import (
    Aligned,
    ToRight,
    aligned,
    aligned_sums,
    as_it_is,
    difference,
    least_of_gradient,
    least_of_sums,
)
from parity_tests.harness.recordings.comparing.pairing import Pair, Pairing, nearest
from parity_tests.harness.recordings.recording import BACKWARD, LAYERS, ROUNDING, WHOLE, Recording

CLEAR = 30.0
"""Times the tolerance that the difference of a faulty layer is, unless none is: few samples of its rounding were drawn,
some of them small by chance."""
Kind = Literal["layers", "backward"]


class Sides(NamedTuple):
    """Two recordings that are compared."""

    left: Recording
    right: Recording
    pairing: Pairing
    labels: tuple[str, str]
    tolerance: float

    @property
    def across(self) -> bool:
        """Whether one is of JAX and one of PyTorch."""
        return self.left.framework != self.right.framework


class Part(NamedTuple):
    """The entries of a tensor in both recordings, or the sums over all of them."""

    pair: Aligned
    least: np.ndarray | float
    """The smallest rounding error."""
    prefix: str = ""

    def size(self, dtype: str) -> float:
        return self.pair.worst(dtype, self.least).size


class Call(NamedTuple):
    """One call of a layer in both recordings."""

    label: str
    """The layer's name in the right recording, and the number of its call."""
    name: str
    """As it is shown."""
    layer: Layer
    parts: Mapping[tuple[str, str], list[Part]]
    """By kind, and `input` or `output`."""

    def size(self, kind: Kind, which: str, dtype: str) -> float:
        """Return the largest difference, in rounding errors; 0 of what is not in both."""
        return max((part.size(dtype) for part in self.parts.get((kind, which), ())), default=0.0)


class Layers:
    """The layers that both recordings hold."""

    def __init__(self, sides: Sides):
        self.sides = sides
        self.dtype = sides.right.dtype

    def differing(self, call: Call, kind: Kind, which: str, clear: float) -> str | None:
        """Say how the input or the output of a call differs, or its gradient, or the sums of all its entries; None if
        it agrees."""
        for part in call.parts.get((kind, which), ()):
            if part.size(self.dtype) > clear * self.sides.tolerance:
                return f"{part.prefix}{difference(part.pair, self.sides.labels)}"
        return None

    @cached_property
    def whole(self) -> bool:
        """Whether every layer of both recordings is held whole."""
        return all(
            one.about["layers"] is None and not any(name.startswith((LAYERS, BACKWARD)) for name in one.about["shapes"])
            for one in (self.sides.left, self.sides.right)
        )

    @cached_property
    def stages(self) -> list[Any]:
        """What `stages.stages` yields; nothing of two recordings of one framework, or where some are not whole."""
        return self._stages(self.recorded)

    @property
    def recorded(self) -> tuple[dict[str, LayerCall], dict[str, LayerCall]]:
        """The calls of each recording."""
        return _recorded(self.sides.left), _recorded(self.sides.right)

    @cached_property
    def calls(self) -> list[Call]:
        """The calls in both, in the order of the right one."""
        if not (self.sides.across and self.whole):
            return list(self._calls())
        gradients: dict[str, Any] = {}
        with contextlib.suppress(Exception):  # an arrangement that can't take them
            backward = _gradients(self.sides.left), _gradients(self.sides.right)
            gradients = {one.label: one for one in self._stages(backward) if not isinstance(one, str)}
        return [self._of_stages(one, gradients.get(one.label)) for one in self.stages if not isinstance(one, str)]

    def _stages(self, calls: tuple[Mapping[str, LayerCall], Mapping[str, LayerCall]]) -> list[Any]:
        from parity_tests.harness.modules.hypotheses.stages import stages

        pairing = self.sides.pairing
        if not (self.sides.across and self.whole):
            return []
        return list(stages(pairing.arrangement.pairs, pairing.module, *calls))

    def _of_stages(self, stage: Any, gradients: Any) -> Call:
        parts: dict[tuple[str, str], list[Part]] = {}
        both: dict[str, Any] = {LAYERS: stage} | ({BACKWARD: gradients} if gradients is not None else {})
        for kind, one in both.items():
            for which in ("input", "output"):
                ours, theirs = getattr(one.in_jax, which), getattr(one.in_torch, which)
                # Of a gradient that was not recorded nothing is known, nor of one in an unknown arrangement.
                if kind == BACKWARD and (ours.shape != theirs.shape or np.isnan(ours).all() or np.isnan(theirs).all()):
                    continue
                floor = self.sides.right.arrays.get(f"{ROUNDING}{kind}/{stage.label}/{which}", np.zeros(()))
                floor = np.zeros(theirs.shape) if floor.shape != theirs.shape else floor.astype(np.float64)
                least = least_of_gradient(theirs, self.dtype) if kind == BACKWARD else 0.0
                parts[kind, which] = [Part(Aligned(ours, theirs, (floor, floor)), least)]
        return Call(stage.label, stage.name, stage.both, parts)

    def _calls(self) -> Iterator[Call]:
        """Yield the calls that both recordings hold, in the right one's order."""
        left, right, pairing, _, _ = self.sides
        names = _in_jax(pairing)
        for label in right.about["calls"]:
            layer, _, nth = label.partition("#")
            if (mine := layer if names is None else names.get(layer)) is None:
                continue
            ours = f"{mine}#{nth}" if nth else mine
            if f"{LAYERS}/{ours}/output" not in left.arrays or f"{LAYERS}/{label}/output" not in right.arrays:
                continue
            parts = {}
            for which in ("input", "output"):
                convert = self._convert(f"{LAYERS}/{ours}/{which}", f"{LAYERS}/{label}/{which}")
                for kind in (LAYERS, BACKWARD):
                    pair = Pair(f"{kind}/{ours}/{which}", f"{kind}/{label}/{which}", convert)
                    parts[kind, which] = list(self._parts(pair)) if pair.left in left.arrays else []
            both = Layer(mine.replace(".", "/"), layer)
            if not self.sides.across:
                both = Layer(torch=layer) if right.framework == "torch" else Layer(jax=layer.replace(".", "/"))
            yield Call(label, label or "the module", both, parts)

    def _parts(self, pair: Pair) -> Iterator[Part]:
        left, right = self.sides.left, self.sides.right
        if pair.right not in right.arrays:
            return
        tensors = left.tensor(pair.left), right.tensor(pair.right)
        found = aligned(*tensors, pair.to_right)
        of_gradient = pair.right.startswith(f"{BACKWARD}/")
        sums = right.arrays.get(f"{WHOLE}{pair.right}")
        least = least_of_gradient(tensors[1].values, self.dtype, sums) if of_gradient else 0.0
        if found.left.size or sums is None:
            yield Part(found, least)
        if sums is not None and f"{WHOLE}{pair.left}" in left.arrays:
            both = aligned_sums(left, right, (pair.left, pair.right), pair.to_right)
            rounded = np.maximum(least_of_sums(both.right, self.dtype), least)
            yield Part(both, rounded, "of the sums over all its entries, ")

    def _convert(self, ours: str, theirs: str) -> ToRight:
        return nearest(self.sides.left, self.sides.right, ours, theirs) if self.sides.across else as_it_is


def _recorded(recording: Recording) -> dict[str, LayerCall]:
    held = recording.arrays
    return {
        label: LayerCall(held[f"{LAYERS}/{label}/input"], held[f"{LAYERS}/{label}/output"])
        for label in recording.about["calls"]
        if f"{LAYERS}/{label}/input" in held
    }


def _gradients(recording: Recording) -> dict[str, LayerCall]:
    """Return the gradients of the inputs and outputs of calls; NaN where there is none of one of the two."""

    def gradient(label: str, which: str, value: np.ndarray) -> np.ndarray:
        return recording.arrays.get(f"{BACKWARD}/{label}/{which}", np.full(value.shape, np.nan))

    return {
        label: LayerCall(gradient(label, "input", call.input), gradient(label, "output", call.output))
        for label, call in _recorded(recording).items()
        if f"{BACKWARD}/{label}/output" in recording.arrays
    }


def _in_jax(pairing: Pairing) -> dict[str, str] | None:
    """Return the JAX layer of each torch layer that holds a pair; None if both are named alike."""
    if pairing.module is None:
        return None
    held: dict[str, set[str]] = {}
    for pair in pairing.weights:
        held.setdefault(pair.right.rpartition(".")[0], set()).add(pair.left.rpartition("/")[0].replace("/", "."))
    return {layer: min(paths) for layer, paths in held.items() if len(paths) == 1}
