"""Name the places at which one framework is nearer to float64, and the operations that it computes otherwise."""

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch

from parity_tests.harness.findings import Distance
from parity_tests.harness.hooks.settings import exact_products
from parity_tests.harness.modules import torch_state
from parity_tests.harness.modules.evaluation import Losses, gradients_of
from parity_tests.harness.modules.pair import Both
from parity_tests.harness.modules.precision import operations
from parity_tests.harness.modules.precision.distances import times
from parity_tests.harness.modules.precision.networks import Networks, Numbers, unpaired_rounded, wide
from parity_tests.harness.modules.precision.operations import (
    ALONE,
    EVERYTHING,
    KINDS,
    InSingle,
    Kind,
    Names,
    Program,
    rounded,
)
from parity_tests.harness.modules.precision.places import Calls, Place, Values, Walk, floats, places

Context = Callable[[], contextlib.AbstractContextManager[Any]]
NEARER = 1.2
"""How many times as near as the other a framework is where its place is looked at. Two layers that round at the same
places are within 1.05 of each other, and one that rounds a product and its bias apart is 1.4 times as far."""
_TF32 = 2.0**-14
"""The least change of numbers that TF32, of 11 bits, makes."""
_SUM = next(kind for kind in KINDS if "reduce_sum" in kind.keys)
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

    @property
    def single(self) -> int | None:
        """The framework whose numbers alone are float32, 0 for JAX and 1 for torch."""
        single = [dtype == "float32" for dtype in self.dtypes]
        low = [dtype in ("bfloat16", "float16") for dtype in self.dtypes]
        return next((i for i in range(2) if single[i] and low[1 - i]), None)


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
        in_jax, in_torch = (math.sqrt(total / max(count, 1)) for total in sums)
        found.append(Local(place, in_jax, in_torch, count, (", ".join(dtypes[0]), ", ".join(dtypes[1]))))
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
    """Tells what one framework computes otherwise at a place.

    Each kind of operation is computed in float32 in both frameworks, everywhere, while each layer is given the numbers
    that it was given as the networks were run. Where that changes the numbers of one framework alone, the other one
    computes it in float32 by itself; where it takes away what the one is further from float64, it is why.

    Args:
        labels: The calls of layers that both have, torch's to JAX's.
        sample: The calls of the first sample.
        low: Both networks as they are run.
        name: The dtype with the fewest bits.
    """

    def __init__(self, labels: dict[str, str], sample: Sample, low: Setting, name: str):
        self._sample, self._low, self._name = sample, low, name
        self._places = list(places(labels))
        self._walk = Walk(low.samples[0], labels)
        self._known: dict[tuple[Kind, int], list[list[Any]] | None] = {}
        with low.context():
            self._names = self._names_in_jax(), self._names_in_torch()

    def explained(self, local: Local) -> Local:
        """Return the place with the sentence about it, if there is one."""
        place, dtypes = local.place, local.dtypes
        further = 0 if local.in_jax > local.in_torch else 1
        near, far = ((TORCH, JAX), (JAX, TORCH))[further]
        exact = [place.of(calls) for calls in self._sample.exact]
        distances = [_mean(errors(place.of(self._sample.low[i]), exact[i])) for i in range(2)]  # of this sample
        target, notes = distances[1 - further], []
        if (single := local.single) is not None:
            low = dtypes[1 - single]
            what = "what they give" if place.before else "its output"
            notes.append(
                f"{what} stays float32 in {(JAX, TORCH)[single]} and is rounded to {low} in {(TORCH, JAX)[single]}"
            )
            if single != further:
                as_other = [_numbers(x).astype(jnp.dtype(low)) for x in place.of(self._sample.low[single])]
                target = _mean(errors(as_other, exact[single]))
        excess = distances[further] ** 2 - target**2
        if excess > 0.3 * distances[further] ** 2:
            for kind in (*(ALONE if notes else KINDS), EVERYTHING):
                again = self._again(kind, place, further)
                share = _CLOSED if kind is not EVERYTHING else 0.5
                closed = again is not None and distances[further] ** 2 - _mean(errors(again, exact[further])) ** 2
                if closed and closed > share * excess:
                    notes.append(kind.sentence.format(low=self._name, far=far, near=near))
                    break
        return local._replace(note="; ".join(notes))

    def alone(self, place: Place, unit: float) -> str:
        """Return the sentence about an operation that one framework alone computes in fewer bits, whether or not it
        comes further from float64 by that; empty if there is none."""
        for kind in ALONE:
            changes = []
            for i in range(2):
                again, before = self._again(kind, place, i), place.of(self._sample.low[i])
                changes.append(None if again is None else _mean(errors(again, before)))
            if changes[0] is None or changes[1] is None:
                continue
            further = int(changes[1] > changes[0])
            if changes[further] > unit / 8 and changes[1 - further] < unit / 64:
                near, far = ((TORCH, JAX), (JAX, TORCH))[further]
                return kind.sentence.format(low=self._name, far=far, near=near)
        return ""

    def _again(self, kind: Kind, place: Place, framework: int) -> list[Any] | None:
        """Return the numbers of a place in a framework that computes one kind of operation in float32; None where the
        place has no such operation, or can't be computed otherwise."""
        at = self._places.index(place)
        if not kind.among(self._names[framework][at]):
            return None
        if (kind, framework) not in self._known:
            self._known[kind, framework] = None
            with contextlib.suppress(Exception), self._low.context():
                self._known[kind, framework] = (self._in_jax if framework == 0 else self._in_torch)(kind)
        known = self._known[kind, framework]
        return None if known is None else known[at]

    def _names_in_jax(self) -> list[frozenset[str]]:
        low, calls = self._low.samples[0], self._sample.low[0]

        def values(params: Any, state: Any, *inputs: Any) -> list[list[Any]]:
            again = self._walk.in_jax(calls, params, state, *inputs)
            return [each.of(again) for each in self._places]

        self._program = Program(values, low.net.params, low.net.state, *low.jax_inputs)
        ends = np.cumsum([len(each.of(calls)) for each in self._places])
        self._parts = [range(start, end) for start, end in zip((0, *ends[:-1]), ends, strict=True)]
        return [self._program.names(part) for part in self._parts]

    def _in_jax(self, kind: Kind) -> list[list[Any]]:
        outputs = self._program.outputs(kind)
        return [[outputs[i] for i in part] for part in self._parts]

    def _names_in_torch(self) -> list[frozenset[str]]:
        found: dict[tuple[str, bool], frozenset[str]] = {}
        mode = Names()

        def ended(label: str, returned: bool) -> None:
            found[label, returned] = frozenset(mode.names)
            mode.names.clear()

        with mode:
            self._walk.torch_calls(self._low.samples[0], self._sample.low[1], ended)
        names, before = [], frozenset[str]()
        for each in self._places:
            here = found[each.label, not each.before]
            before |= here if each.before else frozenset()
            names.append(before if each.before else here)  # what a layer is given may have been computed before others
        return names

    def _in_torch(self, kind: Kind) -> list[list[Any]]:
        low = getattr(torch, self._name)
        with InSingle(kind, low):
            calls = self._walk.torch_calls(self._low.samples[0], self._sample.low[1])
        return [[rounded(x, low) for x in each.of(calls)] for each in self._places]


def in_gradients(
    networks: Networks,
    both: Both,
    context: Context,
    actual: tuple[Numbers, Numbers],
    expected: tuple[Numbers, Numbers],
    names: Mapping[str, int],
    low: str,
) -> dict[str, str]:
    """Name the operations whose computation in float32 brings gradients of one framework near to float64.

    Args:
        networks: Both networks as they are run.
        both: The networks at one sample.
        context: What they are run in.
        actual: The numbers of the sample in JAX and in torch.
        expected: Those in float64.
        names: Tensors whose gradient is further from float64 in one framework, 0 for JAX and 1 for torch.
        low: The dtype with the fewest bits.
    """
    found: dict[str, str] = {}
    for framework in sorted(set(names.values())):
        near, far = ((TORCH, JAX), (JAX, TORCH))[framework]
        left = [name for name, further in names.items() if further == framework]
        with contextlib.suppress(Exception), context():  # a backward pass that can't be computed otherwise
            again = _gradients_in_jax(networks, both) if framework == 0 else _gradients_in_torch(networks, both, low)
            for kind in (_SUM, *ALONE, EVERYTHING):
                gradients = again(kind)
                if gradients is None:
                    continue
                for name in left:
                    own = [expected[framework]["gradients"][name]]
                    before = _mean(errors([actual[framework]["gradients"][name]], own)) ** 2
                    if before - _mean(errors([gradients[name]], own)) ** 2 > 0.5 * before:
                        found[name] = f"in its gradient {kind.sentence.format(low=low, far=far, near=near)}"
                left = [name for name in left if name not in found]
                if not left:
                    break
    return found


def _gradients_in_jax(networks: Networks, both: Both) -> Callable[[Kind], dict[str, np.ndarray] | None]:
    program = Program(networks.slopes, both.net.params, both.net.state, *both.jax_inputs)

    def again(kind: Kind) -> dict[str, np.ndarray] | None:
        if not kind.among(program.names()):
            return None
        return gradients_of(both, jax.tree.unflatten(program.structure, program.outputs(kind))[1])

    return again


def _gradients_in_torch(networks: Networks, both: Both, low: str) -> Callable[[Kind], dict[str, np.ndarray] | None]:
    def again(kind: Kind) -> dict[str, np.ndarray] | None:
        with InSingle(kind, getattr(torch, low)):
            return networks.torch_gradients(both)

    return again


def _mean(squares: np.ndarray) -> float:
    return math.sqrt(float(squares.mean())) if squares.size else 0.0


def in_products(networks: Networks, both: Both, context: Context, actual: tuple[Numbers, Numbers]) -> str:
    """Return the sentence about products that one framework alone computes with fewer bits than it could, as in TF32;
    empty if both do, or neither."""
    with context(), exact_products():
        again = Networks(networks.both, networks.losses).numbers(both)
    outputs = [(again[i]["outputs"], actual[i]["outputs"]) for i in range(2)]
    changes = [_mean(errors(list(one.values()), list(other.values()))) for one, other in outputs]
    further = int(changes[1] > changes[0])
    if changes[further] < _TF32 or changes[1 - further] > changes[further] / 8:
        return ""
    near, far = ((TORCH, JAX), (JAX, TORCH))[further]
    return f"products are computed with fewer bits (TF32) in {far} and with all of float32 in {near}"


def in_buffers(low: Both, exact: Both, networks: Networks, context: Context, actual: Numbers, before: Numbers) -> str:
    """Return the sentence about torch's buffers without a counterpart whose rounding is most of torch's distance; empty
    if it is not.

    Args:
        low: Both networks as they are run.
        exact: Both networks in float64, at the same sample.
        networks: The networks that compute in float64.
        context: What they are computed in.
        actual: Torch's numbers as it is run.
        before: Those in float64.
    """
    again, names = unpaired_rounded(low, exact)
    if not names:
        return ""
    with context():
        numbers = networks.numbers(again)[1]
    outputs = list(actual["outputs"].values())
    distances = [_mean(errors(outputs, list(some["outputs"].values()))) for some in (before, numbers)]
    if distances[1] > distances[0] / 2:
        return ""
    return (
        f"{', '.join(names)}, which JAX computes, is rounded in PyTorch: keep its dtype where the module is converted"
    )


def in_the_loss(
    losses: tuple[Losses, Losses], outputs: tuple[Any, Any], contexts: tuple[Context, Context]
) -> tuple[list[float], list[float], list[str]]:
    """Return what the losses add to the distance from float64 in JAX and in torch, what they would on outputs in
    float32, and the dtypes of the losses."""
    (low, exact), (here, there) = contexts, losses
    with low():
        values = [here[0](outputs[0]), here[1](outputs[1])]
        single = [here[0](_cast(outputs[0], jnp.float32)), here[1](_cast(outputs[1], torch.float32))]
    with exact():
        wide_values = [there[0](_cast(outputs[0], jnp.float64)), there[1](_cast(outputs[1], torch.float64))]
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
