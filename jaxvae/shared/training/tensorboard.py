"""TensorBoard's view of a run, in its folder tensorboard/: its metrics, its pictures, and where its latents lie.

All but the latents is in the run's other files, from which it is written anew whenever a run goes on, and after a write
that failed: nothing is there twice, whatever was before."""

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

from jaxvae.shared.errors import InputError
from jaxvae.shared.runs import metrics, run_folder
from jaxvae.shared.training import projector
from jaxvae.shared.training.progress import warn

POINTS = 1000
"""Images whose latents are shown, at most."""
_FOLDER, _OURS = "tensorboard", "events.out.tfevents.{}.vae"
_PICTURES = ("samples", "reconstructions")


@dataclass
class Board:
    """What a run's folder tensorboard/ has so far."""

    run: run_folder.Run
    file: Path | None
    """The events; None where they have to be written anew."""
    points: bool = False
    """Whether the projector's files are of this run's images."""

    @property
    def folder(self) -> Path:
        return folder(self.run)


class _Library(NamedTuple):
    events: Any
    summaries: Any
    crc: Any


def folder(run: run_folder.Run) -> Path:
    """Where it is, if it is."""
    return run.path / _FOLDER


def require(path: Path | None = None) -> None:
    """Raises InputError unless what writes TensorBoard's files is installed, and the run folder `path`, if there is one
    already, has room for them."""
    _library()
    place = None if path is None else path / _FOLDER
    if place is not None and place.exists() and not (place.is_dir() and os.access(place, os.W_OK)):
        raise InputError(f"{place} must be a folder that can be written to; remove it, or give --no-tensorboard.")


def begin(run: run_folder.Run) -> Board:
    """Writes what there is to show of the run so far, and removes what was there before. Raises OSError."""
    for part in folder(run).glob(".*.part"):  # what a process that was killed has left
        shutil.rmtree(part) if part.is_dir() else part.unlink()
    return Board(run, _anew(run))


def add(name: str, board: Board, epoch: int, records: Iterable[dict[str, Any]], latents: np.ndarray, data: Any) -> None:
    """Shows an epoch as well: its lines of metrics, its pictures, and the latents `[n, latent]` of the first `n` test
    images of `data`. Of what can't be written the package `name` warns, and the run goes on."""
    n = len(latents)
    try:
        if board.file is None or not board.file.exists():
            board.file = None
            board.file = _anew(board.run)
        else:
            _append(board.file, _events(board.run, epoch, records))
        if board.points:
            projector.update(board.folder, latents)
        else:
            projector.put(board.folder, projector.files(latents, data.test_labels[:n], np.asarray(data.test[:n])))
            board.points = True
    except OSError as error:
        board.file, board.points = None, False
        warn(
            f"{name}: WARNING: {board.folder} can't be written ({error.strerror or error}); training goes on, and the "
            "next epoch writes it anew, as does --resume."
        )


@functools.cache
def _library() -> _Library:
    # It looks for torch in passing, which jaxvae does without.
    hidden = {} if "torch" in sys.modules else {"torch": None}
    sys.modules.update(hidden)  # type: ignore[arg-type]
    try:
        events, summaries, records = (
            importlib.import_module(f"tensorboardX.{name}")
            for name in ("proto.event_pb2", "proto.summary_pb2", "record_writer")
        )
    except ImportError:
        raise InputError(
            "--tensorboard needs tensorboardX; pip install 'jaxvae[tensorboard]', or give --no-tensorboard."
        ) from None
    finally:
        for name in hidden:
            del sys.modules[name]
    return _Library(events, summaries, records.masked_crc32c)


def _anew(run: run_folder.Run) -> Path:
    """Writes all that the run's files have to show, in a file of a later name than those before, which it removes."""
    folder(run).mkdir(exist_ok=True)
    before = sorted(folder(run).glob(_OURS.format("*")))
    number = 1 + max(
        (int(file.name.split(".")[3]) for file in before if file.name.split(".")[3].isdecimal()), default=0
    )
    file = folder(run) / _OURS.format(f"{number:010}")
    lib, records = _library(), metrics.read(run)
    when, start = _when(run, 1), lib.events.SessionLog(status=lib.events.SessionLog.START)
    content = [
        _framed(lib.events.Event(wall_time=when, file_version="brain.Event:2")),
        # Whoever has the files before open already forgets what was in them from this step on.
        _framed(lib.events.Event(wall_time=when, step=0, session_log=start)),
        *(_events(run, epoch, group) for epoch, group in itertools.groupby(records, lambda record: record["epoch"])),
    ]
    file.touch(exist_ok=False)
    try:
        _append(file, b"".join(content))
    except OSError:
        file.unlink()
        raise
    for other in before:
        other.unlink()
    return file


def _events(run: run_folder.Run, epoch: int, records: Iterable[dict[str, Any]]) -> bytes:
    """An epoch's."""
    lib, when, found = _library(), _when(run, epoch), []
    scalar = {"plugin_name": "scalars"}
    about = lib.summaries.SummaryMetadata(summary_description="nats per image", plugin_data=scalar)
    for record in records:
        step, split = record["step"], record["split"]
        values = [
            lib.summaries.Summary.Value(tag=f"{term}/{split}", simple_value=record[term], metadata=about)
            for term in run.spec.terms
        ]
        if split == "test":  # the epoch's end
            values += [_picture(kind, file) for kind, file in _pictures(run, epoch).items()]
        found.append(lib.events.Event(wall_time=when, step=step, summary=lib.summaries.Summary(value=values)))
    return b"".join(map(_framed, found))


def _pictures(run: run_folder.Run, epoch: int) -> dict[str, Path]:
    files = {kind: run.images / f"{kind}-{epoch:03}.png" for kind in _PICTURES}
    return {kind: file for kind, file in files.items() if file.is_file()}


def _when(run: run_folder.Run, epoch: int) -> float:
    """The time of an epoch's end, that its pictures were written at."""
    return max((file.stat().st_mtime for file in _pictures(run, epoch).values()), default=time.time())


def _picture(kind: str, file: Path) -> Any:
    """The picture as it is."""
    from PIL import Image

    with Image.open(file) as image:
        width, height, channels = *image.size, len(image.getbands())
    summaries = _library().summaries
    shown = summaries.Summary.Image(
        height=height, width=width, colorspace=channels, encoded_image_string=file.read_bytes()
    )
    return summaries.Summary.Value(tag=kind, image=shown)


def _framed(event: Any) -> bytes:
    """A record of an event file: its length and itself, a checksum after each."""
    content, crc = event.SerializeToString(), _library().crc
    length = struct.pack("<Q", len(content))
    return length + struct.pack("<I", crc(length)) + content + struct.pack("<I", crc(content))


def _append(file: Path, content: bytes) -> None:
    """All or nothing. Raises OSError."""
    before = file.stat().st_size
    try:
        with file.open("ab") as opened:
            opened.write(content)
    except OSError:
        with file.open("r+b") as opened:
            opened.truncate(before)
        raise
