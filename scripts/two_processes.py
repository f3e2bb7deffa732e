"""Two processes that train together, beside one: scripts/two_processes.py --help"""

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import tyro
from tqdm import tqdm

from jaxvae.shared import checkpoints, runs, weights
from parity_tests.harness.compare import gap, shares
from parity_tests.together import ended, started

_OWED = 1e-12  # float64: sums in another order, carried on by some hundred steps


@dataclass(frozen=True)
class TwoProcesses:
    """Train scikit-learn's digits in float64 by one process and by two on this machine's loopback, and compare every
    loss, weight and number of Adam's state. Exit status 0 if they agree to 1e-12 of each tensor's largest, else 1.

    Example: python scripts/two_processes.py --steps 200 --preset conv"""

    package: Literal["both", "jaxvae", "torchvae"] = "both"
    """Which trains."""
    preset: str = "pytorch-examples"
    """What is trained."""
    steps: int = 30
    """How many steps; an epoch has 12."""
    devices: int = 2
    """How many devices each of jaxvae's two processes has."""


def main(options: TwoProcesses) -> int:
    packages = ["jaxvae", "torchvae"] if options.package == "both" else [options.package]
    flags = ["--data", "digits", "--preset", options.preset, "--dtype", "float64", "--device", "cpu"]
    flags += ["--epochs", "100000", "--max-steps", str(options.steps)]
    rows, agree = [], True
    for package in tqdm(packages, disable=None):
        with tempfile.TemporaryDirectory() as name:
            one, two = Path(name) / "one", Path(name) / "two"
            devices = ["--devices", str(options.devices)] if package == "jaxvae" else []
            for out, processes, more in ((one, 1, []), (two, 2, devices)):
                for status, _, said in ended(started(package, ["train", *flags, *more, "--out", str(out)], processes)):
                    if status:
                        print(said, file=sys.stderr)
                        return status
            ours, theirs = (
                weights.load_checkpoint(checkpoints.path(runs.read(path), options.steps)) for path in (two, one)
            )
            apart = (
                shares(*(_metrics(path) for path in (two, one))),
                gap(ours.weights, theirs.weights),
                gap(ours.optimizer, theirs.optimizer),
            )
            agree &= max(apart)[0] < _OWED
            where = runs.read(two).config["sessions"][0]["device"]
            rows.append(f"| {package} | {where} | " + " | ".join(f"{found.size:.1e}" for found in apart) + " |")
    print("| package | devices | losses | weights | Adam's state |\n| --- | --- | --- | --- | --- |", *rows, sep="\n")
    return 0 if agree else 1


def _metrics(path: Path) -> dict[str, np.ndarray]:
    run = runs.read(path)
    records = runs.read_metrics(run)
    return {name: np.array([record[name] for record in records]) for name in run.spec.terms}


if __name__ == "__main__":
    sys.exit(main(tyro.cli(TwoProcesses)))
