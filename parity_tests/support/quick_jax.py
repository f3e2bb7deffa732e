"""Let JAX compile and set up fewer small programs, of which the tests have thousands. No number changes."""

import importlib
from typing import Any

import jax
import numpy as np


def _private(module: str) -> Any:
    """Return a module of JAX's own; None in a JAX that has none of this name, which stays as it is."""
    try:
        return importlib.import_module(f"jax._src.{module}")
    except ImportError:
        return None


_PROGRAMS = 300
mlir, lax = _private("interpreters.mlir"), _private("lax.lax")
_make_context: Any = getattr(mlir, "make_ir_context", None)
_contexts: list[Any] = []


def install() -> None:
    """Change this process's JAX, from the first call on."""
    if _make_context is not None:
        mlir.make_ir_context = _context
    if hasattr(getattr(lax, "stage_p", None), "def_impl"):
        lax.stage_p.def_impl(_staged)


def _context() -> Any:
    """Return one context of MLIR for hundreds of programs: to make one takes as long as to lower a small program."""
    if len(_contexts) % _PROGRAMS == 0:
        _contexts[:] = [_make_context()]
    else:
        _contexts.append(_contexts[0])
    return _contexts[0]


def _staged(value: Any) -> Any:
    """Return a value as an array of JAX, for which `jnp.asarray` would compile a program for each shape."""
    if isinstance(value, jax.Array):
        return value
    # A copy, since device_put may share the memory with the array.
    return jax.device_put(np.array(value) if isinstance(value, np.ndarray) else value)
