"""Pair the arrays of a JAX model with the tensors of a torch module."""

import functools
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from torch import nn

from jaxvae.shared.errors import InputError
from parity_tests.harness.modules.common.names import canonical
from parity_tests.harness.modules.inference.draft import draft
from parity_tests.harness.modules.inference.pairing import infer, left_over
from parity_tests.harness.modules.inference.pieces import Arrangement, Pair
from parity_tests.harness.modules.inference.recognition import Recognition
from parity_tests.harness.modules.joining.given import read
from parity_tests.harness.modules.joining.joints import Joint, concatenated, shared, stacked, summed, weight_norm
from parity_tests.harness.modules.joining.links import expanded
from parity_tests.harness.modules.torch_state import Entry, counts_batches, entries, entry, persistent, rows, whole
from parity_tests.harness.modules.transforms import Transform, as_is, flattened, flipped_kernel, layout, transposed

Shape: TypeAlias = tuple[int, ...]
Shapes: TypeAlias = Mapping[str, Shape]


__all__ = [
    "Arrangement",
    "Joint",
    "Pair",
    "Transform",
    "arrange",
    "as_is",
    "canonical",
    "concatenated",
    "flattened",
    "flipped_kernel",
    "layout",
    "resolve",
    "shared",
    "stacked",
    "summed",
    "tensors",
    "transposed",
    "weight_norm",
]

Target: TypeAlias = str | tuple[str, Transform] | tuple[Sequence[str] | str, Joint]
MappingLike: TypeAlias = Mapping[Any, Target] | Sequence[tuple[Any, ...]] | None


def tensors(module: nn.Module) -> dict[str, nn.Module]:
    """Return the layer that holds each parameter and saved buffer of the module, by the tensor's name."""
    every, saved = entries(module), persistent(module)
    buffers = {name for name, _ in module.named_buffers()}
    kept = [n for n, e in every.items() if not (n in buffers and (n not in saved or counts_batches(n, e.layer)))]
    return {name: every[name].layer for name in kept}


def resolve(
    shapes: Shapes,
    module: nn.Module,
    mapping: MappingLike = None,
    state: Collection[str] = (),
    orders: Callable[[], tuple[list[str], list[str]]] | None = None,
    ignore: Sequence[str] = (),
) -> tuple[Pair, ...]:
    """Return the pairs of `arrange`."""
    return arrange(shapes, module, mapping, state, orders, ignore).pairs


def arrange(
    shapes: Shapes,
    module: nn.Module,
    mapping: MappingLike = None,
    state: Collection[str] = (),
    orders: Callable[[], tuple[list[str], list[str]]] | None = None,
    ignore: Sequence[str] = (),
) -> Arrangement:
    """Pair every parameter of the JAX model with a parameter of the torch module, and state with buffers.

    Args:
        shapes: The shapes of the JAX arrays, by path.
        module: The torch module.
        mapping: Pairs `{path: name}`; or rules `[(regex, replacement)]`, of which the first that matches the whole path
            gives the name; or None, to pair by name, then by kind of layer and shape, then by the order of calls, and
            what one framework has in parts by the names of the parts. A name may end in rows, as in
            `rnn.weight_ih_l0[0:8]`. A pair or a rule may end in a `Transform`, which replaces the transform that the
            kind of the torch layer implies; or in a `Joint`, with several names, or several paths, in place of one.
        state: The paths of the JAX arrays that are no parameters. These may stay without a pair, as buffers may.
        orders: Returns the layers of both models, dotted, in the order in which they are called.
        ignore: Regexes of whole paths and whole names that stay without a pair.

    Returns:
        The pairs, in the order of the torch module, and what has to be rearranged in the JAX model. Every parameter is
        in exactly one pair.

    Raises:
        InputError: If a parameter is left over, is paired twice, is unknown or has another shape, or if several pairs
            are possible. Without a mapping the message ends in a draft of one.
    """
    orders = None if orders is None else functools.cache(orders)  # which calls both models
    ignored_paths, ignored = ignored_of(shapes, module, ignore)
    shapes = {path: shape for path, shape in shapes.items() if path not in ignored_paths}
    if mapping is None:
        try:
            found = Recognition(_paired)(shapes, module, state, orders, ignored)
        except InputError as error:
            text = f"{error}\nA draft to correct and paste:\n{draft(shapes, module, state, orders, ignored)}"
            raise InputError(text) from None
    else:
        joined = read(mapping, shapes, module)
        pairs = _paired(joined.shapes, module, state, orders, {*ignored, *joined.shared}, joined.chosen)
        found = Arrangement(pairs, joined.links, joined.shared)
    every, order = entries(module), list(entries(module))
    all_shapes = expanded(shapes, found.links)
    for pair in found.pairs:
        _check_shape(all_shapes[pair.path], pair, entry(module, pair.name, every))
    ordered = sorted(found.pairs, key=lambda pair: (order.index(whole(pair.name)), rows(pair.name)))
    return found._replace(pairs=tuple(ordered))


def ignored_of(
    shapes: Collection[str], module: nn.Module, ignore: Sequence[str]
) -> tuple[frozenset[str], frozenset[str]]:
    """Return the paths and the names that are ignored.

    Raises:
        InputError: If a regex is invalid or matches nothing.
    """
    paths, names = set(), set()
    for pattern in ignore:
        try:
            whole = re.compile(pattern).fullmatch
        except (re.error, TypeError) as error:
            raise InputError(f"ignore: {pattern!r} is not a valid regex: {error}: correct it.") from None
        found = {path for path in shapes if whole(path)}, {name for name in entries(module) if whole(name)}
        if not any(found):
            raise InputError(f"ignore: {pattern!r} matches no whole path or name of either model: correct it.")
        paths |= found[0]
        names |= found[1]
    return frozenset(paths), frozenset(names)


def _paired(
    shapes: Shapes,
    module: nn.Module,
    state: Collection[str],
    orders: Callable[[], tuple[list[str], list[str]]] | None,
    ignored: Collection[str],
    given: Mapping[str, str | tuple[str, Transform]] | None = None,
    total: bool = True,
) -> tuple[Pair, ...]:
    """Pair arrays and tensors one by one, as given or as their names, kinds and shapes tell.

    `total`: whether a tensor of the torch module that is left over is an error.
    """
    every = entries(module)
    inferred = list(infer(shapes, module, state, orders, ignored)) if given is None else []
    by_calls = {path for path, _, by_calls in inferred if by_calls}
    chosen: dict[str, str | tuple[str, Transform]] = dict(given or {}) | {path: name for path, name, _ in inferred}
    taken = {target if isinstance(target, str) else target[0] for target in chosen.values()} | {*ignored}
    chosen |= left_over({path: shapes[path] for path in state if path not in chosen and path in shapes}, module, taken)
    pairs = []
    for path, target in chosen.items():
        name, transform = (target, None) if isinstance(target, str) else target
        if path not in shapes:
            raise InputError(f"mapping: the JAX model has no array {path!r}; it has {_list(shapes)}: correct the pair.")
        try:
            held = entry(module, name, every)
        except KeyError:
            raise InputError(
                f"mapping: {path!r} is paired with {name!r}, but the torch module has only {_list(every)}: "
                "correct the pair."
            ) from None
        transform = transform or layout(held.layer, held.leaf, tuple(held.value.shape), shapes[path])
        pairs.append(Pair(path, name, transform, path in by_calls))
    if given is None:
        pairs = _with_crossed_kernels(pairs, shapes, {pair.name: entry(module, pair.name, every) for pair in pairs})
    _check_total(shapes, state, module, every, pairs, ignored, total)
    return tuple(pairs)


def _with_crossed_kernels(pairs: list[Pair], shapes: Shapes, held: Mapping[str, Entry]) -> list[Pair]:
    """Transpose the matrices of the user's own kinds of layers that hold them in the other order of axes, as GPT-2's
    Conv1D does: a square one is in the order of those of its kind that aren't."""
    crossed, straight = set(), set()
    matrices = [
        pair for pair in pairs
        if pair.transform is as_is and held[pair.name].value.ndim == 2
        and not type(held[pair.name].layer).__module__.startswith("torch.nn")
    ]  # fmt: skip
    for pair in matrices:
        mine, other = shapes[pair.path], tuple(held[pair.name].value.shape)
        if mine != mine[::-1]:
            kinds = crossed if mine == other[::-1] else straight
            kinds.add(type(held[pair.name].layer))
    turned = {pair.path for pair in matrices if type(held[pair.name].layer) in crossed - straight}
    return [pair._replace(transform=transposed) if pair.path in turned else pair for pair in pairs]


def _check_total(
    shapes: Shapes,
    state: Collection[str],
    module: nn.Module,
    every: Mapping[str, Entry],
    pairs: Sequence[Pair],
    ignored: Collection[str],
    total: bool,
) -> None:
    names = [pair.name for pair in pairs]
    for name in names:
        if names.count(name) > 1:
            rivals = [pair.path for pair in pairs if pair.name == name]
            raise InputError(f"mapping: {_list(rivals)} are all paired with {name!r}; pair each with another tensor.")
    paired = {pair.path for pair in pairs}
    sources = {path: shape for path, shape in shapes.items() if path not in paired and path not in state}
    covered: dict[str, int] = {}
    for name in names:
        held = entry(module, name, every).value
        covered[whole(name)] = covered.get(whole(name), 0) + (len(held) if held.ndim else 1)
    parameters = [name for name, _ in module.named_parameters() if name not in ignored]
    tensors = {name: every[name].tensor for name in parameters}
    targets = {n: t.shape for n, t in tensors.items() if covered.get(n, 0) != (len(t) if t.ndim else 1)}
    unpaired = [
        *([f"no torch tensor is paired with {_sized(sources)} of the JAX model"] if sources else []),
        *([f"no JAX array is paired with {_sized(targets)} of the torch module"] if targets and total else []),
    ]
    if unpaired:
        advice = "correct the shapes, or give pairs" if len(unpaired) > 1 else "give pairs"
        raise InputError(f"mapping: {', and '.join(unpaired)}: {advice}.")


def _sized(shapes: Mapping[str, Sequence[int]]) -> str:
    return ", ".join(f"{name!r} {list(shape)}" for name, shape in shapes.items())


def _check_shape(jax_shape: tuple[int, ...], pair: Pair, held: Entry) -> None:
    shape, layer = tuple(held.value.shape), held.layer
    try:
        expected = pair.transform.to_jax(np.empty(shape)).shape
    except (ValueError, IndexError):
        raise InputError(
            f"mapping: the transform of {pair.path!r} can't convert {pair.name!r}, which is {list(shape)}: correct it."
        ) from None
    if jax_shape == expected:
        return
    problem = (
        f"mapping: {pair.path!r} is {list(jax_shape)}, and {pair.name!r}, {list(shape)} of a {type(layer).__name__}"
    )
    if jax_shape == shape:
        advice = "it is held in torch's layout, so give the pair the transform `as_is`"
    elif getattr(layer, "transposed", False) and jax_shape == flipped_kernel.to_jax(np.empty(shape)).shape:
        advice = "pass transpose_kernel=True to the Flax layer, or give the pair the transform `flipped_kernel`"
    elif len(shape) == 2 and jax_shape == expected[::-1]:
        advice = "it is held in the other order of axes, so give the pair the transform `transposed`"
    else:
        advice = "correct the pair or the layer"
    raise InputError(f"{problem}, needs {list(expected)}: {advice}.")


def _list(names) -> str:
    return ", ".join(map(repr, names)) or "none"
