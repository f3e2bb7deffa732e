"""Check the arguments of `compare_modules` before anything is computed."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import linen, nnx
from torch import nn

from jaxvae.shared.errors import InputError
from parity_tests.harness.modules.common.names import kind
from parity_tests.harness.modules.mapping import Joint, Transform

DTYPES = ("float64", "float32", "bfloat16", "float16", "mixed", "tf32", "as run")


def check(
    jax_model: Any,
    torch_module: Any,
    mapping: Any,
    losses: Any,
    optimizers: Any,
    scheduler: Any,
    steps: Any,
    dtype: Any,
    weights: Any,
) -> None:
    """Raise InputError for the first invalid argument of `compare_modules`."""
    if isinstance(jax_model, type | nn.Module) or not callable(jax_model):
        raise InputError(
            f"jax_model: expected a Flax module or a function f(params, *inputs), found {kind(jax_model)}: "
            "pass one that can be called."
        )
    if not isinstance(torch_module, nn.Module):
        raise InputError(f"torch_module: expected a torch.nn.Module, found {kind(torch_module)}: pass a module.")
    if mapping is not None and not _is_mapping(mapping):
        raise InputError(
            "mapping: expected pairs {path: name}, rules [(regex, replacement)], either with a Transform after the "
            f"name, or with a Joint after several names or paths, or None to go by names and shapes, found {mapping!r}."
        )
    if losses is not None and not (_two(losses) and all(map(callable, losses))):
        raise InputError(f"losses: expected the two functions (jax_loss, torch_loss), found {kind(losses)}.")
    if optimizers is not None:
        _check_optimizers(optimizers, losses, steps)
    elif scheduler is not None:
        raise InputError("scheduler: expected None where optimizers is None: pass both or neither.")
    if not (scheduler is None or callable(scheduler)):
        raise InputError(
            f"scheduler: expected a function that makes a scheduler from torch's optimizer, found {kind(scheduler)}."
        )
    if dtype not in DTYPES:
        raise InputError(f"dtype: expected one of {', '.join(DTYPES)}, found {dtype!r}.")
    if dtype not in DTYPES[:2] and optimizers is not None:
        raise InputError(
            f"optimizers: steps are compared in float64 and float32, and dtype is {dtype!r}: compare them in float64."
        )
    if dtype == "tf32" and not (torch.cuda.is_available() and jax.default_backend() == "gpu"):
        raise InputError(
            "dtype: 'tf32' needs a GPU that both frameworks compute on, and there is none: compare in float32, whose "
            "products CPUs compute with all of their bits."
        )
    if weights not in ("jax", "torch", "compare"):
        raise InputError(f"weights: expected jax, torch or compare, found {weights!r}.")


def check_outputs(outputs: Any) -> None:
    """Raise InputError if the pairs of outputs are not places by places."""
    pairs = outputs.items() if isinstance(outputs, Mapping) else [(outputs,)]
    if isinstance(outputs, list | tuple):
        pairs = [(place, place) for place in outputs]
    if outputs is not None and not all(len(p) == 2 and all(isinstance(place, str) for place in p) for p in pairs):
        raise InputError(
            'outputs: expected {place in JAX: place in torch}, as in {"output[0]": "output[\'mean\']"}, a list of '
            f"places that are the same in both, or None, found {outputs!r}."
        )


def check_method(jax_model: Any, method: Any, torch_module: nn.Module, torch_method: Any) -> None:
    """Raise InputError if there is no such method of a model."""
    for where, model, name in (("method", jax_model, method), ("torch_method", torch_module, torch_method)):
        if name is None:
            continue
        if not isinstance(model, nnx.Module | linen.Module | nn.Module):
            raise InputError(f"{where}: expected None with {kind(model)}, found {name!r}: pass the function itself.")
        if not (isinstance(name, str) and callable(getattr(model, name, None))):
            raise InputError(f"{where}: {kind(model)} has no method {name!r}: pass the name of one.")


def arrays(inputs: Any, where: str, dtype: str) -> list[np.ndarray]:
    """Return the inputs as numpy arrays, with their floats in `dtype`."""
    several = list(inputs) if isinstance(inputs, list | tuple) else [inputs]
    if not several:
        raise InputError(f"{where}: expected one array or more in torch's layout, found none.")
    return [array(x, f"{where}[{i}]" if isinstance(inputs, list | tuple) else where, dtype)
            for i, x in enumerate(several)]  # fmt: skip


def numbers(leaf: Any) -> np.ndarray | None:
    """Convert an array of either framework, or a number, to numpy; return None for anything else."""
    if isinstance(leaf, torch.Tensor):
        leaf = leaf.to_dense() if leaf.layout != torch.strided else leaf
        leaf = (leaf.float() if leaf.dtype == torch.bfloat16 else leaf).resolve_conj().resolve_neg().numpy(force=True)
    if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.extended):
        return None  # a random key
    if not isinstance(leaf, np.ndarray | np.generic | jax.Array | bool | int | float | complex):
        return None
    result = np.asarray(leaf)
    return result if any(jnp.issubdtype(result.dtype, real) for real in (jnp.inexact, np.integer, bool)) else None


def array(x: Any, where: str, dtype: str) -> np.ndarray:
    """Return an input as a numpy array, a float in `dtype`."""
    found = numbers(x)
    if found is None:
        raise InputError(
            f"{where}: expected an array of numbers, or several in a list, found {kind(x)}; pass dicts, arguments by "
            "keyword and options as Inputs(...)."
        )
    if not found.size:
        raise InputError(
            f"{where}: expected at least one number, found the empty shape {list(found.shape)}: pass a batch."
        )
    kept: Any = found.dtype
    if dtype == "as run":  # JAX's default has no float64, and torch's layers take none
        kept = (
            jnp.bfloat16
            if getattr(x, "dtype", None) == torch.bfloat16
            else {"float64": np.float32}.get(str(kept), kept)
        )
    elif jnp.issubdtype(kept, jnp.floating):
        kept = jnp.dtype({"mixed": "float32", "tf32": "float32"}.get(dtype, dtype))
    elif found.dtype.kind == "c":
        kept = {"float64": np.complex128}.get(dtype, np.complex64)
    return np.array(found, kept, order="C")  # torch rejects arrays with negative strides


def _check_optimizers(optimizers: Any, losses: Any, steps: Any) -> None:
    if losses is None:
        raise InputError("optimizers: a step needs a gradient, but losses is None: pass (jax_loss, torch_loss).")
    if not _two(optimizers) or not (hasattr(optimizers[0], "init") and hasattr(optimizers[0], "update")):
        raise InputError(f"optimizers: expected (optax's, parameters -> torch's), found {kind(optimizers)}.")
    if isinstance(optimizers[1], torch.optim.Optimizer) or not callable(optimizers[1]):
        raise InputError(
            "optimizers: expected a function of the parameters that returns torch's optimizer, as "
            f"partial(torch.optim.Adam, lr=1e-3) does, found {kind(optimizers[1])}."
        )
    if isinstance(steps, bool) or not isinstance(steps, int | np.integer) or steps < 1:
        raise InputError(f"steps: expected a positive integer, found {steps!r}.")


def _is_mapping(mapping: Any) -> bool:
    if isinstance(mapping, Mapping):
        targets = [target if isinstance(target, list | tuple) else (target,) for target in mapping.values()]
        return all(map(_is_rule, ((path, *target) for path, target in zip(mapping, targets, strict=True))))
    return isinstance(mapping, list | tuple) and all(map(_is_rule, mapping))


def _is_rule(rule: Any) -> bool:
    if not isinstance(rule, list | tuple) or len(rule) not in (2, 3):
        return False
    if len(rule) == 3 and isinstance(rule[2], Joint):
        return all(isinstance(name, str) or _are_names(name) for name in rule[:2])
    return all(isinstance(name, str) for name in rule[:2]) and all(isinstance(t, Transform) for t in rule[2:])


def _are_names(names: Any) -> bool:
    return isinstance(names, list | tuple) and bool(names) and all(isinstance(name, str) for name in names)


def _two(pair: Any) -> bool:
    return isinstance(pair, list | tuple) and len(pair) == 2
