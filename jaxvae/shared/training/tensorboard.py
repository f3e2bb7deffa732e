"""TensorBoard's view of a run, in its folder tensorboard/: metrics, pictures and latents.

All but the latents comes from the run's other files. The events are written again from these when a run is resumed, and
after a failed write, so that nothing appears twice.
"""

import functools
import importlib
import itertools
import os
import shutil
import struct
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxvae.shared import safe_io
from jaxvae.shared.data.class_names import label_names
from jaxvae.shared.data.dataset import Dataset
from jaxvae.shared.errors import InputError
from jaxvae.shared.plain_paths import make_folder
from jaxvae.shared.runs import metrics, run_folder
from jaxvae.shared.training import projector
from jaxvae.shared.training.progress import warn

POINTS = 1000
"""Largest number of images whose latents are shown."""
_FOLDER, _EVENTS = "tensorboard", "events.out.tfevents.{}.vae"
_PICTURES = ("samples", "reconstructions")


@dataclass
class Board:
    """The state of a run's folder tensorboard/."""

    run: run_folder.Run
    file: Path | None
    """The file of events; None if it has to be written again."""
    points: bool = False
    """Whether the projector's files are those of this run's images."""

    @property
    def folder(self) -> Path:
        return folder(self.run)


class _Library(NamedTuple):
    events: Any
    summaries: Any
    crc: Any


def folder(run: run_folder.Run) -> Path:
    """Return the path of the run's folder for TensorBoard, whether it exists or not."""
    return run.path / _FOLDER


def require(path: Path | None = None) -> None:
    """Check that TensorBoard's files can be written.

    Args:
        path: The run folder, if it exists already.

    Raises:
        InputError: If tensorboardX is not installed, or if the run's folder tensorboard/ is not writable.
    """
    _library()
    target = None if path is None else path / _FOLDER
    if target is None or not (target.exists() or target.is_symlink()):
        return
    if target.is_symlink() or not target.is_dir() or not os.access(target, os.W_OK):
        raise InputError(f"{target} must be a writable folder; remove it, or give --no-tensorboard.")


def begin(run: run_folder.Run) -> Board:
    """Write the events of the run so far, in place of earlier ones. Raises OSError, and InputError if the folder is a
    link."""
    make_folder(folder(run))
    safe_io.remove_unfinished(folder(run))
    for part in folder(run).glob(".projector.*.part"):  # left by a killed process
        shutil.rmtree(part)
    return Board(run, _rewrite(run))


def add(
    name: str,
    board: Board,
    epoch: int,
    records: Iterable[dict[str, Any]],
    latents: np.ndarray,
    data: Dataset,
    chosen: np.ndarray,
) -> None:
    """Add an epoch. If the files can't be written, print a warning and let the run continue.

    Args:
        name: The package, for the warning.
        board: The state of the folder; updated.
        epoch: The epoch, from 1.
        records: Its lines of metrics.
        latents: The latents of the chosen test images, `[n, latent]`.
        data: The run's images.
        chosen: The numbers of these test images, `[n]`.
    """
    try:
        if board.file is None or not board.file.exists():
            board.file = None
            board.file = _rewrite(board.run)
        else:
            _append(board.file, _events(board.run, epoch, records))
        if board.points:
            projector.update(board.folder, latents)
        else:
            names = label_names(data.class_names, data.test_labels[chosen])
            projector.put(board.folder, projector.files(latents, names, data.test[chosen]))
            board.points = True
    except OSError as error:
        board.file, board.points = None, False
        warn(
            f"{name}: WARNING: {board.folder} can't be written ({error.strerror or error}); training continues, and "
            "the next epoch or --resume writes it again."
        )


@functools.cache
def _library() -> _Library:
    # tensorboardX imports torch if it is installed; jaxvae must not.
    hidden = {} if "torch" in sys.modules else {"torch": None}
    sys.modules.update(hidden)  # type: ignore[arg-type]
    try:
        events, summaries, records = (
            importlib.import_module(f"tensorboardX.{name}")
            for name in ("proto.event_pb2", "proto.summary_pb2", "record_writer")
        )
    except ImportError:
        raise InputError(
            "--tensorboard needs tensorboardX; run pip install 'jaxvae[tensorboard]', or give --no-tensorboard."
        ) from None
    finally:
        for name in hidden:
            del sys.modules[name]
    return _Library(events, summaries, records.masked_crc32c)


def _rewrite(run: run_folder.Run) -> Path:
    """Write the events of all epochs so far to a new file, numbered after earlier ones, and remove these."""
    make_folder(folder(run))
    before = sorted(folder(run).glob(_EVENTS.format("*")))
    number = 1 + max(
        (int(file.name.split(".")[3]) for file in before if file.name.split(".")[3].isdecimal()), default=0
    )
    file = folder(run) / _EVENTS.format(f"{number:010}")
    lib, records = _library(), metrics.to_draw(run)
    when, start = _when(run, 1), lib.events.SessionLog(status=lib.events.SessionLog.START)
    content = [
        _framed(lib.events.Event(wall_time=when, file_version="brain.Event:2")),
        # A TensorBoard that is open discards earlier files' events from this step on.
        _framed(lib.events.Event(wall_time=when, step=0, session_log=start)),
        *(_events(run, epoch, group) for epoch, group in itertools.groupby(records, lambda record: record["epoch"])),
    ]
    file.touch(exist_ok=False)
    try:
        _append(file, b"".join(content))
    except OSError:
        safe_io.remove(file)
        raise
    for other in before:
        safe_io.remove(other)
    return file


def _events(run: run_folder.Run, epoch: int, records: Iterable[dict[str, Any]]) -> bytes:
    """The events of an epoch."""
    lib, when, events = _library(), _when(run, epoch), []
    scalar = {"plugin_name": "scalars"}
    metadata = lib.summaries.SummaryMetadata(summary_description="nats per image", plugin_data=scalar)
    for record in records:
        step, split = record["step"], record["split"]
        values = [
            lib.summaries.Summary.Value(tag=f"{term}/{split}", simple_value=record[term], metadata=metadata)
            for term in run.spec.terms
        ]
        if split == "test":  # the epoch's end
            values += [_picture(kind, file) for kind, file in _pictures(run, epoch).items()]
        events.append(lib.events.Event(wall_time=when, step=step, summary=lib.summaries.Summary(value=values)))
    return b"".join(map(_framed, events))


def _pictures(run: run_folder.Run, epoch: int) -> dict[str, Path]:
    files = {kind: run.images / f"{kind}-{epoch:03}.png" for kind in _PICTURES}
    return {kind: file for kind, file in files.items() if file.is_file()}


def _when(run: run_folder.Run, epoch: int) -> float:
    """The time of an epoch's end, at which its pictures were written."""
    return max((file.stat().st_mtime for file in _pictures(run, epoch).values()), default=time.time())


def _picture(kind: str, file: Path) -> Any:
    """The PNG file as TensorBoard's summary."""
    from PIL import Image

    with Image.open(file) as image:
        width, height, channels = *image.size, len(image.getbands())
    summaries = _library().summaries
    encoded = summaries.Summary.Image(
        height=height, width=width, colorspace=channels, encoded_image_string=file.read_bytes()
    )
    return summaries.Summary.Value(tag=kind, image=encoded)


def _framed(event: Any) -> bytes:
    """A record of an event file: its length and its content, each followed by a checksum."""
    content, crc = event.SerializeToString(), _library().crc
    length = struct.pack("<Q", len(content))
    return length + struct.pack("<I", crc(length)) + content + struct.pack("<I", crc(content))


def _append(file: Path, content: bytes) -> None:
    """Append all of the content or nothing. Raises OSError."""
    safe_io.append(file, content, sync=False)
