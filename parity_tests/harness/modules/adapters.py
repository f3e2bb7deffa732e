"""A JAX model of whichever make as pure functions of plain trees."""

import contextlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxvae.shared.errors import InputError
from parity_tests.harness.hooks import jax_layers, linen_layers
from parity_tests.harness.hooks.record import Layer
from parity_tests.harness.modules.mapping import canonical
from parity_tests.harness.modules.validation import kind


class Network(NamedTuple):
    params: Any
    """What is trained, as the model's user holds it."""
    statistics: Any
    """What a training-mode call updates: batch normalization's running mean and variance."""
    apply: Callable[..., tuple[Any, Any]]
    """`(params, statistics, *inputs)` to the outputs and the statistics after."""
    watch: Callable[..., dict[str, Layer]] | None
    """The same arguments to the calls of every layer, until one fails; None where a bare function has none to show."""


def network(model: Any, params: Any, dtype: str, train: bool) -> Network:
    """A Flax NNX module (`params` None, or its state), a Linen module (its variables) or a function
    `f(params, *inputs)`, with its floats in `dtype`."""
    if isinstance(model, nnx.Module):
        return _nnx(model, params, dtype, train)
    if params is None:
        raise InputError(f"params: {kind(model)} needs its parameters; found None: pass what its init gave.")
    if isinstance(model, nn.Module):
        return _linen(model, params, dtype, train)
    flags = _mode(model, train)
    return Network(cast(params, dtype), {}, lambda params, _, *inputs: (model(params, *inputs, **flags), {}), None)


def cast(tree: Any, dtype: str) -> Any:
    """The tree with its floats in `dtype`, all as new arrays."""

    def one(leaf: Any) -> Any:
        if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.extended):
            return leaf  # a random key
        return jnp.array(leaf, dtype if jnp.issubdtype(jnp.result_type(leaf), jnp.floating) else None)

    return jax.tree.map(one, tree)


def flatten(tree: Any) -> dict[str, np.ndarray]:
    """The tree's arrays by path, `conv1/kernel`, without the collection's name."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        canonical(jax.tree_util.keystr(path, simple=True, separator="/")): np.asarray(leaf) for path, leaf in leaves
    }


def replaced(tree: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    """The tree with the arrays in the places of its own."""
    paths = flatten(tree)
    return jax.tree.unflatten(jax.tree.structure(tree), [jnp.asarray(arrays[path]) for path in paths])


def _nnx(model: nnx.Module, params: Any, dtype: str, train: bool) -> Network:
    module = nnx.clone(model)
    if params is not None:
        nnx.update(module, params)
    if train:
        module.train()
    else:
        module.eval()
    graph, trained, statistics, rest = nnx.split(module, nnx.Param, nnx.BatchStat, ...)

    def merged(params: Any, statistics: Any) -> Any:
        return nnx.merge(graph, params, statistics, rest, copy=True)

    def apply(params: Any, statistics: Any, *inputs: Any) -> tuple[Any, Any]:
        module = merged(params, statistics)
        outputs = module(*inputs)
        return outputs, nnx.to_pure_dict(nnx.state(module, nnx.BatchStat))

    def watch(params: Any, statistics: Any, *inputs: Any) -> dict[str, Layer]:
        module = merged(params, statistics)
        with jax_layers.record(module) as calls, contextlib.suppress(Exception):
            module(*inputs)
        return calls

    return Network(cast(nnx.to_pure_dict(trained), dtype), cast(nnx.to_pure_dict(statistics), dtype), apply, watch)


def _linen(model: nn.Module, variables: Any, dtype: str, train: bool) -> Network:
    variables = dict(cast(variables if "params" in variables else {"params": variables}, dtype))
    params = variables.pop("params")
    statistics = {name: variables.pop(name) for name in ("batch_stats",) if name in variables}
    flags = _mode(model.__call__, train)

    def apply(params: Any, statistics: Any, *inputs: Any) -> tuple[Any, Any]:
        every = {"params": params, **statistics, **variables}
        rngs = {"dropout": jax.random.key(0)}
        return model.apply(every, *inputs, **flags, rngs=rngs, mutable=list(statistics))  # type: ignore[return-value]

    def watch(*args: Any) -> dict[str, Layer]:
        with linen_layers.record() as calls, contextlib.suppress(Exception):
            apply(*args)
        return calls

    return Network(params, statistics, apply, watch)


def _mode(call: Callable[..., Any], train: bool) -> dict[str, bool]:
    """The flags by which the field tells a model its mode, where the model's signature has them."""
    flags = {"train": train, "training": train, "is_training": train, "deterministic": not train}
    flags["use_running_average"] = not train
    try:
        accepted = inspect.signature(call).parameters
    except ValueError:  # a builtin shows no signature
        return {}
    return {name: value for name, value in flags.items() if name in accepted}
