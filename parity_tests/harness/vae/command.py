"""The command `parity`: compare jaxvae and torchvae level by level."""

import os

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # or JAX leaves torch no GPU memory

import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NoReturn

from tqdm import tqdm

from jaxvae.shared import version
from jaxvae.shared.cli import join_help, lasting, parse
from jaxvae.shared.commands.common import DataRoot, images_root, images_spec, require_same_images
from jaxvae.shared.config.choices import Stored
from jaxvae.shared.config.presets import DEFAULT_PRESET, PRESETS, preset
from jaxvae.shared.config.spec import Spec
from jaxvae.shared.data import datasets
from jaxvae.shared.data.dataset import Dataset
from jaxvae.shared.errors import InputError
from jaxvae.shared.report import neighbours
from jaxvae.shared.runs import parity_record, run_folder
from jaxvae.shared.safe_io import write_atomically
from parity_tests.harness import report
from parity_tests.harness.findings import Report
from parity_tests.harness.formats import files


@dataclass(frozen=True)
class Parity:
    """Compare jaxvae and torchvae level by level: random keys, initial weights, layer outputs, losses, gradients,
    optimizer steps, whole training runs. Print whether they agree. The exit status is 0 if they do, 1 if they don't,
    and 2 if the comparison could not be run. `parity --version` prints the versions. `parity compare A B` compares two
    recordings of any models, see `parity compare --help`.

    Examples: parity --html agreement.html
              parity --run runs/jaxvae-1
              parity --preset all --dtype float64 --steps 500 --json all.json --junit all.xml"""

    run: Path | None = None
    """Compare the configuration of this run, on its images, and write the result to agreement.json in its folder, which
    `jaxvae report` shows. Can't be combined with --preset, --batch, --seed or --data, which the run determines."""
    preset: str = DEFAULT_PRESET
    """The preset to compare, or several separated by commas, or all."""
    dtype: Stored | Literal["both"] = "both"
    """Precision. In float64 all levels must agree to the last digits, whole runs too. In float32 whole runs must only
    agree to within the noise floor: how far a run drifts from itself when its weights are moved by one rounding."""
    steps: int = 100
    """Number of steps of the runs. The ten epochs of the default preset on MNIST have 4690, which take minutes."""
    batch: int | None = None
    """Images per step; by default the preset's."""
    seed: int = 0
    """Seed of both runs."""
    data: str = "auto"
    """The data set, as in train."""
    data_root: DataRoot = None
    device: Literal["cpu", "gpu"] = "cpu"
    """Where both backends compute. On a GPU the effect of lower precision on the loss is measured too."""
    precisions: bool = False
    """Measure the effect of lower precision on the loss, which a CPU emulates, on a CPU too."""
    bisect: bool = True
    """When a level fails, find the first tensor that differs and name the likely cause."""
    brief: bool = False
    """Print one row for each level, without the position of its difference."""
    json: Path | None = None
    """Write all measurements to this file: differences, tolerances, reasons, versions, digests."""
    markdown: Path | None = None
    """Write the report to this file as Markdown, for an issue or a pull request."""
    junit: Path | None = None
    """Write the levels to this file as JUnit XML, for CI."""
    html: Path | None = None
    """Write a self-contained web page to this file, with the table and plots of the runs."""


def main(options: Parity) -> int:
    run = None if options.run is None else own(options, options.run)
    names = PRESETS if options.preset == "all" else options.preset.split(",")
    specs = {name: configured(options, name) for name in names} if run is None else {str(run.path): run.spec}
    if options.steps < 1:
        raise InputError(f"--steps must be at least 1, found {options.steps}.")
    files.require_separate(options.json, options.markdown, options.junit, options.html)
    from parity_tests.harness.vae import precision, prove  # both frameworks, which --help and an error don't need

    devices = prove.use(options.device)
    dtypes = prove.BOTH if options.dtype == "both" else (options.dtype,)
    reports: dict[str, Report] = {}
    effects: list[precision.Effect] = []
    with tqdm(total=len(specs) * len(dtypes) * prove.PLACES, unit=" levels", disable=None) as bar:
        started: list[str] = []

        def show(level: str) -> None:
            if started and bar.n < bar.total - 1:  # the explanation of a failure is none of the levels
                bar.update()
            bar.set_description(level)
            started.append(level)

        for name, spec in specs.items():
            dataset, missing = images(options, spec) if run is None else (images_of(options, run), None)
            substituted = () if missing is None else (f"{missing} Comparing on scikit-learn's digits instead.",)
            for note in (*substituted, *dataset.notes):
                print(f"WARNING: {note}", file=sys.stderr)
            spec = replace(spec, data=dataset.name)
            reports[name] = prove.prove(
                spec, dataset, dtypes=dtypes, steps=options.steps, bisect=options.bisect, on_level=show
            )
            if options.device == "gpu" or options.precisions:
                effects = prove.precisions(spec, dataset)
                reports[name].about["precisions"] = [effect._asdict() for effect in effects]
        bar.update()
    merged = prove.merged(reports)
    print(f"\n{', '.join(specs)} on {dataset.name}, seed {next(iter(specs.values())).training.seed}; {devices}\n")
    print((report.to_brief if options.brief else report.to_table)(merged))
    if effects:
        print(precision.to_markdown(effects))
    print(report.verdict(merged))
    if options.json is not None:
        write(options.json, files.to_text(merged.to_json()).encode())
    if options.markdown is not None:
        write(options.markdown, merged.to_markdown().encode(errors="replace"))
    if options.junit is not None:
        write(options.junit, report.to_junit(merged))
    if options.html is not None:
        write(options.html, merged.to_html().encode(), neighbours.write)
    if run is not None:
        keep(run, report.to_agreement(merged, run.spec, options.steps))
    return 0 if merged.passed else 1


def images(options: Parity, spec: Spec) -> tuple[Dataset, str | None]:
    """Load the images of a configuration, and the reason if others are substituted."""
    few = spec.images.train_images
    whole = replace(spec, data=options.data, images=replace(spec.images, train_images=None))
    dataset, missing = datasets.load(whole, options.data_root)
    return dataset._replace(train=dataset.train[:few], train_labels=dataset.train_labels[:few]), missing


def own(options: Parity, path: Path) -> run_folder.Run:
    """Read the run of --run.

    Raises:
        InputError: If there is no such run, or an option contradicts its configuration.
    """
    for name in ("preset", "batch", "seed", "data"):
        if getattr(options, name) != getattr(Parity, name):
            raise InputError(f"--run compares the run's own configuration, which has its {name}; leave out --{name}.")
    run = run_folder.read(path)
    if run.spec.model.parts:
        raise InputError(
            f"{path} has parts of its user's own, {run.spec.model.parts}, which only one of the packages has; "
            "compare a run of the packages' parts, or such functions by assert_parity."
        )
    parity_record.read(run)  # an invalid file is an error now, not after an hour of measuring
    return run


def images_of(options: Parity, run: run_folder.Run) -> Dataset:
    """Load the images that the run was trained on."""
    dataset = datasets.load(images_spec(run), images_root(run, options.data_root))[0]
    require_same_images(run, dataset)
    return dataset


def keep(run: run_folder.Run, agreement: parity_record.Agreement) -> None:
    try:
        parity_record.write(run, agreement)
    except OSError as error:
        raise InputError(
            f"agreement.json can't be written to {run.path} ({error.strerror}); make the folder writable."
        ) from None


def write(path: Path, content: bytes, how: Callable[[Path, bytes], None] = write_atomically) -> None:
    try:
        how(path, content)
    except OSError as error:
        raise InputError(f"{path} can't be written ({error.strerror}); choose another path.") from None


def configured(options: Parity, name: str) -> Spec:
    """Make the preset's configuration with the options of the command line."""
    spec = preset(name)
    batch = spec.training.batch_size if options.batch is None else options.batch
    return replace(spec, training=replace(spec.training, seed=options.seed, batch_size=batch))


def run() -> NoReturn:
    """Run the command and exit with its status."""
    if sys.argv[1:] == ["--version"]:
        print(version.line("parity", [name for names in version.FRAMEWORKS.values() for name in names]))
        sys.exit(0)
    given = sys.stdout, sys.stderr  # which would close their descriptors if they were let go
    sys.stdout, sys.stderr = map(lasting, given)
    try:
        if sys.argv[1:2] == ["compare"]:
            from parity_tests.harness.recordings.comparing import command

            sys.exit(command.main(sys.argv[2:]))
        join_help(Parity)
        sys.exit(main(parse(Parity, prog="parity")))
    except InputError as error:
        print(f"parity: {error}", file=sys.stderr)
        sys.exit(2)
    except Exception:  # status 1 means that the packages differ
        traceback.print_exc()
        sys.exit(2)
