"""Compare a JAX model with a torch module."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__, submod_attrs={"compare": ["ParityError", "assert_parity", "compare_modules"], "inputs": ["Inputs"]}
)
