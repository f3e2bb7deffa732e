"""Express a JAX model of any kind as pure functions of plain trees."""

import contextlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.errors import ModifyScopeVariableError

from jaxvae.shared.errors import InputError
from parity_tests.harness.hooks import jax_layers, linen_layers, masks
from parity_tests.harness.hooks.jax_layers import Traced, until_failure, watched
from parity_tests.harness.hooks.modes import applied, in_mode
from parity_tests.harness.hooks.recasting import policies, recast_linen, recast_nnx
from parity_tests.harness.hooks.record import LayerCall
from parity_tests.harness.modules.common.arguments import Arguments, Form
from parity_tests.harness.modules.common.names import STORED, canonical, kind

_COMPLEX = {"float32": "complex64", "float64": "complex128"}


class Network(NamedTuple):
    """A JAX model as pure functions of its parameters."""

    params: Any
    """The trainable parameters, in the structure that the caller passed."""
    state: Any
    """Every other array, such as running statistics, which a call in training mode may update."""
    apply: Callable[..., tuple[Any, Any]]
    """Maps `(params, state, *inputs)` to the outputs and the updated state."""
    watch: Callable[..., dict[str, LayerCall]] | None
    """Maps the same arguments to the calls of every layer, until one fails; None for a bare function."""
    tapped: Callable[..., Any] | None = None
    """Maps taps and the same arguments to the outputs, see `jax_layers.record`."""
    own: Callable[[Any], Any] = lambda params: params
    """Maps parameters to the structure that the caller passed, where they are rearranged."""
    rearranged: Callable[[Any], Any] = lambda tree: tree
    """Maps a tree of that structure, such as a gradient, to the arrangement of the parameters."""


def network(model: Any, params: Any, dtype: str, train: bool, form: Form, method: str = "__call__") -> Network:
    """Adapt a Flax NNX module (`params` None, or its state), a Linen module (its variables) or a function
    `f(params, *inputs)`, with its floats in `dtype`. The inputs are the arrays of a form."""
    if isinstance(model, nnx.Module):
        return _nnx(model, params, dtype, train, form, method)
    if params is None:
        raise InputError(f"params: {kind(model)} needs its parameters; found None: pass the result of its init.")
    params = nn.meta.unbox(params)
    if isinstance(model, nn.Module):
        return _linen(model, params, dtype, train, form, method)
    return _function(model, params, dtype, train, form)


def cast(tree: Any, dtype: str) -> Any:
    """Convert the tree's floats to `dtype` and its complex numbers to the complex dtype of twice the size; to "as run"
    nothing."""
    dtype = STORED.get(dtype, dtype)

    def one(leaf: Any) -> Any:
        if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.extended):
            return leaf  # a random key
        given = jnp.result_type(leaf)
        wanted: Any = jnp.dtype(dtype) if dtype != "as run" and jnp.issubdtype(given, jnp.floating) else given
        if jnp.issubdtype(given, jnp.complexfloating):
            wanted = _COMPLEX.get(dtype, given)
        if isinstance(leaf, jax.Array) and leaf.dtype == wanted and not leaf.committed:
            return leaf  # without a copy of a large array
        return jnp.asarray(np.asarray(leaf).astype(wanted), wanted)  # numpy needs no program for a conversion

    return jax.tree.map(one, tree)


def flatten(tree: Any) -> dict[str, np.ndarray]:
    """Return the tree's arrays by path, `conv1/kernel`, without the collection's name."""
    return {path_of(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def replaced(tree: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    """Return a tree of the same structure with the leaves in `arrays`, by path; others stay."""

    def one(path: Any, leaf: Any) -> Any:
        array = arrays.get(path_of(path))
        return leaf if array is None else jnp.asarray(array, leaf.dtype)

    return jax.tree_util.tree_map_with_path(one, tree)


def path_of(path: Any) -> str:
    """Return the path of a leaf, `conv1/kernel`, without the collection's name."""
    return canonical(jax.tree_util.keystr(path, simple=True, separator="/"))


def _in_form(form: Form, *given: Any, **more: Any) -> Callable[..., Arguments]:
    """What `in_mode` returns, as a function of the arrays of a form that is called as each call of the model begins."""
    arguments = in_mode(*given, **more)

    def of_arrays(*arrays: Any) -> Arguments:
        masks.begin("jax")
        positional, keywords = form(arrays, jnp.asarray)
        return arguments(*positional, **keywords)

    return of_arrays


def _nnx(model: nnx.Module, params: Any, dtype: str, train: bool, form: Form, method: str) -> Network:
    module = nnx.clone(model)
    if params is not None:
        nnx.update(module, params)
    if train:
        module.train()
    else:
        module.eval()
    recast_nnx(module, dtype)
    arguments = _in_form(form, getattr(module, method), train, lambda: nnx.Rngs(0))
    graph, trained, state, rest = nnx.split(module, nnx.Param, _is_state, ...)

    def merged(params: Any, state: Any) -> Any:
        return nnx.merge(graph, params, state, rest, copy=True)

    def apply(params: Any, state: Any, *inputs: Any) -> tuple[Any, Any]:
        module = merged(params, state)
        outputs = applied(getattr(module, method), arguments(*inputs))
        return outputs, nnx.to_pure_dict(nnx.state(module, _is_state))

    def recorded(traced: Traced | None, params: Any, state: Any, *inputs: Any) -> dict[str, LayerCall]:
        module = merged(params, state)
        with jax.disable_jit(), jax_layers.record(module, traced=traced) as calls, until_failure(traced):
            applied(getattr(module, method), arguments(*inputs))
        return calls

    def tapped(taps: Any, params: Any, state: Any, *inputs: Any) -> Any:
        module = merged(params, state)
        with jax.disable_jit(), jax_layers.record(module, taps=taps):
            return applied(getattr(module, method), arguments(*inputs))

    params, state = (cast(nnx.to_pure_dict(tree), dtype) for tree in (trained, state))
    return Network(params, state, apply, watched(recorded), tapped)


def _is_state(path: Any, value: Any) -> bool:
    """Return whether an NNX leaf is an array that is neither trained nor part of a random stream."""
    if isinstance(value, nnx.Param | nnx.RngState | nnx.Intermediate):
        return False
    held = value.get_value() if isinstance(value, nnx.Variable) else value
    return isinstance(held, jax.Array | np.ndarray) and not jnp.issubdtype(held.dtype, jax.dtypes.extended)


def _linen(model: nn.Module, variables: Any, dtype: str, train: bool, form: Form, method: str) -> Network:
    whole = "params" in variables or "batch_stats" in variables  # a model may have state alone
    state = dict(cast(variables if whole else {"params": variables}, dtype))
    params = state.pop("params", {})
    arguments = _in_form(form, getattr(model, method), train, lambda: {"dropout": jax.random.key(0)})
    options: dict[str, Any] = {"rngs": {"dropout": jax.random.key(0)}, "method": method}
    own: bool | None = None if dtype == "mixed" else False

    def called(mutable: Any, params: Any, state: Any, inputs: Any) -> tuple[Any, Any]:
        nonlocal own
        positional, keywords = arguments(*inputs)
        if own is None:
            with policies() as found, contextlib.suppress(Exception):
                jax.eval_shape(lambda: model.apply({"params": params, **state}, *positional, **keywords, **options))
            own = bool(found)
        with recast_linen(dtype, own):
            result = model.apply({"params": params, **state}, *positional, **keywords, **options, mutable=mutable)
        return result if mutable else (result, state)  # type: ignore[return-value]

    writes = True if train and state else None  # a model may ask whether its state is mutable

    def apply(params: Any, state: Any, *inputs: Any) -> tuple[Any, Any]:
        nonlocal writes
        if writes is None:
            with contextlib.suppress(ModifyScopeVariableError):
                result = called(False, params, state, inputs)
                writes = False
                return result
            writes = True  # in evaluation too
        return called(list(state) if writes else False, params, state, inputs)

    def recorded(traced: Traced | None, *args: Any) -> dict[str, LayerCall]:
        if writes is None:
            with contextlib.suppress(Exception):
                apply(*args)  # else the layers of a call that fails and those of the next would be recorded
        with jax.disable_jit(), linen_layers.record(traced=traced) as calls, until_failure(traced):
            apply(*args)
        return calls

    def tapped(taps: Any, *args: Any) -> Any:
        with jax.disable_jit(), linen_layers.record(taps):
            return apply(*args)[0]

    return Network(params, state, apply, watched(recorded), tapped)


def _function(call: Callable[..., Any], params: Any, dtype: str, train: bool, form: Form) -> Network:
    """Running statistics in a function's Linen variables are state: nothing trains them."""
    arguments = _in_form(form, call, train, lambda: {"dropout": jax.random.key(0)}, first=1)
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.extended):
            raise InputError(
                f"params: {path_of(path)!r} is a random key, expected the parameters of a function: leave it out, as "
                "nnx.split(model, nnx.Param, ...) does, and let the function make it."
            )
    params = cast(params, dtype)
    split = isinstance(params, Mapping) and "params" in params and "batch_stats" in params
    state = {"batch_stats": params["batch_stats"]} if split else {}
    trained = {name: value for name, value in params.items() if name not in state} if split else params

    def apply(params: Any, state: Any, *inputs: Any) -> tuple[Any, Any]:
        with recast_linen(dtype):
            return applied(call, arguments(*inputs), {**params, **state} if split else params), state

    return Network(trained, state, apply, None)
