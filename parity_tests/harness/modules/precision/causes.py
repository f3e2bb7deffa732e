"""Name the places at which one framework is nearer to float64, and the operations that it computes otherwise."""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch

from parity_tests.harness.findings import Distance
from parity_tests.harness.modules import torch_state
from parity_tests.harness.modules.pair import Both
from parity_tests.harness.modules.precision import operations
from parity_tests.harness.modules.precision.distances import times
from parity_tests.harness.modules.precision.networks import wide
from parity_tests.harness.modules.precision.operations import EVERYTHING, KINDS, InSingle, Kind, Names, Program
from parity_tests.harness.modules.precision.places import Calls, Place, Values, Walk, floats, places

Context = Callable[[], contextlib.AbstractContextManager[Any]]
NEARER = 1.2
"""How many times as near as the other a framework is where its place is looked at. Two layers that round at the same
places are within 1.05 of each other, and one that rounds a product and its bias apart is 1.4 times as far."""
_CLOSED = 0.3
"""The share of what the framework is further, by its square, that an operation has to explain to be named."""
JAX, TORCH = "JAX", "PyTorch"


class Setting(NamedTuple):
    """Both networks in one precision, at one sample after another."""

    samples: Sequence[Both]
    context: Context


class Local(NamedTuple):
    """What one place adds to the distance from float64."""

    place: Place
    in_jax: float
    in_torch: float
    count: int
    dtypes: tuple[str, str]
    """Of the numbers that the place gives, in JAX and in torch."""
    note: str = ""

    @property
    def ratio(self) -> float:
        return times(self.in_jax, self.in_torch)


class Sample(NamedTuple):
    """The calls of one sample: as they are run, and in float64 on the same numbers."""

    low: tuple[Calls, Calls]
    exact: tuple[Calls, Calls]


def sampled(labels: dict[str, str], low: Setting, exact: Setting) -> Iterator[Sample]:
    """Yield the calls of the layers in both frameworks, of one sample after another."""
    walks = Walk(low.samples[0], labels), Walk(exact.samples[0], labels)
    for here, there in zip(low.samples, exact.samples, strict=True):
        with low.context():
            in_torch, in_jax = walks[0].torch_calls(here, None), walks[0].jax_calls(here, None)
        with exact.context():
            forced = {label: Values(*([jnp.asarray(wide(np.asarray(x))) for x in part] for part in call))
                      for label, call in in_jax.items()}  # fmt: skip
            doubled = {
                label: Values(*([x.double() for x in part] for part in call)) for label, call in in_torch.items()
            }
            yield Sample((in_jax, in_torch), (walks[1].jax_calls(there, forced), walks[1].torch_calls(there, doubled)))


def located(labels: dict[str, str], samples: Sequence[Sample]) -> list[Local]:
    """Return what each place adds in both frameworks."""
    found = []
    for place in places(labels):
        sums, count = [0.0, 0.0], 0
        for sample in samples:
            for i in range(2):
                squares = errors(place.of(sample.low[i]), place.of(sample.exact[i]))
                sums[i] += float(squares.sum())
                count += squares.size if i else 0
        dtypes = [sorted({_dtype(x) for x in place.of(samples[0].low[i])}) for i in range(2)]
        mean = [math.sqrt(total / max(count, 1)) for total in sums]
        found.append(Local(place, *mean, count, (", ".join(dtypes[0]), ", ".join(dtypes[1]))))
    return found


def errors(low: Sequence[Any], exact: Sequence[Any]) -> np.ndarray:
    """Return the squares of the differences of the entries, each as a share of its size."""
    result = [np.zeros(0)]
    for ours, own in zip(map(_numbers, low), map(_numbers, exact), strict=True):
        finite = np.isfinite(ours) & np.isfinite(own)
        sizes = np.abs(own[finite])
        usual = float(np.median(sizes[sizes > 0])) if (sizes > 0).any() else 1.0
        result.append(np.square((ours[finite] - own[finite]) / np.maximum(sizes, usual)))
    return np.concatenate(result)


class Causes:
    """Tells what one framework computes otherwise at a place, if the other framework, computing it so too, comes as
    near to float64.

    Args:
        labels: The calls of layers that both have, torch's to JAX's.
        sample: The calls of the first sample.
        low: Both networks as they are run.
        name: The dtype with the fewest bits.
    """

    def __init__(self, labels: dict[str, str], sample: Sample, low: Setting, name: str):
        self._labels, self._sample, self._low, self._name = labels, sample, low, name
        self._program: Program | None = None
        self._names: dict[tuple[str, bool], frozenset[str]] | None = None
        """Of the operations in torch, by place."""

    def explained(self, local: Local) -> Local:
        """Return the place with the sentence about it, if there is one."""
        place, dtypes, distances = local.place, local.dtypes, (local.in_jax, local.in_torch)
        further = 0 if local.in_jax > local.in_torch else 1
        near, far = ((TORCH, JAX), (JAX, TORCH))[further]
        exact = [place.of(calls) for calls in self._sample.exact]
        target, notes = distances[1 - further], []
        if dtypes[1 - further] != dtypes[further] and dtypes[1 - further] in ("float32", "float64"):
            rounded = [_numbers(x).astype(jnp.dtype(dtypes[further])) for x in place.of(self._sample.low[1 - further])]
            target = _mean(errors(rounded, exact[1 - further]))
            if target > 0.5 * distances[further]:
                what = "what they give" if place.before else "its output"
                notes.append(
                    f"{what} stays {dtypes[1 - further]} in {near} and is rounded to {dtypes[further]} in {far}"
                )
        excess = distances[further] ** 2 - target**2
        if excess > 0.3 * distances[further] ** 2:
            for kind in (*KINDS, EVERYTHING):
                again = self._again(kind, place, further, exact[further])
                share = _CLOSED if kind is not EVERYTHING else 0.5
                if again is not None and distances[further] ** 2 - again**2 > share * excess:
                    notes.append(kind.sentence.format(low=self._name, far=far, near=near))
                    break
        return local._replace(note="; ".join(notes))

    def _again(self, kind: Kind, place: Place, further: int, exact: list[Any]) -> float | None:
        """Return the distance of a place in a framework that computes one kind of operation in float32; None where the
        place has no such operation, or can't be computed otherwise."""
        with contextlib.suppress(Exception), self._low.context():
            values = (self._in_jax if further == 0 else self._in_torch)(place, kind)
            return None if values is None else _mean(errors(values, exact))
        return None

    def _in_jax(self, place: Place, kind: Kind) -> list[Any] | None:
        low, calls = self._low.samples[0], self._sample.low[0]
        walk, every = Walk(low, self._labels), list(places(self._labels))
        if self._program is None:

            def values(params: Any, state: Any, *inputs: Any) -> list[list[Any]]:
                again = walk.in_jax(calls, params, state, *inputs)
                return [each.of(again) for each in every]

            self._program = Program(values, low.net.params, low.net.state, *low.jax_inputs)
        at = every.index(place)
        start = sum(len(each.of(calls)) for each in every[:at])
        wanted = range(start, start + len(place.of(calls)))
        return self._program.outputs(wanted, kind) if kind.among(self._program.names(wanted)) else None

    def _in_torch(self, place: Place, kind: Kind) -> list[Any] | None:
        low, calls = self._low.samples[0], self._sample.low[1]
        walk = Walk(low, self._labels)
        if self._names is None:
            self._names, mode = {}, Names()

            def ended(label: str, returned: bool, names: dict[tuple[str, bool], frozenset[str]] = self._names) -> None:
                names[label, returned] = frozenset(mode.names)
                mode.names.clear()

            with mode:
                walk.torch_calls(low, calls, ended)
        if not kind.among(self._names[place.label, not place.before]):
            return None
        with InSingle(kind, getattr(torch, self._name)):
            return place.of(walk.torch_calls(low, calls))


def _mean(squares: np.ndarray) -> float:
    return math.sqrt(float(squares.mean())) if squares.size else 0.0


def in_the_loss(
    losses: tuple[Callable[..., Any], Callable[..., Any]], outputs: tuple[Any, Any], contexts: tuple[Context, Context]
) -> tuple[list[float], list[float], list[str]]:
    """Return what the losses add to the distance from float64 in JAX and in torch, what they would on outputs in
    float32, and the dtypes of the losses."""
    low, exact = contexts
    with low():
        values = [losses[0](outputs[0]), losses[1](outputs[1])]
        single = [losses[0](_cast(outputs[0], jnp.float32)), losses[1](_cast(outputs[1], torch.float32))]
    with exact():
        wide_values = [losses[0](_cast(outputs[0], jnp.float64)), losses[1](_cast(outputs[1], torch.float64))]
    expected = [float(_numbers(x)) for x in wide_values]
    apart = [
        [abs(float(_numbers(x)) - y) / max(abs(y), 1e-30) for x, y in zip(some, expected, strict=True)]
        for some in (values, single)
    ]
    return apart[0], apart[1], [_dtype(x) for x in values]


def _cast(tree: Any, dtype: Any) -> Any:
    def one(leaf: Any) -> Any:
        if not floats(leaf):
            return leaf
        return leaf.to(dtype) if isinstance(leaf, torch.Tensor) else jnp.asarray(wide(np.asarray(leaf)), dtype)

    return jax.tree.map(one, tree)


def infinite(labels: dict[str, str], sample: Sample, low: Setting, name: str) -> list[Distance]:
    """Return where each framework first gives a number that is not finite where it is in float64."""
    found = []
    for i, framework in enumerate((JAX, TORCH)):
        for place in places(labels):
            values = place.of(sample.low[i])
            if all(np.isfinite(_numbers(x)).all() for x in values):
                continue
            if not all(np.isfinite(_numbers(x)).all() for x in place.of(sample.exact[i])):
                break  # it is not finite in float64 either
            first = None
            with contextlib.suppress(Exception), low.context():
                both = low.samples[0]
                first = _first_in_jax(place, labels, both) if i == 0 else _first_in_torch(labels, both)
            distances = (math.inf, 0.0) if i == 0 else (0.0, math.inf)
            found.append(Distance("layers", place.name, *distances, _infinite(framework, first, name)))
            break
    return found


def _infinite(framework: str, first: operations.Infinite | None, name: str) -> str:
    text = f"the first number that is not finite in {framework}"
    if first is None:
        return text
    largest = float(jnp.finfo(name).max)
    if np.isfinite(first.size) and first.size > largest:
        return f"{text}: {first.operation} gives {first.size:.3g}, and {name} ends at {largest:.3g}"
    if not np.isfinite(first.size):
        return f"{text}: {first.operation} divides by a number, such as a small eps, that is 0 in {name}"
    return f"{text}: given by {first.operation}"


def _first_in_jax(place: Place, labels: dict[str, str], low: Both) -> operations.Infinite | None:
    walk = Walk(low, labels)
    return operations.first_infinite_in_jax(
        lambda params, state, *inputs: place.of(walk.in_jax(None, params, state, *inputs)),
        low.net.params, low.net.state, *low.jax_inputs,
    )  # fmt: skip


def _first_in_torch(labels: dict[str, str], low: Both) -> operations.Infinite | None:
    found: list[operations.Infinite] = []
    with operations.first_infinite(found):
        Walk(low, labels).torch_calls(low, None)
    return found[0] if found else None


def _numbers(x: Any) -> np.ndarray:
    return wide(torch_state.numpy(x) if isinstance(x, torch.Tensor) else np.asarray(x))


def _dtype(x: Any) -> str:
    return str(x.dtype).removeprefix("torch.")
