"""A training session: checkpoints, metrics, images and signal handling."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxvae.shared import safe_io
from jaxvae.shared.analysis.reconstructions import reconstruct
from jaxvae.shared.backend import Backend, Device, Part, Progress, State, compiles
from jaxvae.shared.data.dataset import Dataset
from jaxvae.shared.data.spread import spread
from jaxvae.shared.errors import InputError, NonFiniteError
from jaxvae.shared.model import requirements
from jaxvae.shared.plotting import image_grid
from jaxvae.shared.runs import checkpoints, metrics, run_folder
from jaxvae.shared.runs.best_epoch import best_epoch, is_over
from jaxvae.shared.safe_io import write_atomically
from jaxvae.shared.training import tensorboard
from jaxvae.shared.training.progress import short_terms

_SAMPLES, _RECONSTRUCTIONS = 64, 32  # images drawn after each epoch
_PICTURE_BYTES = 8_000_000  # of all epochs' pictures, unless the number of epochs is given


class Session(NamedTuple):
    """A run that is about to train, in a folder locked for this process."""

    run: run_folder.Run
    dataset: Dataset
    device: Device
    start: tuple[State, np.ndarray] | None
    """The state to resume from and its epoch's terms so far, `[steps, terms]`; None for a new run."""
    stream: int | None = None
    """Bytes of a block of training images; None to keep all of them on the device."""
    board: tensorboard.Board | None = None
    """The files for TensorBoard, if they are requested."""
    losses: list[float] | None = None
    """The validation losses of the epochs so far; None without validation."""
    compiled: bool = False
    """Whether the steps are compiled on request."""
    ended: bool = False
    """Whether the run's patience had ended it before this session."""

    @property
    def done(self) -> int:
        """Steps taken before this session."""
        return 0 if self.start is None else int(self.start[0].step)

    @property
    def total(self) -> int:
        """Steps in the whole run."""
        return self.run.spec.training.total_steps(len(self.dataset.train))

    def seen(self, step: int) -> int:
        """Return the number of images seen after `step` steps."""
        return self.run.spec.training.images_seen(step, len(self.dataset.train))

    @property
    def epochs(self) -> int:
        """Epochs in the whole run, the last of which may be cut short."""
        return -(-self.total // self.run.spec.training.epoch_steps(len(self.dataset.train)))

    @property
    def cuts(self) -> list[int]:
        """Intervals in steps, of checkpoints and of metrics, at whose multiples an epoch is cut."""
        intervals = (self.run.config[name] for name in ("checkpoint_every", "log_every"))
        return [steps for steps in intervals if steps is not None]

    @property
    def ended_early(self) -> bool:
        """Whether the patience has ended the run."""
        return is_over(self.losses or (), self.run.spec.training.patience)


class StoppedError(Exception):
    """A signal stopped training, after its step was saved."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.status = 128 + number  # the shell's convention


@dataclass
class Signals:
    """Records the first SIGINT or SIGTERM; a second one has its usual effect."""

    received: int | None = None
    _before: dict[int, Any] = field(default_factory=dict)

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Record signals within the context."""
        if threading.current_thread() is not threading.main_thread():
            yield  # Python delivers signals to the main thread only
            return
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) not in (signal.SIG_IGN, None):  # a parent may have them ignored, as nohup does
                self._before[number] = signal.signal(number, self._note)
        try:
            yield
        finally:
            self._restore()

    def _note(self, number: int, frame: object) -> None:
        self.received = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


def run_session(
    backend: Backend,
    session: Session,
    resume_command: str,
    on_progress: Callable[[int, str, Sequence[str]], None],
    log: Callable[[str], None],
) -> None:
    """Train a run to its end.

    Args:
        backend: The package that trains.
        session: The run.
        resume_command: The command that resumes the run, for the message after a signal.
        on_progress: Called with the number of further images seen, the epoch, and its mean terms so far.
        log: Called with a line for each epoch.

    Raises:
        StoppedError: If a signal arrives.
        NonFiniteError: If a loss or a gradient becomes NaN or infinite.
    """
    run, total, signals, seen = session.run, session.total, Signals(), [session.seen(session.done)]

    def on_part(part: Part[State]) -> None:
        now = session.seen(part.step)
        terms = short_terms(run.spec.terms, mean_so_far(session, part))
        on_progress(now - seen[0], f"epoch {part.epoch}/{session.epochs}", terms)
        seen[0] = now
        stop = backend.agreed(signals.received or 0)  # one process's signal stops all
        save_part(backend, session, part, bool(stop))
        if stop:
            raise StoppedError(
                f"stopped by {signal.Signals(stop).name} at step {part.step:,}, which is saved; resume with "
                f"{resume_command}",
                stop,
            )

    def on_epoch(progress: Progress[State]) -> None:
        if not backend.first():
            return
        train, test = save_epoch(backend, session, progress)
        _, *names = run.spec.terms
        terms = ", ".join(f"{name} {test[name]:.3f}" for name in names)
        held = "" if progress.validation is None else f"  validation {progress.validation[0]:8.3f}"
        epoch = f"epoch {progress.epoch:>3}/{session.epochs}"
        log(f"{epoch}  train {train:8.3f}{held}  test {test['loss']:8.3f} ({terms})")

    with signals.watched():
        try:
            how = session.device, session.start, on_part, session.cuts, session.stream, tuple(session.losses or ())
            if session.compiled and compiles(backend):
                backend.fit(run.spec, session.dataset, on_epoch, *how, compile=True)
            else:
                backend.fit(run.spec, session.dataset, on_epoch, *how)
        except NonFiniteError as error:
            if backend.first():
                _record_divergence(run, str(error))
            last = checkpoints.present(run)
            hint = f" Its last checkpoint is {checkpoints.path(run, last[-1])}." if last else ""
            raise NonFiniteError(f"{error}{hint}") from None
        if session.ended_early:
            on_progress(session.seen(total) - seen[0], "ended early", ())
        if signals.received is not None:  # too late to stop the run, but the sender has to know
            name = signal.Signals(signals.received).name
            finished = "ended early" if session.ended_early else f"finished all {total:,} steps"
            raise StoppedError(f"{run.path} {finished} before {name} took effect", signals.received)


def _record_divergence(run: run_folder.Run, why: str) -> None:
    """Write into config.json that the session diverged; where that fails, the reason for its end matters more."""
    *before, session = run.config["sessions"]
    with contextlib.suppress(InputError, OSError):
        run_folder.write_config(
            run._replace(config={**run.config, "sessions": [*before, {**session, "diverged": why}]})
        )


def save_part(backend: Backend, session: Session, part: Part[State], now: bool) -> None:
    """Write a checkpoint if one is due.

    Args:
        backend: The package that trains.
        session: The run.
        part: Its progress.
        now: Write a checkpoint whether one is due or not.
    """
    run, step = session.run, part.step
    interval = run.config["checkpoint_every"] or run.spec.training.epoch_steps(len(session.dataset.train))
    if not (now or step % interval == 0 or step == session.total):
        return
    state = backend.gathered(run.spec, part.state)
    if backend.first():
        backend.save_checkpoint(checkpoints.path(run, step), run.spec, state, part.train)
        checkpoints.index_written(run, step, run.config["keep"])


def mean_so_far(session: Session, progress: Part[State] | Progress[State]) -> np.ndarray:
    """Return the mean terms of an epoch's steps so far: `[terms]`, nats per image."""
    first = progress.step - len(progress.train)
    return metrics.mean(progress.train, first, len(session.dataset.train), session.run.spec.training)


def save_epoch(backend: Backend, session: Session, progress: Progress[State]) -> tuple[float, dict[str, Any]]:
    """Write an epoch's results: weights, pictures, metrics, and the files for TensorBoard.

    With validation the weights are written if the epoch is the best so far, and the last state of a run that ends early
    is written as a checkpoint.

    Args:
        backend: The package that trains.
        session: The run.
        progress: The progress after the epoch.

    Returns:
        The mean training loss in nats per image, and the line of metrics on the test images.
    """
    run, images = session.run, len(session.dataset.train)
    first = progress.step - len(progress.train)
    records = metrics.train_records(progress.train, first, images, run.spec, run.config["log_every"])
    test = metrics.record(run.spec, progress.step, progress.epoch, "test", progress.test)
    if session.losses is not None and progress.validation is not None:
        records.append(metrics.record(run.spec, progress.step, progress.epoch, "validation", progress.validation))
        session.losses.append(float(progress.validation[0]))
    if not session.losses or best_epoch(session.losses) == progress.epoch:
        if session.losses and progress.epoch > 1 and progress.step % run.spec.training.epoch_steps(images):
            write_atomically(checkpoints.best_before(run), run.weights.read_bytes())
        backend.save(run.weights, run.spec, progress.state.evaluated)
    if session.ended_early and not checkpoints.path(run, progress.step).exists():
        save_part(backend, session, Part(progress.state, progress.epoch, progress.step, progress.train), True)
    _save_pictures(backend, run, progress, session.dataset)
    metrics.append(run, [*records, test])
    if session.board is not None:
        _add_to_board(backend, session, session.board, progress, [*records, test])
    return mean_so_far(session, progress)[0], test


def _save_pictures(backend: Backend, run: run_folder.Run, progress: Progress[State], dataset: Dataset) -> None:
    """Draw samples and reconstructions into the run's images/."""
    weights, chosen = progress.state.evaluated, spread(dataset.test_labels, _RECONSTRUCTIONS)
    key = backend.stream_key(progress.state.key, "pictures", progress.epoch)
    reconstructions = reconstruct(backend, run.spec, weights, dataset, chosen)
    pictures = {"reconstructions": image_grid.pairs(dataset.test[chosen] / 255, reconstructions)}
    if requirements.has_prior(run.spec):
        classes = run.spec.model.classes
        samples, columns = backend.sample(run.spec, weights, key, max(_SAMPLES, classes)), None
        if classes:  # a row for each
            rows, _ = image_grid.by_class(samples, classes)
            samples, columns = rows.reshape(-1, *rows.shape[2:]), rows.shape[1]
        pictures["samples"] = image_grid.grid(samples, columns)
    for kind, picture in pictures.items():
        image_grid.save(picture, run.images / f"{kind}-{progress.epoch:03}.png")
    _remove_pictures(run)


def _remove_pictures(run: run_folder.Run) -> None:
    """Remove the pictures of early epochs: all but those of the last N, or of those that fit into some megabytes."""
    of: dict[int, list[Path]] = {}
    for file in run.images.glob("*-*.png"):
        kind, _, epoch = file.stem.rpartition("-")
        if kind in ("samples", "reconstructions") and epoch.isdecimal():
            of.setdefault(int(epoch), []).append(file)
    kept, size = run.config.get("keep_pictures"), 0
    for number, epoch in enumerate(sorted(of, reverse=True)):
        size += sum(file.lstat().st_size for file in of[epoch])
        if number and (size > _PICTURE_BYTES if kept is None else number >= kept):
            for file in of[epoch]:
                safe_io.remove(file)


def _add_to_board(
    backend: Backend,
    session: Session,
    board: tensorboard.Board,
    progress: Progress[State],
    records: list[dict[str, Any]],
) -> None:
    """Add an epoch to TensorBoard's files: metrics, pictures, and the posterior means of some test images."""
    spec, dataset = session.run.spec, session.dataset
    chosen = np.sort(spread(dataset.test_labels, tensorboard.POINTS))
    images, labels = dataset.test[chosen], dataset.test_labels[chosen]
    key = backend.stream_key(progress.state.key, "evaluation", progress.epoch)
    weights, classed = progress.state.evaluated, spec.model.classes
    latents = backend.encode_images(spec, weights, images, key, labels if classed else None).mean
    norm = None
    if backend.processes() == 1:  # or the others would have to take part
        first = slice(spec.training.batch_size)
        classes = dataset.train_labels[first] if classed else None
        norm = backend.gradient_norm(spec, progress.state, np.asarray(dataset.train[first]), classes)
    tensorboard.add(backend.__name__, board, progress.epoch, records, latents, dataset, chosen, norm)
