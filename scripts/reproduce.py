"""Reproduce published results: scripts/reproduce.py --help"""

import importlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from jaxvae.shared.backend import DeviceName
from jaxvae.shared.cli import join_help, parse
from jaxvae.shared.commands.common import DataRoot
from jaxvae.shared.config.choices import require_seed
from jaxvae.shared.errors import InputError, NonFiniteError
from jaxvae.shared.training.session import StoppedError
from reproduction import tables
from reproduction.protocols import PROTOCOLS, SAMPLES, STAGES, epochs_of
from reproduction.runner import MNIST, How, read_all, run_protocol

RESULTS = Path(__file__).parent / "docs" / "results.md"
ALL = "all"
_INTERRUPTED = 130  # the exit status by custom: 128 + SIGINT


@dataclass(frozen=True)
class Reproduce:
    """Reproduce published results on MNIST, and print a table of the results and the expected ranges. A protocol is a
    preset with its seeds, its epochs and the results that its source expects. Each run has a folder under --out:
    repeating the command resumes unfinished runs and skips finished ones. The table shows all results in that folder,
    from both packages.

    On a CPU, `all` leaves out protocols that take days, and lists them; a protocol given by name is run in full.

    Example: python scripts/reproduce.py iwae-paper-1 --stages 5 --package torchvae"""

    names: tyro.conf.Positional[tuple[str, ...]] = ()
    """The protocols to run, or all. The name of a preset stands for all of its protocols."""
    list_: Annotated[bool, tyro.conf.arg(name="list")] = False
    """List the protocols with their expected results, sources and cost, and exit."""
    package: Literal["jaxvae", "torchvae"] = "jaxvae"
    """The package that trains and evaluates."""
    out: Path = Path("runs/reproduce")
    """Folder of the runs. Each has a figures.json with its results, versions and seed."""
    seeds: tuple[int, ...] = ()
    """Seeds to use instead of the protocol's."""
    stages: int | None = None
    """For the IWAE paper's protocols: train only this many of the 8 stages of learning rates; stage i, from 0, has 3^i
    epochs. A later command can add more."""
    epochs: int | None = None
    """Train only this number of epochs. A later command can add more."""
    samples: int = SAMPLES
    """For the IWAE paper's protocols: latent samples per test image for the log-likelihood."""
    data: str = MNIST
    """The data set, as in train; only MNIST has expected results."""
    data_root: DataRoot = None
    device: DeviceName = "auto"
    """Where to compute."""
    readme: bool = False
    """Write the table into scripts/docs/results.md. Without names it is made from the existing results."""


def main(options: Reproduce) -> None:
    if options.list_:
        print(tables.listing())
        return
    _require(options)
    backend = importlib.import_module(options.package)
    how = How(backend, options.out, options.data, options.data_root, options.device, options.samples)
    requested = chosen(options, _on_cpu(backend, options.device)) if options.names else {}
    seeds = {name: dict.fromkeys(options.seeds or PROTOCOLS[name].seeds) for name in requested}
    runs = [(name, seed, epochs) for name, epochs in requested.items() for seed in seeds[name]]
    for i, (name, seed, epochs) in enumerate(runs, 1):
        print(f"{i} of {len(runs)}: {name} by {options.package}, seed {seed}, {epochs:,} epochs", flush=True)
        run_protocol(how, name, seed, epochs)
    kept = [one for one in read_all(options.out) if one.data == options.data]
    if not kept:
        raise InputError(f"{options.out} has no results on {options.data}; name a protocol, or choose another --out.")
    content = f"{tables.table(kept)}\n\n{tables.caption(kept)}"
    print(content)
    if options.readme:
        tables.write(RESULTS, content)


def chosen(options: Reproduce, on_cpu: bool) -> dict[str, int]:
    """Select the requested protocols and their number of epochs; print those of `all` that are left out."""
    selected, left = {}, []
    for name, protocol in PROTOCOLS.items():
        named = bool({name, protocol.preset} & set(options.names))
        if not named and ALL not in options.names:
            continue
        share = protocol.epochs
        if on_cpu and not named and protocol.on_cpu is not None:
            share = protocol.on_cpu
            left.append(f"{name} {f'after {share:,} of {protocol.epochs:,} epochs' if share else ''}".strip())
        if options.stages is not None and protocol.staged:
            share = min(share, epochs_of(options.stages))
        selected[name] = min(share, options.epochs or share)
    if left:
        print(f"On a CPU all leaves out {', '.join(left)}; by name each is run in full: {tables.COMMAND} NAME")
    return {name: epochs for name, epochs in selected.items() if epochs}


def _require(options: Reproduce) -> None:
    """Check the options. Raises InputError if they are invalid or incompatible."""
    presets = {protocol.preset for protocol in PROTOCOLS.values()}
    for name in options.names:
        if name not in {*PROTOCOLS, *presets, ALL}:
            raise InputError(f"There is no protocol {name!r}; choose one of {', '.join(PROTOCOLS)}, or all.")
    if options.data == "auto":
        raise InputError("--data auto is ambiguous; name the data set.")
    if not options.names and not options.readme:
        raise InputError("Name a protocol, or all; --list shows them.")
    staged = {called for name, protocol in PROTOCOLS.items() if protocol.staged for called in (name, protocol.preset)}
    if options.stages is not None and not {*staged, ALL} & set(options.names):
        raise InputError("--stages applies to the IWAE paper's protocols only; leave it out, or use --epochs.")
    if options.stages is not None and not 1 <= options.stages <= STAGES:
        raise InputError(f"--stages must be from 1 to {STAGES}, found {options.stages}.")
    if options.epochs is not None and options.epochs < 1:
        raise InputError(f"--epochs must be at least 1, found {options.epochs}.")
    if options.samples < 1:
        raise InputError(f"--samples must be at least 1, found {options.samples}.")
    if options.readme and options.data != MNIST:
        raise InputError(f"The table in results.md is for {MNIST}; leave out --readme or --data.")
    if options.readme:
        tables.around_table(RESULTS)  # before hours of training
    for seed in options.seeds:
        require_seed(seed)


def _on_cpu(backend: Any, device: DeviceName) -> bool:
    return backend.device_label(backend.prepare(device)).startswith("cpu")


if __name__ == "__main__":
    try:
        join_help(Reproduce)
        main(parse(Reproduce))
    except (InputError, NonFiniteError) as error:
        print(f"reproduce: {error}", file=sys.stderr)
        sys.exit(error.status)
    except OSError as error:
        print(f"reproduce: {error.filename or 'A file'} can't be used ({error.strerror or error}).", file=sys.stderr)
        sys.exit(InputError.status)
    except StoppedError as stop:
        print(f"reproduce: {stop}, or run this script again", file=sys.stderr)
        sys.exit(stop.status)
    except KeyboardInterrupt:
        print("reproduce: interrupted; run the same command again to resume", file=sys.stderr)
        sys.exit(_INTERRUPTED)
