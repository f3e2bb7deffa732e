"""The command line of both packages: parse the arguments, run the command, turn errors into sentences."""

import argparse
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, NoReturn

import tyro

from jaxvae.shared.commands import draw
from jaxvae.shared.commands.compare import Compare, run_compare
from jaxvae.shared.commands.curves import Curves, curves
from jaxvae.shared.commands.describe import Describe, run_describe
from jaxvae.shared.commands.draw import Interpolate, Manifold, Reconstruct, Sample, Traverse
from jaxvae.shared.commands.embed import Embed, embed
from jaxvae.shared.commands.evaluate import Evaluate, run_evaluate
from jaxvae.shared.commands.export import Export, run_export
from jaxvae.shared.commands.import_ import Import, import_run
from jaxvae.shared.commands.report import Report, report
from jaxvae.shared.commands.sweep import Sweep, sweep, sweep_of
from jaxvae.shared.commands.train import Train, as_begun, train
from jaxvae.shared.config.presets import DEFAULT_PRESET, preset
from jaxvae.shared.config.spec import Spec
from jaxvae.shared.errors import InputError, NonFiniteError
from jaxvae.shared.training.session import StoppedError

_FRAMEWORKS = {"jaxvae": "Flax", "torchvae": "PyTorch"}
_INTERRUPTED, _PIPE = 130, 141  # exit statuses by custom: 128 + SIGINT, + SIGPIPE
_NO_ROOM = ("allocate", "RESOURCE_EXHAUSTED")  # what the frameworks say where Python has MemoryError
_LOST = ("Gloo", "gloo", "NCCL")  # by which the processes of a run speak


_COMMANDS = (  # beside train and sweep
    *(Evaluate, Sample, Reconstruct, Interpolate, Traverse, Manifold, Embed),
    *(Compare, Curves, Report, Describe, Export, Import),
)


def run(side: ModuleType) -> NoReturn:
    """Runs the command line as a process of its own, and ends it."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # or a pipe is told of an epoch when the run is through
    try:
        status = main(side)
        sys.stdout.flush()
        sys.stderr.flush()
    except BrokenPipeError:  # whoever reads what we print has enough, as head has
        status = _PIPE
    if status:
        # Not by way of the interpreter's end, which fails while an epoch is still being computed, and waits for the
        # processes that train together with this one, while they wait for it.
        os._exit(status)
    sys.exit(status)


def main(side: ModuleType, arguments: Sequence[str] | None = None) -> int:
    """Runs the command line of the package `side`, jaxvae or torchvae; the exit status."""
    name = side.__name__
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        command = _parse(name, arguments)
        match command:
            case Sweep():
                sweep(side, command)
            case Train():
                train(side, command)
            case Evaluate():
                run_evaluate(side, command)
            case Sample():
                draw.sample(side, command)
            case Reconstruct():
                draw.reconstruct(side, command)
            case Interpolate():
                draw.interpolate(side, command)
            case Traverse():
                draw.traverse(side, command)
            case Manifold():
                draw.manifold(side, command)
            case Embed():
                embed(side, command)
            case Compare():
                run_compare(side, command)
            case Curves():
                curves(command)
            case Report():
                report(side, command)
            case Describe():
                run_describe(command)
            case Export():
                run_export(side, command)
            case Import():
                import_run(side, command)
    except (InputError, NonFiniteError) as error:
        print(f"{name}: {error}", file=sys.stderr)
        return error.status
    except BrokenPipeError:
        raise
    except OSError as error:
        print(f"{name}: {error.filename or 'A file'} can't be used ({error.strerror or error}).", file=sys.stderr)
        return InputError.status
    except StoppedError as stop:
        if side.first():
            print(f"{name}: {stop}", file=sys.stderr)
        return stop.status
    except (MemoryError, RuntimeError) as error:
        reason = (str(error).splitlines() or ["out of memory"])[0]
        if any(word in reason for word in _LOST):
            reason = reason.partition(". ")[0]
            print(f"{name}: Another process has ended ({reason}); start all again with --resume.", file=sys.stderr)
            return InputError.status
        if not isinstance(error, MemoryError) and not any(word in str(error) for word in _NO_ROOM):
            raise
        print(f"{name}: This doesn't fit into memory ({reason}); give smaller sizes or fewer samples.", file=sys.stderr)
        return InputError.status
    except KeyboardInterrupt:
        print(f"{name}: stopped from the keyboard; what was written so far stays.", file=sys.stderr)
        return _INTERRUPTED
    return 0


def _parse(name: str, arguments: Sequence[str]) -> Any:
    chosen = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    chosen.add_argument("--preset", nargs="?", const=DEFAULT_PRESET, default=DEFAULT_PRESET)
    chosen.add_argument("--resume", nargs="?", type=Path)
    # These set the other flags' defaults, so they have to be known before those are parsed.
    which = arguments[0] if arguments else ""
    known = chosen.parse_known_args(arguments)[0] if which in ("train", "sweep") else argparse.Namespace(resume=None)
    if which == "sweep" and known.resume is not None:
        raise InputError("A sweep goes on when its own command is given again with its --out; leave out --resume.")
    base = preset(known.preset) if "preset" in known else Spec()
    begun = as_begun(known.resume) if which == "train" and known.resume is not None else Train(base)
    commands = Annotated[Train, tyro.conf.subcommand("train", default=begun)]
    commands |= Annotated[Sweep, tyro.conf.subcommand("sweep", default=sweep_of(base))]  # type: ignore[assignment]
    for command in _COMMANDS:
        commands |= Annotated[command, tyro.conf.subcommand(command.__name__.lower())]  # type: ignore[assignment]
    return tyro.cli(
        commands,  # type: ignore[arg-type]
        prog=name,
        description=f"A variational autoencoder in {_FRAMEWORKS[name]}: the same seed is the same run in jaxvae and "
        f"torchvae, and each reads the other's runs. Start with `{name} train`.",
        args=arguments,
        config=(tyro.conf.OmitArgPrefixes,),
    )
