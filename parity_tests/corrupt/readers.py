"""Read files that may be malformed: weights, checkpoints, configurations, metrics, indexes and data."""

import io
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import msgpack
import numpy as np
import safetensors.numpy
from PIL import Image

from jaxvae.shared.config.parts import ModelSpec
from jaxvae.shared.config.serialization import from_json, to_json
from jaxvae.shared.config.spec import Spec
from jaxvae.shared.data import datasets, idx, published
from jaxvae.shared.model import description, weight_file
from jaxvae.shared.runs import checkpoints, run_folder
from jaxvae.shared.runs import metrics as run_metrics
from parity_tests.corrupt import structured, transforms
from parity_tests.corrupt.fuzz import IN_JSON, IN_WEIGHTS, OTHER, PLAIN, SAME, Target, resealed

PIXELS = np.random.default_rng(0).integers(0, 256, (12, 4, 6), np.uint8)
IMAGES = Spec("digits", ModelSpec((4, 6, 1), (5,), 2))
OTHERS = {
    "fc1.weight": np.arange(12, dtype=np.float32).reshape(3, 4),
    "fc1.bias": np.arange(3, dtype=np.float16),
    "step": np.array(7, np.int64),
}
_IDX_FILE = "train-images-idx3-ubyte"
_IDX = idx.IdxSet("Small", "Small", 2, 2, 10)
SESSION = {"framework": "jaxvae", "from_step": 0, "device": "cpu", "versions": {"numpy": "2"}, "created": "2026-01-01"}


def config() -> dict[str, Any]:
    """Return the config.json of a run."""
    about = {"asked": "digits", "name": "digits", "source": "scikit-learn", "instead_of_mnist": None}
    return {
        "version": run_folder.VERSION,
        "framework": "jaxvae",
        "preset": "pytorch-examples",
        "log_every": None,
        "checkpoint_every": 3,
        "keep": 2,
        "data": {**about, "train": 1500, "test": 297, "digest": "0" * 64},
        "sessions": [SESSION, {**SESSION, "from_step": 3}],
        "spec": to_json(transforms.SPEC),
    }


def metrics() -> bytes:
    """Return the metrics.jsonl of a run of three steps."""
    records = [(1, "train", 3.5), (2, "train", 2.25), (3, "train", 1.125), (3, "test", 1.0)]
    keys = ("step", "epoch", "split", "loss", "reconstruction", "kl")
    return "".join(
        json.dumps(dict(zip(keys, (n, 1, s, x, x, 0.5), strict=True))) + "\n" for n, s, x in records
    ).encode()


def run(folder: Path) -> Path:
    """Write an intact run folder, as if trained for three steps."""
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config()))
    (folder / "metrics.jsonl").write_bytes(metrics())
    (folder / "model.safetensors").write_bytes(transforms.whole_weights())
    (folder / "checkpoints" / "step-000000003.safetensors").write_bytes(transforms.whole_checkpoint())
    (folder / "checkpoints" / "steps.json").write_bytes(b"[3]\n")
    return folder


def weights_and_spec(path: Path) -> str:
    spec, arrays = weight_file.load(path)
    return _word(arrays, transforms.plain_weights(), spec == transforms.SPEC)


def checkpoint(path: Path) -> str:
    loaded = weight_file.load_checkpoint(path)
    arrays = {**loaded.weights, **loaded.optimizer, "step": loaded.step, "key": loaded.key, "train": loaded.train}
    return _word(arrays, _CHECKPOINT, loaded.spec == transforms.SPEC)


def configuration(path: Path) -> str:
    """Read a config.json, describe it and write it again."""
    loaded = run_folder.read(path.parent)
    assert from_json(json.loads(json.dumps(to_json(loaded.spec))), "again") == loaded.spec
    assert description.text(loaded.spec, loaded.config["preset"])
    return SAME if loaded.config == config() else OTHER


def records(path: Path) -> str:
    rows = run_metrics.read(run_folder.read(path.parent))
    return SAME if rows == [json.loads(line) for line in metrics().splitlines()] else OTHER


def listing(path: Path) -> str:
    """Read the index of checkpoints, which is checked against the checkpoints in the folder."""
    file, wrong = checkpoints.latest(run_folder.read(path.parent.parent))
    assert file is not None
    assert file.stem == "step-000000003"
    return OTHER if wrong else SAME


def images(prefix: str, folder: bool = False) -> Callable[[Path], str]:
    """Make a reader that checks the type and size of the images and labels."""

    def read(path: Path) -> str:
        spec = Spec(f"{prefix}:{path.parent if folder else path}", IMAGES.model)
        data = datasets.load(spec, None)[0]
        for part, labels in ((data.train, data.train_labels), (data.test, data.test_labels)):
            assert part.shape == (len(labels), 4, 6, 1)
            assert part.dtype == labels.dtype == np.uint8
        both = np.concatenate([data.train, data.test])
        return SAME if {p.tobytes() for p in both} <= {p.tobytes() for p in PIXELS} else OTHER

    return read


def saved(save: Callable[[io.BytesIO], Any]) -> bytes:
    file = io.BytesIO()
    save(file)
    return file.getvalue()


def packed(file: io.BytesIO) -> None:
    np.savez_compressed(file, images=PIXELS)


def picture(kind: str) -> bytes:
    return saved(lambda file: Image.fromarray(PIXELS[0]).save(file, kind))


def idx_files() -> dict[str, bytes]:
    """Return the four files of a data set of four images, by name."""
    images, labels = np.zeros((2, 28, 28), np.uint8), np.array([3, 9], np.uint8)
    contents = [struct.pack(f">{1 + a.ndim}I", 0x0800 + a.ndim, *a.shape) + a.tobytes() for a in (images, labels)]
    return dict(zip(_IDX.published.files, 2 * contents, strict=True))


def idx_set(path: Path) -> str:
    with mock.patch.dict(idx.IDX_SETS, {"small": _IDX}):
        found = published.Found(path.parent, {file: path.parent / file for file in _IDX.published.files})
        data = idx._read_files("small", found)
    assert data.train.shape == (2, 28, 28, 1)
    return OTHER if data.train.any() else SAME


def other_safetensors() -> bytes:
    return safetensors.numpy.save({name: np.ascontiguousarray(array) for name, array in OTHERS.items()})


def other_msgpack() -> bytes:
    def packed(array: np.ndarray) -> msgpack.ExtType:
        return msgpack.ExtType(1, msgpack.packb((array.shape, array.dtype.name, array.tobytes())))

    fc1 = {"kernel": packed(OTHERS["fc1.weight"]), "bias": packed(OTHERS["fc1.bias"])}
    return bytes(msgpack.packb({"params": {"encoder": {"fc1": fc1}, "step": packed(OTHERS["step"])}}) or b"")


def other_pickle() -> bytes:
    import torch

    state = {name: torch.from_numpy(array) for name, array in OTHERS.items()}
    return saved(lambda file: torch.save({"state_dict": state, "epoch": 3}, file))


def other(path: Path) -> str:
    """Read another program's file of tensors, with torchvae: jaxvae reads the same, but no pickles."""
    import torchvae

    tensors = torchvae.read_foreign(path).tensors
    for tensor in tensors:
        assert isinstance(tensor.array, np.ndarray)
    arrays = sorted((tensor.dtype, tensor.array.shape, tensor.array.tobytes()) for tensor in tensors)
    return SAME if arrays == sorted((a.dtype.name, a.shape, a.tobytes()) for a in OTHERS.values()) else OTHER


def _word(actual: dict[str, Any], expected: dict[str, Any], same: bool) -> str:
    """Check that every number is the original one."""
    assert set(actual) == set(expected)
    for name in expected:
        np.testing.assert_array_equal(actual[name], expected[name], strict=not np.isscalar(actual[name]))
    return SAME if same else OTHER


def _checkpoint() -> dict[str, Any]:
    arrays = {n.removeprefix("optimizer."): a for n, a in transforms.from_bytes(transforms.whole_checkpoint()).items()}
    moments = [n for n in arrays if n.startswith("exp_avg") or n == "step"]
    return {**transforms.plain_weights(), **{n: arrays[n] for n in moments}, **{n: arrays[f"run.{n}"] for n in _RUN}}


_RUN = "step", "key", "train"
_CHECKPOINT = _checkpoint()
_TEXT = json.dumps(config()).encode()

# By name: the file's path in the folder that `place` fills, and its reader.
TARGETS: dict[str, tuple[str, Target]] = {
    "weights": ("run/model.safetensors", Target(transforms.whole_weights(), IN_WEIGHTS, weights_and_spec, resealed)),
    "checkpoint": ("run/step.safetensors", Target(transforms.whole_checkpoint(), IN_WEIGHTS, checkpoint, resealed)),
    "config": ("run/config.json", Target(_TEXT, IN_JSON, configuration, True)),
    "metrics": ("run/metrics.jsonl", Target(metrics(), structured.LINES, records, True)),
    "listing": ("run/checkpoints/steps.json", Target(b"[1, 2, 3]", PLAIN, listing, True)),
    "npy": ("data/a.npy", Target(saved(lambda f: np.save(f, PIXELS)), structured.NPY, images("npy"), True)),
    "npz": ("data/a.npz", Target(saved(lambda f: np.savez(f, images=PIXELS)), structured.NPZ, images("npz"), True)),
    "packed npz": ("data/b.npz", Target(saved(packed), structured.NPZ, images("npz"), True)),
    "png": ("png/0.png", Target(picture("PNG"), structured.PNG, images("images", True), True)),
    "gif": ("gif/0.gif", Target(picture("GIF"), PLAIN, images("images", True), True)),
    "bmp": ("bmp/0.bmp", Target(picture("BMP"), PLAIN, images("images", True), True)),
    "jpeg": ("jpeg/0.jpeg", Target(picture("JPEG"), PLAIN, images("images", True), True)),
    "idx": (f"idx/{_IDX_FILE}", Target(idx_files()[_IDX_FILE], structured.IDX, idx_set, True)),
    "safetensors": ("other/a.safetensors", Target(other_safetensors(), structured.SAFETENSORS, other, True)),
    "msgpack": ("other/a.msgpack", Target(other_msgpack(), structured.MSGPACK, other, True)),
    "pickle": ("other/a.pt", Target(other_pickle(), structured.PICKLE, other, True)),
    "webp": ("webp/0.webp", Target(picture("WEBP"), PLAIN, images("images", True), True)),
}  # fmt: skip


def place(folder: Path, name: str) -> Path:
    """Write what the target needs beside its file into a folder, and return the file's path."""
    path = folder / TARGETS[name][0]
    if path.parts[len(folder.parts)] == "run":
        run(folder / "run")
    else:
        path.parent.mkdir(parents=True)
        if name == "idx":
            for file, content in idx_files().items():
                path.with_name(file).write_bytes(content)
        elif path.parent.name not in ("data", "other"):
            Image.fromarray(PIXELS[1]).save(path.with_name("1.png"))
    return path
