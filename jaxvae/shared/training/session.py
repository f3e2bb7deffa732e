"""A training session: checkpoints, metrics, images and signal handling."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from jaxvae.shared.data.dataset import Dataset
from jaxvae.shared.errors import NonFiniteError
from jaxvae.shared.model import requirements
from jaxvae.shared.plotting import image_grid
from jaxvae.shared.runs import checkpoints, metrics, run_folder
from jaxvae.shared.training import tensorboard
from jaxvae.shared.training.progress import short_terms

_SAMPLES, _RECONSTRUCTIONS = 64, 32  # pictured after each epoch


class Session(NamedTuple):
    """A run about to train, in a folder that is this process's own."""

    run: run_folder.Run
    dataset: Dataset
    device: Any
    start: Any
    """A state and its epoch's terms so far; None at the run's beginning."""
    stream: int | None = None
    """Bytes of a block of images, where they come in blocks."""
    board: tensorboard.Board | None = None
    """Where TensorBoard is shown the run, if it is."""

    @property
    def done(self) -> int:
        """Steps taken so far."""
        return 0 if self.start is None else int(self.start[0].step)

    @property
    def total(self) -> int:
        """Steps in the whole run."""
        return self.run.spec.training.total_steps(len(self.dataset.train))

    def seen(self, step: int) -> int:
        """Images that so many steps have seen."""
        return self.run.spec.training.images_seen(step, len(self.dataset.train))

    @property
    def epochs(self) -> int:
        """Epochs in the whole run, the last of which may be cut short."""
        return -(-self.total // self.run.spec.training.epoch_steps(len(self.dataset.train)))

    @property
    def cuts(self) -> list[int]:
        """At multiples of how many steps an epoch is cut."""
        often = (self.run.config[name] for name in ("checkpoint_every", "log_every"))
        return [steps for steps in often if steps is not None]


class StoppedError(Exception):
    """A signal ended training, after its step was saved."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.status = 128 + number  # by custom


@dataclass
class Signals:
    """The first SIGINT or SIGTERM is kept for whoever asks; a second one does what it would have done."""

    received: int | None = None
    _before: dict[int, Any] = field(default_factory=dict)

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield  # Python hands signals to the main thread alone
            return
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) not in (signal.SIG_IGN, None):  # whoever started us may want it so
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
    side: Any,
    going: Session,
    again: str,
    tell: Callable[[int, str, Sequence[str]], Any],
    say: Callable[[str], Any],
) -> None:
    """Trains to the end. again: how to go on from where a signal stopped it; tell: called with how many more images
    have been seen, in which epoch, and its mean terms so far; say: with a line for each epoch. Raises StoppedError for
    a signal, and NonFiniteError when a number leaves the finite ones."""
    run, total, signals, seen = going.run, going.total, Signals(), [going.seen(going.done)]

    def on_part(progress: Any) -> None:
        now = going.seen(progress.step)
        tell(
            now - seen[0],
            f"epoch {progress.epoch}/{going.epochs}",
            short_terms(run.spec.terms, mean_so_far(going, progress)),
        )
        seen[0] = now
        stop = side.agreed(signals.received or 0)  # whichever process it came to
        save_part(side, going, progress, bool(stop))
        if stop:
            raise StoppedError(
                f"stopped by {signal.Signals(stop).name} at step {progress.step:,}, which is saved; go on with {again}",
                stop,
            )

    def on_epoch(progress: Any) -> None:
        if not side.first():
            return
        train, test = save_epoch(side, going, progress)
        _, *parts = run.spec.terms
        told = ", ".join(f"{name} {test[name]:.3f}" for name in parts)
        say(f"epoch {progress.epoch:>3}/{going.epochs}  train {train:8.3f}  test {test['loss']:8.3f} ({told})")

    with signals.watched():
        try:
            side.fit(run.spec, going.dataset, on_epoch, going.device, going.start, on_part, going.cuts, going.stream)
        except NonFiniteError as error:
            last = checkpoints.present(run)
            kept = f" Its last checkpoint is {checkpoints.path(run, last[-1])}." if last else ""
            raise NonFiniteError(f"{error}{kept}") from None
        if signals.received is not None:  # too late to stop anything, but whoever sent it is told
            raise StoppedError(
                f"{run.path} is through, all {total:,} steps, in spite of {signal.Signals(signals.received).name}",
                signals.received,
            )


def save_part(side: Any, going: Session, progress: Any, now: bool) -> None:
    """Writes a checkpoint if one is due, or asked for `now`."""
    run, step = going.run, progress.step
    often = run.config["checkpoint_every"] or run.spec.training.epoch_steps(len(going.dataset.train))
    if side.first() and (now or step % often == 0 or step == going.total):
        side.save_checkpoint(checkpoints.path(run, step), run.spec, progress.state, progress.train)
        checkpoints.index_written(run, step, run.config["keep"])


def mean_so_far(going: Session, progress: Any) -> np.ndarray:
    """The mean terms of an epoch's steps so far, `[terms]`."""
    first = progress.step - len(progress.train)
    return metrics.mean(progress.train, first, len(going.dataset.train), going.run.spec.training)


def save_epoch(side: Any, going: Session, progress: Any) -> tuple[float, dict[str, Any]]:
    """Writes what an epoch came to: weights, pictures, metrics, and what TensorBoard shows of them. Its mean loss in
    training, and the line of its metrics on the test images."""
    run, images = going.run, len(going.dataset.train)
    first = progress.step - len(progress.train)
    records = metrics.train_records(progress.train, first, images, run.spec, run.config["log_every"])
    test = metrics.record(run.spec, progress.step, progress.epoch, "test", progress.test)
    side.save(run.weights, run.spec, progress.state[0])  # jaxvae's params, torchvae's model
    _picture(side, run, progress, going.dataset)
    metrics.append(run, [*records, test])
    if going.board is not None:
        _show(side, going, going.board, progress, [*records, test])
    return mean_so_far(going, progress)[0], test


def _picture(side: Any, run: run_folder.Run, progress: Any, dataset: Dataset) -> None:
    """Samples and reconstructions of an epoch, in the run's images/."""
    weights, shown = progress.state[0], dataset.test[:_RECONSTRUCTIONS]
    key = side.stream_key(progress.state.key, "pictures", progress.epoch)
    again = side.reconstruct(run.spec, weights, shown, dataset.test_labels[:_RECONSTRUCTIONS])
    pictures = {"reconstructions": image_grid.pairs(shown / 255, again)}
    if requirements.has_prior(run.spec):
        columns = run.spec.model.classes or None  # each class a column
        pictures["samples"] = image_grid.grid(side.sample(run.spec, weights, key, _SAMPLES), columns)
    for kind, picture in pictures.items():
        image_grid.save(picture, run.images / f"{kind}-{progress.epoch:03}.png")


def _show(side: Any, going: Session, board: tensorboard.Board, progress: Any, records: list[dict[str, Any]]) -> None:
    """An epoch, to TensorBoard: with its metrics and pictures the posteriors' means of some test images."""
    spec, dataset = going.run.spec, going.dataset
    shown, labels = dataset.test[: tensorboard.POINTS], dataset.test_labels[: tensorboard.POINTS]
    key = side.stream_key(progress.state.key, "evaluation", progress.epoch)
    told = labels if spec.model.classes else None
    latents = side.encode_images(spec, progress.state[0], shown, key, told).mean
    tensorboard.add(side.__name__, board, progress.epoch, records, latents, dataset)
