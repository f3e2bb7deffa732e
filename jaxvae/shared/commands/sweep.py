"""The sweep command: runs that differ in seed, beta and learning rate, each in its own folder."""

import argparse
import contextlib
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from jaxvae.shared.backend import Backend, Part, Progress, State, fits_together
from jaxvae.shared.commands.common import LoadedData, preset_spec
from jaxvae.shared.commands.open_session import load_images, open_session, require_valid_flags
from jaxvae.shared.commands.train import Train, first_step
from jaxvae.shared.config.spec import Spec, resolved
from jaxvae.shared.errors import InputError, NonFiniteError
from jaxvae.shared.model import description
from jaxvae.shared.runs import metrics, run_folder
from jaxvae.shared.runs.best_epoch import kept
from jaxvae.shared.text import counted, from_here, say
from jaxvae.shared.training import sweep_folder
from jaxvae.shared.training.progress import Bar, short_terms
from jaxvae.shared.training.session import (
    Session,
    Signals,
    StoppedError,
    mean_so_far,
    run_session,
    save_epoch,
    save_part,
)
from jaxvae.shared.training.sweep_grid import SharedSpec, grid, shared_spec

How = Literal["auto", "together", "one-by-one"]

_MAX_TOGETHER = 64  # runs in one program, each of which holds a lock
# Flags of the sweep that each run has, too.
_RUN_FLAGS = (
    "data_root",
    "device",
    "devices",
    "shard",
    "log_every",
    "checkpoint_every",
    "keep",
    "keep_pictures",
    "stream",
    "compile",
    "tensorboard",
)


@dataclass(frozen=True)
class Sweep(Train):
    """Train one configuration with several seeds, betas and learning rates: every combination becomes a run folder, as
    train writes it. At the end sweep.md, sweep.json and sweep.png show the test terms of each setting: their mean over
    the seeds and its standard error.

    For example, 16 runs, in runs/betas/seed-0-beta-0.5-learning-rate-0.001 and so on:

        sweep --seeds 0:4 --beta 0.5 1 2 4 --data digits --epochs 5 --out runs/betas

    The same command resumes a stopped sweep; with more seeds, betas or learning rates it adds their runs. Diverged runs
    (NaN or infinite loss) are excluded from the means; the exit status is then 3."""

    spec: SharedSpec
    seeds: Annotated[tuple[str, ...], tyro.conf.arg(metavar="A:B|SEED [SEED ...]")] = ("0",)
    """The seeds from A to B - 1, or a list of seeds."""
    beta: tuple[float, ...] = ()
    """Weights of the KL divergence."""
    learning_rate: tuple[float, ...] = ()
    """Adam's learning rates, at the first epoch."""
    out: Path | None = None
    """The folder of the runs, new or of this sweep. By default the next free one under runs/."""
    how: How = "auto"
    """Train the runs together in one program (jaxvae only), or one by one; auto is together on accelerators."""
    resume: tyro.conf.Suppress[None] = None


def defaults(arguments: Sequence[str]) -> Sweep:
    """Choose the defaults of the flags, which depend on --preset.

    Args:
        arguments: The command line after the command's name.

    Returns:
        The command with these defaults.

    Raises:
        InputError: If --preset names no preset, or if there is a --resume.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--resume", nargs="?")
    if parser.parse_known_args(arguments)[0].resume is not None:
        raise InputError("To resume a sweep, give its own command again with its --out; leave out --resume.")
    spec = preset_spec(arguments)
    return Sweep(shared_spec(spec), beta=(spec.objective.beta,), learning_rate=(spec.training.learning_rate,))


def run(backend: Backend, command: Sweep) -> None:
    """Train all runs of a sweep and summarize them.

    Args:
        backend: The package that trains.
        command: The parsed flags.

    Raises:
        InputError: If the request is invalid.
        NonFiniteError: After all runs have ended, if some diverged.
        StoppedError: If a signal arrives.
    """
    _require_one_process(command)
    _require_possible_together(backend, command)
    require_valid_flags(backend, command)
    members = grid(command.spec, command.seeds, command.beta, command.learning_rate)
    out = command.out or run_folder.free_path(Path("runs"), f"{backend.__name__}-sweep")
    first = next(iter(members.values()))
    loaded = load_images(backend, _member_command(command, out, first))
    dataset = loaded[0]
    n, name = len(dataset.train), dataset.name
    members = {member: resolved(spec, n) for member, spec in members.items()}
    first = next(iter(members.values()))
    device = backend.device_label(backend.prepare(command.device, first.training.dtype, command.devices, command.shard))
    together = command.how == "together" or (
        command.how == "auto"
        and (command.devices, command.stream) == (None, None)
        and _is_faster_together(backend, device)
    )
    with sweep_folder.locked(out, replace(first, data=name)):
        specs = {out / member: spec for member, spec in members.items()}
        left = {path: spec for path, spec in specs.items() if not _is_finished(path, spec, loaded)}
        finished = f", {len(specs) - len(left):,} of them finished already" if len(left) < len(specs) else ""
        how = "together" if together else "one by one"
        say(
            f"{out}: {from_here(description.summary(first))}, {counted(len(specs), 'run')}{finished}, {how} on {device}"
        )
        images = first.training.images_seen(first.training.total_steps(n), n)
        with Bar(
            images * len(specs), images * (len(specs) - len(left)), first=first_step(backend, command.compile)
        ) as bar:
            if together:
                commands = [_member_command(command, path, spec) for path, spec in left.items()]
                for start in range(0, len(commands), _MAX_TOGETHER):
                    _train_together(backend, commands[start : start + _MAX_TOGETHER], loaded, out, bar)
            diverged = _train_one_by_one(backend, command, left, loaded, out, bar, len(specs))
        sweep_folder.write_summary(out, specs, dataset)
    if diverged:
        raise NonFiniteError(f"{len(diverged):,} of {counted(len(specs), 'run')} diverged, the first: {diverged[0]}")


def _require_one_process(command: Sweep) -> None:
    if command.distributed or (command.coordinator, command.processes, command.process) != (None, None, None):
        raise InputError(
            "A sweep runs in one process; leave out --distributed, --coordinator, --processes and --process."
        )


def _require_possible_together(backend: Backend, command: Sweep) -> None:
    """Raise InputError if the runs can't train together as the command asks."""
    if command.how != "together":
        return
    if command.devices is not None:
        raise InputError(
            "Runs that train together can't share batches among --devices; leave out --devices, or --how together."
        )
    if command.stream is not None:
        raise InputError(
            "Runs that train together keep all images on the device; leave out --stream, or --how together."
        )
    if not fits_together(backend):
        raise InputError(
            f"{backend.__name__} trains runs one by one, only jaxvae trains them together; give --how one-by-one."
        )


def _is_finished(path: Path, spec: Spec, loaded: LoadedData) -> bool:
    return sweep_folder.is_finished(path, replace(spec, data=loaded[0].name))


def _member_command(command: Sweep, path: Path, spec: Spec) -> Train:
    """The command that starts or resumes one run."""
    flags = {name: getattr(command, name) for name in _RUN_FLAGS}
    if not (path / "config.json").exists():
        return Train(spec, command.preset, out=path, **flags)
    run = run_folder.read(path)
    return Train(replace(spec, data=run.spec.data), run.config["preset"], resume=path, **flags)


def _is_faster_together(backend: Backend, device: str) -> bool:
    # On CPUs one by one, since that is train's run to the bit. Together, four runs of 784-400-20 took 0.43 of the time
    # on two busy cores, and each program is compiled once, so --how together is worthwhile there, too.
    return fits_together(backend) and not device.startswith("cpu")


def _train_one_by_one(
    backend: Backend, command: Sweep, left: dict[Path, Spec], loaded: LoadedData, out: Path, bar: Bar, total: int
) -> list[str]:
    """Train the runs that are not finished; return a message for each that diverged."""
    diverged = []
    for number, (path, spec) in enumerate(left.items(), total - len(left) + 1):
        which = f"run {number:,}/{total:,}"

        def on_progress(images: int, where: str, terms: Sequence[str], which: str = which) -> None:
            bar.move(images, f"{which}, {where}", terms)

        if _is_finished(path, spec, loaded):
            continue
        try:
            with open_session(backend, _member_command(command, path, spec), loaded) as session:
                bar.skip(session.seen(session.done))
                run_session(backend, session, _same_command(out), on_progress, lambda line: None)
                _log_result(bar, session.run)
        except NonFiniteError as error:
            diverged.append(f"{path}: {error}")
            bar.say(diverged[-1], sys.stderr)
    return diverged


def _train_together(backend: Backend, commands: list[Train], loaded: LoadedData, out: Path, bar: Bar) -> None:
    """Train runs as one program; the diverged ones are left to `_train_one_by_one`, which says what happened."""
    assert fits_together(backend)
    with contextlib.ExitStack() as stack:
        sessions = [stack.enter_context(open_session(backend, command, loaded)) for command in commands]
        seen, signals = [session.seen(session.done) for session in sessions], Signals()
        bar.skip(sum(seen))

        def stop(received: int | None) -> None:
            if received is not None:
                name = signal.Signals(received).name
                raise StoppedError(f"stopped by {name}, all runs are saved; resume with {_same_command(out)}", received)

        def on_part(parts: Mapping[int, Part[State]]) -> None:
            received = signals.received  # read once: either all runs are saved or none
            _show_parts(bar, sessions, seen, parts)
            for i, part in parts.items():
                save_part(backend, sessions[i], part, received is not None)
            stop(received)

        def on_epoch(i: int, progress: Progress[State]) -> None:
            save_epoch(backend, sessions[i], progress)
            if progress.step == sessions[i].total or sessions[i].ended_early:
                _log_result(bar, sessions[i].run)

        specs, starts = [session.run.spec for session in sessions], [session.start for session in sessions]
        how = sessions[0].device, starts, on_part, sessions[0].cuts, [tuple(one.losses or ()) for one in sessions]
        with signals.watched():
            backend.fit_together(specs, loaded[0], on_epoch, *how)
        for session, now in zip(sessions, seen, strict=True):
            rest = session.seen(session.total) - now
            bar.move(rest if session.ended_early else -now if rest else 0)  # a diverged one is trained again
        stop(signals.received)


def _same_command(out: Path) -> str:
    return f"the same command and --out {out}"


def _show_parts(bar: Bar, sessions: list[Session], seen: list[int], parts: Mapping[int, Part[State]]) -> None:
    """Advance the bar by runs that train together, and show the range of their losses; updates `seen`."""
    more = 0
    for i, part in parts.items():
        now = sessions[i].seen(part.step)
        more, seen[i] = more + now - seen[i], now
    if parts:
        first, losses = min(parts), [mean_so_far(sessions[i], part)[0] for i, part in parts.items()]
        where = f"{len(parts):,} runs, epoch {parts[first].epoch}/{sessions[first].epochs}"
        bar.move(more, where, short_terms(("loss", "to"), (min(losses), max(losses))))


def _log_result(bar: Bar, run: run_folder.Run) -> None:
    record = kept(run)
    assert record is not None  # of its best or last epoch
    bar.say(f"{run.path.name}: test {metrics.sentence(run.spec, record)}  {bar.pace()}")
