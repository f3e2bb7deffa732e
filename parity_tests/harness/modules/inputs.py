"""The arguments of both models: arrays, which a comparison moves too, and whatever else a call takes."""

import itertools
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
import torch

from jaxvae.shared.errors import InputError
from parity_tests.harness.modules import layouts, validation
from parity_tests.harness.modules.common import placement
from parity_tests.harness.modules.common.arguments import Form, Inputs, Own, Place
from parity_tests.harness.modules.layouts import Layout, Layouts


class Call(NamedTuple):
    """The arguments of both models."""

    names: list[str]
    """Of the arrays that both have."""
    arrays: list[np.ndarray]
    """Those, in torch's layout."""
    in_jax: Form
    in_torch: Form
    layouts: Layouts
    """How JAX holds each array."""
    own: tuple[str, ...] = ()
    """The names of arrays that one of the two alone has, which are not moved."""
    places: Sequence[Any] = ()
    """How each array lies on several devices in JAX, see `placement`."""

    @property
    def own_arrays(self) -> dict[str, np.ndarray]:
        """Those arrays, by name."""
        return dict(zip(self.own, (*self.in_jax.own, *self.in_torch.own), strict=True)) if self.own else {}


def read(inputs: Any, jax_inputs: Any, torch_inputs: Any, given: Layouts, dtype: str) -> Call:
    """Read the arguments of both models.

    Args:
        inputs: Those of both: `Inputs`, or one array or several.
        jax_inputs: Those of the JAX model, where they are others.
        torch_inputs: Those of the torch module.
        given: The layouts of the inputs in JAX.
        dtype: Of their floats.

    Raises:
        InputError: If an argument is invalid, or if only one of the models has its own.
    """
    if jax_inputs is None and torch_inputs is None:
        names, arrays, leaves, structure = _flat(inputs, "inputs", dtype)
        layouts.check_places(given, "input_layouts", names if isinstance(inputs, Inputs) else range(len(names)))
        if isinstance(given, Mapping):
            given = {names.index(place) if place in names else place: layout for place, layout in given.items()}
        form = Form(leaves, structure)
        places = map(placement.of_rows, placement.of_inputs(inputs, len(arrays)), arrays)
        return Call(names, arrays, form, form, given, places=list(places))
    if jax_inputs is None or torch_inputs is None or not _nothing(inputs):
        raise InputError("inputs: expected inputs alone, or jax_inputs and torch_inputs without it: pass one or two.")
    if given is not None:
        raise InputError("input_layouts: with jax_inputs the layouts are found by the numbers: leave it out.")
    ours, mine, our_leaves, our_structure = _flat(jax_inputs, "jax_inputs", dtype)
    theirs, others, their_leaves, their_structure = _flat(torch_inputs, "torch_inputs", dtype)
    places = placement.of_inputs(jax_inputs, len(ours))
    # In float64 for either dtype: a comparison in float32 computes in both, whose arrays have to be the same pairs.
    pairs = _pairs(*(_flat(each, "", "float64")[1] for each in (jax_inputs, torch_inputs)))
    in_jax = {j: Place(n, shape) for n, (j, _, _, shape) in enumerate(pairs)}
    in_torch = {i: Place(n, None) for n, (_, i, _, _) in enumerate(pairs)}
    own = [name for i, name in enumerate(ours) if i not in in_jax]
    own += [name for i, name in enumerate(theirs) if i not in in_torch]
    return Call(
        [theirs[i] for _, i, _, _ in pairs],
        [others[i] for _, i, _, _ in pairs],
        Form(_placed(our_leaves, in_jax, mine), our_structure),
        Form(_placed(their_leaves, in_torch, others), their_structure),
        [layout for _, _, layout, _ in pairs],
        tuple(own),
        [places[j] for j, *_ in pairs],
    )


def _nothing(inputs: Any) -> bool:
    return isinstance(inputs, tuple) and not inputs


def _flat(inputs: Any, where: str, dtype: str) -> tuple[list[str], list[np.ndarray], list[Any], Any]:
    """Return the names of the arrays, the arrays, the leaves of the arguments, and what makes arguments of leaves."""
    if not isinstance(inputs, Inputs):
        arrays = validation.arrays(inputs, where, dtype)
        places = [Place(i) for i in range(len(arrays))]
        return [f"{where}[{i}]" for i in range(len(arrays))], arrays, *_opened((tuple(places), {}))
    paths, structure = jax.tree_util.tree_flatten_with_path((inputs.args, inputs.kwargs))
    names, arrays, leaves = [], [], []
    for (_, first, *rest), leaf in paths:
        name = f"{where}{jax.tree_util.keystr((first, *rest))}"
        if isinstance(leaf, Mapping):
            raise InputError(f"{name}: expected arrays or options, found {validation.kind(leaf)}: pass a dict.")
        if (
            isinstance(leaf, np.ndarray | np.generic | jax.Array | torch.Tensor)
            and validation.numbers(leaf) is not None
        ):
            names.append(name)
            arrays.append(validation.array(leaf, name, dtype))
            leaf = Place(len(arrays) - 1)
        leaves.append(leaf)
    return names, arrays, leaves, partial(jax.tree.unflatten, structure)


def _opened(tree: Any) -> tuple[list[Any], Any]:
    leaves, structure = jax.tree.flatten(tree)
    return leaves, partial(jax.tree.unflatten, structure)


def _placed(leaves: Sequence[Any], places: Mapping[int, Place], arrays: Sequence[np.ndarray]) -> list[Any]:
    return [places.get(leaf.number, Own(arrays[leaf.number])) if isinstance(leaf, Place) else leaf for leaf in leaves]


def _pairs(ours: list[np.ndarray], theirs: list[np.ndarray]) -> list[tuple[int, int, Layout, tuple[int, ...] | None]]:
    """Return which arrays hold the same numbers in both, with JAX's layout and, if it isn't of axes alone, its shape.

    An array that could be one of several is in no pair: to move another one than the model's would be a difference.
    """
    fits = {
        (j, i): found
        for (j, mine), (i, other) in itertools.product(enumerate(ours), enumerate(theirs))
        if (found := _held_as(mine, other)) is not None
    }
    alone = [
        (j, i)
        for j, i in fits
        if sum(j == k for k, _ in fits) == 1 == sum(i == k for _, k in fits)
    ]  # fmt: skip
    return [(j, i, *found) for j, i in sorted(alone, key=lambda pair: pair[1]) if (found := fits[j, i]) is not None]


def _held_as(mine: np.ndarray, other: np.ndarray) -> tuple[Layout, tuple[int, ...] | None] | None:
    """Return how JAX holds torch's array; None if it is another one, or if that can't be told from its numbers."""
    if mine.dtype.kind != other.dtype.kind or mine.size != other.size:
        return None
    usual: list[Layout] = ["same", "channels_last"] if other.ndim > 2 else ["same"]
    held = [np.array_equal(layouts.to_jax(other, layout), mine, equal_nan=True) for layout in usual]
    if any(held):
        return (usual[held.index(True)], None) if sum(held) == 1 else None
    squeezed = [tuple(n for n in array.shape if n != 1) for array in (mine, other)]
    if squeezed[0] == squeezed[1] and np.array_equal(mine.ravel(), other.ravel()):
        return "same", mine.shape
    return None
