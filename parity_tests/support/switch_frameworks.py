"""Compare a run that switches between the packages with an uninterrupted run."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxvae.shared import cli
from jaxvae.shared.model import weight_file
from jaxvae.shared.runs import checkpoints, metrics, run_folder
from parity_tests.harness.compare import Gap, gap, shares


class Differences(NamedTuple):
    """The largest differences of two runs: tensors relative to their largest entry, metrics to themselves."""

    weights: Gap
    optimizer: Gap
    metrics: Gap


def switch(backends: Sequence[Any], flags: Sequence[str], stops: Sequence[int], folder: Path) -> Differences:
    """Train one run with several packages in turn, and another with the first alone.

    Args:
        backends: The packages; each resumes the run of the one before it, in `folder`/run.
        flags: Flags of `train`.
        stops: The step at which each package stops. The first alone trains to the last of them, in `folder`/whole.
        folder: Where the two runs are written.

    Returns:
        The differences between the two runs.

    Raises:
        RuntimeError: If a command fails.
    """
    run, whole = folder / "run", folder / "whole"
    _command(backends[0], ["train", *flags, "--max-steps", str(stops[0]), "--out", str(run)])
    for backend, stop in zip(backends[1:], stops[1:], strict=True):
        _command(backend, ["train", "--resume", str(run), "--max-steps", str(stop)])
    _command(backends[0], ["train", *flags, "--max-steps", str(stops[-1]), "--out", str(whole)])
    return difference(run, whole, stops[-1])


def difference(run: Path, whole: Path, step: int) -> Differences:
    """Compare two runs, both with a checkpoint of that step."""
    actual, expected = (
        weight_file.load_checkpoint(checkpoints.path(run_folder.read(path), step)) for path in (run, whole)
    )
    return Differences(
        gap(actual.weights, expected.weights),
        gap(actual.optimizer, expected.optimizer),
        shares(*(_metrics(path) for path in (run, whole))),
    )


def _command(backend: Any, arguments: list[str]) -> None:
    if status := cli.main(backend, arguments):
        raise RuntimeError(f"{backend.__name__} {' '.join(arguments)} ended with status {status}")


def _metrics(path: Path) -> dict[str, np.ndarray]:
    run = run_folder.read(path)
    records = metrics.read(run)
    return {name: np.array([record[name] for record in records]) for name in run.spec.terms}
