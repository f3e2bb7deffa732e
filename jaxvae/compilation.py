"""Compiled programs that the next command finds without tracing them.

JAX keeps what it compiled, but finds it by what it traced, and tracing takes a second of a command's start. Here a
program is found by what its trace depends on: this package's code, the versions, JAX's settings, the configuration, and
the arguments' types. That holds in the process of a command alone, whose code is what the files say; a Python program
that replaces a function, as tests do, traces it."""

import contextlib
import functools
import hashlib
import inspect
import os
import pickle
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
from jax.core import Tracer
from jax.experimental import serialize_executable

from jaxvae.shared import safe_io
from jaxvae.shared.config.spec import Spec
from jaxvae.shared.errors import InputError

_F = TypeVar("_F", bound=Callable[..., Any])
Program = Callable[..., Any]

SWITCH = "JAXVAE_PROGRAMS"
"""The environment variable that keeps programs if it is 1, as it is by default in a command."""
_MOST = 300  # files of 15 to 600 kilobytes, half of them second names
# Settings with which JAX looks into a function, or at each of its numbers, or leaves constants out of a program's text.
_TRACED_ANEW = (
    *("jax_disable_jit", "jax_debug_nans", "jax_debug_infs", "jax_check_tracer_leaks", "jax_log_compiles"),
    "jax_use_simplified_jaxpr_constants",
)
_STARTED = time.time() - time.process_time()  # about when this process began to import
_UNFUSED: dict[str, Any] = {"xla_cpu_experimental_ynn_fusion_type": ""}
_VARIABLES = ("XLA_", "TF_", "OMP", "NPROC", "PJRT_NPROC")
_folder: Path | None = None
_fresh = False


def keep_in(folder: Path) -> None:
    """Keep the process's programs in a folder from now on, and look for them there, if `JAXVAE_PROGRAMS` is 1.

    Args:
        folder: The folder, which is made. One that others can write to is left alone.

    Raises:
        OSError: If it can't be made.
    """
    global _folder
    _folder = None
    if os.environ.get(SWITCH) == "1":
        folder.mkdir(mode=0o700, exist_ok=True)
        # Whoever can write a program there can have this user run it.
        if not hasattr(os, "getuid") or (folder.stat().st_uid, folder.stat().st_mode & 0o022) == (os.getuid(), 0):
            _folder = folder


def compiles_anew() -> bool:
    """Whether JAX is not to take a program from its cache: XLA can't write down again what it has read."""
    return _fresh


def program(
    static: Sequence[str] = (), donate: Sequence[str] = (), large: Callable[[Mapping[str, Any]], bool] | None = None
) -> Callable[[_F], _F]:
    """Compile a function by `jax.jit`, and keep its programs for later commands.

    Args:
        static: Names of the arguments that are no arrays.
        donate: Names of those whose memory the result may take.
        large: Whether the arguments, by their names, ask for products of so many rows that a CPU computes them faster
            without the fusions of YNN, a library in XLA.

    Returns:
        A decorator. The function has the methods of one that `jax.jit` made.
    """

    def decorate(function: _F) -> _F:
        plain: Any = jax.jit(function, static_argnames=static, donate_argnames=donate)
        unfused: Any = jax.jit(function, static_argnames=static, donate_argnames=donate, compiler_options=_UNFUSED)
        signature = inspect.signature(function)
        found: dict[Any, Program | None] = {}

        @functools.wraps(function)
        def call(*arguments: Any, **named: Any) -> Any:
            if _folder is None and large is None:
                return plain(*arguments, **named)
            try:
                given = signature.bind(*arguments, **named).arguments
            except TypeError:  # which jit says of its own
                return plain(*arguments, **named)
            jitted = unfused if large is not None and large(given) and _unfuses(given) else plain
            if _folder is None or (device := _device()) is None:
                return jitted(*arguments, **named)
            fixed = {name: given.pop(name) for name in static if name in given}
            leaves, tree = jax.tree.flatten(((), given))
            if not all(_is_on(device, leaf) for leaf in leaves):
                return jitted(*arguments, **named)
            key = *fixed.items(), tree, *map(jax.typeof, leaves), _settings()
            if key not in found:
                found[key] = _find(_folder, jitted, fixed, given, device)
            kept = found[key]
            return jitted(*arguments, **named) if kept is None else kept(**given)

        def clear_cache() -> None:
            found.clear()
            plain.clear_cache()
            unfused.clear_cache()

        methods = {name: getattr(plain, name) for name in ("lower", "trace", "eval_shape")}
        vars(call).update(methods, clear_cache=clear_cache)
        return call  # type: ignore[return-value]

    return decorate


def _unfuses(given: Mapping[str, Any]) -> bool:
    """Whether these arguments are computed by CPUs, and XLA can be asked for products without YNN's fusions: not within
    another program, nor where the user's flags say how."""
    leaves = jax.tree.leaves(given)
    arrays = [leaf for leaf in leaves if isinstance(leaf, jax.Array)]
    if any(isinstance(leaf, Tracer) for leaf in leaves) or next(iter(_UNFUSED)) in os.environ.get("XLA_FLAGS", ""):
        return False
    return bool(arrays) and all(d.platform == "cpu" for d in arrays[0].devices()) and _knows_unfused()


@functools.cache
def _knows_unfused() -> bool:
    """Whether this version of XLA has the option."""
    try:
        jax.jit(lambda x: x).lower(0).compile(compiler_options=_UNFUSED)
    except jax.errors.JaxRuntimeError:
        return False
    return True


def _device() -> Any | None:
    """The device that computes, None where programs are not kept: on others than CPUs it was never tried."""
    if any(jax.config.values.get(name) for name in _TRACED_ANEW):
        return None
    device = jax.config.jax_default_device or jax.devices()[0]  # type: ignore[attr-defined]
    return device if getattr(device, "platform", None) == "cpu" else None


def _settings() -> tuple[tuple[str, Any], ...]:
    """JAX's settings, those of a context included."""
    return tuple(sorted(jax.config.values.items()))


def _is_on(device: Any, leaf: Any) -> bool:
    """Whether an argument is a number, or an array of this device alone, and no tracer."""
    if isinstance(leaf, Tracer):
        return False
    if isinstance(leaf, jax.Array):
        return leaf.devices() == {device}
    return isinstance(leaf, bool | int | float | np.ndarray | np.generic)


def _find(folder: Path, jitted: Any, fixed: dict[str, Any], given: dict[str, Any], device: Any) -> Program | None:
    """The program for these arguments: one that is kept, or a new one, which is kept; None if none can be."""
    leaves, tree = jax.tree.flatten(((), given))
    types = [f"{kind.str_short()} {getattr(kind, 'weak_type', False)}" for kind in map(jax.typeof, leaves)]
    asked = repr((jitted.__module__, jitted.__qualname__, fixed, str(tree), types, device, _settings()))
    # Of a user's own parts and optimizers only the file where they begin is known, or nothing.
    if " at 0x" in asked or any(isinstance(value, Spec) and value.model.parts.record for value in fixed.values()):
        return None
    if not _as_imported():
        return None
    by_arguments = folder / hashlib.sha256(_begun() + asked.encode()).hexdigest()
    if (kept := _read(by_arguments, tree, device)) is not None:
        return kept
    lowered = jitted.lower(**fixed, **given)
    # The text has no settings of XLA's, such as those that leave optimizations out.
    text = f"{lowered.as_text()}{tree}{lowered.out_tree}{device}{_settings()}"
    by_text = folder / hashlib.sha256(_begun() + text.encode()).hexdigest()
    if (kept := _read(by_text, tree, device)) is None:
        with _anew() as stale:
            kept = lowered.compile()
        if stale or not _write(by_text, kept):
            return kept
    with contextlib.suppress(OSError):
        by_arguments.hardlink_to(by_text)
    return kept


@functools.cache
def _begun() -> bytes:
    """A digest of all that programs depend on beside what they are asked for."""
    versions = [version(name) for name in ("jax", "jaxlib", "flax", "optax", "numpy")]
    variables = [(name, value) for name, value in sorted(os.environ.items()) if name.startswith(_VARIABLES)]
    digest = hashlib.sha256(repr((versions, variables, platform.python_version(), _processor())).encode())
    for file in _files():
        digest.update(f"{file.relative_to(_root())} {file.stat().st_size} ".encode() + file.read_bytes())
    return digest.digest()


def _root() -> Path:
    return Path(__file__).parent


def _files() -> list[Path]:
    """The package's code, without the links to nothing by which an editor locks a file."""
    return sorted(file for file in _root().rglob("*.py") if file.is_file())


def _as_imported() -> bool:
    """Whether the package's code is in files that can be read, none of which was changed since the process started: it
    may have imported what a file was before."""
    try:
        _begun()
        found = [file.stat() for file in _files()]
    except OSError:
        return False
    return bool(found) and max(max(file.st_mtime, file.st_ctime) for file in found) < _STARTED


def _processor() -> tuple[object, ...]:
    """The kind of processor, and how many cores share a program's loops."""
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 0)
    with contextlib.suppress(OSError):
        told = Path("/proc/cpuinfo").read_text(errors="replace").partition("\n\n")[0]
        lines = [line for line in told.splitlines() if line.startswith(("model name", "flags", "Features"))]
        return platform.machine(), len(cores), *lines
    return platform.machine(), len(cores), platform.processor()


@contextlib.contextmanager
def _anew() -> Iterator[list[str]]:
    """Compile without JAX's cache within the context; it yields what was taken from the cache nevertheless."""
    global _fresh
    taken: list[str] = []
    hear = lambda event, **_: taken.append(event) if event.endswith("/cache_hits") else None  # noqa: E731
    jax.monitoring.register_event_listener(hear)
    _fresh = True
    try:
        yield taken
    finally:
        _fresh = False
        jax.monitoring.unregister_event_listener(hear)


def _read(path: Path, tree: Any, device: Any) -> Program | None:
    """The program in a file, None without one; a damaged one, or one that XLA refuses, is removed."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    try:
        if hashlib.sha256(content[32:]).digest() != content[:32]:
            raise ValueError("damaged")
        payload, out_tree = pickle.loads(content[32:])
        kept = serialize_executable.deserialize_and_load(payload, tree, out_tree, execution_devices=[device])
        with contextlib.suppress(OSError):  # on a file system that is mounted read-only
            os.utime(path)  # those that were used last are kept
        return kept
    except Exception:  # whatever it is: the program is compiled again
        with contextlib.suppress(OSError):
            path.unlink()
        return None


def _write(path: Path, compiled: Any) -> bool:
    """Keep a program, and remove those that were not used for longest; False if it can't be kept."""
    try:
        payload, _, out_tree = serialize_executable.serialize(compiled)
        content = pickle.dumps((payload, out_tree))
        safe_io.write_atomically(path, hashlib.sha256(content).digest() + content, sync=False)
        files = sorted(path.parent.iterdir(), key=lambda file: file.stat().st_mtime_ns)
        for file in files[:-_MOST]:
            with contextlib.suppress(OSError):  # a folder, or one that another command has removed
                file.unlink()
    except (OSError, ValueError, NotImplementedError, InputError, pickle.PicklingError, jax.errors.JaxRuntimeError):
        return path.exists()
    return True
