"""What a process of a run that is shared does, for tests: `python -m parity_tests.together PACKAGE OUT DEVICES NAME...`
trains the small runs of these names, each on so many devices, and writes what comes out of each to OUT/NAME.npz.

Under torchrun, or with COORDINATOR, PROCESSES and PROCESS in the environment, it is one of several."""

import os
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np

from jaxvae.shared.spec import Spec
from parity_tests.harness.compare import Gap, gap
from parity_tests.test_family_parity import small, some

STEPS = 7  # in epochs of five, the last of six images


def shared(name: str) -> Spec:
    """The small preset in float64, in batches that 2, 4 and 8 divide; `everything` has what presets don't."""
    spec = small("conditional" if name == "everything" else name)
    if name == "everything":
        model = replace(spec.model, likelihood="gaussian-learned")
        images = replace(spec.images, binarization="dynamic", corruption="hidden-dropout", corruption_level=0.3)
        spec = replace(spec, model=model, images=images)
    training = replace(spec.training, batch_size=16, epochs=2, max_steps=STEPS, dtype="float64")
    return replace(spec, training=training)


def trained(package, name: str, device) -> dict[str, np.ndarray]:
    """Every number that comes out of the run of that name."""
    spec, seen = shared(name), []
    state = package.fit(spec, some(spec), seen.append, device)
    return {
        "terms": np.concatenate([progress.train for progress in seen]),
        "tests": np.stack([progress.test for progress in seen]),
        **package.to_arrays(spec, state[0]),
        **package.optimizer_to_arrays(spec, state[1]),
    }


def apart(found: Path, expected: Path) -> Gap:
    """How far two of these runs are apart, as shares of each tensor's largest."""
    return gap(*(dict(np.load(path)) for path in (found, expected)))


def main(package_name: str, out: str, devices: str, *names: str) -> None:
    package = import_module(package_name)
    if "COORDINATOR" in os.environ:
        package.join(*(kind(os.environ[n]) for n, kind in (("COORDINATOR", str), ("PROCESSES", int), ("PROCESS", int))))
    elif "RANK" in os.environ:
        package.join()
    device = package.prepare("cpu", "float64", int(devices))
    for name in names:
        found = trained(package, name, device)
        if package.first():
            np.savez(Path(out) / f"{name}.npz", **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
