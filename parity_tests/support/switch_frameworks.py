"""A run that goes from one package to the other and back, beside one that never stops."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxvae.shared import cli
from jaxvae.shared.model import weight_file
from jaxvae.shared.runs import checkpoints, metrics, run_folder
from parity_tests.harness.compare import Gap, gap, shares


class Apart(NamedTuple):
    """How far two runs end from each other: tensors as shares of their largest, metrics as shares of themselves."""

    weights: Gap
    optimizer: Gap
    metrics: Gap


def handed_over(sides: Sequence[Any], flags: Sequence[str], stops: Sequence[int], folder: Path) -> Apart:
    """Trains by each of these packages up to its stop, each going on with what the one before left, in `folder`/run;
    and by the first alone up to the last stop, in `folder`/whole. Raises RuntimeError where training fails."""
    run, whole = folder / "run", folder / "whole"
    _command(sides[0], ["train", *flags, "--max-steps", str(stops[0]), "--out", str(run)])
    for side, stop in zip(sides[1:], stops[1:], strict=True):
        _command(side, ["train", "--resume", str(run), "--max-steps", str(stop)])
    _command(sides[0], ["train", *flags, "--max-steps", str(stops[-1]), "--out", str(whole)])
    return apart(run, whole, stops[-1])


def apart(run: Path, whole: Path, step: int) -> Apart:
    """How far the one ends from the other, both with a checkpoint of that step."""
    found, expected = (
        weight_file.load_checkpoint(checkpoints.path(run_folder.read(path), step)) for path in (run, whole)
    )
    return Apart(
        gap(found.weights, expected.weights),
        gap(found.optimizer, expected.optimizer),
        shares(*(_metrics(path) for path in (run, whole))),
    )


def _command(side: Any, arguments: list[str]) -> None:
    if status := cli.main(side, arguments):
        raise RuntimeError(f"{side.__name__} {' '.join(arguments)} ended with status {status}")


def _metrics(path: Path) -> dict[str, np.ndarray]:
    run = run_folder.read(path)
    records = metrics.read(run)
    return {name: np.array([record[name] for record in records]) for name in run.spec.terms}
