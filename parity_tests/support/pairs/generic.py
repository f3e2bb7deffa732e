"""Run both models of a case at the same random weights, and measure by how much they differ.

This knows nothing of the harness: it is the proof that an edit is a difference, and that an unedited pair has none.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx

from parity_tests.support.pairs import network
from parity_tests.support.pairs.case import Case, Named, arrays, leaves
from parity_tests.support.pairs.network import LinenNet, Net, NnxNet

Numbers = dict[str, np.ndarray]
_QUICK = {"xla_llvm_disable_expensive_passes": True, "xla_backend_optimization_level": 1}
"""A program that runs once is compiled without the slow passes. At optimization level 0 the gradient of a maximum is
NaN, as its numbers are computed twice, with other roundings."""


def gap(case: Case, seed: int = 0) -> float:
    """Return the largest difference of outputs, states and gradients, as a share of each array's largest; infinite
    where shapes differ."""
    with jax.enable_x64(True), network.relaxed(), np.errstate(all="ignore"):
        net, module = abstract(case.in_jax, case.inputs), network.in_torch(case.in_torch)
        weights = _drawn(net, seed)
        ours = _jax_run(case, weights, net)
        theirs = _torch_run(case, weights, _widened(module).train(case.train))
        return max(_distance(ours[name], theirs[name]) for name in theirs)


def torch_gap(case: Case) -> float:
    """Return the same between the torch modules of both descriptions, which needs no compilation."""
    with np.errstate(all="ignore"):
        modules = [_widened(network.in_torch(net)).train(case.train) for net in (case.in_jax, case.in_torch)]
        rng, drawn, held = np.random.default_rng(7), {}, modules[0].state_dict()
        for name in dict.fromkeys(each.name for each in arrays(case.in_jax)):
            tensor = held[name]
            if not tensor.is_floating_point():
                continue
            array = rng.normal(size=tensor.shape) / np.sqrt(np.prod(tensor.shape[1:]))
            drawn[name] = torch.tensor(abs(array) + 0.5 if name.endswith("running_var") else array)
        ours, theirs = {}, {}
        for module, numbers in zip(modules, (ours, theirs), strict=True):
            module.load_state_dict(module.state_dict() | drawn)
            numbers |= _torch_numbers(case, module)
        return max(_distance(ours[name], theirs[name]) for name in theirs)


class Abstract(NamedTuple):
    """A Flax model without numbers."""

    params: Any
    state: Any
    apply: Callable[..., tuple[Any, Any]]
    """Maps `(params, state, x, train)` to the outputs and the new state."""


def abstract(net: Net, x: np.ndarray) -> Abstract:
    """Return the shapes of the arrays of a Flax model, and the function that it is."""
    if net.flavour == "nnx":
        graph, params, state, rest = nnx.split(nnx.eval_shape(lambda: NnxNet(net)), nnx.Param, nnx.BatchStat, ...)

        def apply(params: Any, state: Any, x: Any, train: bool) -> tuple[Any, Any]:
            module = nnx.merge(graph, params, state, rest, copy=True)
            _wide(module)
            module.train() if train else module.eval()
            return module(x), nnx.to_pure_dict(nnx.state(module, nnx.BatchStat))

        return Abstract(nnx.to_pure_dict(params), nnx.to_pure_dict(state), apply)
    model = LinenNet(net)
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    held = jax.eval_shape(model.init, keys, _last(x))
    params, state = (dict(held.get(name, {})) for name in ("params", "batch_stats"))
    if net.flavour == "function":
        call = network.function(net)
        return Abstract(params, state, lambda p, s, x, train: (call({"params": p, "batch_stats": s}, x), s))

    def apply_linen(params: Any, state: Any, x: Any, train: bool) -> tuple[Any, Any]:
        every, rngs = {"params": params, "batch_stats": state}, {"dropout": jax.random.key(0)}
        y, after = model.apply(every, x, train=train, mutable=["batch_stats"], rngs=rngs)
        return y, after.get("batch_stats", {})

    return Abstract(params, state, apply_linen)


def _last(x: np.ndarray) -> jax.Array:
    return jnp.asarray(np.moveaxis(x, 1, -1) if x.ndim == 4 else x)


def _distance(a: np.ndarray, b: np.ndarray) -> float:
    if a.shape != b.shape:
        return np.inf
    finite = np.isfinite(a) & np.isfinite(b) & (np.abs(b) < 1e8)
    if not np.array_equal(a[~finite], b[~finite], equal_nan=True):
        return np.inf
    scale = np.abs(b[finite]).max(initial=0)
    # a gradient that is rounding is none
    return float(np.abs(a[finite] - b[finite]).max(initial=0) / max(scale, 1e-4))


def _widened(module: torch.nn.Module) -> torch.nn.Module:
    """Convert a module to float64, and its complex buffers to complex128."""
    kinds = {torch.float32: torch.float64, torch.complex64: torch.complex128}
    return module._apply(lambda tensor: tensor.to(kinds.get(tensor.dtype, tensor.dtype)))


def _drawn(net: Abstract, seed: int) -> Numbers:
    """Draw every array of the Flax model, in its layout."""
    held, rng = _flat(net.params) | _flat(net.state), np.random.default_rng([seed, 7])
    drawn = {}
    for path in sorted(held):
        shape, leaf = held[path].shape, path.rpartition("/")[2]
        if np.issubdtype(held[path].dtype, np.integer):
            drawn[path] = rng.integers(1, 9, size=shape)
        elif leaf == "var":
            drawn[path] = rng.uniform(0.5, 1.5, size=shape)
        elif leaf == "scale":
            drawn[path] = rng.uniform(0.5, 1.5, size=shape) * rng.choice([-1, 1], size=shape)
        else:
            fan = np.prod(shape[:-1]) if leaf == "kernel" else 1
            drawn[path] = rng.normal(size=shape) / np.sqrt(fan)
    return drawn


def _flat(tree: Any) -> dict[str, Any]:
    return {_path(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _path(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _jax_run(case: Case, weights: Numbers, net: Abstract) -> Numbers:
    losses = case.losses
    params, state = (
        jax.tree_util.tree_map_with_path(lambda path, _: jnp.asarray(weights[_path(path)]), tree)
        for tree in (net.params, net.state)
    )

    def forward(params: Any, state: Any, x: Any) -> tuple[Any, Any]:
        outputs, after = net.apply(params, state, x, case.train)
        return losses[0](outputs) if losses else 0.0, (outputs, after)

    run = jax.jit(jax.value_and_grad(forward, has_aux=True), compiler_options=_QUICK)
    (_, (outputs, after)), gradients = run(params, state, _last(case.inputs))
    numbers = {f"output {i}": _second(np.asarray(y)) for i, y in enumerate(leaves(outputs))}
    every = _flat(after) | (_flat(gradients) if losses else {})
    for each in arrays(case.in_jax):
        if each.path in every:
            numbers[_label(each)] = np.asarray(each.tensor.to_torch(np.asarray(every[each.path])))
    return numbers


def _wide(module: nnx.Module) -> None:
    """Let layers that keep float32 compute in float64: embeddings, and the softmax of Flax's attention."""
    for _, layer in nnx.iter_modules(module):
        if isinstance(layer, nnx.Embed):
            layer.dtype = jnp.float64
        elif isinstance(layer, nnx.MultiHeadAttention):
            layer.attention_fn = _attend


def _attend(query: Any, key: Any, value: Any, **_: Any) -> Any:
    scores = jnp.einsum("bqhd,bkhd->bhqk", query, key) / query.shape[-1] ** 0.5
    return jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores), value)


def _second(y: np.ndarray) -> np.ndarray:
    return np.moveaxis(y, -1, 1) if y.ndim == 4 else y


def _label(each: Named) -> str:
    return f"{each.name}, rows {each.tensor.rows}"


def _torch_run(case: Case, weights: Numbers, module: torch.nn.Module) -> Numbers:
    state = module.state_dict(keep_vars=True)
    every = list(arrays(case.in_jax))
    with torch.no_grad():
        for each in every:
            array = torch.tensor(np.array(each.tensor.to_torch(weights[each.path]), order="C"))
            rows = each.tensor.rows
            (state[each.name] if rows is None else state[each.name][slice(*rows)]).copy_(array)
    return _torch_numbers(case, module)


def _torch_numbers(case: Case, module: torch.nn.Module) -> Numbers:
    every = list(arrays(case.in_jax))
    outputs = module(torch.tensor(case.inputs))
    found = leaves(outputs)
    numbers = {f"output {i}": y.numpy(force=True) for i, y in enumerate(found)}
    if case.losses is not None and any(y.requires_grad for y in found):
        case.losses[1](outputs).backward()
    state = module.state_dict(keep_vars=True)
    for each in every:
        tensor = state[each.name]
        if not each.tensor.state:
            if case.losses is None:
                continue
            tensor = torch.zeros_like(tensor) if tensor.grad is None else tensor.grad
        array = tensor.numpy(force=True)
        numbers[_label(each)] = array if each.tensor.rows is None else array[slice(*each.tensor.rows)]
    return numbers
