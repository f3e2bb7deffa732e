"""The structure of outputs, paired by name where both have names, by position where both have positions."""

import dataclasses
from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxvae.shared.errors import InputError


class Parts(NamedTuple):
    """The parts of an output that has several."""

    names: tuple[str, ...] | None
    positions: bool
    values: tuple[Any, ...]


class MixedError(Exception):
    """One model returns names, and the other positions."""


def leaves(tree: Any, place: str) -> Iterator[tuple[str, Any]]:
    """Yield the leaves of an output with their place, `output['mean']`; None is no leaf."""
    held = parts(tree)
    if held is not None:
        for i, value in enumerate(held.values):
            yield from leaves(value, f"{place}[{held.names[i]!r}]" if held.names else f"{place}[{i}]")
    elif tree is not None:
        yield place, tree


def paired(in_jax: Any, in_torch: Any, order: Mapping[str, str] | None = None) -> dict[str, tuple[Any, Any]]:
    """Pair the leaves of two outputs.

    Args:
        in_jax: The output of the JAX model: arrays, alone or in tuples, lists, dicts, NamedTuples or dataclasses.
        in_torch: The output of the torch module.
        order: `{place in JAX: place in torch}`, as in `{"output[0]": "output['mean']"}`, of those that are compared;
            None to pair all by structure.

    Returns:
        The pairs of leaves by their place in torch.

    Raises:
        MixedError: If one model returns names where the other returns positions.
        InputError: If the numbers of outputs or their names differ.
    """
    if order is not None:
        return _told(dict(leaves(in_jax, "output")), dict(leaves(in_torch, "output")), order)
    return dict(_paired(in_jax, in_torch, "output"))


def parts(tree: Any) -> Parts | None:
    """Return the parts of an output, without those that are None; None for a single array."""
    if isinstance(tree, Mapping):
        held = {str(name): value for name, value in tree.items() if value is not None}
        return Parts(tuple(held), False, tuple(held.values()))
    if dataclasses.is_dataclass(tree) and not isinstance(tree, type) and not hasattr(tree, "__array__"):
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
        counts = [len(dict(leaves(tree, ""))) for tree in (in_jax, in_torch)]
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
    return {theirs: (in_jax[ours], in_torch[theirs]) for ours, theirs in order.items()}


def order_of(outputs: Any) -> Mapping[str, str] | None:
    """Return the pairs of places that a caller gives, of which a list has those that are the same in both."""
    return dict(zip(outputs, outputs, strict=True)) if isinstance(outputs, list | tuple) else outputs


def chosen(outputs: Any, places: Collection[str] | None) -> Any:
    """Return the leaves of an output at some places, by place; the output itself if all are compared."""
    if places is None:
        return outputs
    return {place: leaf for place, leaf in leaves(outputs, "output") if place in places}


def unchosen(in_jax: Any, in_torch: Any, order: Mapping[str, str] | None) -> tuple[str, ...]:
    """Return the places of what is not compared in either output, as clauses."""
    if order is None:
        return ()
    sides = (in_jax, order.keys(), "the JAX model"), (in_torch, order.values(), "the torch module")
    return tuple(
        f"{place} of {model}"
        for tree, given, model in sides
        for place, _ in leaves(tree, "output")
        if place not in given
    )


def proportions(shape: tuple[int, ...]) -> np.ndarray:
    """Draw the proportions in which the entries of an output are mixed to one number."""
    rng = np.random.default_rng(0)
    return rng.uniform(0.5, 1.5, shape) * (rng.integers(0, 2, shape) * 2 - 1)
