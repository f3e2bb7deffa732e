"""The command line, written once: each package hands it its own functions."""

import argparse
import io
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, NoReturn

import numpy as np
import tyro

from jaxvae.shared import comparison, describe, drawing, figures, runs
from jaxvae.shared.curves import Curves, curves
from jaxvae.shared.drawing import Interpolate, Manifold, Reconstruct, Sample, Traverse
from jaxvae.shared.embedding import Embed, embed
from jaxvae.shared.errors import InputError, NonFiniteError
from jaxvae.shared.evaluation import Evaluate, chosen, evaluate
from jaxvae.shared.exporting import Export
from jaxvae.shared.going import StoppedError
from jaxvae.shared.importing import Import, export_source, import_run
from jaxvae.shared.opening import RunPaths, open_images, open_run
from jaxvae.shared.presets import DEFAULT_PRESET, PRESETS, preset
from jaxvae.shared.reporting import Report, report
from jaxvae.shared.spec import Spec
from jaxvae.shared.sweeping import Sweep, sweep, sweep_of
from jaxvae.shared.training import Device, Train, as_begun, train

_FRAMEWORKS = {"jaxvae": "Flax", "torchvae": "PyTorch"}
_INTERRUPTED, _PIPE = 130, 141  # exit statuses by custom: 128 + SIGINT, + SIGPIPE
_NO_ROOM = ("allocate", "RESOURCE_EXHAUSTED")  # what the frameworks say where Python has MemoryError
_LOST = ("Gloo", "gloo", "NCCL")  # by which the processes of a run speak


@dataclass(frozen=True)
class Compare:
    """Picture test images beside their reconstructions by several runs, and print the squared error of each, from the
    grey images even where a run was trained on binarised ones.

    For example, two runs and principal component analysis:

        compare runs/a runs/b --pca --out beside-pca.png"""

    run: RunPaths
    """The run folders, whichever package wrote them, all on the same data."""
    out: Path
    """The PNG to write."""
    pca: bool = False
    """Beside them the linear baseline: principal component analysis, fitted to all of the training images."""
    components: int | None = None
    """The baseline's components; as many as each run has latents if not given."""
    n: int = 16
    """How many images to picture, from the test split's first on."""
    data_root: Path | None = None
    """The folder that holds the data. Else where training found it."""
    device: Device = "auto"
    """Where to compute."""


@dataclass(frozen=True)
class Describe:
    """Say what a run or a preset is: its layers, its likelihood, its loss and their units.

    For example:

        describe runs/a
        describe --preset beta-h"""

    run: Annotated[tyro.conf.Positional[Path | None], tyro.conf.arg(metavar="[RUN]")] = None
    """The run folder, whichever package wrote it."""
    preset: Annotated[str | None, tyro.conf.arg(help=f"A preset instead: one of {', '.join(PRESETS)}.")] = None


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
                _evaluate(side, command)
            case Sample():
                drawing.sample(side, command)
            case Reconstruct():
                drawing.reconstruct(side, command)
            case Interpolate():
                drawing.interpolate(side, command)
            case Traverse():
                drawing.traverse(side, command)
            case Manifold():
                drawing.manifold(side, command)
            case Embed():
                embed(side, command)
            case Compare():
                _compare(side, command)
            case Curves():
                curves(command)
            case Report():
                report(side, command)
            case Describe():
                _describe(command)
            case Export():
                _export(side, command)
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


def _evaluate(side: Any, command: Evaluate) -> None:
    run, weights = open_run(side, command.run, command.device)
    chosen(run.spec, command)  # before the images are looked for
    evaluate(side, command, run, weights, open_images(run, command.data_root))


def _compare(side: Any, command: Compare) -> None:
    figures.require_png(command.out)
    if command.components is not None and not command.pca:
        raise InputError("--components are those of --pca; ask for both.")
    opened = [open_run(side, path, command.device) for path in command.run]
    comparison.require_comparable([run for run, _ in opened])
    dataset = open_images(opened[0][0], command.data_root, whole=command.pca)
    test, labels = dataset.test, dataset.test_labels
    rows = [
        comparison.row(
            str(run.path),
            run.spec.model.latent,
            test,
            lambda part, run=run, weights=weights: side.reconstruct(run.spec, weights, test[part], labels[part]),
            command.n,
            # Static binarisation numbers its images from the first of a call.
            batch=len(test) if run.spec.images.binarization == "static" else 1000,
        )
        for run, weights in opened
    ]
    if command.pca:
        latents = sorted({run.spec.model.latent for run, _ in opened})
        for components in latents if command.components is None else [command.components]:
            rows.append(comparison.pca(np.asarray(dataset.train), test, components, command.n))
    print(comparison.table(rows, len(test), dataset.name))
    figures.write(comparison.picture(rows, test, dataset.name), command.out)
    print(f"reconstructions side by side in {command.out}")


def _describe(command: Describe) -> None:
    if (command.run is None) == (command.preset is None):
        raise InputError(f"describe takes a run folder or --preset with one of {', '.join(PRESETS)}.")
    if command.run is None:
        assert command.preset is not None
        print(describe.text(preset(command.preset), f"preset {command.preset}"))
    else:
        run = runs.read(command.run)
        print(
            describe.text(run.spec, f"run {run.path}, from preset {run.config['preset']}, by {run.config['framework']}")
        )


def _export(side: Any, command: Export) -> None:
    if command.format == "source":
        export_source(side, runs.read(command.run), command.out)
    else:
        run, weights = open_run(side, command.run, "cpu")
        side.export_model(command.out, run.spec, weights, command.format)
    print(f"{command.format} of {command.run} in {command.out}")
