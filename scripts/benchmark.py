"""Times the packages beside the loops that PyTorch users write, and beside what the machine can do at all:
scripts/benchmark.py --help"""

import os

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # or JAX leaves torch no GPU memory

import json
import shlex
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import tyro

import jaxvae
import torchvae
from benchmarks import machine, sections, tables
from benchmarks.timing import Timed
from benchmarks.workload import Setting, changed, load
from jaxvae.shared.errors import InputError
from jaxvae.shared.safe_io import write_atomically

Section = Literal["training", "evaluation", "sampling", "start", "memory", "scaling"]
_SECTIONS: tuple[Section, ...] = ("training", "evaluation", "sampling", "start", "memory", "scaling")


@dataclass(frozen=True)
class Benchmark:
    """Time both packages, in float32, beside the loops that PyTorch users write and beside the model's matrix products
    alone: training, evaluation, sampling, start-up, memory, and how the cost grows. In each round every contestant has
    its turn; tables show medians, with the least and the most, after a round to warm up.

    Example, of ten minutes; --quick makes it one:
              python scripts/benchmark.py --json benchmark.json --out benchmark.png"""

    device: Literal["auto", "cpu", "gpu", "tpu"] = "auto"
    """Where to compute; auto is the first accelerator JAX finds. On a TPU jaxvae is alone."""
    preset: Literal["pytorch-examples", "conv"] = "pytorch-examples"
    """The model: 784-400-20, or convolutions."""
    batch: tuple[int, ...] = ()
    """Images per step, several to train with each; 128 and 2048 if not given. The first is start-up's and memory's."""
    rounds: int | None = None
    """How often each contestant has its turn; 5 if not given, with --quick 2."""
    images: int | None = None
    """Training images of an epoch; all of them, or on a CPU what takes seconds. More than there are come again."""
    quick: bool = False
    """A minute's look at everything: fewer rounds, images and places."""
    only: tuple[Section, ...] = _SECTIONS
    """What to measure."""
    data: str = "auto"
    """The images: MNIST, else scikit-learn's digits."""
    data_root: Path | None = None
    """The folder that holds MNIST/raw."""
    json: Path | None = None
    """Write every time here, with the machine."""
    out: Path | None = None
    """Draw training and scaling here: .png, .pdf or .svg."""


def main(options: Benchmark) -> None:
    for name in ("rounds", "images"):
        if (found := getattr(options, name)) is not None and found < 1:
            raise InputError(f"--{name} must be at least 1, found {found}.")
    for path in (options.json, options.out):
        if path is not None and (not path.resolve().parent.is_dir() or path.is_dir()):
            raise InputError(f"{path} can't be written: give --json and --out a file in a folder that is there.")
    if not options.only:
        raise InputError(f"There is nothing to measure: give --only some of {', '.join(_SECTIONS)}, or leave it out.")
    if options.out is not None:
        from benchmarks import plot  # only now, since not every machine that computes can draw

        plot.require(options.out)
        if not {"training", "scaling"} & set(options.only):
            raise InputError("--out draws training and scaling; add one of them to --only, or leave it out.")
    kind = jaxvae.prepare(options.device).platform
    if kind != "tpu":
        torchvae.prepare(kind)
    setting, missing = load(options.preset, options.data, options.data_root, kind)
    if missing is not None:
        print(f"WARNING: {missing} Timing on scikit-learn's digits instead.", file=sys.stderr)
    batches = options.batch or ((128,) if options.quick else (128, 2048))
    images = options.images or sections.default_images(setting, options.quick)
    for batch in batches:
        changed(setting, images=images, batch=batch)
    rounds = options.rounds or (2 if options.quick else 5)
    how = sections.How(options.preset, rounds, batches, options.quick, options.data_root)
    about = machine.described(kind)
    print(f"{options.preset} on {setting.spec.data}, float32, medians of {rounds}.\n{machine.sentence(about)}")
    times: list[Timed] = []
    for section in _SECTIONS:
        if section not in options.only:
            continue
        found = list(measured(section, setting, how, images))
        print(f"\n{tables.to_markdown(found)}", flush=True)
        times += found
        if options.json is not None:  # again after each, since a later one may fail
            told = {"machine": about, "options": asdict(options), "times": [timed._asdict() for timed in times]}
            write(options.json, json.dumps(told, indent=1, default=str).encode())
    if options.out is not None:
        from benchmarks import plot

        plot.save(times, options.out)
    print(f"\nAgain: {shlex.join(['python', 'scripts/benchmark.py', *sys.argv[1:]])}")


def measured(section: Section, setting: Setting, how: sections.How, images: int) -> Iterator[Timed]:
    """The times of a section, which may decide by itself of how many images."""
    epoch = changed(setting, images=images, batch=how.batches[0])
    match section:
        case "training":
            return sections.training(epoch, how)
        case "evaluation":
            return sections.evaluation(setting, how)
        case "sampling":
            return sections.sampling(setting, how)
        case "start":
            return sections.start(epoch, how)
        case "memory":
            return sections.memory(epoch, how)
        case "scaling":
            return sections.scaling(setting, how)


def write(path: Path, content: bytes) -> None:
    try:
        write_atomically(path, content)
    except OSError as error:
        raise InputError(f"{path} can't be written ({error.strerror}); choose another place.") from None


if __name__ == "__main__":
    try:
        main(tyro.cli(Benchmark))
    except InputError as error:
        print(f"benchmark: {error}", file=sys.stderr)
        sys.exit(error.status)
