"""What the comparisons of modules run under."""

from collections.abc import Iterator

import jax
import pytest


@pytest.fixture(scope="module", autouse=True)
def _unkept() -> Iterator[None]:
    """Keep no program on the disk: each pair has programs of its own, and to write one takes a tenth of its time."""
    name = "jax_persistent_cache_min_compile_time_secs"
    before = getattr(jax.config, name)
    jax.config.update(name, float("inf"))
    yield
    jax.config.update(name, before)
