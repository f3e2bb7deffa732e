"""Give the dropout of both frameworks the same masks, call by call."""

import contextlib
from collections.abc import Iterator

from parity_tests.harness.hooks import jax_dropout, torch_dropout
from parity_tests.harness.hooks.masks import Masks


@contextlib.contextmanager
def shared(both: bool) -> Iterator[None]:
    """Share the masks within the context, if `both` asks for it."""
    masks = Masks() if both else None
    with torch_dropout.shared(masks), jax_dropout.shared(masks):
        yield
