"""The train command: start or resume a run."""

import contextlib
import datetime
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any

import tyro

from jaxvae.shared.commands.common import Device, LoadedData, found_at, require_same_images
from jaxvae.shared.config.presets import DEFAULT_PRESET, PRESETS
from jaxvae.shared.config.serialization import to_json
from jaxvae.shared.config.spec import Spec, same_run
from jaxvae.shared.data import datasets
from jaxvae.shared.data.dataset import digest
from jaxvae.shared.errors import InputError
from jaxvae.shared.model import description, requirements
from jaxvae.shared.runs import checkpoints, metrics, run_folder
from jaxvae.shared.training import tensorboard
from jaxvae.shared.training.progress import Bar
from jaxvae.shared.training.session import Session, run_session

_PACKAGES = {"jaxvae": ("jax", "flax", "optax"), "torchvae": ("torch",)}  # whose versions a run records
_OFTEN = ("log_every", "checkpoint_every", "keep")  # what a run that goes on keeps to unless it is told otherwise
_PRESET_HELP = f"The configuration to start from, which the other flags change; one of {', '.join(PRESETS)}."


@dataclass(frozen=True)
class Train:
    """Train a model: writes a run folder with its configuration, metrics, weights, checkpoints and pictures.

    Ctrl-C and SIGTERM save the step it is at; the exit status is then 130 or 143. It is 2 for what can't be done as
    asked, and 3 when a loss or a gradient leaves the finite numbers.

    For example, ten epochs of the default model, and a convolutional one on a folder of pictures:

        train --data mnist --seed 1 --out runs/a
        train --preset conv --data images:faces --image 64 64 3 --resize --epochs 50"""

    spec: Spec
    preset: Annotated[str, tyro.conf.arg(help=_PRESET_HELP)] = DEFAULT_PRESET
    data_root: Path | None = None
    """The folder that holds MNIST/raw and its siblings. Else $JAXVAE_DATA, the user's cache, or a download."""
    device: Device = "auto"
    """Where to compute; auto is the first accelerator there is."""
    devices: int | None = None
    """Share every batch among so many devices of each process, which has to be a divisor of it; the run is the same.
    Without it one, and where several processes train together all they have; a CPU is as many as are asked for. For
    jaxvae: each of torchvae's processes has one."""
    distributed: bool = False
    """This is one of several processes that train together, each started by the same command, in folders that all see;
    the cluster tells them of each other. SLURM, Open MPI, Kubernetes and TPU pods tell jaxvae; torchrun tells torchvae,
    which needs no flag there."""
    coordinator: Annotated[str | None, tyro.conf.arg(metavar="HOST:PORT")] = None
    """The same where nobody tells: a free port of the first process, which alone writes and speaks."""
    processes: int | None = None
    """How many processes there are, beside --coordinator."""
    process: int | None = None
    """Which of them this is, from 0, beside --coordinator."""
    log_every: int | None = None
    """A line of metrics every so many steps, rather than one with each epoch's mean; written at the epoch's end."""
    out: Path | None = None
    """The run folder to make. Without it, the next free one under runs/."""
    checkpoint_every: int | None = None
    """Save all that the run needs to go on every so many steps, rather than at each epoch's end."""
    keep: int = 2
    """How many checkpoints to keep, the last ones."""
    stream: Annotated[int | None, tyro.conf.arg(metavar="MB")] = None
    """For training images that are larger than the device's or this machine's memory: bring them in blocks of so many
    megabytes, say 256, two of which there is room for, while the model trains on the one before. The run is the same.
    Images of npy:FILE or npy:DIR, uint8 and in the model's size, stay in their files, which are read once at the start
    to know them again; mnist and its like stay in this machine's memory. A run that goes on has to be told again."""
    tensorboard: bool = False
    """Write for TensorBoard too, after each epoch, in the run's folder tensorboard/: every line of metrics, the
    pictures, and the latents of up to 1,000 test images (its projector reads them when it is started). `tensorboard
    --logdir RUN` shows it. Needs pip install 'jaxvae[tensorboard]'. A run that has the folder goes on there."""
    resume: Annotated[Path | None, tyro.conf.arg(metavar="RUN")] = None
    """Go on with this run from its last checkpoint, whichever package wrote it, as if it had never stopped. With more
    --epochs or --max-steps it goes on for longer; nothing else of what it is can be changed."""


def as_begun(path: Path) -> Train:
    """The command that goes on with a run, with the run's own flags. Raises InputError if that is no run folder."""
    run = run_folder.read(path)
    shown, often = tensorboard.folder(run).is_dir(), {name: run.config[name] for name in _OFTEN}
    return Train(run.spec, run.config["preset"], resume=path, tensorboard=shown, **often)


def train(side: Any, command: Train) -> None:
    """Trains by the package `side`. Raises StoppedError for a signal, NonFiniteError when a number leaves the finite
    ones, and InputError for what can't be done as asked."""
    _join(side, command)
    with opened(side, command) as going:
        run, first = going.run, side.first()
        since = f", from step {going.done:,}" if going.done else ""
        if first:
            device = run.config["sessions"][-1]["device"]
            print(f"{run.path}: {description.summary(run.spec)}, {going.total:,} steps{since} on {device}")
        with Bar(going.seen(going.total), going.seen(going.done), first) as bar:
            streamed = "" if command.stream is None else f" --stream {command.stream}"
            again = f"{side.__name__} train --resume {shlex.quote(str(run.path))}{streamed}"
            run_session(side, going, again, bar.move, lambda line: bar.say(f"{line}  {bar.pace()}"))
        if first:
            last = metrics.read(run)[-1]
            print(f"test {metrics.sentence(run.spec, last)} after {last['step']:,} steps")
            print(f"pictures in {run.images}\nweights in {run.weights}")
            if going.board is not None:
                print(f"for TensorBoard in {going.board.folder}: tensorboard --logdir {shlex.quote(str(run.path))}")


@contextlib.contextmanager
def opened(side: Any, command: Train, found: LoadedData | None = None) -> Iterator[Session]:
    """The run that the command begins or goes on with, its folder locked until the end; a run that came to nothing is
    removed then. found: its images and why they are not MNIST's, if they have been loaded already. Raises InputError
    for what can't be done as asked."""
    require_often(command)
    run, device = command.resume, side.prepare(command.device, command.spec.training.dtype, command.devices)
    with _begun(side, command, device, found) if run is None else _resumed(side, command, device, run, found) as going:
        yield going._replace(
            stream=None if command.stream is None else command.stream * 10**6,
            board=tensorboard.begin(going.run) if command.tensorboard and side.first() else None,
        )


def require_often(command: Train) -> None:
    """Raises InputError unless metrics and checkpoints are asked for at least now and then, blocks of some size, and
    TensorBoard's files only where they can be made."""
    for name in (*_OFTEN, "stream"):
        value = getattr(command, name)
        if value is not None and value < 1:
            raise InputError(f"--{name.replace('_', '-')} must be at least 1, found {value}.")
    if command.tensorboard:
        tensorboard.require(command.resume)


def _join(side: Any, command: Train) -> None:
    """Meets the processes that train together with this one, if there are any."""
    if command.coordinator is not None and not re.fullmatch(r".+:[0-9]+", command.coordinator):
        raise InputError(f"--coordinator must be HOST:PORT, found {command.coordinator}.")
    # torchrun sets these for the processes it starts.
    launched = side.__name__ == "torchvae" and {"RANK", "WORLD_SIZE", "MASTER_ADDR"} <= set(os.environ)
    if command.distributed or command.coordinator is not None or launched:
        side.join(command.coordinator, command.processes, command.process)
    elif command.processes is not None or command.process is not None:
        raise InputError(
            "--processes and --process are told beside --coordinator HOST:PORT; give that, or none of them."
        )


def load_images(side: Any, command: Train) -> LoadedData:
    """The images that the command names, and why they are not MNIST's, if so, which is told. Raises InputError where
    they can't be had or don't fit."""
    found = datasets.load(command.spec, command.data_root, command.stream is not None)
    if found[1] is not None and side.first():
        print(f"{side.__name__}: WARNING: {found[1]} Training on scikit-learn's 1,797 digits instead.", file=sys.stderr)
    requirements.require_batches(command.spec, len(found[0].train))
    return found


@contextlib.contextmanager
def _begun(side: Any, command: Train, device: Any, found: LoadedData | None) -> Iterator[Session]:
    name = side.__name__
    if command.out is not None and side.first():
        run_folder.require_free(command.out)
    dataset, missing = found or load_images(side, command)
    config = {
        "framework": name,
        "preset": command.preset,
        **{name: getattr(command, name) for name in _OFTEN},
        "data": {
            "asked": command.spec.data,
            "name": dataset.name,
            "source": dataset.source,
            "instead_of_mnist": missing,
            "train": len(dataset.train),
            "test": len(dataset.test),
            "digest": digest(dataset),
        },
        "sessions": [_session(side, device, 0)],
    }
    _require_together(side, command, len(dataset.train), config["data"]["digest"])
    spec = replace(command.spec, data=dataset.name)
    out = command.out or run_folder.free_path(Path("runs"), name)
    if not side.first():
        yield Session(run_folder.Run(out, spec, config), dataset, device, None)
        return
    run = run_folder.make(out, spec, config)
    with run_folder.locked(run):
        try:
            checkpoints.create_index(run)
            run_folder.write_config(run)  # with which it is a run that others may go on with
            yield Session(run, dataset, device, None)
        except BaseException:
            if not checkpoints.present(run) and not run.metrics.stat().st_size:
                shutil.rmtree(out)  # it came to nothing, and would be in the way of the next try
            raise


@contextlib.contextmanager
def _resumed(side: Any, command: Train, device: Any, path: Path, found: LoadedData | None) -> Iterator[Session]:
    name, run = side.__name__, run_folder.read(path)
    if command.out is not None or command.preset != run.config["preset"]:
        raise InputError("--resume goes on in a run's own folder and configuration; leave out --out and --preset.")
    if not same_run(command.spec, run.spec):
        raise InputError(
            f"--resume goes on with {path} as it was begun: {_changed(run.spec, command.spec)}; leave that out, or "
            "begin another run."
        )
    if "imported" in run.config:
        raise InputError(
            f"{path} was imported, without a checkpoint that --resume could go on from; train another run."
        )
    with run_folder.locked(run) if side.first() else contextlib.nullcontext():
        run = run_folder.read(path)  # another may have gone on with it until now
        file, wrong = checkpoints.latest(run)
        place = found_at(run, command.data_root)
        dataset = (found or datasets.load(run.spec, place, command.stream is not None))[0]
        require_same_images(run, dataset)
        start = None if file is None else side.load_checkpoint(file, device)[1:]
        step, begun = (0, 0) if start is None else (int(start[0].step), len(start[1]))
        _require_together(side, command, len(dataset.train), step)
        if wrong and side.first():
            print(f"{name}: WARNING: {' '.join(wrong)} Going on from step {step}.", file=sys.stderr)
        total = command.spec.training.total_steps(len(dataset.train))
        if total < step:
            raise InputError(f"{path} has taken {step:,} steps already, {total:,} are asked for; ask for more.")
        if command.spec != run.spec and total == run.spec.training.total_steps(len(dataset.train)):
            asked = command.spec.training
            raise InputError(
                f"{path} would end after {total:,} steps as before: --epochs {asked.epochs} and --max-steps "
                f"{asked.max_steps}, whichever comes first; give both."
            )
        often = {name: getattr(command, name) for name in _OFTEN}
        if not side.first():
            yield Session(run_folder.Run(path, command.spec, {**run.config, **often}), dataset, device, start)
            return
        metrics.cut(run, (step - begun) // run.spec.training.epoch_steps(len(dataset.train)) + 1, step - begun)
        sessions = [*run.config["sessions"], _session(side, device, step)]
        before, now = (session["device"] for session in sessions[-2:])
        if now != before and sessions[-2]["framework"] == name:
            print(
                f"{name}: WARNING: {path} goes on on {now}, not {before}, which may round otherwise.", file=sys.stderr
            )
        run = run_folder.Run(path, command.spec, {**run.config, **often, "sessions": sessions})
        run_folder.write_config(run)
        if file is not None:
            checkpoints.index_resumed(run, step, command.keep)
        yield Session(run, dataset, device, start)


def _require_together(side: Any, command: Train, images: int, *told: object) -> None:
    """Raises InputError unless the devices can share a batch, and all processes are about to train the same run."""
    requirements.require_divisible_batch(command.spec, images, side.shares())
    if side.processes() == 1:
        return
    often = [getattr(command, name) for name in _OFTEN]
    content = json.dumps([side.__name__, to_json(command.spec), often, images, *told])
    number = int.from_bytes(hashlib.sha256(content.encode()).digest()[:3])
    if side.agreed(number) + side.agreed(-number):  # the largest, and less the smallest
        raise InputError(
            "The processes were not started alike; give each the same flags but for --process, the same images and, to "
            "--resume, the same folder."
        )


def _session(side: Any, device: Any, step: int) -> dict[str, Any]:
    """Who trains from which step on, and where: for the run's record."""
    devices, processes = side.shares(), side.processes()
    among = f", {devices} of them" if devices > 1 else ""
    among += f" in {processes} processes" if processes > 1 else ""
    return {
        "framework": side.__name__,
        "from_step": step,
        "device": side.device_label(device) + among,
        "versions": {
            "python": platform.python_version(),
            **{p: importlib.metadata.version(p) for p in ("jaxvae", "numpy", *_PACKAGES[side.__name__])},
        },
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _changed(old: Spec, new: Spec) -> str:
    """Which flags differ, in words."""
    found = []
    for part in fields(old):
        before, after = getattr(old, part.name), getattr(new, part.name)
        names = [f.name for f in fields(before)] if part.name != "data" else []
        pairs = [(n, getattr(before, n), getattr(after, n)) for n in names] or [(part.name, before, after)]
        found += [
            f"its --{name.replace('_', '-')} is {was}, not {now}"
            for name, was, now in pairs
            if was != now and name not in ("epochs", "max_steps")
        ]
    return ", ".join(found)
