"""Runs that are killed at random moments and resumed until they finish."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from jaxvae.shared.runs import checkpoints, run_folder
from parity_tests.support.numpy_backend import SIZES, contents
from parity_tests.support.warm import Process, python

FLAGS = [*SIZES, "--epochs", "80", "--checkpoint-every", "3", "--log-every", "7"]


def unbroken(package: str, folder: Path, flags: Sequence[str] = FLAGS) -> dict[str, bytes]:
    """Return the contents of the files of an uninterrupted run."""
    run = folder / f"{package}-unbroken"
    result = python("-m", package, "train", *flags, "--out", run)
    assert result.returncode == 0, result.stderr
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
    """Train in the folder `run`, kill the process and resume, until the run finishes.

    Args:
        package: "jaxvae" or "torchvae".
        run: The run folder.
        rng: Draws the moment of each kill.
        kills: Kill at most this often with SIGKILL; then let the run finish.
        on_kill: Called after each kill with the step of the last checkpoint.
        flags: Flags of `train` for the start of the run.
        within: Each kill comes at most this many seconds after a new checkpoint.

    Returns:
        The number of kills.

    Raises:
        AssertionError: If resuming fails, or if a partly written file is left.
    """
    for n in range(kills + 1):
        process = _started(package, run, flags)
        before = _steps(run)
        if n < kills:
            while process.poll() is None and _steps(run) == before:
                time.sleep(0.002)
            time.sleep(rng.uniform(0, within))
            process.kill()
        _, stderr = process.communicate()
        if process.returncode == 0:
            assert not list(run.rglob(".*")), "a partly written file is left"
            return n
        assert process.returncode == -9, stderr
        on_kill(max(_steps(run), default=0))
    raise AssertionError("a run that was not killed did not finish")


def _started(package: str, run: Path, flags: Sequence[str]) -> Process:
    which = ["--resume", run] if (run / "config.json").exists() else [*flags, "--out", run]
    return Process("-m", package, "train", *which)


def _steps(run: Path) -> list[int]:
    return checkpoints.present(run_folder.read(run)) if (run / "config.json").exists() else []
