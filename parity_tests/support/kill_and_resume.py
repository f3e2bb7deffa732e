"""Runs of either package that are killed, at random moments, until they are through."""

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from jaxvae.shared.runs import checkpoints, run_folder
from parity_tests.support.numpy_backend import SIZES, contents

FLAGS = [*SIZES, "--epochs", "80", "--checkpoint-every", "3", "--log-every", "7"]


def unbroken(package: str, folder: Path, flags: Sequence[str] = FLAGS) -> dict[str, bytes]:
    """What the files of a run hold that nothing stops."""
    run = folder / f"{package}-unbroken"
    subprocess.run([sys.executable, "-m", package, "train", *flags, "--out", run], check=True, capture_output=True)
    return contents(run)


def killed(
    package: str,
    run: Path,
    rng: np.random.Generator,
    kills: int,
    on_kill: Callable[[int], None] = lambda step: None,
    flags: Sequence[str] = FLAGS,
    within: float = 0.5,
) -> int:
    """Trains in `run`, kills it with SIGKILL `within` so many seconds of its first checkpoint, goes on, kills it again,
    up to `kills` times, and then lets it end. How often it was killed. Raises AssertionError where going on fails, or
    where files that were being written stay."""
    for n in range(kills + 1):
        process = _started(package, run, flags)
        before = _steps(run)
        if n < kills:
            while process.poll() is None and _steps(run) == before:
                time.sleep(0.002)
            time.sleep(rng.uniform(0, within))
            process.kill()
        _, said = process.communicate()
        if process.returncode == 0:
            assert not list(run.rglob(".*")), "a file that was being written stays"
            return n
        assert process.returncode == -9, said.decode()
        on_kill(max(_steps(run), default=0))
    raise AssertionError("a run that nothing stopped did not end")


def _started(package: str, run: Path, flags: Sequence[str]) -> subprocess.Popen:
    which = ["--resume", run] if (run / "config.json").exists() else [*flags, "--out", run]
    command = [sys.executable, "-m", package, "train", *which]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def _steps(run: Path) -> list[int]:
    return checkpoints.present(run_folder.read(run)) if (run / "config.json").exists() else []
