"""Pair the outputs of two models: by name where both have names, by position where both have positions."""

import contextlib
import copy
import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch

from jaxvae.shared.errors import InputError
from parity_tests.harness.modules.validation import kind, numbers

Arrays = dict[str, np.ndarray]


class Parts(NamedTuple):
    """The parts of an output that has several."""

    names: tuple[str, ...] | None
    positions: bool
    values: tuple[Any, ...]


class MixedError(Exception):
    """One model returns names, and the other positions."""


def leaves(tree: Any) -> dict[str, np.ndarray]:
    """Return the arrays of an output by their place, `output['mean']`, in the model's own layout.

    Raises:
        InputError: If the output holds something other than arrays of numbers.
    """
    return dict(_leaves(tree, "output"))


def detached(in_torch: Any) -> Any:
    """Return an output of a torch module without what it was computed from, which holds all of the module's weights."""
    held = {id(leaf): leaf.detach() for _, leaf in _leaves(in_torch, "", raw=True) if isinstance(leaf, torch.Tensor)}
    with contextlib.suppress(Exception):  # an output that also holds other tensors, such as a cache
        return copy.deepcopy(in_torch, held)
    return in_torch


def paired(in_jax: Any, in_torch: Any, order: Mapping[str, str] | None = None) -> dict[str, tuple[Any, Any]]:
    """Pair the leaves of two outputs.

    Args:
        in_jax: The output of the JAX model: arrays, alone or in tuples, lists, dicts, NamedTuples or dataclasses.
        in_torch: The output of the torch module.
        order: `{place in JAX: place in torch}`, as in `{"output[0]": "output['mean']"}`; None to pair by structure.

    Returns:
        The pairs of leaves by their place in torch.

    Raises:
        MixedError: If one model returns names where the other returns positions.
        InputError: If the numbers of outputs or their names differ.
    """
    if order is not None:
        return _told(dict(_leaves(in_jax, "output", raw=True)), dict(_leaves(in_torch, "output", raw=True)), order)
    return dict(_paired(in_jax, in_torch, "output"))


def parts(tree: Any) -> Parts | None:
    """Return the parts of an output, without those that are None; None for a single array."""
    if isinstance(tree, Mapping):
        held = {str(name): value for name, value in tree.items() if value is not None}
        return Parts(tuple(held), False, tuple(held.values()))
    if dataclasses.is_dataclass(tree) and not isinstance(tree, type) and not _is_array(tree):
        held = {field.name: getattr(tree, field.name) for field in dataclasses.fields(tree)}
        held = {name: value for name, value in held.items() if value is not None}
        return Parts(tuple(held), False, tuple(held.values()))
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        fields: tuple[str, ...] = getattr(tree, "_fields")  # noqa: B009
        held = {name: value for name, value in zip(fields, tree, strict=True) if value is not None}
        return Parts(tuple(held), True, tuple(held.values()))
    if isinstance(tree, list | tuple):
        return Parts(None, True, tuple(value for value in tree if value is not None))
    return None


def _paired(in_jax: Any, in_torch: Any, place: str):
    mine, other = parts(in_jax), parts(in_torch)
    while mine is not None and other is None and len(mine.values) == 1:
        mine, in_jax = parts(mine.values[0]), mine.values[0]
    while other is not None and mine is None and len(other.values) == 1:
        other, in_torch = parts(other.values[0]), other.values[0]
    if mine is None and other is None:
        if in_jax is not None or in_torch is not None:
            yield place, (in_jax, in_torch)
        return
    if mine is None or other is None or len(mine.values) != len(other.values):
        counts = [len(dict(_leaves(tree, "", raw=True))) for tree in (in_jax, in_torch)]
        shown = "" if place == "output" else f" in {place}"
        raise InputError(
            f"outputs: the JAX model returns {counts[0]} arrays{shown} and the torch module {counts[1]}: "
            "make both return the same number."
        )
    if mine.names and other.names and set(mine.names) == set(other.names):
        both = dict(zip(mine.names, mine.values, strict=True))
        for name, value in zip(other.names, other.values, strict=True):
            yield from _paired(both[name], value, f"{place}[{name!r}]")
    elif mine.positions and other.positions:
        for i, (a, b) in enumerate(zip(mine.values, other.values, strict=True)):
            yield from _paired(a, b, f"{place}[{other.names[i]!r}]" if other.names else f"{place}[{i}]")
    elif mine.names and other.names:
        names = [", ".join(map(repr, given)) for given in (mine.names, other.names)]
        raise InputError(
            f"outputs: the JAX model names them {names[0]} and the torch module {names[1]}: use the same names, or "
            "pass outputs={place in JAX: place in torch}."
        )
    elif len(mine.values) == 1:
        yield from _paired(mine.values[0], other.values[0], place)
    else:
        named, listed = ("JAX model", "torch module") if mine.names else ("torch module", "JAX model")
        names = ", ".join(map(repr, mine.names or other.names or ()))
        raise MixedError(
            f"The outputs can't be paired: the {named} names them {names}, and the {listed} returns a sequence, whose "
            "order says nothing about names. Pass outputs={place in JAX: place in torch}, as in "
            '{"output[0]": "output[\'mean\']"}, or make both return names'
        )


def _told(in_jax: dict[str, Any], in_torch: dict[str, Any], order: Mapping[str, str]) -> dict[str, tuple[Any, Any]]:
    for places, given, model in ((in_jax, order.keys(), "JAX model"), (in_torch, order.values(), "torch module")):
        if unknown := [place for place in given if place not in places]:
            raise InputError(f"outputs: the {model} has no {unknown[0]}; it has {', '.join(places)}: correct it.")
        if missing := [place for place in places if place not in given]:
            raise InputError(f"outputs: {missing[0]} of the {model} is in no pair: give it one.")
    return {theirs: (in_jax[ours], in_torch[theirs]) for ours, theirs in order.items()}


def _leaves(tree: Any, place: str, raw: bool = False):
    held = parts(tree)
    if held is not None:
        for i, value in enumerate(held.values):
            yield from _leaves(value, f"{place}[{held.names[i]!r}]" if held.names else f"{place}[{i}]", raw)
    elif tree is not None:
        yield place, tree if raw else array(tree)


def array(leaf: Any) -> np.ndarray:
    """Convert one output to numpy.

    Raises:
        InputError: If it is no array of numbers.
    """
    result = numbers(leaf)
    if result is None:
        raise InputError(
            "outputs: expected arrays of numbers, alone or in tuples, lists, dicts and dataclasses, found "
            f"{kind(leaf)}: make both models return those."
        )
    return result


def _is_array(tree: Any) -> bool:
    return isinstance(tree, jax.Array | jnp.ndarray | np.ndarray | torch.Tensor)


def mixture(outputs: Any) -> jax.Array:
    """Return one number of the JAX model that each entry of its outputs moves, in a drawn proportion."""
    return sum(map(_mixed, jax.tree.leaves(_opened(outputs))), jnp.zeros(()))


def torch_mixture(outputs: Any) -> torch.Tensor:
    """Return the same number of the torch module."""
    tensors = [leaf for leaf in jax.tree.leaves(_opened(outputs)) if isinstance(leaf, torch.Tensor)]
    return sum((_torch_mixed(x) for x in tensors if x.requires_grad), torch.zeros((), dtype=torch.float64))


def _mixed(leaf: Any) -> jax.Array:
    if not jnp.issubdtype(jnp.result_type(leaf), jnp.inexact):
        return jnp.zeros(())
    flat = jnp.stack([leaf.real, leaf.imag], -1) if jnp.iscomplexobj(leaf) else leaf
    return (jnp.where(jnp.isfinite(flat), flat, 0) * _proportions(flat.shape)).sum()


def _torch_mixed(leaf: torch.Tensor) -> torch.Tensor:
    flat = torch.view_as_real(leaf) if leaf.is_complex() else leaf
    finite = torch.where(torch.isfinite(flat), flat, torch.zeros_like(flat))
    return (finite.double() * torch.as_tensor(_proportions(tuple(flat.shape)), device=flat.device)).sum().cpu()


def _proportions(shape: tuple[int, ...]) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.uniform(0.5, 1.5, shape) * (rng.integers(0, 2, shape) * 2 - 1)


def _opened(outputs: Any) -> Any:
    """Return the parts of an output as nested lists, whatever classes hold them."""
    held = parts(outputs)
    return outputs if held is None else [_opened(value) for value in held.values]
