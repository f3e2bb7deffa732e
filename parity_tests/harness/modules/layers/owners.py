"""Find where the user's code that has a layer is defined; no framework is needed here."""

import contextlib
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from parity_tests.harness.findings import Source

_LIBRARIES = ("torch", "flax", "jax", "optax", "builtins", "functools")


def owner(name: str, separator: str, classes: Mapping[str, Any]) -> Source | None:
    """Return the source of the innermost module around `name` that is not a library's; of the whole module its own."""
    while True:
        name = name.rpartition(separator)[0]
        kind = classes.get(name)
        if kind is not None and not _of_library(kind):
            return source(kind)
        if not name:
            return None


def own(code: Any) -> Source | None:
    """Return where a function is defined, unless it is a library's."""
    return None if _of_library(code) else source(code)


def source(code: Any) -> Source:
    """Return where a class or a function is defined."""
    name = getattr(code, "__qualname__", type(code).__qualname__)
    with contextlib.suppress(OSError, TypeError):
        file, (_, line) = inspect.getsourcefile(code), inspect.getsourcelines(code)
        if file is not None:
            path = Path(file)
            here = Path.cwd()
            return Source(name, str(path.relative_to(here) if path.is_relative_to(here) else path), line)
    return Source(name)


def _of_library(code: Any) -> bool:
    return getattr(code, "__module__", "builtins").partition(".")[0] in _LIBRARIES
