"""The arguments of a recorded call: its arrays, and the rest as JSON."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxvae.shared.errors import InputError
from parity_tests.harness.modules.common.arguments import Arguments, Form, Inputs, Place
from parity_tests.harness.modules.common.names import kind
from parity_tests.harness.recordings.arrays import cast, numbers

_OPTIONS = (type(None), bool, int, float, str)


class Call(NamedTuple):
    """What a model is called with."""

    names: list[str]
    arrays: list[np.ndarray]
    tree: Any
    """The positional arguments and those by keyword, with a `Place` for each array."""

    @property
    def form(self) -> Form:
        """The arguments as a function of the arrays."""
        leaves: list[Any] = []
        _mapped(self.tree, lambda leaf, _: leaves.append(leaf))
        return Form(leaves, self._filled)

    def _filled(self, leaves: list[Any]) -> Arguments:
        given = iter(leaves)
        return _mapped(self.tree, lambda leaf, _: next(given))


def read(inputs: Any, dtype: str) -> Call:
    """Read the arguments of one model: one array, several in a tuple or a list, or `Inputs`.

    Raises:
        InputError: If there is no array, or something is none.
    """
    names: list[str] = []
    arrays: list[np.ndarray] = []

    def placed(leaf: Any, place: str) -> Any:
        array = None if isinstance(leaf, _OPTIONS) and whole is not None else numbers(leaf)
        if array is None and (whole is None or isinstance(leaf, Mapping)):
            raise InputError(
                f"inputs{place}: expected an array of numbers, or several in a list, found {kind(leaf)}; pass dicts, "
                "arguments by keyword and options as Inputs(...)."
            )
        if array is None:
            return leaf
        if not array.size:
            raise InputError(f"inputs{place}: expected at least one number, found {list(array.shape)}: pass a batch.")
        names.append(f"inputs{place}")
        arrays.append(cast(array, dtype))
        return Place(len(arrays) - 1)

    whole = inputs if isinstance(inputs, Inputs) else None
    if whole is not None:
        args = _mapped(whole.args, placed)
        return Call(names, arrays, (args, _mapped(whole.kwargs, placed)))
    several = tuple(inputs) if isinstance(inputs, list | tuple) else (inputs,)
    if not several:
        raise InputError("inputs: expected one array or more, found none.")
    args = tuple(placed(leaf, f"[{i}]") for i, leaf in enumerate(several))
    return Call(names, arrays, (args, {}))


def to_json(tree: Any) -> Any:
    """Convert the arguments to JSON values; an option that JSON has not is noted by its kind alone."""
    if isinstance(tree, Place):
        return {"array": tree.number}
    if isinstance(tree, dict):
        return {"dict": {str(name): to_json(value) for name, value in tree.items()}}
    if isinstance(tree, list | tuple):
        return {type(tree).__name__ if type(tree) is list else "tuple": [to_json(value) for value in tree]}
    return {"value": tree} if isinstance(tree, _OPTIONS) and tree == tree else {"option": kind(tree)}


def from_json(value: Any) -> Any:
    """Convert what `to_json` returns back.

    Raises:
        InputError: If an option is none of JSON's values.
    """
    ((what, held),) = value.items()
    if what == "dict":
        return {name: from_json(inner) for name, inner in held.items()}
    if what in ("list", "tuple"):
        inner = [from_json(one) for one in held]
        return inner if what == "list" else tuple(inner)
    if what == "option":
        raise InputError(f"inputs: the recorded call has {held} as an option, which no file holds: leave it out there.")
    return Place(held) if what == "array" else held


def _mapped(tree: Any, one: Callable[[Any, str], Any], place: str = "") -> Any:
    if isinstance(tree, dict):
        return type(tree)((name, _mapped(value, one, f"{place}[{name!r}]")) for name, value in tree.items())
    if isinstance(tree, list | tuple):
        inner = [_mapped(value, one, f"{place}[{i}]") for i, value in enumerate(tree)]
        return type(tree)(*inner) if hasattr(tree, "_fields") else type(tree)(inner)
    return one(tree, place)
