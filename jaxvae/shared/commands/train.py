"""The train command: start or resume a run."""

import argparse
import contextlib
import shlex
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import tyro

from jaxvae.shared.backend import Backend, Device, DeviceName
from jaxvae.shared.commands.common import (
    LoadedData,
    changed_flags,
    flags_of,
    images_root,
    preset_spec,
    require_same_images,
)
from jaxvae.shared.config.presets import DEFAULT_PRESET, PRESETS
from jaxvae.shared.config.serialization import to_json
from jaxvae.shared.config.spec import Spec, same_run
from jaxvae.shared.data import datasets
from jaxvae.shared.data.dataset import digest
from jaxvae.shared.errors import InputError
from jaxvae.shared.model import description, requirements
from jaxvae.shared.runs import checkpoints, metrics, run_folder
from jaxvae.shared.training import processes, tensorboard
from jaxvae.shared.training.progress import Bar
from jaxvae.shared.training.session import Session, run_session
from jaxvae.shared.training.session_record import session_record

_KEPT_FLAGS = ("log_every", "checkpoint_every", "keep")  # a resumed run uses the recorded ones unless they are given
_PRESET_HELP = f"The configuration to start from, which the other flags change; one of {', '.join(PRESETS)}."


@dataclass(frozen=True)
class Train:
    """Train a model: writes a run folder with its configuration, metrics, weights, checkpoints and pictures.

    Ctrl-C and SIGTERM save the current step. Exit status: 0 on success, 2 for an invalid request, 3 if a loss or a
    gradient became NaN or infinite, 130 or 143 after a signal.

    For example, ten epochs of the default model, and a convolutional one on a folder of pictures:

        train --data mnist --seed 1 --out runs/a
        train --preset conv --data images:faces --image 64 64 3 --resize --epochs 50"""

    spec: Spec
    preset: Annotated[str, tyro.conf.arg(help=_PRESET_HELP)] = DEFAULT_PRESET
    data_root: Path | None = None
    """The folder that contains MNIST/raw and its siblings. By default $JAXVAE_DATA, the user's cache, or a download."""
    device: DeviceName = "auto"
    """Where to compute; auto is the first accelerator, or else the CPU."""
    devices: int | None = None
    """Share every batch among this number of devices of each process, which must divide it; the run stays the same. By
    default one, or all devices if several processes train together; a CPU counts as any number. jaxvae only: each
    process of torchvae has one device."""
    distributed: bool = False
    """This is one of several processes that train together, each started with the same command, in folders that all of
    them see; the cluster tells the processes about each other: SLURM, Open MPI, Kubernetes and TPU pods for jaxvae, and
    torchrun for torchvae, which needs no flag."""
    coordinator: Annotated[str | None, tyro.conf.arg(metavar="HOST:PORT")] = None
    """The same without a cluster's help: a free port of the first process, which alone writes files and prints."""
    processes: int | None = None
    """Number of processes; requires --coordinator."""
    process: int | None = None
    """Number of this process, from 0; requires --coordinator."""
    log_every: int | None = None
    """Write a line of metrics after every N steps, at the epoch's end, instead of one with each epoch's mean."""
    out: Path | None = None
    """The run folder to create. By default the next free one under runs/."""
    checkpoint_every: int | None = None
    """Write a checkpoint after every N steps instead of at each epoch's end."""
    keep: int = 2
    """Number of checkpoints to keep, the latest ones."""
    stream: Annotated[int | None, tyro.conf.arg(metavar="MB")] = None
    """For training images that do not fit into the memory of the device or of this machine: load them in blocks of this
    many megabytes, say 256, while the model trains on the block before; there must be memory for two. The run stays the
    same. Images of npy:FILE or npy:DIR, uint8 and in the model's size, stay in their files, which are read once at the
    start to compute their digest; mnist and its siblings stay in this machine's memory. Pass it again when resuming."""
    tensorboard: bool = False
    """Write files for TensorBoard too, after each epoch, in the run's folder tensorboard/: every line of metrics, the
    pictures, and the latents of up to 1,000 test images (the projector reads these when TensorBoard starts). View them
    with `tensorboard --logdir RUN`. Needs pip install 'jaxvae[tensorboard]'. A resumed run that has the folder
    continues it."""
    resume: Annotated[Path | None, tyro.conf.arg(metavar="RUN")] = None
    """Resume this run from its last checkpoint, written by either package, as if it had never stopped. With more
    --epochs or --max-steps it trains longer; the rest of its configuration cannot change."""


def defaults(arguments: Sequence[str]) -> Train:
    """Choose the defaults of the flags, which depend on --preset and --resume.

    Args:
        arguments: The command line after the command's name.

    Returns:
        The command with these defaults.

    Raises:
        InputError: If --preset names no preset, or --resume no run.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--resume", nargs="?", type=Path)
    path = parser.parse_known_args(arguments)[0].resume
    return Train(preset_spec(arguments)) if path is None else resume_command(path)


def resume_command(path: Path) -> Train:
    """Build the command that resumes a run with its own flags.

    Args:
        path: The run folder.

    Returns:
        The command.

    Raises:
        InputError: If the folder is not a run.
    """
    run = run_folder.read(path)
    has_board, kept = tensorboard.folder(run).is_dir(), {name: run.config[name] for name in _KEPT_FLAGS}
    return Train(run.spec, run.config["preset"], resume=path, tensorboard=has_board, **kept)


def run(backend: Backend, command: Train) -> None:
    """Train a run to its end.

    Args:
        backend: The package that trains.
        command: The parsed flags.

    Raises:
        InputError: If the request is invalid.
        NonFiniteError: If a loss or a gradient becomes NaN or infinite.
        StoppedError: If a signal arrives.
    """
    processes.join(backend, command.distributed, command.coordinator, command.processes, command.process)
    with open_session(backend, command) as session:
        run, first = session.run, backend.first()
        since = f", from step {session.done:,}" if session.done else ""
        if first:
            device = run.config["sessions"][-1]["device"]
            print(f"{run.path}: {description.summary(run.spec)}, {session.total:,} steps{since} on {device}")
        with Bar(session.seen(session.total), session.seen(session.done), first) as bar:
            stream = "" if command.stream is None else f" --stream {command.stream}"
            again = f"{backend.__name__} train --resume {shlex.quote(str(run.path))}{stream}"
            run_session(backend, session, again, bar.move, lambda line: bar.say(f"{line}  {bar.pace()}"))
        if first:
            last = metrics.read(run)[-1]
            print(f"test {metrics.sentence(run.spec, last)} after {last['step']:,} steps")
            print(f"pictures in {run.images}\nweights in {run.weights}")
            if session.board is not None:
                print(f"for TensorBoard in {session.board.folder}: tensorboard --logdir {shlex.quote(str(run.path))}")


@contextlib.contextmanager
def open_session(backend: Backend, command: Train, loaded: LoadedData | None = None) -> Iterator[Session]:
    """Create or reopen the run of a command, its folder locked within the context.

    Args:
        backend: The package that trains.
        command: The parsed flags.
        loaded: The run's images, if they are loaded already.

    Yields:
        The session. A new folder in which nothing was trained is removed at the end.

    Raises:
        InputError: If the request is invalid.
    """
    require_positive_flags(command)
    device = backend.prepare(command.device, command.spec.training.dtype, command.devices)
    if command.resume is None:
        opened = _new_session(backend, command, device, loaded)
    else:
        opened = _resumed_session(backend, command, device, command.resume, loaded)
    with opened as session:
        yield session._replace(
            stream=None if command.stream is None else command.stream * 10**6,
            board=tensorboard.begin(session.run) if command.tensorboard and backend.first() else None,
        )


def require_positive_flags(command: Train) -> None:
    """Check the flags that count steps, checkpoints or megabytes, and that TensorBoard's files can be written.

    Args:
        command: The parsed flags.

    Raises:
        InputError: If a number is below 1, or if the files can't be written.
    """
    for name in (*_KEPT_FLAGS, "stream"):
        value = getattr(command, name)
        if value is not None and value < 1:
            raise InputError(f"--{name.replace('_', '-')} must be at least 1, found {value}.")
    if command.tensorboard:
        tensorboard.require(command.resume)


def load_images(backend: Backend, command: Train) -> LoadedData:
    """Load the images that a command names; print a warning if they are not MNIST's, which were preferred.

    Args:
        backend: The package that trains.
        command: The parsed flags.

    Returns:
        The images, and why they are not MNIST's.

    Raises:
        InputError: If the images are not available, or do not fit the configuration.
    """
    dataset, missing = datasets.load(command.spec, command.data_root, command.stream is not None)
    if missing is not None and backend.first():
        name = backend.__name__
        print(f"{name}: WARNING: {missing} Training on scikit-learn's 1,797 digits instead.", file=sys.stderr)
    requirements.require_batches(command.spec, len(dataset.train))
    return dataset, missing


@contextlib.contextmanager
def _new_session(backend: Backend, command: Train, device: Device, loaded: LoadedData | None) -> Iterator[Session]:
    name = backend.__name__
    if command.out is not None and backend.first():
        run_folder.require_free(command.out)
    dataset, missing = loaded or load_images(backend, command)
    config = {
        "framework": name,
        "preset": command.preset,
        **{flag: getattr(command, flag) for flag in _KEPT_FLAGS},
        "data": {
            "asked": command.spec.data,
            "name": dataset.name,
            "source": dataset.source,
            "instead_of_mnist": missing,
            "train": len(dataset.train),
            "test": len(dataset.test),
            "digest": digest(dataset),
        },
        "sessions": [session_record(backend, device, 0)],
    }
    _require_same_start(backend, command, len(dataset.train), config["data"]["digest"])
    spec = replace(command.spec, data=dataset.name)
    out = command.out or run_folder.free_path(Path("runs"), name)
    if not backend.first():
        yield Session(run_folder.Run(out, spec, config), dataset, device, None)
        return
    run = run_folder.make(out, spec, config)
    with run_folder.locked(run):
        try:
            checkpoints.begun(run)
            run_folder.write_config(run)  # makes the folder a run, which can be resumed
            yield Session(run, dataset, device, None)
        except BaseException:
            if not checkpoints.present(run) and not run.metrics.stat().st_size:
                shutil.rmtree(out)  # it would prevent the next attempt
            raise


@contextlib.contextmanager
def _resumed_session(
    backend: Backend, command: Train, device: Device, path: Path, loaded: LoadedData | None
) -> Iterator[Session]:
    name, run = backend.__name__, run_folder.read(path)
    _require_resumable(command, run)
    with run_folder.locked(run) if backend.first() else contextlib.nullcontext():
        run = run_folder.read(path)  # another process may have trained it in the meantime
        file, damaged = checkpoints.latest(run)
        root = images_root(run, command.data_root)
        dataset = (loaded or datasets.load(run.spec, root, command.stream is not None))[0]
        require_same_images(run, dataset)
        start = None if file is None else backend.load_checkpoint(file, device)[1:]
        step, begun = (0, 0) if start is None else (int(start[0].step), len(start[1]))
        _require_same_start(backend, command, len(dataset.train), step)
        if damaged and backend.first():
            print(f"{name}: WARNING: {' '.join(damaged)} Resuming from step {step}.", file=sys.stderr)
        _require_more_steps(command, run, len(dataset.train), step)
        kept = {flag: getattr(command, flag) for flag in _KEPT_FLAGS}
        if not backend.first():
            yield Session(run_folder.Run(path, command.spec, {**run.config, **kept}), dataset, device, start)
            return
        metrics.cut(run, (step - begun) // run.spec.training.epoch_steps(len(dataset.train)) + 1, step - begun)
        sessions = [*run.config["sessions"], session_record(backend, device, step)]
        before, now = (session["device"] for session in sessions[-2:])
        if now != before and sessions[-2]["framework"] == name:
            warning = f"{path} is resumed on {now} instead of {before}; rounding may differ."
            print(f"{name}: WARNING: {warning}", file=sys.stderr)
        run = run_folder.Run(path, command.spec, {**run.config, **kept, "sessions": sessions})
        run_folder.write_config(run)
        if file is not None:
            checkpoints.gone_on_from(run, step, command.keep)
        yield Session(run, dataset, device, start)


def _require_resumable(command: Train, run: run_folder.Run) -> None:
    """Raise InputError if the command changes the run, or if the run has nothing to resume from."""
    if command.out is not None or command.preset != run.config["preset"]:
        raise InputError("--resume uses the run's own folder and configuration; leave out --out and --preset.")
    if not same_run(command.spec, run.spec):
        changed = changed_flags(flags_of(run.spec), flags_of(command.spec), except_for=("epochs", "max_steps"))
        raise InputError(
            f"The configuration of {run.path} cannot change on --resume: {changed}; leave that out, or start another "
            "run."
        )
    if "imported" in run.config:
        raise InputError(f"{run.path} was imported and has no checkpoint to --resume from; train another run.")


def _require_more_steps(command: Train, run: run_folder.Run, images: int, step: int) -> None:
    """Raise InputError if the command asks for fewer steps than were taken, or changes --epochs without effect."""
    training = command.spec.training
    total = training.total_steps(images)
    if total < step:
        raise InputError(
            f"{run.path} has already taken {step:,} steps, more than the {total:,} requested; ask for more."
        )
    if command.spec != run.spec and total == run.spec.training.total_steps(images):
        raise InputError(
            f"{run.path} would still end after {total:,} steps: --epochs {training.epochs} and --max-steps "
            f"{training.max_steps}, whichever comes first; give both."
        )


def _require_same_start(backend: Backend, command: Train, images: int, *settings: Any) -> None:
    """Raise InputError unless the devices can share a batch, and all processes are about to train the same run."""
    requirements.require_divisible_batch(command.spec, images, backend.shares())
    kept = [getattr(command, name) for name in _KEPT_FLAGS]
    processes.require_same_start(backend, to_json(command.spec), kept, images, *settings)
