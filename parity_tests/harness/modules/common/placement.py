"""How the arrays of a JAX model lie on several devices."""

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxvae.shared.errors import InputError
from parity_tests.harness.modules.adapters import Network, path_of

Shardings = Mapping[str, Any]


def sharding(leaf: Any) -> Any:
    """Return how an array lies on several devices; None if it lies on one.

    Raises:
        InputError: If devices of other processes have parts of it.
    """
    if not isinstance(leaf, jax.Array) or len(leaf.devices()) < 2:
        return None
    if not leaf.is_fully_addressable:
        raise InputError(
            "An array lies on devices of other processes: compare and record in a process that has all of its parts."
        )
    return leaf.sharding


def shardings(model: Any, params: Any) -> dict[str, Any]:
    """Return how those arrays of a model lie, by path, that lie on several devices."""
    own = nnx.to_pure_dict(nnx.state(model)) if isinstance(model, nnx.Module) else {}
    every = [leaf for tree in (own, params) for leaf in jax.tree_util.tree_leaves_with_path(nn.meta.unbox(tree))]
    found = {path_of(path): sharding(leaf) for path, leaf in every}
    return {path: place for path, place in found.items() if place is not None}


def of_inputs(inputs: Any, count: int) -> list[Any]:
    """Return how each of the `count` arrays of the arguments lies."""
    leaves = jax.tree.leaves((getattr(inputs, "args", inputs), getattr(inputs, "kwargs", {})))
    arrays = [leaf for leaf in leaves if hasattr(leaf, "shape") and hasattr(leaf, "dtype")]
    return [sharding(leaf) for leaf in arrays] if len(arrays) == count else [None] * count


def of_rows(place: Any, array: np.ndarray) -> Any:
    """Return how an array lies by its first axis alone, if JAX may hold its others in another order."""
    if array.ndim < 3 or not isinstance(place, NamedSharding):
        return place
    return NamedSharding(place.mesh, PartitionSpec(*place.spec[:1]))


def put(tree: Any, places: Shardings) -> Any:
    """Return the tree with its arrays where they lay. Within jit too."""
    if not places:
        return tree
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: jax.device_put(leaf, places[path_of(path)]) if path_of(path) in places else leaf, tree
    )


def put_inputs(inputs: Sequence[Any], places: Sequence[Any]) -> list[Any]:
    """Return the inputs where they lay. Within jit too."""
    return [x if place is None else jax.device_put(x, place) for x, place in zip(inputs, places, strict=True)]


def on_mesh(net: Network, places: Shardings, inputs: Sequence[Any], arrays: Sequence[Any]) -> Network:
    """Return a model that puts its arrays and inputs where they lay on meshes whose axes are explicit, as it is called.

    There a sharding is part of an array's type, without which the model's own operations may refuse it. On other
    meshes, and where the model's caller would have put them elsewhere, it computes the same with whole arrays.

    Args:
        net: The model.
        places: How its arrays lie, by path.
        inputs: How each of the inputs lies.
        arrays: The inputs.
    """
    places = {path: place for path, place in places.items() if _is_explicit(place)}
    chosen = [place if _is_explicit(place) else None for place in inputs]
    if not places and not any(chosen):
        return net

    def placed(params: Any, state: Any, *inputs: Any) -> tuple[Any, ...]:
        return put(params, places), put(state, places), *put_inputs(inputs, chosen)

    watch, tapped = net.watch, net.tapped
    found = net._replace(
        apply=lambda *args: net.apply(*placed(*args)),
        watch=watch and (lambda *args: watch(*placed(*args))),
        tapped=tapped and (lambda taps, *args: tapped(taps, *placed(*args))),
    )
    with contextlib.suppress(Exception):
        jax.eval_shape(found.apply, net.params, net.state, *arrays)
        return found
    return net


def _is_explicit(place: Any) -> bool:
    return AxisType.Explicit in getattr(getattr(place, "mesh", None), "axis_types", ())
