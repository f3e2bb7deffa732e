"""Compile a function of arrays for a comparison, where it can be compiled."""

from collections.abc import Callable
from typing import Any

import jax

from parity_tests.harness.hooks.masks import as_arrays

OPTIONS: dict[str, Any] = {"xla_allow_excess_precision": False, "xla_backend_optimization_level": 1}
"""XLA would leave out a conversion to fewer bits and back, which another framework computes. At level 0 the gradient of
a maximum is NaN, as its numbers are computed twice, with other roundings; higher ones take longer to compile."""

UNFUSED = OPTIONS | {"xla_disable_hlo_passes": "fusion", "xla_backend_optimization_level": 0}
"""Unfused, no number is computed twice, so that the level that is compiled fastest serves too."""


AS_RUN: dict[str, Any] = {"xla_backend_optimization_level": 1}
"""Conversions are left out where XLA leaves them out in a user's own program."""


def compiled(call: Callable[..., Any], options: dict[str, Any] = OPTIONS) -> Callable[..., Any]:
    """Compile a function; one that can't be compiled, such as one that asks for an array's values, runs as it is.

    An exception of the function's own is raised by that run, so that its traceback holds no compilation.
    """
    program: Any = jax.jit(call, compiler_options=options)

    def run(*args: Any) -> Any:
        nonlocal program
        if program is not None:
            try:
                return program(*args)
            except Exception:  # a trace can fail in many ways that the function itself does not
                program = None
                as_arrays()
        return call(*args)

    return run
