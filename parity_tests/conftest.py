"""What every test runs under: JAX at its strictest, either precision on request, MNIST where it is."""

import atexit
import os
import shutil
import tempfile

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # or JAX leaves torch no GPU memory
# Nothing that was compiled before decides a test: the session's processes share programs in a folder of its own.
if "PARITY_TESTS_PROGRAMS" not in os.environ:
    os.environ["PARITY_TESTS_PROGRAMS"] = programs = tempfile.mkdtemp(prefix="parity_tests_programs_")
    atexit.register(shutil.rmtree, programs, ignore_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = programs
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"

from pathlib import Path

import jax
import pytest

from jaxvae.shared.data import datasets
from jaxvae.shared.data.dataset import Dataset

pytest.register_assert_rewrite("parity_tests.support", "parity_tests.faults", "parity_tests.corrupt")
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_debug_key_reuse", True)


@pytest.fixture(scope="module", autouse=True)
def _compiled_programs():
    """Each file forgets what it compiled: a process has room for some ten thousand programs' memory maps."""
    yield
    jax.clear_caches()


@pytest.fixture(params=["float32", "float64"])
def dtype(request: pytest.FixtureRequest):
    """Each precision in turn, with JAX's 64-bit mode to match."""
    jax.config.update("jax_enable_x64", request.param == "float64")
    yield request.param
    jax.config.update("jax_enable_x64", False)


@pytest.fixture
def x64():
    """JAX's 64-bit mode."""
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


@pytest.fixture(scope="session")
def mnist_root() -> Path:
    """The folder that holds MNIST/raw, from JAXVAE_DATA."""
    root = os.environ.get("JAXVAE_DATA")
    if root is None:
        message = "set JAXVAE_DATA to a folder that holds MNIST/raw to run the tests on real MNIST"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return Path(root)


@pytest.fixture(scope="session")
def mnist(mnist_root: Path) -> Dataset:
    return datasets.mnist(mnist_root)


@pytest.fixture(scope="session")
def digits() -> Dataset:
    return datasets.digits()
