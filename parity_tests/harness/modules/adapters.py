"""Express a JAX model of any kind as pure functions of plain trees."""

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
from parity_tests.harness.hooks.record import LayerCall
from parity_tests.harness.modules.mapping import canonical
from parity_tests.harness.modules.validation import kind


class Network(NamedTuple):
    """A JAX model as pure functions of its parameters."""

    params: Any
    """The trainable parameters, in the structure that the caller passed."""
    statistics: Any
    """The running mean and variance of batch normalization, which a call in training mode updates."""
    apply: Callable[..., tuple[Any, Any]]
    """Maps `(params, statistics, *inputs)` to the outputs and the updated statistics."""
    watch: Callable[..., dict[str, LayerCall]] | None
    """Maps the same arguments to the calls of every layer, until one fails; None for a bare function."""


def network(model: Any, params: Any, dtype: str, train: bool) -> Network:
    """Adapt a Flax NNX module (`params` None, or its state), a Linen module (its variables) or a function
    `f(params, *inputs)`, with its floats in `dtype`."""
    if isinstance(model, nnx.Module):
        return _nnx(model, params, dtype, train)
    if params is None:
        raise InputError(f"params: {kind(model)} needs its parameters; found None: pass the result of its init.")
    if isinstance(model, nn.Module):
        return _linen(model, params, dtype, train)
    flags = _mode(model, train)
    return Network(cast(params, dtype), {}, lambda params, _, *inputs: (model(params, *inputs, **flags), {}), None)


def cast(tree: Any, dtype: str) -> Any:
    """Copy the tree, with its floats in `dtype`."""

    def one(leaf: Any) -> Any:
        if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.extended):
            return leaf  # a random key
        return jnp.array(leaf, dtype if jnp.issubdtype(jnp.result_type(leaf), jnp.floating) else None)

    return jax.tree.map(one, tree)


def flatten(tree: Any) -> dict[str, np.ndarray]:
    """Return the tree's arrays by path, `conv1/kernel`, without the collection's name."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        canonical(jax.tree_util.keystr(path, simple=True, separator="/")): np.asarray(leaf) for path, leaf in leaves
    }


def replaced(tree: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    """Return a tree of the same structure with the leaves in `arrays`, by path."""
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

    def watch(params: Any, statistics: Any, *inputs: Any) -> dict[str, LayerCall]:
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

    def watch(*args: Any) -> dict[str, LayerCall]:
        with linen_layers.record() as calls, contextlib.suppress(Exception):
            apply(*args)
        return calls

    return Network(params, statistics, apply, watch)


def _mode(call: Callable[..., Any], train: bool) -> dict[str, bool]:
    """Return the keyword arguments of the call's signature that set its mode."""
    flags = {"train": train, "training": train, "is_training": train, "deterministic": not train}
    flags["use_running_average"] = not train
    try:
        accepted = inspect.signature(call).parameters
    except ValueError:  # a builtin shows no signature
        return {}
    return {name: value for name, value in flags.items() if name in accepted}
