"""The settings of both frameworks during a comparison."""

import contextlib
from collections.abc import Iterator

from parity_tests.harness.hooks.jax_settings import jax_settings
from parity_tests.harness.hooks.torch_settings import torch_settings


@contextlib.contextmanager
def settings(dtype: str) -> Iterator[None]:
    """Set both frameworks up for a comparison in `dtype`, and restore them afterwards."""
    with jax_settings(dtype), torch_settings(dtype):
        yield
