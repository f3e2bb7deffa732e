"""One recording of each framework, for all tests of a file."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

from parity_tests.harness.recordings import Recording, record
from parity_tests.support.recorded_nets import IMAGES, IN_JAX, IN_TORCH, defined


class Recorded(NamedTuple):
    """A network of one framework, and its recording."""

    names: dict[str, Any]
    path: Path
    recording: Recording


@pytest.fixture(scope="session", autouse=True)
def _unkept() -> Iterator[None]:
    """Keep no program on the disk: each model has programs of its own, and to write one takes a tenth of its time."""
    name = "jax_persistent_cache_min_compile_time_secs"
    before = getattr(jax.config, name)
    jax.config.update(name, float("inf"))
    yield
    jax.config.update(name, before)


@pytest.fixture(scope="session")
def in_torch(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    names, path = defined(IN_TORCH), tmp_path_factory.mktemp("recordings") / "torch.safetensors"
    made = record(names["make"](), path, IMAGES, loss=names["loss"], optimizer=names["optimizer"], steps=2, draw=True)
    return Recorded(names, path, made)


@pytest.fixture(scope="session")
def in_jax(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    names, path = defined(IN_JAX), tmp_path_factory.mktemp("recordings") / "jax.safetensors"
    images = np.moveaxis(IMAGES, 1, -1)
    made = record(names["make"](), path, images, loss=names["loss"], optimizer=names["optimizer"], steps=2)
    return Recorded(names, path, made)
