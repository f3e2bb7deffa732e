"""The command `parity`: prove, or refute, that jaxvae and torchvae agree."""

import os

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # or JAX leaves torch no GPU memory

import json
import sys
import traceback
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NoReturn

import tyro
from tqdm import tqdm

from jaxvae.shared.commands.common import images_root, require_same_images
from jaxvae.shared.config.choices import Stored
from jaxvae.shared.config.presets import DEFAULT_PRESET, PRESETS, preset
from jaxvae.shared.config.spec import Spec
from jaxvae.shared.data import datasets
from jaxvae.shared.data.dataset import Dataset
from jaxvae.shared.errors import InputError
from jaxvae.shared.runs import parity_record, run_folder
from jaxvae.shared.safe_io import write_atomically
from parity_tests.harness import report
from parity_tests.harness.findings import Report
from parity_tests.harness.vae import precision, prove


@dataclass(frozen=True)
class Parity:
    """Compare jaxvae and torchvae level by level, from the bits of the keys to whole runs, and say in words whether
    they agree. Exit status 0 if they do, 1 if they don't, 2 if it could not be measured.

    Examples: parity --html agreement.html
              parity --run runs/jaxvae-1
              parity --preset all --dtype float64 --steps 500 --json all.json --junit all.xml"""

    run: Path | None = None
    """Compare the configuration of this run, on its images, and keep the outcome in its folder as agreement.json, which
    `jaxvae report` shows. Without --preset, --batch, --seed and --data, which the run has."""
    preset: str = DEFAULT_PRESET
    """The configuration to compare, several with commas between, or `all` of them."""
    dtype: Stored | Literal["both"] = "both"
    """Precision. In float64 whole runs must agree to the last digits; in float32 each level must, and runs to within a
    noise floor that is measured on the spot."""
    steps: int = 100
    """Steps of the runs. 4690 are the ten epochs of the default preset on MNIST (minutes)."""
    batch: int | None = None
    """Images per step; the preset's own if not given."""
    seed: int = 0
    """The seed of both sides."""
    data: str = "auto"
    """The images."""
    data_root: Path | None = None
    """The folder that holds MNIST/raw."""
    device: Literal["cpu", "gpu"] = "cpu"
    """Where both sides compute. Also measures what TF32 and bfloat16 do to the loss there, if it is a GPU."""
    precisions: bool = False
    """Measure what TF32 and bfloat16 do to the loss, whatever the device."""
    bisect: bool = True
    """When a level fails, walk both programs to the first place where they part and name the likely cause."""
    brief: bool = False
    """Print one row a level, without the places."""
    json: Path | None = None
    """Write everything that was measured here: figures, tolerances, reasons, versions, digests."""
    junit: Path | None = None
    """Write the levels here as JUnit XML, for CI."""
    html: Path | None = None
    """Write one self-contained page here, with the table and the runs as plots."""


def main(options: Parity) -> int:
    run = None if options.run is None else own(options, options.run)
    names = PRESETS if options.preset == "all" else options.preset.split(",")
    specs = {name: configured(options, name) for name in names} if run is None else {str(run.path): run.spec}
    if options.steps < 1:
        raise InputError(f"--steps must be at least 1, found {options.steps}.")
    paths = [path.resolve() for path in (options.json, options.junit, options.html) if path is not None]
    for path in paths:
        if not path.parent.is_dir() or path.is_dir() or not os.access(path.parent, os.W_OK) or paths.count(path) > 1:
            raise InputError(f"{path} can't be written: give each of --json, --junit and --html a file of its own.")
    devices = prove.use(options.device)
    dtypes = prove.BOTH if options.dtype == "both" else (options.dtype,)
    reports: dict[str, Report] = {}
    effects: list[precision.Effect] = []
    with tqdm(total=len(specs) * len(dtypes) * prove.PLACES, unit=" levels", disable=None) as bar:
        begun: list[str] = []

        def show(level: str) -> None:
            bar.update(min(1, len(begun)))  # the one before is done
            bar.set_description(level)
            begun.append(level)

        for name, spec in specs.items():
            dataset, missing = images(options, spec) if run is None else (images_of(options, run), None)
            if missing is not None:
                print(f"WARNING: {missing} Comparing on scikit-learn's digits instead.", file=sys.stderr)
            spec = replace(spec, data=dataset.name)
            reports[name] = prove.prove(
                spec, dataset, dtypes=dtypes, steps=options.steps, bisect=options.bisect, on_level=show
            )
            if options.device == "gpu" or options.precisions:
                effects = prove.precisions(spec, dataset)
                reports[name].about["precisions"] = [effect._asdict() for effect in effects]
        bar.update()
    found = prove.merged(reports)
    print(f"\n{', '.join(specs)} on {dataset.name}, seed {next(iter(specs.values())).training.seed}; {devices}\n")
    print((report.to_brief if options.brief else report.to_markdown)(found))
    if effects:
        print(precision.to_markdown(effects))
    print(report.verdict(found))
    if options.json is not None:
        write(options.json, json.dumps(report.to_json(found), indent=1, allow_nan=False).encode())
    if options.junit is not None:
        write(options.junit, report.to_junit(found))
    if options.html is not None:
        write(options.html, report.to_html(found).encode())
    if run is not None:
        keep(run, report.to_agreement(found, run.spec, options.steps))
    return 0 if found.passed else 1


def images(options: Parity, spec: Spec) -> tuple[Dataset, str | None]:
    """What the configuration trains on, or as many of them as there are."""
    few = spec.images.train_images
    whole = replace(spec, data=options.data, images=replace(spec.images, train_images=None))
    found, missing = datasets.load(whole, options.data_root)
    return found._replace(train=found.train[:few], train_labels=found.train_labels[:few]), missing


def own(options: Parity, path: Path) -> run_folder.Run:
    """The run whose configuration is asked about. Raises InputError if there is none, or another is asked about too."""
    for name in ("preset", "batch", "seed", "data"):
        if getattr(options, name) != getattr(Parity, name):
            raise InputError(f"--run compares the run's own configuration, which has its {name}; leave out --{name}.")
    run = run_folder.read(path)
    parity_record.read(run)  # what is there and is none should be told before an hour of measuring
    return run


def images_of(options: Parity, run: run_folder.Run) -> Dataset:
    """What the run was trained on."""
    found = datasets.load(run.spec, images_root(run, options.data_root))[0]
    require_same_images(run, found)
    return found


def keep(run: run_folder.Run, found: parity_record.Agreement) -> None:
    try:
        parity_record.write(run, found)
    except OSError as error:
        raise InputError(f"{run.path} can't keep its agreement.json ({error.strerror}); make it writable.") from None


def write(path: Path, content: bytes) -> None:
    try:
        write_atomically(path, content)
    except OSError as error:
        raise InputError(f"{path} can't be written ({error.strerror}); choose another place.") from None


def configured(options: Parity, name: str) -> Spec:
    """The preset with what the command line says of it."""
    spec = preset(name)
    batch = spec.training.batch_size if options.batch is None else options.batch
    return replace(spec, training=replace(spec.training, seed=options.seed, batch_size=batch))


def run() -> NoReturn:
    """Run the command as a process of its own, and end it."""
    try:
        sys.exit(main(tyro.cli(Parity, prog="parity")))
    except InputError as error:
        print(f"parity: {error}", file=sys.stderr)
        sys.exit(2)
    except Exception:  # 1 says that the packages differ, which a crash doesn't
        traceback.print_exc()
        sys.exit(2)
