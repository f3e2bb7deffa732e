"""Where to compute, and how precisely."""

import contextlib
import functools
import importlib
import os
from pathlib import Path
from typing import Any

import jax

from jaxvae import compilation, parallel
from jaxvae.shared.config.choices import Dtype, Shard
from jaxvae.shared.data import published
from jaxvae.shared.errors import InputError
from jaxvae.shared.text import shown

Device = Any  # jax.Device, which type checkers don't know for a type

_WORTH = 0.1  # seconds of compiling from which on a program is kept; JAX keeps those of a second
_GUARDS = ("", "_host_to_device", "_device_to_device", "_device_to_host")


def prepare(
    name: str = "auto", dtype: Dtype = "float32", devices: int | None = None, shard: Shard | None = None
) -> Device:
    """Choose a device and prepare the framework for it. Call it before the first array is made.

    Args:
        name: `auto` (the first one that is available), `cpu`, `gpu` or `tpu`.
        dtype: The precision to compute in.
        devices: How many devices of each process share a batch, as in `parallel.share`.
        shard: What else they share: with `parameters` each holds some rows of all weights and of the optimizer's state.

    Returns:
        The process's first device.

    Raises:
        InputError: If there is no such device, or fewer, if there is one device to shard for, or if JAX's environment
            variables forbid what a run does.
    """
    _require_transfers()
    jax.config.update("jax_enable_x64", dtype == "float64")
    _keep_programs()
    kind = None if name == "auto" else name
    with contextlib.suppress(RuntimeError):  # they have been started: as many as there are
        if devices is not None and devices > 1:
            jax.config.update("jax_num_cpu_devices", devices)
    try:
        if name == "cpu":
            jax.config.update("jax_platforms", "cpu")  # or JAX would start every accelerator it finds
        parallel.share(jax.devices(kind), devices, shard)
        return jax.local_devices(backend=kind)[0]
    except (RuntimeError, AssertionError) as error:  # an assertion, where JAX passes over all of JAX_PLATFORMS
        reason = (str(error).splitlines() or ["none is visible"])[0].partition(" (set JAX_PLATFORMS")[0].rstrip(".")
        wanted, advice = name, "use --device auto, or install JAX for it"
        if name == "auto":
            wanted, advice = "device", "use --device cpu"
        # The second is heard only where no platform is asked for.
        for variable in ("JAX_PLATFORMS", "JAX_PLATFORM_NAME")[: 2 if name == "auto" else 1]:
            if (limits := os.environ.get(variable)) and name != "cpu":
                advice = f"it looks only for what {variable} lists, which is {shown(limits)}: unset it"
        raise InputError(f"JAX finds no {wanted} here ({reason}); {advice}.") from None


def device_label(device: Device) -> str:
    """Return the device's platform and model, for the run's record."""
    return f"{device.platform} ({device.device_kind})"


def has_gpu() -> bool:
    """Whether programs may be run on a GPU."""
    return jax.default_backend() not in ("cpu", "tpu")


def require(dtype: Dtype) -> None:
    """Raise InputError if JAX would silently compute in float32 what was requested in float64."""
    if dtype == "float64" and not jax.config.jax_enable_x64:  # type: ignore[attr-defined]
        raise InputError("float64 needs JAX's 64-bit mode: call jax.config.update('jax_enable_x64', True) first.")


def _require_transfers() -> None:
    """Raise InputError if JAX is set to reject the copies between host and device that every command makes."""
    for guard in _GUARDS:
        name = f"jax_transfer_guard{guard}"
        if str(level := getattr(jax.config, name)).startswith("disallow"):
            raise InputError(
                f"{name.upper()} is {level}, but a run copies images and random keys to the device, and results back; "
                "unset it, or set it to log."
            )


def _keep_programs() -> None:
    config: Any = jax.config
    chosen = config.jax_compilation_cache_dir
    if not config.jax_enable_compilation_cache or "://" in str(chosen):  # an address is no folder of this machine
        return
    folder = published.cache() / "programs" if chosen is None else Path(chosen)
    with contextlib.suppress(OSError):  # without a folder for them all is compiled again
        folder.mkdir(parents=True, exist_ok=True)
        if chosen is None:
            jax.config.update("jax_compilation_cache_dir", str(folder))
            if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
                jax.config.update("jax_persistent_cache_min_compile_time_secs", _WORTH)
        _replace_unreadable(folder)
        compilation.keep_in(folder / "traced")


def _replace_unreadable(folder: Path) -> None:
    """Have JAX remove a program that it can't read, such as one whose process was killed as it was written. It never
    writes over one, and would compile the program at every start."""
    cache = importlib.import_module("jax._src.compilation_cache")  # JAX has no public name for it
    read = getattr(cache, "get_executable_and_time", None)
    if read is None or hasattr(read, "__wrapped__"):
        return

    @functools.wraps(read)
    def read_or_remove(key: str, *arguments: Any, **options: Any) -> Any:
        if compilation.compiles_anew():
            return None, None
        try:
            return read(key, *arguments, **options)
        except Exception:  # whatever it is: JAX compiles the program again
            with contextlib.suppress(OSError):
                (folder / f"{key}-cache").unlink()
            return None, None

    cache.get_executable_and_time = read_or_remove  # type: ignore[attr-defined]
