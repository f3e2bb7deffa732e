"""Starting or resuming a training session: the flags for it, the images, and the locked run folder."""

import contextlib
import shutil
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import tyro

from jaxvae.shared.backend import Backend, Device, DeviceName, compiles
from jaxvae.shared.commands.common import (
    DataRoot,
    LoadedData,
    images_root,
    require_same_images,
)
from jaxvae.shared.config.choices import Shard
from jaxvae.shared.config.presets import DEFAULT_PRESET, PRESETS
from jaxvae.shared.config.serialization import to_json
from jaxvae.shared.config.spec import LENGTH, Spec, resolved, same_run
from jaxvae.shared.data import datasets
from jaxvae.shared.data.dataset import digest
from jaxvae.shared.errors import InputError
from jaxvae.shared.model import requirements
from jaxvae.shared.plain_paths import is_in_place
from jaxvae.shared.runs import checkpoints, metrics, run_folder
from jaxvae.shared.runs.best_epoch import best_epoch, is_over, validation_losses
from jaxvae.shared.runs.command_line import changed_flags, flags_of
from jaxvae.shared.text import counted, say
from jaxvae.shared.training import processes, tensorboard
from jaxvae.shared.training.advice import advice
from jaxvae.shared.training.session import Session
from jaxvae.shared.training.session_record import session_record

KEPT_FLAGS = ("log_every", "checkpoint_every", "keep", "keep_pictures")
"""Flags whose recorded values a resumed run uses unless they are given."""
_PRESET_HELP = f"The configuration to start from, which the other flags change; one of {', '.join(PRESETS)}."


@dataclass(frozen=True)
class SessionFlags:
    """The flags that start or resume a run."""

    spec: Spec
    preset: Annotated[str, tyro.conf.arg(help=_PRESET_HELP)] = DEFAULT_PRESET
    data_root: DataRoot = None
    device: DeviceName = "auto"
    """Where to compute; auto is the first accelerator, or else the CPU."""
    devices: int | None = None
    """Number of devices of each process among which every batch is split; their total must divide the batch size. The
    results are the same up to rounding. By default one device, or all if several processes train together. On a CPU any
    number of virtual devices can be used.
    jaxvae only: each process of torchvae has one device."""
    shard: Shard | None = None
    """For models too large for one device: with `parameters` each device of all processes holds some rows of every
    weight and of Adam's state, and has all weights within a step alone. Needs several devices or processes. The results
    are the same up to rounding, and checkpoints are whole: pass the flag again when resuming, or leave it out."""
    distributed: bool = False
    """Train in several processes together. Start each with this same command, with folders that all of them see. The
    cluster connects the processes: SLURM, Open MPI, Kubernetes or TPU pods for jaxvae, and torchrun for torchvae, which
    needs no flag."""
    coordinator: Annotated[str | None, tyro.conf.arg(metavar="HOST:PORT")] = None
    """Train in several processes without a cluster: the address of the first process, and a free port on it. Only that
    process prints and writes files. All of them have 5 minutes to come. When one of them ends, the others end at once,
    and when one is silent for 30 seconds, the others end then, and say which it was."""
    processes: int | None = None
    """Number of processes; requires --coordinator."""
    process: int | None = None
    """Number of this process, from 0; requires --coordinator."""
    log_every: int | None = None
    """Write the metrics of every Nth step, at the end of its epoch, instead of one line with each epoch's mean."""
    out: Path | None = None
    """The run folder to create. By default the next free one under runs/."""
    checkpoint_every: int | None = None
    """Write a checkpoint after every N steps instead of at each epoch's end."""
    keep: int = 2
    """Number of checkpoints to keep; older ones are removed."""
    keep_pictures: int | None = None
    """Number of epochs whose pictures to keep; older ones are removed. By default as many as fit into 8 MB, at least
    those of the last one."""
    stream: Annotated[int | None, tyro.conf.arg(metavar="MB")] = None
    """Load the training images in blocks of this many megabytes, e.g. 256, if they do not fit into memory. Two blocks
    are held at a time: one to train on while the next is loaded. The run's numbers stay the same. Only npy: images of
    type uint8 and of the model's size stay on disk; MNIST and other published data sets are held in this machine's
    memory. Pass the flag again when resuming."""
    compile: bool = False
    """Compile the gradient of a step by torch.compile before the first one, which takes a minute: by CUDA graphs on a
    GPU, and by a C++ compiler, as g++, on a CPU. It is the same run, up to rounding. Pass the flag again when resuming.
    torchvae only: jaxvae compiles every step."""
    tensorboard: bool = False
    """Write files for TensorBoard too, after each epoch, in the run's folder tensorboard/: every line of metrics, the
    pictures, and the latents of up to 1,000 test images, which the projector reads when TensorBoard starts. View them
    with `tensorboard --logdir RUN`. Needs tensorboardX: pip install -e '.[tensorboard]' in the clone. A resumed run
    that has the folder adds to it."""
    config: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Take flags from this file: the config.json of a run, whose whole configuration it gives, or a TOML file whose
    keys are flags without dashes, such as learning-rate = 1e-3, hidden = [400, 200] and flip = true, also in tables
    model, objective, training and images. Flags of the command line win."""
    resume: Annotated[Path | None, tyro.conf.arg(metavar="RUN")] = None
    """Resume this run from its last checkpoint, written by either package, as if it had never stopped. With more
    --epochs, --max-steps or --patience it trains longer; nothing else of its configuration can change."""


@contextlib.contextmanager
def open_session(backend: Backend, flags: SessionFlags, loaded: LoadedData | None = None) -> Iterator[Session]:
    """Create or reopen the run of a command, its folder locked within the context.

    Args:
        backend: The package that trains.
        flags: The parsed flags.
        loaded: The run's images, if they are loaded already.

    Yields:
        The session. A new folder in which nothing was trained is removed at the end.

    Raises:
        InputError: If the request is invalid.
    """
    require_valid_flags(backend, flags)
    reading = None if loaded or flags.resume is not None else _reading(flags)  # while prepare imports the framework
    device = backend.prepare(flags.device, flags.spec.training.dtype, flags.devices, flags.shard)
    if flags.resume is None:
        opened = _new_session(backend, flags, device, loaded, reading)
    else:
        opened = _resumed_session(backend, flags, device, flags.resume, loaded)
    with opened as session:
        yield session._replace(
            stream=None if flags.stream is None else flags.stream * 10**6,
            compiled=flags.compile,
            board=tensorboard.begin(session.run) if flags.tensorboard and backend.first() else None,
        )


def require_valid_flags(backend: Backend, flags: SessionFlags) -> None:
    """Check the flags that count steps, checkpoints or megabytes, that TensorBoard's files can be written, and that
    there is something to compile on request.

    Args:
        backend: The package that trains.
        flags: The parsed flags.

    Raises:
        InputError: If a number is below 1, if the files can't be written, or if the package has no `--compile`.
    """
    if flags.compile and not compiles(backend):
        raise InputError(
            f"--compile is for torchvae, found with {backend.__name__}; leave it out: jaxvae compiles every step."
        )
    for name in (*KEPT_FLAGS, "stream"):
        value = getattr(flags, name)
        if value is not None and value < 1:
            raise InputError(f"--{name.replace('_', '-')} must be at least 1, found {value}.")
    if flags.tensorboard:
        tensorboard.require(flags.resume)


def load_images(backend: Backend, flags: SessionFlags, read: Callable[[], LoadedData] | None = None) -> LoadedData:
    """Load the images that a command names; print a warning if they are not MNIST's, which were preferred, the data
    set's notes, and what a small data set makes of the configuration.

    Args:
        backend: The package that trains.
        flags: The parsed flags.
        read: Returns the images if they are being read already.

    Returns:
        The images, and why they are not MNIST's.

    Raises:
        InputError: If the images are not available, or do not fit the configuration.
    """
    dataset, missing = _load(flags) if read is None else read()
    substituted = () if missing is None else (f"{missing} Training on scikit-learn's 1,797 digits instead.",)
    requirements.require_batches(flags.spec, len(dataset.train))
    doubts = advice(flags.spec, len(dataset.train), len(dataset.test))
    for note in (*substituted, *dataset.notes, *doubts) if backend.first() else ():
        say(f"{backend.__name__}: WARNING: {note}", sys.stderr)
    return dataset, missing


class _Reading(NamedTuple):
    """Images that another thread reads."""

    images: Future[LoadedData]
    digest: Future[str]


def _reading(flags: SessionFlags) -> _Reading:
    """Begin to read the images in another thread."""
    pool = ThreadPoolExecutor(1, "images")
    images = pool.submit(_load, flags)
    reading = _Reading(images, pool.submit(lambda: digest(images.result()[0])))
    pool.shutdown(wait=False)
    return reading


def _load(flags: SessionFlags) -> LoadedData:
    return datasets.load(flags.spec, flags.data_root, flags.stream is not None)


@contextlib.contextmanager
def _new_session(
    backend: Backend,
    flags: SessionFlags,
    device: Device,
    loaded: LoadedData | None,
    reading: _Reading | None,
) -> Iterator[Session]:
    name = backend.__name__
    if flags.out is not None and backend.first():
        run_folder.require_free(flags.out)
    dataset, missing = loaded or load_images(backend, flags, reading and reading.images.result)
    config = {
        "framework": name,
        "preset": flags.preset,
        **{flag: getattr(flags, flag) for flag in KEPT_FLAGS},
        "data": {
            "asked": flags.spec.data,
            "name": dataset.name,
            "source": dataset.source,
            "instead_of_mnist": missing,
            "train": len(dataset.train),
            "test": len(dataset.test),
            "digest": digest(dataset) if reading is None else reading.digest.result(),
            **({"class_names": list(dataset.class_names)} if dataset.class_names else {}),
            **({"validation": flags.spec.images.validation} if flags.spec.images.validation else {}),
        },
        "sessions": [session_record(backend, device, 0)],
    }
    _require_same_start(backend, flags, len(dataset.train), config["data"]["digest"])
    spec = replace(resolved(flags.spec, len(dataset.train)), data=dataset.name)
    out = flags.out or run_folder.free_path(Path("runs"), name)
    losses = [] if spec.images.validation else None
    if not backend.first():
        yield Session(run_folder.Run(out, spec, config), dataset, device, None, losses=losses)
        return
    with run_folder.created(out, spec, config, checkpoints.create_index) as run:
        try:
            yield Session(run, dataset, device, None, losses=losses)
        except BaseException:
            if is_in_place(out) and not checkpoints.present(run) and not run.metrics.stat().st_size:
                shutil.rmtree(out)  # it would prevent the next attempt
            raise


@contextlib.contextmanager
def _resumed_session(
    backend: Backend, flags: SessionFlags, device: Device, path: Path, loaded: LoadedData | None
) -> Iterator[Session]:
    name, run = backend.__name__, run_folder.read(path)
    _require_resumable(flags, run)
    with run_folder.locked(run) if backend.first() else contextlib.nullcontext():
        run = run_folder.read(path)  # another process may have trained it in the meantime
        file, damaged = checkpoints.latest(run)
        root = images_root(run, flags.data_root)
        dataset = (loaded or datasets.load(run.spec, root, flags.stream is not None))[0]
        require_same_images(run, dataset)
        start = None if file is None else backend.load_checkpoint(file, device)[1:]
        step, begun = (0, 0) if start is None else (int(start[0].step), len(start[1]))
        _require_same_start(backend, flags, len(dataset.train), step)
        if damaged and backend.first():
            say(f"{name}: WARNING: {' '.join(damaged)} Resuming from step {step}.", sys.stderr)
        _require_more_steps(flags, run, len(dataset.train), step)
        kept = {flag: getattr(flags, flag) for flag in KEPT_FLAGS}
        per_epoch, held = run.spec.training.epoch_steps(len(dataset.train)), run.spec.images.validation > 0
        before = (step - begun) // per_epoch  # epochs
        losses = validation_losses(run) if held and before else []
        ended = begun == per_epoch and is_over(losses[: before + 1], flags.spec.training.patience)
        losses = losses[:before]
        session = Session(run, dataset, device, start, losses=losses if held else None, ended=ended)
        if not backend.first():
            yield session._replace(run=run_folder.Run(path, flags.spec, {**run.config, **kept}))
            return
        _require_best(run, losses)
        metrics.cut(run, before + 1, step - begun)
        if checkpoints.best_before(run).is_file():  # the epoch that was cut short is trained again, and longer
            checkpoints.best_before(run).replace(run.weights)
        sessions = [*run.config["sessions"], session_record(backend, device, step)]
        then, now = (one["device"] for one in sessions[-2:])
        if now != then and sessions[-2]["framework"] == name:
            warning = f"{path} is resumed on {now} instead of {then}; rounding may differ."
            say(f"{name}: WARNING: {warning}", sys.stderr)
        run = run_folder.Run(path, flags.spec, {**run.config, **kept, "sessions": sessions})
        run_folder.write_config(run)
        if file is not None:
            checkpoints.index_resumed(run, step, flags.keep)
        yield session._replace(run=run)


def _require_resumable(flags: SessionFlags, run: run_folder.Run) -> None:
    """Raise InputError if the command changes the run, or if the run has nothing to resume from."""
    if flags.out is not None or flags.preset != run.config["preset"]:
        raise InputError("--resume uses the run's own folder and configuration; leave out --out and --preset.")
    if not same_run(flags.spec, run.spec):
        changed = changed_flags(flags_of(run.spec), flags_of(flags.spec), except_for=LENGTH)
        raise InputError(
            f"The configuration of {run.path} cannot change on --resume: {changed}; leave that out, or start another "
            "run."
        )
    if "imported" in run.config:
        raise InputError(f"{run.path} was imported and has no checkpoint to --resume from; train another run.")
    if run.own_loop:
        raise InputError(
            f"{run.path} was trained by a loop of its user's own and has no checkpoint to --resume from; train on from "
            "its weights in Python, or train another run."
        )


def _require_best(run: run_folder.Run, losses: list[float]) -> None:
    """Raise InputError if the weights of the best epoch so far are lost."""
    if losses and not (run.weights.is_file() or checkpoints.best_before(run).is_file()):
        raise InputError(
            f"{run.weights} is missing, the weights of epoch {best_epoch(losses)}, the best one; restore it or train "
            "again."
        )


def _require_more_steps(flags: SessionFlags, run: run_folder.Run, images: int, step: int) -> None:
    """Raise InputError if the command asks for fewer steps than were taken, or changes --epochs without effect."""
    training, before = flags.spec.training, run.spec.training
    total = training.total_steps(images)
    longer = (training.epochs, training.max_steps) != (before.epochs, before.max_steps)
    if total < step:
        raise InputError(
            f"{run.path} has already taken {counted(step, 'step')}, more than the {total:,} requested; give larger "
            "--epochs or --max-steps."
        )
    if longer and training.schedule == "cosine" and total > training.rate_warmup + training.stretch:
        raise InputError(
            f"{run.path} has a cosine that falls to 0 at step {training.rate_warmup + training.stretch:,}, and more "
            "steps would change no weight; start a longer run."
        )
    ends = f"--epochs {training.epochs}, without --max-steps"
    if training.max_steps is not None:
        ends = f"--epochs {training.epochs} and --max-steps {training.max_steps}, whichever comes first"
    if longer and total == before.total_steps(images):
        raise InputError(f"{run.path} would still end after {counted(total, 'step')}: {ends}; give both.")


def _require_same_start(backend: Backend, flags: SessionFlags, images: int, *settings: Any) -> None:
    """Raise InputError unless the devices can share a batch, and all processes are about to train the same run."""
    requirements.require_divisible_batch(flags.spec, images, backend.shares())
    kept = [getattr(flags, name) for name in KEPT_FLAGS]
    processes.require_same_start(backend, to_json(flags.spec), kept, images, *settings)
