"""Two processes that train together, beside one: scripts/two_processes.py --help"""

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro
from tqdm import tqdm

from jaxvae.shared.runs import run_folder
from parity_tests.handover import apart
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
            found = apart(two, one, options.steps)
            agree &= max(found).size < _OWED
            where = run_folder.read(two).config["sessions"][0]["device"]
            rows.append(f"| {package} | {where} | " + " | ".join(f"{gap.size:.1e}" for gap in found) + " |")
    print("| package | devices | weights | Adam's state | metrics |\n| --- | --- | --- | --- | --- |", *rows, sep="\n")
    return 0 if agree else 1


if __name__ == "__main__":
    sys.exit(main(tyro.cli(TwoProcesses)))
