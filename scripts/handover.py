"""Hands a run from JAX to PyTorch and back, and measures what that changes: scripts/handover.py --help"""

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

import jaxvae
import torchvae
from jaxvae.shared.config.presets import DEFAULT_PRESET
from jaxvae.shared.errors import InputError
from jaxvae.shared.runs import run_folder
from parity_tests.handover import handed_over

OWED = 1e-10


@dataclass(frozen=True)
class Handover:
    """Train in float64 by one package, go on by the other, and go on by the first; set what comes of it beside the run
    of the first package alone. Exit status 0 if all of it is within 1e-10, else 1.

    Example: python scripts/handover.py --preset yunjey --stops 100 200 300"""

    preset: str = DEFAULT_PRESET
    """What to train."""
    stops: tuple[int, int, int] = (300, 800, 1200)
    """The step at which each of the three ends."""
    first: Literal["jaxvae", "torchvae"] = "jaxvae"
    """Which package begins and ends."""
    data: str = "mnist"
    """The images."""


def main(options: Handover) -> int:
    ours, theirs = (jaxvae, torchvae) if options.first == "jaxvae" else (torchvae, jaxvae)
    flags = ["--preset", options.preset, "--data", options.data, "--dtype", "float64"]
    with tempfile.TemporaryDirectory() as name:
        try:
            apart = handed_over((ours, theirs, ours), flags, options.stops, Path(name))
        except RuntimeError as error:  # the command has said why
            print(f"handover: {error}", file=sys.stderr)
            return InputError.status
        spec = run_folder.read(Path(name) / "run").spec
    names = [side.__name__ for side in (ours, theirs, ours)]
    parts = ", ".join(f"{name} to step {stop:,}" for name, stop in zip(names, options.stops, strict=True))
    print(f"\n{options.preset} on {spec.data}, float64, {parts}; against {names[0]} alone:\n")
    print("| largest difference in | is | worst in |\n| --- | --- | --- |")
    for what, gap in apart._asdict().items():
        print(f"| {what} | {gap.size:.1e} | {gap} |")
    return 0 if max(gap.size for gap in apart) <= OWED else 1


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Handover)))
