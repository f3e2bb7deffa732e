"""Carries out the protocols of well-known results anew, and says whether they come to the same: scripts/reproduce.py
--help"""

import importlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from jaxvae.shared.backend import DeviceName
from jaxvae.shared.config.choices import require_seed
from jaxvae.shared.errors import InputError, NonFiniteError
from jaxvae.shared.training.session import StoppedError
from reproduction import tables
from reproduction.protocols import PROTOCOLS, SAMPLES, STAGES, epochs_of
from reproduction.runner import MNIST, How, carried_out, everything_kept

RESULTS = Path(__file__).parent / "docs" / "results.md"
ALL = "all"
_INTERRUPTED = 130  # the exit status by custom: 128 + SIGINT


@dataclass(frozen=True)
class Reproduce:
    """Carry out protocols of known results on MNIST, and table what they come to beside what others have found and
    whether it lies within that. Each run is a folder under --out: stopped, it goes on where it was when the same is
    asked again; finished, it is only read. The table has all that is kept there, of both packages.

    On a CPU, `all` leaves out what would take days and says what that is; named, a protocol is carried out in full.

    Example: python scripts/reproduce.py iwae-paper-1 --stages 5 --package torchvae"""

    names: tyro.conf.Positional[tuple[str, ...]] = ()
    """Which protocols, or all; a preset's name means all that are of it."""
    list_: Annotated[bool, tyro.conf.arg(name="list")] = False
    """Say which there are, what is expected of each, where that is from, and what it costs; then end."""
    package: Literal["jaxvae", "torchvae"] = "jaxvae"
    """Which one trains and evaluates."""
    out: Path = Path("runs/reproduce")
    """Where the runs are kept. In each one's figures.json is what it came to, by which versions and from which seed."""
    seeds: tuple[int, ...] = ()
    """Other seeds than a protocol's own."""
    stages: int | None = None
    """Of the IWAE paper's protocols: the first so many of 8 stages of learning rates, the i-th of which, from 0, has
    3^i epochs. More may be asked for later."""
    epochs: int | None = None
    """The first so many epochs only. More may be asked for later."""
    samples: int = SAMPLES
    """Of the IWAE paper's protocols: latents drawn for each test image's log-likelihood."""
    data: str = MNIST
    """Other images; nothing is known of what they come to."""
    data_root: Path | None = None
    """The folder that holds MNIST/raw. Else $JAXVAE_DATA, the user's cache, or a download."""
    device: DeviceName = "auto"
    """Where to compute."""
    readme: bool = False
    """Write the table into scripts/docs/results.md, between its marks; with no names, the results that are kept."""


def main(options: Reproduce) -> None:
    if options.list_:
        print(tables.listing())
        return
    _require(options)
    backend = importlib.import_module(options.package)
    how = How(backend, options.out, options.data, options.data_root, options.device, options.samples)
    asked = chosen(options, _on_cpu(backend, options.device)) if options.names else {}
    seeds = {name: dict.fromkeys(options.seeds or PROTOCOLS[name].seeds) for name in asked}
    runs = [(name, seed, epochs) for name, epochs in asked.items() for seed in seeds[name]]
    for i, (name, seed, epochs) in enumerate(runs, 1):
        print(f"{i} of {len(runs)}: {name} by {options.package}, seed {seed}, {epochs:,} epochs", flush=True)
        carried_out(how, name, seed, epochs)
    kept = [one for one in everything_kept(options.out) if one.data == options.data]
    if not kept:
        raise InputError(f"Nothing of {options.data} is kept in {options.out}; name a protocol, or give another --out.")
    content = f"{tables.table(kept)}\n\n{tables.caption(kept)}"
    print(content)
    if options.readme:
        tables.write(RESULTS, content)


def chosen(options: Reproduce, on_cpu: bool) -> dict[str, int]:
    """The protocols asked for, and how many epochs of each; says which of all are left out."""
    found, left = {}, []
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
        found[name] = min(share, options.epochs or share)
    if left:
        print(f"On a CPU all leaves out {', '.join(left)}; by name each is carried out in full: {tables.COMMAND} NAME")
    return {name: epochs for name, epochs in found.items() if epochs}


def _require(options: Reproduce) -> None:
    """Raises InputError unless what is asked for makes sense."""
    presets = {protocol.preset for protocol in PROTOCOLS.values()}
    for name in options.names:
        if name not in {*PROTOCOLS, *presets, ALL}:
            raise InputError(f"There is no protocol {name!r}; choose of {', '.join(PROTOCOLS)}, or all.")
    if options.data == "auto":
        raise InputError("--data auto may be either of two; name the images.")
    if not options.names and not options.readme:
        raise InputError("Name a protocol, or all; --list says which there are.")
    staged = {called for name, protocol in PROTOCOLS.items() if protocol.staged for called in (name, protocol.preset)}
    if options.stages is not None and not {*staged, ALL} & set(options.names):
        raise InputError("--stages are those of the IWAE paper's protocols; leave it out, or give --epochs.")
    if options.stages is not None and not 1 <= options.stages <= STAGES:
        raise InputError(f"--stages must be from 1 to {STAGES}, found {options.stages}.")
    if options.epochs is not None and options.epochs < 1:
        raise InputError(f"--epochs must be at least 1, found {options.epochs}.")
    if options.samples < 1:
        raise InputError(f"--samples must be at least 1, found {options.samples}.")
    if options.readme and options.data != MNIST:
        raise InputError(f"The table in results.md is of {MNIST}; leave out --readme or --data.")
    if options.readme:
        tables.around_table(RESULTS)  # before hours of training
    for seed in options.seeds:
        require_seed(seed)


def _on_cpu(backend: Any, device: DeviceName) -> bool:
    return backend.device_label(backend.prepare(device)).startswith("cpu")


if __name__ == "__main__":
    try:
        main(tyro.cli(Reproduce))
    except (InputError, NonFiniteError) as error:
        print(f"reproduce: {error}", file=sys.stderr)
        sys.exit(error.status)
    except OSError as error:
        print(f"reproduce: {error.filename or 'A file'} can't be used ({error.strerror or error}).", file=sys.stderr)
        sys.exit(InputError.status)
    except StoppedError as stop:
        print(f"reproduce: {stop}, or by this script, run again", file=sys.stderr)
        sys.exit(stop.status)
    except KeyboardInterrupt:
        print("reproduce: stopped from the keyboard; run again, it goes on where it was", file=sys.stderr)
        sys.exit(_INTERRUPTED)
