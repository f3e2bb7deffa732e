"""Which tensor of one recording is which of the other."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxvae.shared.errors import InputError
from parity_tests.harness.modules import layouts
from parity_tests.harness.modules.common.structure import paired
from parity_tests.harness.recordings import outputs
from parity_tests.harness.recordings.comparing.align import ToRight, aligned, as_it_is
from parity_tests.harness.recordings.recording import Recording

FRAMEWORKS = {"jax": "JAX", "torch": "PyTorch"}


class Pair(NamedTuple):
    """A tensor in both recordings."""

    left: str
    right: str
    to_right: ToRight = as_it_is
    """Converts the left tensor to the layout of the right one."""
    first: int | None = None
    """The first row of the right tensor that the left one is; None if it is all of it."""
    part: str = ""
    """The name with those rows, as `in_proj_bias[16:32]`."""

    @property
    def name(self) -> str:
        return self.right if self.first is None else self.part


class Layouts(NamedTuple):
    """How JAX holds inputs and outputs, see `compare_modules`."""

    channels_last: bool = True
    inputs: layouts.Layouts = None
    outputs: layouts.Layouts = None
    order: Mapping[str, str] | None = None


class Pairing(NamedTuple):
    """The pairs of two recordings."""

    weights: tuple[Pair, ...]
    inputs: tuple[Pair, ...]
    outputs: tuple[Pair, ...]
    module: Any = None
    """A torch module with the right recording's kinds of layers; None if both recordings are of one framework."""
    arrangement: Any = None
    """What the mapping of live modules returns, where there is a module."""
    ignored: tuple[str, ...] = ()
    apart: tuple[str, ...] = ()
    """What the optimizers of the two train otherwise."""


def same_names(
    left: Recording, right: Recording, ignore: Sequence[str] = ()
) -> tuple[tuple[Pair, ...], tuple[str, ...]]:
    """Pair the weights of two recordings of one framework by equal names; with the names that are ignored.

    Raises:
        InputError: If one has a name that the other has not.
    """
    every = dict.fromkeys([*left.names("weights"), *right.names("weights")])
    ignored = tuple(name for name in every if any(re.fullmatch(pattern, name) for pattern in ignore))
    for one, other in ((left, right), (right, left)):
        held = {*other.names("weights"), *ignored}
        if alone := [name for name in one.names("weights") if name not in held]:
            raise InputError(
                f"{one.source} has weights that {other.source} has not: {', '.join(map(repr, alone))}. Recordings of "
                f"{FRAMEWORKS[one.framework]} are paired by equal names: record the same model, or ignore them."
            )
    return tuple(Pair(name, name) for name in right.names("weights") if name not in ignored), ignored


def by_mapping(left: Recording, right: Recording, module: Any, mapping: Any, ignore: Sequence[str] = ()) -> Pairing:
    """Pair JAX's weights, of the left recording, with those of a torch module by a mapping, see `compare_modules`.

    Raises:
        InputError: If the arrays can't be paired.
    """
    from parity_tests.harness.modules.joining.trained import apart, without_frozen
    from parity_tests.harness.modules.mapping import arrange, ignored_of
    from parity_tests.harness.modules.torch_state import rows, whole

    shapes = {name: array.shape for name, array in left.part("weights").items()}
    state = frozenset(left.about["state"])

    def orders() -> tuple[list[str], list[str]]:
        return ([n for n in left.about["calls"] if "#" not in n], [n for n in right.about["calls"] if "#" not in n])

    found = without_frozen(arrange(shapes, module, mapping, state, orders, ignore), module)
    pairs = tuple(
        Pair(one.path, one.name, one.transform.to_torch)
        if whole(one.name) == one.name
        else Pair(one.path, whole(one.name), one.transform.to_torch, rows(one.name), one.name)
        for one in found.pairs
    )
    ignored = [*sorted(frozenset.union(*ignored_of(shapes, module, ignore)))]
    ignored += [f"{name} (held at 0)" for name in found.zeros]
    ignored += [f"{name} (held equal to {first})" for name, first in found.shared.items()]
    return Pairing(pairs, (), (), module, found, tuple(ignored), apart(found, module))


def of_inputs(left: Recording, right: Recording, given: Layouts) -> tuple[Pair, ...]:
    """Pair the inputs: by name where both have the same names, else by position.

    Raises:
        InputError: If one recording has more inputs than the other.
    """
    names, others = left.names("inputs"), right.names("inputs")
    if len(names) != len(others):
        raise InputError(
            f"{left.source} has {len(names)} inputs ({', '.join(names)}) and {right.source} {len(others)} "
            f"({', '.join(others)}): record both with the same."
        )
    order = others if set(names) == set(others) else names
    pairs = []
    for i, (name, other) in enumerate(zip(order, others, strict=True)):
        theirs = right.arrays[f"inputs/{other}"]
        layout = _of_input(given, i, other, theirs.ndim)
        usual: list[layouts.Layout] = (
            [layout, "same", "channels_last"] if left.framework != right.framework else ["same"]
        )
        ways = [_to_right(one) for one in usual]
        held = [way for way in ways if _equal(way, left.arrays[f"inputs/{name}"], theirs)]
        pairs.append(Pair(name, other, (held or ways)[0]))
    return tuple(pairs)


def carried_inputs(recording: Recording, to: str, given: Layouts) -> list[np.ndarray]:
    """Return a recording's inputs in the layout of the framework that they are carried to."""
    arrays = []
    for i, name in enumerate(recording.names("inputs")):
        array = recording.arrays[f"inputs/{name}"]
        if recording.framework != to:
            convert = layouts.to_jax if to == "jax" else layouts.to_torch
            array = convert(array, _of_input(given, i, name, array.ndim))
        arrays.append(np.array(array, order="C"))
    return arrays


def of_outputs(left: Recording, right: Recording, given: Layouts) -> tuple[Pair, ...]:
    """Pair the outputs by their structures.

    Raises:
        MixedError: If one model returns names where the other returns positions.
        InputError: If the numbers of outputs or their names differ.
    """
    mine, other = (outputs.from_json(one.about["outputs"]) for one in (left, right))
    found = paired(mine, other, given.order)
    layouts.check_places(given.outputs, "output_layouts", list(found))
    pairs = []
    for i, (place, (ours, theirs)) in enumerate(found.items()):
        layout: layouts.Layout | None = None
        if isinstance(given.outputs, Mapping):
            layout = given.outputs.get(place, given.outputs.get(i))  # type: ignore[assignment]
        elif given.outputs is not None and i < len(given.outputs):
            layout = given.outputs[i]
        if left.framework == right.framework:
            convert = as_it_is
        elif layout is not None:
            convert = _to_right(layout)
        else:
            convert = nearest(left, right, f"outputs/{ours}", f"outputs/{theirs}", given.channels_last)
        pairs.append(Pair(ours, theirs, convert))
    return tuple(pairs)


def nearest(left: Recording, right: Recording, ours: str, theirs: str, channels_last: bool = True) -> ToRight:
    """Return the conversion of a tensor of JAX by the one of the two usual layouts in which the numbers are nearer."""
    mine, other = left.tensor(ours), right.tensor(theirs)
    usual: list[layouts.Layout] = ["channels_last", "same"] if len(mine.shape) == 4 and channels_last else ["same"]
    if usual == ["same"] and len(mine.shape) > 2:
        usual.append("channels_last")
    fits = [_to_right(lay) for lay in usual if _moved_shape(lay, mine.shape) == other.shape]
    if len(fits) < 2:
        return fits[0] if fits else _to_right(usual[0])
    sizes = [aligned(mine, other, convert).worst(right.dtype).size for convert in fits]
    return fits[0] if sizes[0] <= 1e6 * sizes[1] else fits[1]


def _moved_shape(layout: layouts.Layout, shape: tuple[int, ...]) -> tuple[int, ...]:
    return layouts.to_torch(np.broadcast_to(0, shape), layout).shape


def _to_right(layout: layouts.Layout) -> Callable[[np.ndarray], np.ndarray]:
    return lambda array: layouts.to_torch(array, layout)


def _of_input(given: Layouts, i: int, name: str, ndim: int) -> layouts.Layout:
    placed: Any = given.inputs
    if isinstance(placed, Mapping) and name in placed:
        placed = {i: placed[name]}
    return layouts.of_input(placed, i, ndim, given.channels_last)


def _equal(convert: ToRight, left: np.ndarray, right: np.ndarray) -> bool:
    try:
        return np.array_equal(convert(left), right, equal_nan=right.dtype.kind in "fc")
    except (ValueError, InputError):
        return False
