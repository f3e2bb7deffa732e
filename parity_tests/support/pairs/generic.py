"""Run both models of a case at the same random weights, and measure by how much they differ.

This knows nothing of the harness: it is the proof that an edit is a difference, and that an unedited pair has none.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import linen, nnx

from parity_tests.support.pairs.case import Case, Named, arrays, leaves

Numbers = dict[str, np.ndarray]


def gap(case: Case, seed: int = 0) -> float:
    """Return the largest difference of outputs, states and gradients, as a share of each array's largest; infinite
    where only one of the models can run."""
    with jax.enable_x64(True), np.errstate(all="ignore"):
        model, variables, module = case.models()
        module = module.double().train(case.train) if not _complex(module) else _widened(module).train(case.train)
        weights = _drawn(case, model, variables, seed)
        results = []
        for run, of in ((_jax_run, (model, variables)), (_torch_run, (module,))):
            try:
                results.append(run(case, weights, *of))
            except (ValueError, TypeError, RuntimeError, IndexError) as error:
                if case.in_jax == case.in_torch:
                    raise
                results.append(error)
        ours, theirs = results
        if isinstance(ours, Exception) or isinstance(theirs, Exception):
            return np.inf
        return max(_distance(ours[name], theirs[name]) for name in theirs)


def _distance(a: np.ndarray, b: np.ndarray) -> float:
    if a.shape != b.shape:
        return np.inf
    finite = np.isfinite(a) & np.isfinite(b) & (np.abs(b) < 1e8)
    if not np.array_equal(a[~finite], b[~finite], equal_nan=True):
        return np.inf
    scale = np.abs(b[finite]).max(initial=0)
    # a gradient that is rounding is none
    return float(np.abs(a[finite] - b[finite]).max(initial=0) / max(scale, 1e-4))


def _complex(module: torch.nn.Module) -> bool:
    return any(tensor.is_complex() for tensor in module.buffers())


def _widened(module: torch.nn.Module) -> torch.nn.Module:
    return module._apply(lambda t: t.to(torch.complex128) if t.is_complex() else t.double() if t.is_floating_point() else t)


def _drawn(case: Case, model: Any, variables: Any, seed: int) -> Numbers:
    """Draw every array of the Flax model, in its layout."""
    held, rng = _held(model, variables), np.random.default_rng([seed, 7])
    drawn = {}
    for path in sorted(held):
        shape, leaf = held[path].shape, path.rpartition("/")[2]
        if np.issubdtype(held[path].dtype, np.integer):
            drawn[path] = rng.integers(1, 9, size=shape).astype(np.int64)
        elif leaf == "var":
            drawn[path] = rng.uniform(0.5, 1.5, size=shape)
        elif leaf == "scale":
            drawn[path] = rng.uniform(0.5, 1.5, size=shape) * rng.choice([-1, 1], size=shape)
        else:
            fan = np.prod(shape[:-1]) if leaf == "kernel" else 1
            drawn[path] = rng.normal(size=shape) / np.sqrt(fan)
    return drawn


def _held(model: Any, variables: Any) -> dict[str, Any]:
    tree = nnx.to_pure_dict(nnx.state(model, nnx.Any(nnx.Param, nnx.BatchStat))) if variables is None else variables
    return {_path(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _path(path: Any) -> str:
    text = jax.tree_util.keystr(path, simple=True, separator="/")
    return text.removeprefix("params/").removeprefix("batch_stats/")


def _filled(tree: Any, weights: Numbers) -> Any:
    return jax.tree_util.tree_map_with_path(lambda path, _: jnp.asarray(weights[_path(path)]), tree)


def _jax_run(case: Case, weights: Numbers, model: Any, variables: Any) -> Numbers:
    x = case.inputs
    x = jnp.asarray(np.moveaxis(x, 1, -1) if x.ndim == 4 else x)
    losses = case.losses
    if variables is None:
        _, params, state, rest = nnx.split(model, nnx.Param, nnx.BatchStat, ...)
        params, state = nnx.to_pure_dict(params), nnx.to_pure_dict(state)
    elif isinstance(model, linen.Module) or "batch_stats" in variables:
        params, state = variables.get("params", {}), variables.get("batch_stats", {})
    else:
        params, state = variables, {}
    params, state = _filled(params, weights), _filled(state, weights)

    def forward(params: Any) -> tuple[Any, Any]:
        if variables is None:
            module = nnx.clone(model)
            nnx.update(module, params)
            nnx.update(module, state)
            _wide(module)
            module.train() if case.train else module.eval()
            return module(x), nnx.to_pure_dict(nnx.state(module, nnx.BatchStat))
        if isinstance(model, linen.Module):
            rngs = {"dropout": jax.random.key(0)}
            every = {"params": params, "batch_stats": state}
            return model.apply(every, x, train=case.train, mutable=["batch_stats"], rngs=rngs)  # type: ignore[return-value]
        return model({"params": params, "batch_stats": state} if state else params, x), state

    outputs, after = forward(params)
    numbers = {f"output {i}": _second(np.asarray(y)) for i, y in enumerate(leaves(outputs))}
    every = {_path(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(after)}
    if losses is not None:
        gradients = jax.jit(jax.grad(lambda params: losses[0](forward(params)[0])))(params)
        every |= {_path(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(gradients)}
    for each in arrays(case.in_jax):
        if each.path in every:
            numbers[_label(each)] = np.asarray(each.tensor.to_torch(every[each.path]))
    return numbers


def _wide(module: nnx.Module) -> None:
    """Let embeddings, which keep the precision they were made in, compute in float64."""
    for _, layer in nnx.iter_modules(module):
        if isinstance(layer, nnx.Embed):
            layer.dtype = jnp.float64


def _second(y: np.ndarray) -> np.ndarray:
    return np.moveaxis(y, -1, 1) if y.ndim == 4 else y


def _label(each: Named) -> str:
    return f"{each.name}, rows {each.tensor.rows}"


def _torch_run(case: Case, weights: Numbers, module: torch.nn.Module) -> Numbers:
    state = module.state_dict(keep_vars=True)
    every = list(arrays(case.in_jax))
    with torch.no_grad():
        for each in every:
            array = torch.tensor(np.ascontiguousarray(each.tensor.to_torch(weights[each.path])))
            rows = each.tensor.rows
            (state[each.name] if rows is None else state[each.name][slice(*rows)]).copy_(array)
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
