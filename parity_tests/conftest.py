"""What every test runs under: JAX at its strictest, either precision on request, MNIST where it is."""

import atexit
import gc
import importlib.util
import mmap
import os
import shutil
import tempfile
import zlib

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # or JAX leaves torch no GPU memory
# Nothing that was compiled before decides a test: the session's processes share programs in a folder of its own.
if "PARITY_TESTS_PROGRAMS" not in os.environ:
    os.environ["PARITY_TESTS_PROGRAMS"] = programs = tempfile.mkdtemp(prefix="parity_tests_programs_")
    atexit.register(shutil.rmtree, programs, ignore_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = programs
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

from pathlib import Path

# Most programs of the tests run for milliseconds and take seconds to compile. Without LLVM's optimisation, and with the
# emitters that XLA had before those of MLIR, they take a sixth of it: in this process and those that it starts. Not cut
# into parts that threads compile side by side, they take another quarter less of the processor.
# They round otherwise by a unit in the last place where a multiplication and an addition are not fused: `optimized` is
# for the tests that have to see what a user's program computes.
if "PARITY_TESTS_XLA_FLAGS" not in os.environ:
    os.environ["PARITY_TESTS_XLA_FLAGS"] = users = os.environ.get("XLA_FLAGS", "")
    quick = ["--xla_backend_optimization_level=0"]
    # A process ends at a flag that its jaxlib doesn't know.
    jaxlib = importlib.util.find_spec("jaxlib")
    for library in [] if jaxlib is None else Path(jaxlib.origin or "").parent.glob("libjax_common.*"):
        with library.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            for flag in ("xla_cpu_use_fusion_emitters=false", "xla_cpu_parallel_codegen_split_count=1"):
                if content.find(b"\0" + flag.partition("=")[0].encode() + b"\0") >= 0:
                    quick.append(f"--{flag}")
    os.environ["XLA_FLAGS"] = " ".join([*quick, users]).strip()  # the user's come last and hold

import jax
import pytest
from jax._src import compiler, dispatch

import jaxvae
import torchvae
from jaxvae.shared.data import datasets
from jaxvae.shared.data.dataset import Dataset

pytest.register_assert_rewrite("parity_tests.support", "parity_tests.faults", "parity_tests.corrupt")
from parity_tests.support import quick_jax  # noqa: E402

quick_jax.install()
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_debug_key_reuse", True)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of two tests of shared code (marked `either`) that differ in the package alone, one becomes slow: jaxvae's of
    about half of them, torchvae's of the others."""
    names = {item.nodeid for item in items}
    for item in items:
        this, other = ("jaxvae", "torchvae") if "jaxvae" in item.nodeid else ("torchvae", "jaxvae")
        pair = sorted({item.nodeid, item.nodeid.replace(this, other)} & names)
        chosen = pair[zlib.crc32(pair[0].encode()) % len(pair)]
        if item.get_closest_marker("either") and item.nodeid != chosen:
            item.add_marker(pytest.mark.slow)


def pytest_collection_finish() -> None:
    """A million objects of the frameworks are not searched for garbage again and again; a tenth of the time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(200_000, 20, 100)


@pytest.fixture(scope="module")
def optimized():
    """Programs compiled as a user's are, here and in processes started here, from the first test that asks to the end
    of its file; for files as a whole (`pytestmark`)."""
    default = {"xla_backend_optimization_level": "3"}
    if "xla_cpu_use_fusion_emitters" in os.environ["XLA_FLAGS"]:
        default["xla_cpu_use_fusion_emitters"] = "True"
    options = compiler.get_compile_options

    def as_users_are(*args, env_options_overrides: dict[str, str] | None = None, **kwargs):
        return options(*args, env_options_overrides={**default, **(env_options_overrides or {})}, **kwargs)

    jax.clear_caches()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XLA_FLAGS", os.environ["PARITY_TESTS_XLA_FLAGS"])
        patch.setattr(compiler, "get_compile_options", as_users_are)
        yield
    jax.clear_caches()


_compiled: list[str] = []  # since the last look


@jax.monitoring.register_event_duration_secs_listener
def _compiles(event: str, *_: object, **__: object) -> None:
    if event == dispatch.BACKEND_COMPILE_EVENT:
        _compiled.append(event)


@pytest.fixture(autouse=True)
def _few_programs():
    """What was compiled serves the files that follow, until the process nears the 65,530 memory maps that Linux gives
    it: a program takes a few, and another one would end the process. Counting the maps takes time too."""
    yield
    if len(_compiled) > 200:
        _compiled.clear()
        maps = Path("/proc/self/maps")
        if maps.exists() and maps.read_bytes().count(b"\n") > 15_000:
            jax.clear_caches()


@pytest.fixture(params=["jaxvae", "torchvae"])
def package(request: pytest.FixtureRequest):
    """Each package in turn. Commands set JAX's 64-bit mode, which ends with the test."""
    yield {"jaxvae": jaxvae, "torchvae": torchvae}[request.param]
    jax.config.update("jax_enable_x64", False)


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
