"""The levels at which two recordings are compared."""

import contextlib
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import NamedTuple

import numpy as np

from jaxvae.shared.errors import InputError
from parity_tests.harness.findings import Diagnosis, Finding
from parity_tests.harness.modules import rounding
from parity_tests.harness.modules.common.structure import MixedError
from parity_tests.harness.recordings.comparing import backward, locate, steps
from parity_tests.harness.recordings.comparing.align import (
    Aligned,
    aligned,
    aligned_sums,
    as_it_is,
    difference,
    least_of_gradient,
    least_of_sums,
)
from parity_tests.harness.recordings.comparing.layers import Layers, Sides
from parity_tests.harness.recordings.comparing.names import (
    EFFECTS,
    GRADIENTS,
    INPUTS,
    LAYERS,
    LOSS,
    OUTPUTS,
    STATE,
    WEIGHTS,
)
from parity_tests.harness.recordings.comparing.pairing import FRAMEWORKS, Layouts, Pair, Pairing, of_outputs
from parity_tests.harness.recordings.recording import LAYERS as KEPT
from parity_tests.harness.recordings.recording import WHOLE, Recording, Tensor

_SUM = ", the sums of all its entries"

Compared = tuple[Finding, Callable[[], Diagnosis | None]]


class One(NamedTuple):
    """A tensor of a level in both recordings, by its name in the report."""

    name: str
    pair: Aligned
    least: np.ndarray | float = 0.0


class Levels:
    """Compares level after level, and knows afterwards what was not exercised."""

    def __init__(self, left: Recording, right: Recording, pairing: Pairing, given: Layouts):
        self.left, self.right, self.pairing, self.given = left, right, pairing, given
        held = [array for one in (left, right) for kind in ("inputs", "weights") for array in one.part(kind).values()]
        self.tolerance = rounding.tolerance(max((array.size for array in held), default=1))
        names = FRAMEWORKS[left.framework], FRAMEWORKS[right.framework]
        self.labels = names if names[0] != names[1] else (left.source, right.source)
        self.unexercised: tuple[str, ...] = ()
        self.dtype = right.dtype
        self.found: dict[str, dict[str, float]] = {}
        """The differences of the tensors of each level that was compared, by its name and theirs."""

    @property
    def sides(self) -> Sides:
        return Sides(self.left, self.right, self.pairing, self.labels, self.tolerance)

    @cached_property
    def layers(self) -> Layers:
        return Layers(self.sides)

    def __iter__(self) -> Iterator[Compared]:
        """Yield the finding of each level, with a function that diagnoses it if it fails."""
        for level, kind, pairs in (
            (INPUTS, "inputs", self.pairing.inputs),
            (WEIGHTS, "weights", self.pairing.weights),
        ):
            yield self._equal(level, [One(pair.name, self._aligned(kind, pair)) for pair in pairs])
        try:
            outputs = of_outputs(self.left, self.right, self.given)
        except MixedError as mixed:
            text = f"{mixed}."
            yield self._failure(OUTPUTS, "the outputs"), lambda: Diagnosis("the outputs", text, None)
            return
        if not outputs:
            raise InputError("outputs: neither recording has a number, so there is nothing to compare.")
        self.pairing = self.pairing._replace(outputs=outputs)
        yield self._level(OUTPUTS, self._ones("outputs", outputs), self._in_outputs)
        if self.pairing.module is None:
            yield self._layers()
        yield from self._state()
        yield from self._effects()
        if self.left.names("loss") and self.right.names("loss"):
            yield self._level(LOSS, self._ones("loss", (Pair("the loss", "the loss"),)), self._in_loss)
            yield self._level(GRADIENTS, list(self._gradients()), self._in_gradients)
        if self.left.about["steps"] and self.right.about["steps"]:
            yield from steps.levels(self)

    def _layers(self) -> Compared:
        """Compare every layer of two models of one framework, which are named alike."""
        ones = [
            One(f"{call.name}{_SUM if part.prefix else ''}", part.pair, part.least)
            for call in self.layers.calls
            for part in call.parts[KEPT, "output"]
        ]
        return self._level(LAYERS, ones, lambda _: locate.in_outputs(self.layers, None))

    def _state(self) -> Iterator[Compared]:
        """Compare whatever the call has changed, in either recording."""
        changed = [{*self._changed(one)} for one in (self.left, self.right)]
        paired = [pair for pair in self.pairing.weights if pair.left in changed[0] or pair.right in changed[1]]
        alone = [*(changed[0] - {pair.left for pair in self.pairing.weights})]
        alone += [*(changed[1] - {pair.right for pair in self.pairing.weights})]
        alone = [name for name in sorted(alone) if name not in self.pairing.ignored]
        if alone:
            which = self.labels[alone[0] not in changed[0]]
            text = f"A call changes it in {which}, and it has no counterpart in the other recording."
            yield self._failure(STATE, alone[0]), lambda: Diagnosis(alone[0], text, None)
        self.compared_state = {pair.right for pair in paired}
        ones = []
        for pair in paired:
            tensors = [one.tensor(f"state/{name}") if f"state/{name}" in one.arrays else one.tensor(f"weights/{name}")
                       for one, name in ((self.left, pair.left), (self.right, pair.right))]  # fmt: skip
            ones.append(One(pair.name, aligned(tensors[0], tensors[1], pair.to_right, pair.first)))
        if ones:
            yield self._level(STATE, ones, lambda where: self._in_state(ones, where))

    def _changed(self, one: Recording) -> Iterator[str]:
        for name in one.names("state"):
            before, after = one.arrays[f"weights/{name}"], one.tensor(f"state/{name}")
            same = before if after.places is None else before.reshape(-1)[after.places]
            if not np.array_equal(same, after.values, equal_nan=before.dtype.kind in "fc"):
                yield name

    def _effects(self) -> Iterator[Compared]:
        """Compare which weights and inputs move an output."""
        still = [{*one.about["unmoved"]} for one in (self.left, self.right)]
        one_alone, nothing = [], []
        for kind, pairs in (("weights", self.pairing.weights), ("inputs", self.pairing.inputs)):
            for pair in pairs:
                unmoved = [f"{kind}/{pair.left}" in still[0], f"{kind}/{pair.right}" in still[1]]
                if pair.right in self.compared_state or not any(unmoved) or _counts_batches(pair.right):
                    continue
                # Of a part of a tensor it is not known whether it moves an output, if the tensor does.
                parts = [pair.left in self.left.about.get("parts", ()), pair.first is not None]
                if all(one or part for one, part in zip(unmoved, parts, strict=True)):
                    nothing.append(pair.name)
                else:
                    one_alone.append(pair.name)
        for number, one in enumerate((self.left, self.right)):
            held = {(pair.left, pair.right)[number] for pair in self.pairing.weights}
            names = [n for n in one.names("weights") if n not in held and f"weights/{n}" in still[number]]
            nothing += [n for n in names if not _counts_batches(n) and n not in self.pairing.ignored]
        self.unexercised += tuple(dict.fromkeys(nothing))
        if one_alone:
            text = f"Moving it changes an output in one of the two only ({', '.join(one_alone)})."
            yield self._failure(EFFECTS, one_alone[0]), lambda: Diagnosis(one_alone[0], text, None)

    def _gradients(self) -> Iterator[One]:
        """Yield the gradients of every pair that either recording has one of; where there is none it is zero."""
        for pair in self.pairing.weights:
            names = f"gradients/{pair.left}", f"gradients/{pair.right}"
            held = [name in one.arrays for name, one in zip(names, (self.left, self.right), strict=True)]
            # A bare function doesn't say which of its arrays are trained: those that torch keeps as buffers are not.
            if any(held) and not (self.left.about.get("function") and not held[1]):
                yield from self._of_pair("gradients", pair)

    def _ones(self, kind: str, pairs: tuple[Pair, ...]) -> list[One]:
        return [one for pair in pairs for one in self._of_pair(kind, pair)]

    def _of_pair(self, kind: str, pair: Pair) -> Iterator[One]:
        """Yield a tensor in both recordings and, if it is sampled in both, the sums of all of its entries."""
        found = self._aligned(kind, pair)
        least = self._least(kind, pair)
        if found.left.size or not self._sampled(kind, pair):
            yield One(pair.name, found, least)
        if self._sampled(kind, pair) and pair.first is None:
            names = f"{kind}/{pair.left}", f"{kind}/{pair.right}"
            sums = aligned_sums(self.left, self.right, names, pair.to_right if kind != "layers" else as_it_is)
            yield One(f"{pair.name}{_SUM}", sums, np.maximum(least_of_sums(sums.right, self.dtype), least))

    def _least(self, kind: str, pair: Pair) -> float:
        name = f"gradients/{pair.right}"
        if kind != "gradients" or name not in self.right.arrays:
            return 0.0
        return least_of_gradient(self.right.arrays[name], self.dtype, self.right.arrays.get(f"{WHOLE}{name}"))

    def _sampled(self, kind: str, pair: Pair) -> bool:
        names = ((self.left, pair.left), (self.right, pair.right))
        return all(f"{WHOLE}{kind}/{name}" in one.arrays for one, name in names)

    def _aligned(self, kind: str, pair: Pair) -> Aligned:
        names = (f"{kind}/{pair.left}", f"{kind}/{pair.right}")
        tensors = [
            one.tensor(name) if name in one.arrays else _zeros(one, name)
            for one, name in zip((self.left, self.right), names, strict=True)
        ]
        convert = pair.to_right if kind != "layers" else as_it_is
        return aligned(tensors[0], tensors[1], convert, pair.first)

    def _equal(self, level: str, ones: list[One]) -> Compared:
        """Compare what both should hold the same numbers of."""
        where = next((one for one in ones if not _same(one.pair)), None)
        size = 0.0 if where is None else where.pair.worst(self.dtype).size
        if where is not None:
            self.found[level] = {one.name: one.pair.worst(self.dtype).size for one in ones}
        reason = "both should hold the same numbers"
        finding = Finding(level, self.dtype, size, where.name if where else "", 0.0, rounding.UNIT, reason)

        def diagnose() -> Diagnosis | None:
            assert where is not None
            cause = None
            if level == WEIGHTS and self.pairing.module is not None:
                cause = locate.cause_in_weight(where.pair.left, where.pair.right)
            layer = backward.layer_of(self.layers, where.name) if level == WEIGHTS else None
            return Diagnosis(where.name, f"It differs: {self.text(where.pair)}.", cause, layer=layer)

        return finding, diagnose

    def _level(self, level: str, ones: list[One], diagnose: Callable[[str], Diagnosis | None]) -> Compared:
        sizes = {one.name: one.pair.worst(self.dtype, one.least).size for one in ones}
        where = max(sizes, key=lambda name: sizes[name], default="")
        self.found[level], self.ones = sizes, {one.name: one for one in ones}
        finding = Finding(
            self.named(level, any(one.pair.places is not None or one.name.endswith(_SUM) for one in ones)),
            self.dtype,
            sizes.get(where, 0.0),
            where,
            self.tolerance,
            rounding.UNIT,
            rounding.REASON,
        )
        return finding, lambda: diagnose(where)

    def named(self, level: str, sampled: bool) -> str:
        """Return a level's name, which says so if only some entries of its tensors are compared."""
        return f"{level}: up to {self.right.about['sample']:,} entries of each, and sums" if sampled else level

    def _failure(self, level: str, where: str) -> Finding:
        return Finding(level, self.dtype, np.inf, where, self.tolerance, rounding.UNIT, rounding.REASON)

    def text(self, pair: Aligned) -> str:
        return difference(pair, self.labels)

    def _in_outputs(self, where: str) -> Diagnosis | None:
        name = where.removesuffix(_SUM)
        return locate.in_outputs(self.layers, next(pair for pair in self.pairing.outputs if pair.name == name))

    def _in_state(self, ones: list[One], where: str) -> Diagnosis | None:
        if (found := locate.in_outputs(self.layers, None)) is not None:
            return found
        pair = next(one.pair for one in ones if one.name == where)
        cause = None if self.pairing.module is None else locate.cause_in_statistics(self.sides, where)
        layer = backward.layer_of(self.layers, where)
        return Diagnosis(where, f"It differs: {self.text(pair)}.", cause, layer=layer)

    def _in_loss(self, _: str) -> Diagnosis:
        values = [complex(one.arrays["loss/the loss"]).real for one in (self.left, self.right)]
        both = " and ".join(f"{value:.6g} in {label}" for value, label in zip(values, self.labels, strict=True))
        cause = None if self.pairing.module is None else locate.cause_in_loss(self.sides)
        return Diagnosis("the loss", f"The outputs agree and the loss is {both}.", cause)

    def _in_gradients(self, _: str) -> Diagnosis:
        sizes = self.found[GRADIENTS]
        worst: dict[str, tuple[Aligned, float]] = {}
        for name, size in sizes.items():
            pair, plain = self.ones[name].pair, name.removesuffix(_SUM)
            if plain not in worst or worst[plain][1] <= self.tolerance:
                worst[plain] = pair, size
        return backward.first(self.layers, worst)

    def differences(self) -> dict[str, dict[str, float]]:
        """Return the differences of weights, if some differ, of state and of gradients, by level and tensor."""
        found = dict(self.found)
        if GRADIENTS not in found and self.left.names("loss") and self.right.names("loss"):
            with contextlib.suppress(Exception):  # whatever can't be compared, the comparison didn't come to it
                found[GRADIENTS] = {one.name: one.pair.worst(self.dtype, one.least).size for one in self._gradients()}
        result: dict[str, dict[str, float]] = {}
        for level in (WEIGHTS, STATE, GRADIENTS):
            for name, size in found.get(level, {}).items():
                sizes, plain = result.setdefault(level, {}), name.removesuffix(_SUM)
                sizes[plain] = max(sizes.get(plain, 0.0), size)
        return result


def _counts_batches(name: str) -> bool:
    """Return whether it is the number of a normalization's batches, which nothing reads."""
    return name.endswith("num_batches_tracked")


def _zeros(one: Recording, name: str) -> Tensor:
    """Return a gradient of zeros, of what the other recording alone has one of."""
    shape = one.arrays[f"weights/{name.partition('/')[2]}"].shape
    return Tensor(np.zeros(shape), shape, None, np.zeros(shape))


def _same(pair: Aligned) -> bool:
    left, right = pair.left, pair.right
    return left.shape == right.shape and np.array_equal(left, right, equal_nan=right.dtype.kind in "fc")
