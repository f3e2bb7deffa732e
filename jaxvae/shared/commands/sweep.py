"""The command that trains a sweep: runs that differ in seed, beta and learning rate, each in a folder of its own."""

import contextlib
import itertools
import json
import re
import shutil
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from jaxvae.shared import safe_io
from jaxvae.shared.analysis import sweep_summary
from jaxvae.shared.commands.common import LoadedData
from jaxvae.shared.commands.train import Train, load_images, opened, require_often
from jaxvae.shared.config.parts import ObjectiveSpec, TrainingSpec
from jaxvae.shared.config.serialization import to_json
from jaxvae.shared.config.spec import Spec
from jaxvae.shared.errors import InputError, NonFiniteError
from jaxvae.shared.model import description
from jaxvae.shared.runs import metrics, run_folder
from jaxvae.shared.text import shown
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

How = Literal["auto", "together", "one-by-one"]

_MOST, _AT_ONCE = 1000, 64  # runs of a sweep; of those trained together, each of which holds a lock
# To each run as to the sweep.
_GIVEN = ("data_root", "device", "devices", "log_every", "checkpoint_every", "keep", "stream", "tensorboard")
_VERSION = 1  # of sweep.json

# Not flags here: each has several values.
_Float = tyro.conf.SuppressFixed[tyro.conf.Fixed[float]]
_Int = tyro.conf.SuppressFixed[tyro.conf.Fixed[int]]


@dataclass(frozen=True)
class _Objective(ObjectiveSpec):
    beta: _Float = 1.0


@dataclass(frozen=True)
class _Training(TrainingSpec):
    learning_rate: _Float = 1e-3
    seed: _Int = 0


@dataclass(frozen=True)
class SharedSpec(Spec):
    """What all runs of a sweep have. Whether its parts go together shows with a member's beta."""

    objective: _Objective = field(default_factory=_Objective)
    training: _Training = field(default_factory=_Training)

    def __post_init__(self) -> None:
        pass


@dataclass(frozen=True)
class Sweep(Train):
    """Train one configuration from several seeds, with several betas and learning rates: every combination becomes a
    run folder, as train writes it. At the end sweep.md, sweep.json and sweep.png say what each setting comes to on the
    test images: the mean over its seeds and the standard error.

    For example, 16 runs, in runs/betas/seed-0-beta-0.5-learning-rate-0.001 and so on:

        sweep --seeds 0:4 --beta 0.5 1 2 4 --data digits --epochs 5 --out runs/betas

    A sweep that was stopped goes on by the same command, and grows with more seeds, betas or learning rates. A run that
    leaves the finite numbers is left out of the means; the exit status is then 3."""

    spec: SharedSpec
    seeds: Annotated[tuple[str, ...], tyro.conf.arg(metavar="A:B|SEED [SEED ...]")] = ("0",)
    """Seeds from A to the one before B, or these."""
    beta: tuple[float, ...] = ()
    """Weights of the KL divergence."""
    learning_rate: tuple[float, ...] = ()
    """Adam's step sizes, at the first epoch."""
    out: Path | None = None
    """The folder of the runs, new or of this sweep. Without it, the next free one under runs/."""
    how: How = "auto"
    """Train the runs together, as one program, by jaxvae alone, or one by one; auto is together on accelerators."""
    resume: tyro.conf.Suppress[None] = None


def sweep_of(base: Spec) -> Sweep:
    """The command with a configuration's values for defaults."""
    objective, training = _Objective(**vars(base.objective)), _Training(**vars(base.training))
    shared = SharedSpec(**{**vars(base), "objective": objective, "training": training})
    return Sweep(shared, beta=(base.objective.beta,), learning_rate=(base.training.learning_rate,))


def sweep(side: Any, command: Sweep) -> None:
    """Trains by the package `side`. Raises StoppedError for a signal, InputError for what can't be done as asked, and
    NonFiniteError when all is done but runs that left the finite numbers."""
    if command.distributed or (command.coordinator, command.processes, command.process) != (None, None, None):
        raise InputError("A sweep is one process's; leave out --distributed, --coordinator, --processes and --process.")
    if command.how == "together" and command.devices is not None:
        raise InputError("Runs trained together share no batches among --devices; leave that out, or --how together.")
    if command.how == "together" and command.stream is not None:
        raise InputError("Runs trained together share all images on the device; leave out --stream, or --how together.")
    if command.how == "together" and not hasattr(side, "fit_together"):
        raise InputError(f"{side.__name__} trains runs one by one, and jaxvae alone together; give --how one-by-one.")
    require_often(command)
    asked = members(command)
    out = command.out or run_folder.free_path(Path("runs"), f"{side.__name__}-sweep")
    first = next(iter(asked.values()))
    found = load_images(side, _train(command, out, first))
    n, name = len(found[0].train), found[0].name
    device = side.device_label(side.prepare(command.device, first.training.dtype, command.devices))
    together = command.how == "together" or (
        command.how == "auto"
        and (command.devices, command.stream) == (None, None)
        and _is_faster_together(side, device)
    )
    with _held(out, replace(first, data=name)):
        paths = {out / member: spec for member, spec in asked.items()}
        left = {path: spec for path, spec in paths.items() if not _is_through(path, replace(spec, data=name))}
        kept = f", {len(paths) - len(left):,} of them through already" if len(left) < len(paths) else ""
        how = "together" if together else "one by one"
        print(f"{out}: {description.summary(first)}, {len(paths):,} runs{kept}, {how} on {device}")
        each = first.training.images_seen(first.training.total_steps(n), n)
        with Bar(each * len(paths), each * (len(paths) - len(left))) as bar:
            if together:
                commands = [_train(command, path, spec) for path, spec in left.items()]
                for start in range(0, len(commands), _AT_ONCE):
                    _go_together(side, commands[start : start + _AT_ONCE], found, out, bar)
            lost = _go_one_by_one(side, command, left, found, out, bar, len(paths))
        _report(out, paths, found)
    if lost:
        raise NonFiniteError(f"{len(lost):,} of {len(paths):,} runs left the finite numbers, the first: {lost[0]}")


def members(command: Sweep) -> dict[str, Spec]:
    """The configuration of each run by its name, the seeds of a setting one after another. Raises InputError where a
    flag names nothing, something twice or no number, where there are too many, and for what can't be trained."""
    swept = {"seeds": _seeds(command.seeds), "beta": command.beta, "learning-rate": command.learning_rate}
    for flag, values in swept.items():
        if not values:
            raise InputError(f"--{flag} must name at least one value, found none.")
        twice = [value for i, value in enumerate(values) if value in values[:i]]
        if twice:
            raise InputError(f"--{flag} must name each value once, found {short_number(twice[0])} twice.")
    seeds, betas, rates = swept.values()
    if len(seeds) * len(betas) * len(rates) > _MOST:
        raise InputError(
            f"A sweep has at most {_MOST:,} runs, found {len(seeds):,} seeds, {len(betas):,} betas and {len(rates):,} "
            "learning rates; give fewer."
        )
    found = {}
    for beta, rate, seed in itertools.product(betas, rates, seeds):
        objective = ObjectiveSpec(**{**vars(command.spec.objective), "beta": beta})
        training = TrainingSpec(**{**vars(command.spec.training), "learning_rate": rate, "seed": seed})
        spec = Spec(**{**vars(command.spec), "objective": objective, "training": training})
        found[f"seed-{seed}-beta-{short_number(beta)}-learning-rate-{short_number(rate)}"] = spec
    return found


def short_number(value: float) -> str:
    """A number as short as it gets without becoming another."""
    short = f"{value:g}"
    return short if float(short) == value else repr(value)


def _seeds(given: tuple[str, ...]) -> tuple[int, ...]:
    seeds: list[int] = []
    for text in given:
        numbers = re.fullmatch(r"([0-9]{1,20})(?::([0-9]{1,20}))?", text)
        if numbers is None:
            raise InputError(f"--seeds must be numbers, or a range such as 0:8, found {shown(text)}.")
        first, end = int(numbers[1]), int(numbers[2] or int(numbers[1]) + 1)
        if not 0 < end - first <= _MOST:
            raise InputError(f"--seeds A:B must be A to B - 1, from 1 to {_MOST:,} seeds, found {text}.")
        seeds += range(first, end)
    return tuple(seeds)


def _train(command: Sweep, path: Path, spec: Spec) -> Train:
    """The command that trains one run, or goes on with it."""
    given = {name: getattr(command, name) for name in _GIVEN}
    if not (path / "config.json").exists():
        return Train(spec, command.preset, out=path, **given)
    run = run_folder.read(path)
    return Train(replace(spec, data=run.spec.data), run.config["preset"], resume=path, **given)


def _is_faster_together(side: Any, device: str) -> bool:
    # On CPUs one by one, which is train's run to the bit. Together four of 784-400-20 took 0.43 of the time of one by
    # one on two busy cores, and each program is compiled once, so --how together is worth asking for there too.
    return hasattr(side, "fit_together") and not device.startswith("cpu")


def _go_one_by_one(
    side: Any, command: Sweep, left: dict[Path, Spec], found: LoadedData, out: Path, bar: Bar, runs_in_all: int
) -> list[str]:
    """Trains what is not through yet, as train does. What is told of the runs that left the finite numbers."""
    lost = []
    for number, (path, spec) in enumerate(left.items(), runs_in_all - len(left) + 1):
        which = f"run {number:,}/{runs_in_all:,}"

        def tell(images: int, where: str, terms: Sequence[str], which: str = which) -> None:
            bar.move(images, f"{which}, {where}", terms)

        if _is_through(path, replace(spec, data=found[0].name)):
            continue
        try:
            with opened(side, _train(command, path, spec), found) as going:
                bar.skip(going.seen(going.done))
                run_session(side, going, _again(out), tell, lambda line: None)
                _tell(bar, going.run)
        except NonFiniteError as error:
            lost.append(f"{path}: {error}")
            bar.say(lost[-1], sys.stderr)
    return lost


def _go_together(side: Any, commands: list[Train], found: LoadedData, out: Path, bar: Bar) -> None:
    """Trains as one program what stays with the finite numbers."""
    with contextlib.ExitStack() as stack:
        goings = [stack.enter_context(opened(side, command, found)) for command in commands]
        seen, signals = [going.seen(going.done) for going in goings], Signals()
        bar.skip(sum(seen))

        def stop(received: int | None) -> None:
            if received is not None:
                name = signal.Signals(received).name
                raise StoppedError(f"stopped by {name}, all runs are saved; go on with {_again(out)}", received)

        def on_part(parts: Mapping[int, Any]) -> None:
            received = signals.received  # once, for all or none to be saved
            _tell_part(bar, goings, seen, parts)
            for i, part in parts.items():
                save_part(side, goings[i], part, received is not None)
            stop(received)

        def on_epoch(i: int, progress: Any) -> None:
            save_epoch(side, goings[i], progress)
            if progress.step == goings[i].total:
                _tell(bar, goings[i].run)

        specs, starts = [going.run.spec for going in goings], [going.start for going in goings]
        with signals.watched():
            side.fit_together(specs, found[0], on_epoch, goings[0].device, starts, on_part, goings[0].cuts)
        bar.move(-sum(now for going, now in zip(goings, seen, strict=True) if now < going.seen(going.total)))
        stop(signals.received)


def _again(out: Path) -> str:
    return f"the same command and --out {out}"


def _tell_part(bar: Bar, goings: list[Session], seen: list[int], parts: Mapping[int, Any]) -> None:
    """What runs trained together came to: how many more images they have seen, and between what their losses are."""
    more = 0
    for i, part in parts.items():
        now = goings[i].seen(part.step)
        more, seen[i] = more + now - seen[i], now
    if parts:
        first, losses = min(parts), [mean_so_far(goings[i], part)[0] for i, part in parts.items()]
        where = f"{len(parts):,} runs, epoch {parts[first].epoch}/{goings[first].epochs}"
        bar.move(more, where, short_terms(("loss", "to"), (min(losses), max(losses))))


def _tell(bar: Bar, run: run_folder.Run) -> None:
    told = metrics.sentence(run.spec, metrics.read(run)[-1])
    bar.say(f"{run.path.name}: test {told}  {bar.pace()}")


@contextlib.contextmanager
def _held(out: Path, spec: Spec) -> Iterator[None]:
    """Makes the sweep's folder, or finds it, and keeps other processes out. Raises InputError for what is no sweep, or
    one of another configuration."""
    file = out / "sweep.json"
    if not file.exists() and (out.is_file() or (out.is_dir() and any(p.name != ".lock" for p in out.iterdir()))):
        raise InputError(f"{out} exists already and is no sweep; give another --out, or remove it to train there.")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"The folder {out} can't be made ({error.strerror}); give another --out.") from None
    with run_folder.held(out):
        if file.exists():
            try:
                before = safe_io.read_json(file)
                shared, version = before["shared"], before["version"]
            except (ValueError, TypeError, KeyError) as error:
                raise InputError(f"{file} is not a sweep's ({error}); restore it or give another --out.") from None
            if version != _VERSION or not isinstance(shared, dict):
                raise InputError(f"{file} is not a sweep's, version {_VERSION}; restore it or give another --out.")
            _require_same(out, shared, _shared(spec))
        else:
            sweep_summary.write_json(file, {"version": _VERSION, "shared": _shared(spec)})
        yield


def _is_through(path: Path, spec: Spec) -> bool:
    """Whether a run has nothing left to do. What never became a run is removed. Raises InputError for what is not the
    run of that configuration."""
    if not (path.exists() or path.is_symlink()):
        return False
    if not (path / "config.json").exists():
        left = [p for p in path.rglob("*") if p.is_file() and not p.name.startswith(".") and p.name != "steps.json"]
        if not path.is_dir() or path.is_symlink() or any(p.stat().st_size for p in left):
            raise InputError(f"{path} is in a run's way and is none itself; remove it, or give another --out.")
        shutil.rmtree(path)  # killed before it was one
        return False
    run = run_folder.read(path)
    swept = [(s.training.seed, s.objective.beta, s.training.learning_rate) for s in (run.spec, spec)]
    if swept[0] != swept[1]:
        raise InputError(f"{path} is of another seed, beta or learning rate than its name says; rename it.")
    _require_same(path, _shared(run.spec), _shared(spec))
    last = metrics.read(run)[-1:]
    return bool(last) and (last[0]["split"], last[0]["step"]) == (
        "test",
        spec.training.total_steps(run.config["data"]["train"]),
    )


def _shared(spec: Spec) -> dict[str, Any]:
    """What all runs of a sweep have, by its flag, as JSON gives it back."""
    parts = json.loads(json.dumps(to_json(spec)))
    flags = {"data": parts.pop("data")} | {name: value for part in parts.values() for name, value in part.items()}
    return {name: value for name, value in flags.items() if name not in ("seed", "beta", "learning_rate")}


def _require_same(path: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    changed = [
        f"its --{name.replace('_', '-')} is {shown(before.get(name))}, not {shown(value)}"
        for name, value in now.items()
        if before.get(name) != value
    ]
    if changed:
        raise InputError(f"{path} was begun otherwise: {', '.join(changed)}; leave that out, or give another --out.")


def _report(out: Path, paths: dict[Path, Spec], found: LoadedData) -> None:
    """Writes and prints what the runs came to."""
    results = []
    for path, spec in paths.items():
        records = metrics.read(run_folder.read(path)) if _is_through(path, replace(spec, data=found[0].name)) else []
        results.append(sweep_summary.RunResult(path.name, spec, records[-1] if records else None))
    shared = _shared(replace(results[0].spec, data=found[0].name))
    table = sweep_summary.table(results, len(found[0].test), found[0].name)
    sweep_summary.write_json(
        out / "sweep.json", {"version": _VERSION, "shared": shared, **sweep_summary.to_json(results)}
    )
    safe_io.write_atomically(out / "sweep.md", (table + "\n").encode())
    safe_io.write_atomically(out / "sweep.png", sweep_summary.picture(results, found[0].name))
    print(f"{table}\n\nas {out / 'sweep.md'}, sweep.json and sweep.png")
