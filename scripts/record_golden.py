"""Record the golden files, which test each package without the other framework.

scripts/record_golden.py --help"""

import importlib.metadata
import os
import platform
import sys
from dataclasses import dataclass
from pathlib import Path

os.environ["JAX_ENABLE_X64"] = "1"  # the files are float64

from tqdm import tqdm

from jaxvae.shared.cli import parse
from jaxvae.shared.errors import InputError
from jaxvae.shared.safe_io import write_atomically
from parity_tests.harness import report
from parity_tests.harness.findings import PRESETS, Report
from parity_tests.harness.golden import files as golden_files
from parity_tests.harness.golden import recording
from parity_tests.harness.vae import jax_backend, torch_backend

_PACKAGES = ("jaxvae", "jax", "jaxlib", "flax", "optax", "torch", "numpy", "safetensors")


@dataclass(frozen=True)
class Golden:
    """Record what both packages compute, in float64 and on the CPU: keys, normals, weights, outputs, losses, gradients,
    training and pictures of five small models. Every array is computed by both packages; the files hold jaxvae's, and
    nothing is written unless torchvae's agree to the tolerances of the tests.

    Run it after a change that is meant to change numbers, say so in the commit, and check what `git diff --stat`
    lists: an unexpected change in a file indicates a bug. The same versions on the same processor give
    the same bytes.

    Example: python scripts/record_golden.py --out parity_tests/golden"""

    out: Path = golden_files.FOLDER
    """Folder to write to. The tests read the default one."""


def main(options: Golden) -> None:
    if not options.out.is_dir():
        raise InputError(f"There is no folder {options.out} to write to; create it, or choose another --out.")
    versions = {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in _PACKAGES}}
    for backend in (jax_backend, torch_backend):
        backend.use("cpu")
    files = {}
    for name, spec in tqdm(recording.SPECS.items(), unit=" files", disable=None):
        arrays, findings = recording.make(jax_backend, torch_backend, spec)
        compared = Report({}, findings, subject=PRESETS)
        if not compared.passed:
            raise InputError(f"Nothing was written, for the specification {name}: {report.verdict(compared)}")
        files[options.out / f"{name}.safetensors"] = golden_files.pack(spec, versions, arrays), len(arrays), compared
    for path, (content, arrays, compared) in files.items():
        write_atomically(path, content)
        print(f"{path}: {arrays} arrays, {len(content):,} bytes; {report.verdict(compared)}")


if __name__ == "__main__":
    try:
        main(parse(Golden))
    except InputError as error:
        sys.exit(f"golden: {error}")
