"""Let JAX compile and set up fewer small programs, of which the tests have thousands. No number changes."""

from typing import Any

import jax
import numpy as np
from jax._src.interpreters import mlir
from jax._src.lax import lax

_PROGRAMS = 300
_make_context = mlir.make_ir_context
_contexts: list[Any] = []


def install() -> None:
    """Change this process's JAX, from the first call on."""
    mlir.make_ir_context = _context
    if hasattr(lax, "stage_p"):
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
