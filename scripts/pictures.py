"""Train the preset `pictures` on small folders of colour pictures, beside PCA: scripts/pictures.py --help"""

import importlib
import json
import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from jaxvae.shared.cli import join_help, parse
from jaxvae.shared.commands import train
from jaxvae.shared.config.choices import require_seed
from jaxvae.shared.config.fields import build
from jaxvae.shared.config.presets import preset
from jaxvae.shared.data import datasets
from jaxvae.shared.errors import InputError, NonFiniteError
from jaxvae.shared.runs import metrics, run_folder
from jaxvae.shared.safe_io import read_json, write_atomically
from jaxvae.shared.text import markdown_table
from jaxvae.shared.training.session import StoppedError
from reproduction import picture_sets
from reproduction.results import Finished, beside_pca

PRESET, _FILE = "pictures", "figures.json"
SetName = Literal["shapes", "digits", "landscapes"]


@dataclass(frozen=True)
class Pictures:
    """Draw three folders of 500 colour pictures each, train the preset `pictures` on them as `train --preset pictures
    --data images:FOLDER` does, and print the squared error on the 50 test pictures beside that of principal component
    analysis with as many components as the model has latents. Repeating the command skips finished runs; the table
    shows all results under --out, of both packages.

    Example: python scripts/pictures.py --sets shapes --seeds 0 --package torchvae"""

    sets: tuple[SetName, ...] = ("shapes", "digits", "landscapes")
    """The folders. shapes: striped discs, squares and triangles; digits: scikit-learn's, coloured and turned;
    landscapes: hills, sea and desert below clouds, with the textures of photographs."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Seeds of the runs."""
    package: Literal["jaxvae", "torchvae"] = "jaxvae"
    """The package that trains."""
    out: Path = Path("runs/pictures")
    """Folder of the pictures and of the runs."""
    steps: int | None = None
    """Train this number of steps instead of the preset's."""
    drawing: int = 0
    """The seed of the drawings. The preset was chosen by looking at the test pictures of 0; another number draws other
    folders."""


@dataclass(frozen=True)
class Result:
    """A finished run's figures: the figures.json in its folder."""

    pictures: str
    seed: int
    package: str
    steps: int
    error: float
    """Squared error of a test picture, summed over pixels in [0, 1]."""
    pca: float
    """The same of PCA."""
    minutes: float
    """Time of the training."""
    cpu_minutes: float
    """The same as processor time, of all cores together."""


def main(options: Pictures) -> None:
    for seed in options.seeds:
        require_seed(seed)
    if options.drawing < 0:
        raise InputError(f"--drawing must be at least 0, found {options.drawing}.")
    backend = importlib.import_module(options.package)
    for name in options.sets:
        folder = options.out / "sets" / f"{name}{options.drawing or ''}"
        if not folder.exists():
            print(f"drawing {folder}", flush=True)
            picture_sets.write(name, folder, seed=options.drawing)
        for seed in options.seeds:
            run_one(backend, options, folder, seed)
    print(table([build(Result, read_json(path), f"The content of {path}") for path in options.out.glob(f"*/{_FILE}")]))


def run_one(backend: Any, options: Pictures, folder: Path, seed: int) -> None:
    """Train on one folder with one seed and store the figures, unless that is done."""
    path = options.out / f"{folder.name}-{options.package}-{seed}"
    if (path / _FILE).exists():
        return
    image = (picture_sets.EDGE, picture_sets.EDGE, 3)
    spec = preset(PRESET, data=f"images:{folder}", image=image, seed=seed)
    if options.steps is not None:
        spec = replace(spec, training=replace(spec.training, max_steps=options.steps))
    if path.exists():
        raise InputError(f"{path} is unfinished; remove it, so that its time is that of a whole training.")
    begun, used = time.monotonic(), _cpu_seconds()
    train.run(backend, train.Train(spec, PRESET, out=path))
    minutes, cpu_minutes = (time.monotonic() - begun) / 60, (_cpu_seconds() - used) / 60
    run = run_folder.read(path)
    records, dataset = metrics.read(run), datasets.load(run.spec, None)[0]
    error, pca, _ = beside_pca(Finished(backend, run, records, dataset, "auto", 0, ())).values()
    result = Result(folder.name, seed, options.package, records[-1]["step"], error, pca, minutes, cpu_minutes)
    write_atomically(path / _FILE, (json.dumps(asdict(result), indent=2, allow_nan=False) + "\n").encode())


def table(results: Sequence[Result]) -> str:
    """Format the results, a row for each run."""
    rows = [
        [
            one.pictures,
            one.package,
            str(one.seed),
            f"{one.error:.1f}",
            f"{one.pca:.1f}",
            f"{one.error / one.pca:.2f}",
            f"{one.steps:,}",
            f"{one.minutes:.1f}",
            f"{one.cpu_minutes:.1f}",
        ]
        for one in sorted(results, key=lambda one: (one.pictures, one.package, one.seed))
    ]
    head = ["pictures", "package", "seed", "squared error", "of PCA", "ratio", "steps", "minutes", "CPU minutes"]
    return markdown_table(head, rows)


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    try:
        join_help(Pictures)
        main(parse(Pictures))
    except (InputError, NonFiniteError, StoppedError) as error:
        print(f"pictures: {error}", file=sys.stderr)
        sys.exit(error.status)
    except OSError as error:
        print(f"pictures: {error.filename or 'A file'} can't be used ({error.strerror or error}).", file=sys.stderr)
        sys.exit(InputError.status)
