"""TensorBoard's view of a run, in its folder tensorboard/: configuration, metrics, pictures and latents.

All but the latents and the norms of gradients comes from the run's other files. The events are written again from these
when a run is resumed, and after a failed write, so that nothing appears twice.
"""

import functools
import importlib
import itertools
import json
import math
import os
import shutil
import struct
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxvae.shared import safe_io
from jaxvae.shared.data.class_names import label_names
from jaxvae.shared.data.dataset import Dataset
from jaxvae.shared.errors import InputError
from jaxvae.shared.plain_paths import make_folder
from jaxvae.shared.plotting.figure_flags import data_name
from jaxvae.shared.runs import metrics, run_folder
from jaxvae.shared.runs.command_line import flag_words, flags_of
from jaxvae.shared.text import markdown_table
from jaxvae.shared.training import projector
from jaxvae.shared.training.progress import warn
from jaxvae.shared.training.rates import learning_rate

_NORM = (
    "Euclidean norm of the gradient of what the optimizer minimizes, before clipping, over all tensors, at the weights "
    "after the epoch, on the first training images, as many as a batch has"
)
POINTS = 1000
"""Largest number of images whose latents are shown."""
_FOLDER, _EVENTS, _NORMS = "tensorboard", "events.out.tfevents.{}.vae", "gradient_norms.json"
_PICTURES = ("samples", "reconstructions")
_MODULES = (
    *(f"proto.{name}_pb2" for name in ("event", "summary", "tensor", "layout", "plugin_hparams", "api")),
    "record_writer",
)


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
    tensors: Any
    layouts: Any
    parameters: Any
    api: Any
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
    norm: float | None = None,
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
        norm: The norm of the gradient after the epoch, on the first training images; None if it is unknown.
    """
    try:
        if norm is not None and math.isfinite(norm):
            norms = {**_norms(board.run), str(epoch): norm}
            safe_io.write_atomically(board.folder / _NORMS, json.dumps(norms).encode(), sync=False)
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
        modules = [importlib.import_module(f"tensorboardX.{name}") for name in _MODULES]
    except ImportError:
        raise InputError(
            "--tensorboard needs tensorboardX; run pip install -e '.[tensorboard]' in the clone, or give "
            "--no-tensorboard."
        ) from None
    finally:
        for name in hidden:
            del sys.modules[name]
    return _Library(*modules[:-1], crc=modules[-1].masked_crc32c)


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
        *(_framed(lib.events.Event(wall_time=when, step=0, summary=one)) for one in _configuration(run)),
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


def _norms(run: run_folder.Run) -> dict[str, float]:
    """The norms of gradients by epoch; none if the file is missing or isn't what `add` writes."""
    try:
        norms = safe_io.read_json(folder(run) / _NORMS)
    except (OSError, ValueError):
        return {}
    kept = norms if isinstance(norms, dict) else {}
    return {name: norm for name, norm in kept.items() if name.isdecimal() and type(norm) is float}


def _configuration(run: run_folder.Run) -> Iterator[Any]:
    """The configuration as a text and as a table of hyperparameters, and charts of training and test together."""
    lib = _library()
    flags = {"package": run.config["framework"], "preset": run.config["preset"], **flags_of(run.spec)}
    flags["data"] = data_name(run.spec.data)
    rows = [(name.replace("_", "-"), flag_words(value)) for name, value in flags.items()]
    table = markdown_table(("flag", "value"), rows, numbers=False)
    yield _text(lib, "configuration/text_summary", "text", table.encode())
    values, metric = lib.parameters.HParamsPluginData(version=0), f"{run.spec.terms[0]}/test"
    kinds = lib.parameters.HParamsPluginData(version=0)
    kinds.experiment.metric_infos.add().name.tag = metric
    for name, value in flags.items():
        known, info = values.session_start_info.hparams[name], kinds.experiment.hparam_infos.add()
        info.name = name
        if isinstance(value, bool):
            known.bool_value, info.type = value, lib.api.DATA_TYPE_BOOL
        elif isinstance(value, int | float):
            known.number_value, info.type = value, lib.api.DATA_TYPE_FLOAT64
        else:
            known.string_value, info.type = flag_words(value), lib.api.DATA_TYPE_STRING
    for tag, content in (("experiment", kinds), ("session_start_info", values)):
        plugin = {"plugin_name": "hparams", "content": content.SerializeToString()}
        metadata = lib.summaries.SummaryMetadata(plugin_data=plugin)
        value = lib.summaries.Summary.Value(tag=f"_hparams_/{tag}", metadata=metadata)
        yield lib.summaries.Summary(value=[value])
    layout = lib.layouts.Layout()
    category = layout.category.add(title="training and test")
    for term in run.spec.terms:
        category.chart.add(title=f"{term}, nats per image").multiline.tag.append(f"^{term}/.*$")
    yield _text(lib, "custom_scalars__config__", "custom_scalars", layout.SerializeToString())


def _text(lib: _Library, tag: str, plugin: str, content: bytes) -> Any:
    """A summary that holds a text, for one of TensorBoard's plugins."""
    tensor = lib.tensors.TensorProto(dtype="DT_STRING", string_val=[content])
    metadata = lib.summaries.SummaryMetadata(plugin_data={"plugin_name": plugin})
    return lib.summaries.Summary(value=[lib.summaries.Summary.Value(tag=tag, metadata=metadata, tensor=tensor)])


def _scalar(lib: _Library, tag: str, value: float, about: str) -> Any:
    metadata = lib.summaries.SummaryMetadata(summary_description=about, plugin_data={"plugin_name": "scalars"})
    return lib.summaries.Summary.Value(tag=tag, simple_value=value, metadata=metadata)


def _events(run: run_folder.Run, epoch: int, records: Iterable[dict[str, Any]]) -> bytes:
    """The events of an epoch."""
    lib, when, events, norm = _library(), _when(run, epoch), [], _norms(run).get(str(epoch))
    for record in records:
        step, split = record["step"], record["split"]
        values = [_scalar(lib, f"{term}/{split}", record[term], "nats per image") for term in run.spec.terms]
        if split == "train":
            rate = learning_rate(run.spec.training, epoch - 1, step - 1)
            values.append(_scalar(lib, "learning rate", rate, "of the step"))
        if split == "test":  # the epoch's end
            values += [] if norm is None else [_scalar(lib, "gradient norm", norm, _NORM)]
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
