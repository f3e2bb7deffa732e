"""Time the packages, the loops that PyTorch users write, and the limit of the machine: scripts/benchmark.py --help"""

import os

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # or JAX leaves torch no GPU memory

import json
import shlex
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import jaxvae
import torchvae
from benchmarks import machine, sections, tables
from benchmarks.timing import Timed
from benchmarks.workload import Setting, changed, load
from jaxvae.shared.cli import join_help, parse
from jaxvae.shared.commands.common import DataRoot
from jaxvae.shared.errors import InputError
from jaxvae.shared.safe_io import require_writable, write_atomically

Section = Literal["training", "evaluation", "sampling", "start", "memory", "scaling"]
_SECTIONS: tuple[Section, ...] = ("training", "evaluation", "sampling", "start", "memory", "scaling")


@dataclass(frozen=True)
class Benchmark:
    """Compare the speed of both packages in float32 with common PyTorch training loops, and with the time of the
    model's matrix multiplications alone. The sections are training, evaluation, sampling, start-up, memory, and how the
    cost scales. Each program is timed once per round, after a warm-up round; tables show the median, the minimum and
    the maximum.

    Example (ten minutes; one with --quick):
              python scripts/benchmark.py --json benchmark.json --out benchmark.png"""

    device: Literal["auto", "cpu", "gpu", "tpu"] = "auto"
    """Where to compute; auto is the first accelerator that JAX finds. On a TPU only jaxvae is timed."""
    preset: Literal["pytorch-examples", "conv"] = "pytorch-examples"
    """The model: 784-400-20 with linear layers, or convolutions."""
    batch: tuple[int, ...] = ()
    """Images per step; training is timed with each of the given numbers, start-up and memory with the first. By default
    128 and 2048."""
    rounds: int | None = None
    """Number of times that each program is timed; by default 5, with --quick 2."""
    images: int | None = None
    """Number of training images in an epoch: by default all, or on a CPU as many as take a few seconds. If there are
    fewer, they are repeated."""
    quick: bool = False
    """Measure everything in a minute, with fewer rounds, images and sizes."""
    only: tuple[Section, ...] = _SECTIONS
    """The sections to measure."""
    data: str = "auto"
    """The images, as in train. auto: MNIST, or digits where MNIST is not available."""
    data_root: DataRoot = None
    json: Path | None = None
    """Write all times to this file, with a description of the machine."""
    out: Path | None = None
    """Draw training and scaling to this file, a .png, .pdf or .svg."""


def main(options: Benchmark) -> None:
    for name in ("rounds", "images"):
        if (value := getattr(options, name)) is not None and value < 1:
            raise InputError(f"--{name} must be at least 1, found {value}.")
    for path in (options.json, options.out):
        if path is not None:
            require_writable(path, "give --json and --out a file in an existing folder")
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
        section_times = list(measured(section, setting, how, images))
        print(f"\n{tables.to_markdown(section_times)}", flush=True)
        times += section_times
        if options.json is not None:  # again after each, since a later one may fail
            content = {"machine": about, "options": asdict(options), "times": [timed._asdict() for timed in times]}
            write(options.json, json.dumps(content, indent=1, default=str).encode())
    if options.out is not None:
        from benchmarks import plot

        plot.save(times, options.out)
    print(f"\nRepeat with: {shlex.join(['python', 'scripts/benchmark.py', *sys.argv[1:]])}")


def measured(section: Section, setting: Setting, how: sections.How, images: int) -> Iterator[Timed]:
    """Measure one section; evaluation, sampling and scaling choose their own number of images."""
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
        raise InputError(f"{path} can't be written ({error.strerror}); choose another path.") from None


if __name__ == "__main__":
    machine.keep_freed_memory()
    try:
        join_help(Benchmark)
        main(parse(Benchmark))
    except InputError as error:
        print(f"benchmark: {error}", file=sys.stderr)
        sys.exit(error.status)
