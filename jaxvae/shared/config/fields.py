"""The types of a configuration's fields, checked alike where a file is read and where Python makes a part of it."""

import dataclasses
import functools
import types
import typing
from typing import Any, Literal

import numpy as np

from jaxvae.shared.config.choices import require
from jaxvae.shared.errors import InputError
from jaxvae.shared.text import shown

LATER = {"later": True}
"""The metadata of a field that files of earlier versions lack. It isn't written where it has its default, so that their
configurations keep their text, and what they don't have is the default."""


def build(kind: Any, value: object, where: str) -> Any:
    """Convert a JSON value, or a value from Python, to an instance of a type.

    Args:
        kind: A dataclass, a Literal, int, float, bool, str, or a tuple, a dict or an optional of such.
        value: Any JSON value, or a tuple, a number or an array of NumPy's.
        where: What it is called in a message.

    Returns:
        The instance; a dataclass has checked its fields.

    Raises:
        InputError: If a field is unknown, missing, of the wrong type or out of range; the message names it.
    """
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if hasattr(kind, "from_json"):
        return value if isinstance(value, kind) else kind.from_json(value, where)
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, dict):
            raise InputError(f"{where} must be an object of named fields, found {shown(value)}.")
        types_of = _fields(kind)
        value = later(kind) | value
        for name in value:
            if name not in types_of:
                raise InputError(f"{where} has an unknown field {shown(name)}; it may have {', '.join(types_of)}.")
        for name in types_of:
            if name not in value:
                raise InputError(f"{where} lacks the field {name!r}.")
        built = {name: build(kind, value[name], f"{where}, {name}") for name, kind in types_of.items()}
        try:
            return typing.cast(Any, kind)(**built)
        except InputError as error:
            raise InputError(f"{where}: {error}") from None
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is tuple and isinstance(value, list | tuple):
        kinds = [arguments[0]] * len(value) if arguments[-1] is ... else list(arguments)
        if len(kinds) == len(value):
            return tuple(build(k, v, where) for k, v in zip(kinds, value, strict=True))
    elif origin is dict and isinstance(value, dict):
        return {name: build(arguments[1], v, f"{where}, {shown(name)}") for name, v in value.items()}
    elif origin in (types.UnionType, typing.Union):  # an optional Literal is typing's
        return None if value is None else build(arguments[0], value, where)
    elif origin is Literal:
        if isinstance(value, str) and value in arguments:
            return value
    elif kind is float and isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2**1023:
        return float(value)
    elif type(value) is kind:
        return value
    raise InputError(f"{where} must be {_words(kind)}, found {shown(value)}.")


def check_fields(part: Any) -> None:
    """Convert the fields of a configuration's part to their types; to be called first by its `__post_init__`.

    Args:
        part: An instance of a frozen dataclass.

    Raises:
        InputError: If a field is of the wrong type; the message names it.
    """
    for name, kind in _fields(type(part)).items():
        value = getattr(part, name)
        if dataclasses.is_dataclass(kind):
            require(
                isinstance(value, typing.cast(type, kind)),
                name,
                f"of the class {getattr(kind, '__name__', kind)}",
                value,
            )
        else:
            object.__setattr__(part, name, build(kind, value, f"The configuration's {name}"))


def written(part: Any) -> dict[str, Any]:
    """Convert a dataclass to JSON values, nested as it is, without later fields that have their default."""
    values = dataclasses.asdict(part)
    for field in dataclasses.fields(part):
        value = getattr(part, field.name)
        if dataclasses.is_dataclass(value):
            values[field.name] = written(value)
        elif field.metadata == LATER and value == field.default:
            del values[field.name]
        elif hasattr(value, "to_json"):
            values[field.name] = value.to_json()
    return values


def later(kind: Any) -> dict[str, Any]:
    """The defaults of a dataclass's fields that files of earlier versions lack, by name."""
    return {field.name: field.default for field in dataclasses.fields(kind) if field.metadata == LATER}


@functools.cache
def _fields(kind: Any) -> dict[str, Any]:
    """A dataclass's fields and their types."""
    types_of = typing.get_type_hints(kind)
    return {f.name: types_of[f.name] for f in dataclasses.fields(kind)}


def _words(kind: Any) -> str:
    """A type's name in a message."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        return "one of " + ", ".join(map(repr, arguments))
    if origin is tuple:
        kind = {int: "integers", str: "words"}.get(arguments[0], "objects")
        return f"a list of {kind}" if arguments[-1] is ... else f"a list of {len(arguments)} {kind}"
    if origin in (dict, types.UnionType):
        return "an object"
    return {int: "an integer", float: "a number", str: "text", bool: "true or false"}.get(kind, str(kind))
