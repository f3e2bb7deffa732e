#!/usr/bin/env python
"""Compile the programs of jaxvae for GPUs and TPUs that are not here, and tell what they would run. See --help."""

import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tqdm import tqdm

from compiling import devices
from compiling.estimate import Estimate, estimate
from jaxvae.shared.cli import join_help, parse
from jaxvae.shared.config.choices import Precision, Shard
from jaxvae.shared.config.presets import PRESETS, preset
from jaxvae.shared.config.spec import Spec
from jaxvae.shared.errors import InputError
from jaxvae.shared.model.requirements import has_prior, require_divisible_batch, require_several
from jaxvae.shared.safe_io import require_writable, write_atomically
from jaxvae.shared.text import markdown_table, shown


@dataclass(frozen=True)
class Compile:
    """Compile the programs of a preset for a GPU or a TPU that is not here, and print what each step would launch, move
    and compute there, how much memory a device needs, and which loops wait for the host.

    XLA compiles on this machine's CPU; nothing runs. No time is measured but that of compiling. The estimate of a step
    is made of the bytes, the operations, the launches and the communication of the program, and of the device's data
    sheet; its constants are printed below.

    Example: python scripts/compile.py --for v5e:2x4 --preset conv --json conv.json"""

    target: Annotated[str, tyro.conf.arg(name="for", metavar="DEVICE")] = "h100"
    """What to compile for: h100, a100 or h100:8, or a TPU with the arrangement of its chips, such as v5e:2x4 or
    v6e:16x16."""
    preset: str = "pytorch-examples"
    """The preset, or `all`."""
    program: Literal["train", "evaluate", "sample", "sweep", "all"] = "train"
    """Which program: an epoch of training, the evaluation of test images, 10,000 samples, an epoch of a sweep."""
    devices: int | None = None
    """How many of the devices share a batch; None for all."""
    shard: Shard | None = None
    """What they share too: the rows of parameters and of the optimizer's state."""
    batch_size: int | None = None
    """Images a step; None for the preset's."""
    precision: Precision = "float32"
    """Of the products in training: float32, tf32, bf16x3 or bfloat16."""
    hidden: tuple[int, ...] = ()
    """Widths of the hidden layers; none for the preset's."""
    images: int = 60_000
    """Number of training images; a tenth as many are evaluated."""
    members: int = 32
    """Runs in a sweep."""
    xla: tuple[str, ...] = ()
    """Options of XLA, such as xla_gpu_enable_triton_gemm=false."""
    json: Path | None = None
    """A file for all figures, as JSON."""
    text: Path | None = None
    """A folder for the compiled programs, as XLA prints them."""


def main(options: Compile) -> int:
    target = devices.target(options.target, options.devices)
    names = list(PRESETS) if options.preset == "all" else [options.preset]
    changed: dict[str, Any] = {"precision": options.precision}
    changed |= {name: value for name in ("batch_size", "hidden") if (value := getattr(options, name))}
    specs = {name: preset(name, **changed) for name in names}
    xla = dict(_option(text) for text in options.xla)
    if options.images < 1 or options.members < 1:
        raise InputError("--images and --members must be at least 1.")
    require_several(options.shard, target.count, f"give more, such as --for {options.target.partition(':')[0]}:8")
    for spec in specs.values():
        require_divisible_batch(spec, options.images, target.count)
    if options.json is not None:
        require_writable(options.json, "give another --json")
    if options.text is not None and not options.text.is_dir():
        raise InputError(f"--text {options.text} is no folder; make it, or give another.")
    devices.prepare(target)
    from compiling import programs  # imports JAX, which reads its environment

    kinds = ["train", "evaluate", "sample", "sweep"] if options.program == "all" else [options.program]
    rows, found, unread = [], [], []
    jobs = [(name, kind) for name in names for kind in kinds]
    for name, kind in tqdm(jobs, "compiling", unit=" programs", disable=None):
        spec = specs[name]
        if not _has(spec, kind, target):
            if len(jobs) == 1:
                raise InputError(
                    f"There is no program {kind} of {name} on {target.name}: samples need a prior, and a sweep has one "
                    "device; give another --program."
                )
            continue
        try:
            one = programs.build(kind, name, spec, target, options.images, options.members, xla, options.shard)  # type: ignore[arg-type]
        except InputError as error:
            if len(jobs) == 1:
                raise
            unread.append(str(error))
            continue
        time = estimate(one.work, target, one.waits)
        found.append((one, time))
        rows.append(_row(one, time))
        if options.text is not None:
            write_atomically(options.text / f"{name}-{kind}-{options.target.replace(':', '-')}.txt", one.text.encode())
    print(f"{target.device.label}, {target.count} device{'s' * (target.count > 1)}\n")
    print(markdown_table(_HEADER, rows, padded=False))
    if len(found) == 1:
        print(f"\n{_products(found[0][0])}")
    print(f"\n{_constants(target)}")
    for sentence in unread:
        print(sentence, file=sys.stderr)
    if options.json is not None:
        write_atomically(options.json, (json.dumps([_figures(*one) for one in found], indent=1) + "\n").encode())
    return InputError.status if unread else 0


def _has(spec: Spec, kind: str, target: devices.Target) -> bool:
    """Whether there is such a program."""
    if kind == "sample":
        return has_prior(spec)
    return kind != "sweep" or target.count == 1


_HEADER = [
    *("preset", "program", "of each", "kernels", "products", "copies", "collectives", "MB moved", "Mops"),
    *("host reads its bound", "MB state", "MB data", "MB peak", "kB as text", "compiled in s", "estimate of each, us"),
]


def _row(one: Any, time: Estimate) -> list[str]:
    kinds = Counter(collective.kind for collective in one.work.collectives)
    moved = sum(collective.bytes for collective in one.work.collectives)
    collectives = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
    return [
        *(one.preset, one.program, one.each, str(len(one.work.kernels)), str(len(one.work.products))),
        *(str(len(one.work.copies)), f"{collectives} ({moved / 1e6:.2f} MB)" if kinds else "0"),
        *(f"{one.work.bytes / 1e6:.1f}", f"{one.work.operations / 1e6:,.0f}", "yes" if one.waits else "no"),
        *(f"{size / 1e6:.1f}" for size in (one.state_bytes, one.data_bytes, one.peak_bytes)),
        *(f"{len(one.text) / 1e3:,.0f}", f"{one.seconds:.0f}", f"{time.total * 1e6:.0f}"),
    ]


def _products(one: Any) -> str:
    """The products of a step, as a table."""
    counts = Counter((p.kind, p.shape, p.dtype, p.precision) for p in one.work.products)
    rows = [[*kind, str(count)] for kind, count in counts.items()]
    return markdown_table(["product", "shape", "numbers", "precision", "times"], rows, padded=False)


def _constants(target: devices.Target) -> str:
    device = target.device
    rates = ", ".join(f"{rate / 1e12:g} in {name}" for name, rate in device.products.items())
    return (
        f"The estimate: a kernel takes the longest of {device.launch * 1e6:g} us, its bytes at "
        f"{device.bandwidth / 1e12:g} TB/s, and its operations at {rates} (products) or {device.vector / 1e12:g} "
        f"(others) tera-operations a second; a collective {device.latency * 1e6:g} us and its bytes at "
        f"{device.link / 1e9:g} GB/s around a ring; a step whose loop has a bound that the host has to read "
        f"{device.wait * 1e6:g} us. Bandwidths and rates are the maker's; the times of a launch, a collective and a "
        "wait are assumptions."
    )


def _figures(one: Any, time: Estimate) -> dict[str, Any]:
    figures = {name: value for name, value in asdict(one).items() if name not in ("text", "work")}
    return figures | {
        "kernels": len(one.work.kernels),
        "copies": len(one.work.copies),
        "bytes": one.work.bytes,
        "operations": one.work.operations,
        "products": [product._asdict() for product in one.work.products],
        "collectives": [collective._asdict() for collective in one.work.collectives],
        "estimate_seconds": {"total": time.total, **time._asdict()},
    }


def _option(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name.startswith("xla_"):
        raise InputError(f"--xla takes NAME=VALUE such as xla_gpu_enable_triton_gemm=false, found {shown(text)}.")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def command(arguments: Sequence[str] | None = None) -> int:
    try:
        join_help(Compile)
        return main(parse(Compile, args=arguments))
    except InputError as error:
        print(f"compile: {error}", file=sys.stderr)
        return error.status


if __name__ == "__main__":
    sys.exit(command())
