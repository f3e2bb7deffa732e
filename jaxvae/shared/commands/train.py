"""The train command: start or resume a run."""

import argparse
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxvae.shared.backend import Backend
from jaxvae.shared.commands.common import preset_spec
from jaxvae.shared.commands.open_session import KEPT_FLAGS, SessionFlags, open_session
from jaxvae.shared.data.dataset import Dataset
from jaxvae.shared.model import description
from jaxvae.shared.runs import best_epoch, metrics, run_folder
from jaxvae.shared.text import counted, from_here, say
from jaxvae.shared.training import processes, tensorboard
from jaxvae.shared.training.progress import Bar
from jaxvae.shared.training.session import Session, run_session
from jaxvae.shared.version import FRAMEWORKS


@dataclass(frozen=True)
class Train(SessionFlags):
    """Train a model, and write a run folder with its configuration, metrics, weights, checkpoints and pictures.

    Ctrl-C and SIGTERM save the current step. Exit status: 0 on success, 2 for an invalid request, 3 if a loss or a
    gradient became NaN or infinite, 130 or 143 after a signal.

    For example, ten epochs of the default model, and a small convolutional one on a folder of colour pictures:

        train --data mnist --seed 1 --out runs/a
        train --preset pictures --data images:faces --image 64 64 3 --resize"""


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
    has_board = tensorboard.folder(run).is_dir()
    kept: dict[str, Any] = {name: run.config.get(name) for name in KEPT_FLAGS}
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
    joined = processes.joined(backend, command.distributed, command.coordinator, command.processes, command.process)
    with joined, open_session(backend, command) as session:
        run, first = session.run, backend.first()
        since = f", from step {session.done:,}" if session.done else ""
        if first:
            device = run.config["sessions"][-1]["device"]
            about = from_here(description.summary(run.spec))
            say(f"{run.path}: {about}, {counted(session.total, 'step')}{since} on {device}")
            say(_images(session.dataset))
            if (emulated := description.emulated(run.spec.training, device)) is not None:
                say(emulated)
            if session.ended or session.done == session.total:
                say(_finished(session))
        with Bar(
            session.seen(session.total), session.seen(session.done), first, first_step(backend, command.compile)
        ) as bar:
            flags = f"{'' if command.stream is None else f' --stream {command.stream}'}{' --compile' * command.compile}"
            again = f"{backend.__name__} train --resume {shlex.quote(str(run.path))}{flags}"
            run_session(backend, session, again, bar.move, lambda line: bar.say(f"{line}  {bar.pace()}"))
        if first:
            kept = best_epoch.kept(run)
            assert kept is not None  # of its best or last epoch
            if session.losses:
                say(_best(session, session.losses))
            say(f"test {metrics.sentence(run.spec, kept)} after {counted(kept['step'], 'step')}")
            say(f"pictures in {run.images}\nweights in {run.weights}")
            if session.board is not None:
                say(f"for TensorBoard in {session.board.folder}: tensorboard --logdir {shlex.quote(str(run.path))}")


def _images(dataset: Dataset) -> str:
    """The number of images in each split, in words."""
    train, test = len(dataset.train), counted(len(dataset.test), "test image")
    if dataset.validation is None:
        return f"{counted(train, 'training image')}; {test}"
    held = len(dataset.validation)
    return f"{counted(train + held, 'training image')}: {train:,} to train on, {held:,} to validate; {test}"


def _best(session: Session, losses: list[float]) -> str:
    """Say which epoch's weights are kept, and why the run ended if that was early."""
    best, patience = best_epoch.best_epoch(losses), session.run.spec.training.patience
    kept = f"the validation loss is lowest after epoch {best} of {len(losses)}, {losses[best - 1]:.3f} nats per image"
    ended = f"; training ended early, as {counted(patience, 'epoch')} did not improve it" if session.ended_early else ""
    return f"{kept}: its weights are kept{ended}"


def first_step(backend: Backend, compiled: bool = False) -> str:
    """What the first step of a session takes longest for."""
    return "compiling..." if compiled or "jax" in FRAMEWORKS.get(backend.__name__, ()) else "first step..."


def _finished(session: Session) -> str:
    """Say that a run has no step left to take, and what would train it longer."""
    training, total = session.run.spec.training, session.total
    if session.ended:
        return (
            f"It is finished, since {counted(training.patience, 'epoch')} did not improve its validation loss, so that "
            f"its last epoch is only evaluated again; to train it longer give a --patience above {training.patience}."
        )
    longer = []
    if training.epochs * training.epoch_steps(len(session.dataset.train)) == total:
        longer.append(f"--epochs, more than {training.epochs}")
    if training.max_steps == total:
        longer.append(f"--max-steps, more than {total}")
    flags = ", and ".join(longer)
    return f"It is finished, so that its last epoch is only evaluated again; to train it longer give {flags}."
