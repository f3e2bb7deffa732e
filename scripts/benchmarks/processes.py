"""Measure start-up and memory in separate processes. `python -m benchmarks.processes` trains with one program and
prints the memory that it used."""

import contextlib
import importlib
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.workload import Setting, changed, load
from jaxvae.shared.errors import InputError

_SCRIPTS = Path(__file__).parents[1]


@contextlib.contextmanager
def starts(setting: Setting, preset: str, root: Path | None) -> Iterator[dict[str, Callable[[], object]]]:
    """Make the commands that train for one epoch: jaxvae with an empty and a full compilation cache, and torchvae."""
    arguments = ["train", "--preset", preset, "--data", setting.spec.data, "--device", setting.device, "--epochs", "1"]
    arguments += ["--train-images", str(len(setting.train)), "--batch-size", str(setting.spec.training.batch_size)]
    arguments += [] if root is None else ["--data-root", str(root)]
    with tempfile.TemporaryDirectory() as name:
        folder, turns = Path(name), iter(range(10**9))
        cache = [folder]

        def run(package: str, environment: dict[str, str]) -> None:
            out = folder / f"run-{next(turns)}"
            _ended([sys.executable, "-m", package, *arguments, "--out", str(out)], environment)

        def compiling() -> None:
            cache[0] = folder / f"cache-{next(turns)}"
            run("jaxvae", _keeping(cache[0]))

        yield {
            "jaxvae, nothing compiled": compiling,
            "jaxvae, all compiled before": lambda: run("jaxvae", _keeping(cache[0])),
            "torchvae": lambda: run("torchvae", {}),
        }


def memory(setting: Setting, preset: str, root: Path | None, make: Callable) -> dict[str, int]:
    """Measure the memory in bytes of a process that trains: its maximum `peak`, `before` training with the modules and
    all images loaded, and the maximum of the `device`, if that has separate memory."""
    size = len(setting.train), setting.spec.training.batch_size
    arguments = [preset, setting.spec.data, root and str(root), setting.device, *size, make.__module__, make.__name__]
    path = os.pathsep.join(filter(None, [str(_SCRIPTS), os.environ.get("PYTHONPATH")]))
    return json.loads(
        _ended([sys.executable, "-m", "benchmarks.processes", json.dumps(arguments)], {"PYTHONPATH": path})
    )


def _keeping(folder: Path) -> dict[str, str]:
    """The environment in which JAX caches all programs in this folder."""
    always = {"JAX_ENABLE_COMPILATION_CACHE": "1", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    return {"JAX_COMPILATION_CACHE_DIR": str(folder), **always}


def _ended(command: list[str], environment: dict[str, str]) -> str:
    """The output of a command. Raises InputError if it fails."""
    result = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True)
    if result.returncode:
        last = (result.stderr.strip().splitlines() or ["no message"])[-1]
        raise InputError(f"{' '.join(command[1:4])} failed with status {result.returncode}: {last}")
    return result.stdout


def _resident(peak: bool) -> int:
    """Bytes of this process in memory, now or at most."""
    with contextlib.suppress(OSError):
        lines = Path("/proc/self/status").read_text().splitlines()
        # Preferred to getrusage, whose maximum in a new process includes its parent's.
        return next(int(x.split()[1]) * 1024 for x in lines if x.startswith("VmHWM:" if peak else "VmRSS:"))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main(arguments: str) -> None:
    preset, images, root, device, n, batch, module, name = json.loads(arguments)
    setting = changed(load(preset, images, root and Path(root), device)[0], images=n, batch=batch)
    contestants = importlib.import_module(module)
    contestants.start(device)
    before = _resident(peak=False)
    epoch = getattr(contestants, name)(setting)
    for _ in range(2 if epoch else 0):
        epoch()
    memory_used = {"before": before, "peak": _resident(peak=True), "device": contestants.peak_bytes()}
    print(json.dumps(memory_used))


if __name__ == "__main__":
    main(sys.argv[1])
