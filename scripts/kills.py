"""Kills runs at random moments and holds what becomes of them to unbroken ones: scripts/kills.py --help"""

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import tyro
from tqdm import tqdm

from parity_tests.kills import killed, unbroken
from parity_tests.numpy_side import contents


@dataclass(frozen=True)
class Kills:
    """Train on scikit-learn's digits with a checkpoint every three steps, kill -9 at random moments, go on with
    --resume, and compare every file with an unbroken run's, byte by byte. Exit status 0 if all are equal, else 1.

    Example: python scripts/kills.py --kills 100"""

    kills: int = 100
    """How many in all, for each package; several fall on one run (about 5 s each)."""
    package: Literal["both", "jaxvae", "torchvae"] = "both"
    """Which to kill."""
    seed: int = 0
    """Of the moments."""


def main(options: Kills) -> int:
    packages = ["jaxvae", "torchvae"] if options.package == "both" else [options.package]
    wrong = 0
    print("| package | kills | runs | unlike an unbroken one |\n| --- | --- | --- | --- |")
    for package in packages:
        rng, bad = np.random.default_rng(options.seed), 0
        with tempfile.TemporaryDirectory() as name, tqdm(total=options.kills, desc=package, disable=None) as bar:
            folder, done, n = Path(name), 0, 0
            expected = unbroken(package, folder)
            while done < options.kills:
                n += 1
                run = folder / f"{package}-{n}"
                done += killed(package, run, rng, options.kills - done, lambda step, bar=bar: bar.update())  # type: ignore[misc]
                bad += contents(run) != expected
        print(f"| {package} | {done} | {n} | {bad} |", flush=True)
        wrong += bad
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Kills)))
