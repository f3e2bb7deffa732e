"""Compare modules of JAX and PyTorch: outputs, loss, gradients, optimizer steps; and training loops, step by step.

`assert_parity` raises a `ParityError` that names the first layer that differs and its likely cause; `compare_modules`
returns the report. `assert_run_parity` and `compare_runs` do so for two training loops. All are imported when they are
first used, so that `import parity_tests` loads no framework.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
