"""Read files that may be malformed: weights, checkpoints, configurations, metrics, indexes and data."""

import gzip
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

from jaxvae.shared.config.parts import ImagesSpec, ModelSpec
from jaxvae.shared.config.serialization import from_json, to_json
from jaxvae.shared.config.spec import Spec
from jaxvae.shared.data import datasets, idx, published
from jaxvae.shared.model import description, weight_file
from jaxvae.shared.runs import checkpoints, measures_record, metrics_parts, parity_record, run_folder
from jaxvae.shared.runs import metrics as run_metrics
from jaxvae.shared.runs.run_folder import Run
from parity_tests.corrupt import cifar_batch, orbax, rewritten, structured, transforms
from parity_tests.corrupt.fuzz import IN_JSON, IN_WEIGHTS, OTHER, PLAIN, SAME, Mutate, Target, json_field, resealed

COLOUR = np.random.default_rng(1).integers(0, 256, (12, 4, 6, 3), np.uint8)
PIXELS = np.random.default_rng(0).integers(0, 256, (12, 4, 6), np.uint8)
IMAGES = Spec("digits", ModelSpec((4, 6, 1), (5,), 2))
OTHERS = {
    "fc1.weight": np.arange(12, dtype=np.float32).reshape(3, 4),
    "fc1.bias": np.arange(3, dtype=np.float16),
    "step": np.array(7, np.int64),
}
_STORED = "step-000000003.safetensors"
_IDX_FILE = "train-images-idx3-ubyte"
TABLE = {
    "rules": {"enc.{2i}.*": "encoder.hidden.{i}.*", "mu.*": "encoder.mean.*", "lv.*": "encoder.logvar.*"}
    | {"dec.{2i}.*": "decoder.hidden.{i}.*", "dec.{2n}.*": "decoder.logits.*"},
    **{"layout": "torch", "activation": "relu", "likelihood": "bernoulli", "range": "unit", "output": "bounded"},
    "skip": ["head.*", "step"],
}
"""A table of names for the tensors of `of_ones_own`."""
_IDX_LABELS = "train-labels-idx1-ubyte"
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
    (folder / "checkpoints" / _STORED).write_bytes(transforms.whole_checkpoint())
    (folder / "checkpoints" / "steps.json").write_bytes(b"[3]\n")
    return folder


def measures() -> dict[str, Any]:
    """Return the measures.json of a run of three steps."""
    about = {"step": 3, "epoch": 1, "seed": 0, "images": 7, "by": "jaxvae 0.1.0", "dtype": "float32"}
    figures = {
        "terms": dict.fromkeys(transforms.SPEC.terms, 1.5),
        "log-likelihood": {"log_likelihood": -3.5, "standard_error": 0.5, "samples": 9, "effective_samples": 2.5},
        "active-units": {"active_units": 1, "active": [True, False]},
        "kl-by-latent": {"kl_by_latent": [0.5, 0.25]},
    }
    return {name: {**about, **values} for name, values in figures.items()}


def agreement(version: int = parity_record.VERSION) -> dict[str, Any]:
    """Return the agreement.json of a run."""
    level = {"level": "loss", "dtype": "float64", "size": 1e-16, "unit": "relative", "passed": True}
    level["tolerance" if version > 1 else "owed"] = 1e-15
    verdict = {"verdict": "The packages agree.", "passed": True, "versions": {"numpy": "2"}, "levels": [level, level]}
    return {"version": version, "spec": to_json(transforms.SPEC), "steps": 3, **verdict}


def weights_and_spec(path: Path) -> str:
    spec, arrays = weight_file.load(path)
    return _word(arrays, transforms.plain_weights(), spec == transforms.SPEC)


def checkpoint(path: Path) -> str:
    loaded = weight_file.load_checkpoint(path)
    assert weight_file.load(path)[1].keys() == loaded.weights.keys()
    arrays = {**loaded.weights, **loaded.optimizer, "step": loaded.step, "key": loaded.key, "train": loaded.train}
    return _word(arrays, _CHECKPOINT, loaded.spec == transforms.SPEC)


def stored(path: Path) -> str:
    """Read the last checkpoint of a run."""
    file, _ = checkpoints.latest(run_folder.read(path.parents[1]))
    assert file == path
    return checkpoint(path)


def configuration(path: Path) -> str:
    """Read a config.json, describe it and write it again."""
    loaded = run_folder.read(path.parent)
    assert from_json(json.loads(json.dumps(to_json(loaded.spec))), "again") == loaded.spec
    assert description.text(loaded.spec, loaded.config["preset"])
    return SAME if loaded.config == json.loads(json.dumps(config())) else OTHER


def records(path: Path) -> str:
    opened = run_folder.read(path.parent)
    tested = run_metrics.of_split(opened, "test")
    last, rows = run_metrics.last(opened), run_metrics.read(opened)
    assert last == (rows[-1] if rows else None)
    assert tested == [row for row in rows if row["split"] == "test"]
    with mock.patch.object(metrics_parts, "_WHOLE", 50):  # bytes, so that only some of the records are drawn
        assert all(row in rows for row in run_metrics.to_draw(opened))
    return SAME if rows == [json.loads(line) for line in metrics().splitlines()] else OTHER


def listing(path: Path) -> str:
    """Read the index of checkpoints, which is checked against the checkpoints in the folder."""
    file, wrong = checkpoints.latest(run_folder.read(path.parent.parent))
    assert file is not None
    assert file.stem == "step-000000003"
    return OTHER if wrong else SAME


def record_of(read: Callable[[Run], Any], expected: dict[str, Any]) -> Callable[[Path], str]:
    """Make a reader of a JSON file in a run's folder."""

    def reader(path: Path) -> str:
        content = read(run_folder.read(path.parent))
        assert content is not None
        return SAME if json.loads(path.read_bytes()) == json.loads(json.dumps(expected)) else OTHER

    return reader


def images(
    prefix: str, folder: bool = False, pixels: np.ndarray = PIXELS, mapped: bool = False, resize: bool = False
) -> Callable[[Path], str]:
    """Make a reader that checks the type and size of the images and labels."""
    height, width, channels = (*pixels.shape[1:], 1)[:3]
    size = (height, width, channels)

    def read(path: Path) -> str:
        name, fitted = f"{prefix}:{path.parent if folder else path}", ImagesSpec(resize=resize)
        spec = Spec(name, ModelSpec(size, (5,), 2), images=fitted)
        data = datasets.load(spec, None, mapped)[0]
        for part, labels in ((data.train, data.train_labels), (data.test, data.test_labels)):
            assert part.shape == (len(labels), *size)
            assert part.dtype == labels.dtype == np.uint8
        both = np.concatenate([np.asarray(data.train[:]), data.test])
        return SAME if {p.tobytes() for p in both} <= {p.tobytes() for p in pixels} else OTHER

    return read


def saved(save: Callable[[io.BytesIO], Any]) -> bytes:
    file = io.BytesIO()
    save(file)
    return file.getvalue()


def packed(file: io.BytesIO) -> None:
    np.savez_compressed(file, images=PIXELS)


def labelled(file: io.BytesIO) -> None:
    """Write colour images and their labels under Keras' names, each label in a row of its own."""
    labels = np.arange(12)[:, None] % 3
    np.savez(file, x_train=COLOUR[:8], y_train=labels[:8], x_test=COLOUR[8:], y_test=labels[8:])


def picture(kind: str) -> bytes:
    return saved(lambda file: Image.fromarray(_drawn(kind)[0]).save(file, kind, lossless=True))


def _drawn(kind: str) -> np.ndarray:
    """The pictures of a format, each with the size of the first; WebP has colours only."""
    return COLOUR if kind.lower() == "webp" else PIXELS


def idx_files() -> dict[str, bytes]:
    """Return the four files of a data set of four images, by name."""
    images, labels = np.zeros((2, 28, 28), np.uint8), np.array([3, 9], np.uint8)
    contents = [struct.pack(f">{1 + a.ndim}I", 0x0800 + a.ndim, *a.shape) + a.tobytes() for a in (images, labels)]
    return dict(zip(_IDX.published.files, 2 * contents, strict=True))


def idx_set(path: Path) -> str:
    with mock.patch.dict(idx.IDX_SETS, {"small": _IDX}):
        paths = {file: path.parent / file for file in _IDX.published.files}
        found = published.Found(path.parent, paths | {path.name.removesuffix(".gz"): path})
        data = idx._read_files("small", found)
    assert data.train.shape == (2, 28, 28, 1)
    return OTHER if data.train.any() else SAME


def other_safetensors() -> bytes:
    return safetensors.numpy.save({name: np.asarray(array, order="C") for name, array in OTHERS.items()})


def other_msgpack() -> bytes:
    def packed(array: np.ndarray) -> msgpack.ExtType:
        return msgpack.ExtType(1, msgpack.packb((array.shape, array.dtype.name, array.tobytes())))

    fc1 = {"kernel": packed(OTHERS["fc1.weight"]), "bias": packed(OTHERS["fc1.bias"])}
    return bytes(msgpack.packb({"params": {"encoder": {"fc1": fc1}, "step": packed(OTHERS["step"])}}) or b"")


def other_pickle() -> bytes:
    import torch

    state = {name: torch.from_numpy(array) for name, array in OTHERS.items()}
    return saved(lambda file: torch.save({"state_dict": state, "epoch": 3}, file))


def other(prefix: str) -> Callable[[Path], str]:
    """Make a reader of another program's tensors: of all, and of those behind a prefix. It is torchvae's; jaxvae's is
    the same, but reads no pickles."""

    def read(path: Path) -> str:
        import torchvae

        tensors = torchvae.read_foreign(path).tensors
        for tensor in tensors:
            assert isinstance(tensor.array, np.ndarray)
        behind = torchvae.read_foreign(path, prefix).tensors
        arrays = sorted((tensor.dtype, tensor.array.shape, tensor.array.tobytes()) for tensor in tensors)
        same = arrays == sorted((a.dtype.name, a.shape, a.tobytes()) for a in OTHERS.values())
        return SAME if same and len(behind) == 2 else OTHER

    return read


def of_ones_own() -> dict[str, np.ndarray]:
    """Return the tensors of a model by names of its own, and others beside them."""
    arrays, own = transforms.plain_weights(), {"enc.0": "encoder.hidden.0", "dec.0": "decoder.hidden.0"}
    own |= {"mu": "encoder.mean", "lv": "encoder.logvar", "dec.2": "decoder.logits"}
    mine = {f"{a}.{part}": arrays[f"{b}.{part}"] for a, b in own.items() for part in ("weight", "bias")}
    return {**mine, "head.weight": np.ones((2, 2), np.float32), "step": np.array(7)}


def tabled(path: Path) -> str:
    """Read a model of one's own by its table of names."""
    import torchvae

    spec, model = torchvae.load_foreign(path.with_suffix(".safetensors"), table=path, image=(4, 5, 1))
    arrays, expected = torchvae.to_arrays(spec, model), transforms.plain_weights()
    same = arrays.keys() == expected.keys() and all((arrays[name] == expected[name]).all() for name in arrays)
    return SAME if same and json.loads(path.read_bytes()) == TABLE else OTHER


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
WEIGHTS = (*IN_WEIGHTS, rewritten.tensors, rewritten.tensors, rewritten.entry)
NPY = (*structured.with_plain(structured.array_header, rewritten.array), rewritten.archive)
NPZ = structured.with_plain(structured.members(structured.array_header, *([rewritten.array] * 5), *PLAIN))
PICTURE = structured.with_plain(rewritten.drawn)
PNG = structured.with_plain(structured.chunks, rewritten.drawn)
PACKED_IDX = structured.with_plain(rewritten.gzipped(structured.sizes, *PLAIN))
SAFETENSORS = structured.with_plain(structured.tensors_header, rewritten.entry)
PICKLE = (*structured.PICKLE, *([rewritten.torch_tensor] * len(PLAIN)))
TABLES = structured.with_plain(json_field, rewritten.pattern)


def _record(read: Callable[[Run], Any], content: dict[str, Any]) -> Target:
    return Target(json.dumps(content).encode(), IN_JSON, record_of(read, content), True)


def _picture(kind: str) -> tuple[str, Target]:
    name = kind.lower()
    read = images("images", True, _drawn(kind), resize=kind in ("GIF", "TIFF"))
    return f"{name}/0.{name}", Target(picture(kind), PNG if kind == "PNG" else PICTURE, read, True)


def _orbax(file: str, mutations: tuple[Mutate, ...]) -> Target:
    return Target(orbax.content(OTHERS, file), mutations, orbax.read_by(other("fc1")), True)


# By name: the file's path in the folder that `place` fills, and its reader.
TARGETS: dict[str, tuple[str, Target]] = {
    "weights": ("run/model.safetensors", Target(transforms.whole_weights(), WEIGHTS, weights_and_spec, resealed)),
    "checkpoint": ("run/step.safetensors", Target(transforms.whole_checkpoint(), WEIGHTS, checkpoint, resealed)),
    "stored": (f"run/checkpoints/{_STORED}", Target(transforms.whole_checkpoint(), WEIGHTS, stored, resealed)),
    "config": ("run/config.json", Target(_TEXT, IN_JSON, configuration, True)),
    "metrics": ("run/metrics.jsonl", Target(metrics(), structured.LINES, records, True)),
    "listing": ("run/checkpoints/steps.json", Target(b"[1, 2, 3]", PLAIN, listing, True)),
    "measures": ("run/measures.json", _record(measures_record.read, measures())),
    "agreement": ("run/agreement.json", _record(parity_record.read, agreement())),
    "old agreement": ("run/agreement.json", _record(parity_record.read, agreement(1))),
    "npy": ("data/a.npy", Target(saved(lambda f: np.save(f, PIXELS)), NPY, images("npy"), True)),
    "mapped npy": ("data/b.npy", Target(saved(lambda f: np.save(f, PIXELS)), NPY, images("npy", mapped=True), True)),
    "npy folder": ("arrays/images.npy", Target(saved(lambda f: np.save(f, PIXELS)), NPY, images("npy", True), True)),
    "npz": ("data/a.npz", Target(saved(lambda f: np.savez(f, images=PIXELS)), NPZ, images("npz"), True)),
    "packed npz": ("data/b.npz", Target(saved(packed), NPZ, images("npz"), True)),
    "labelled npz": ("data/c.npz", Target(saved(labelled), NPZ, images("npz", pixels=COLOUR), True)),
    **{kind.lower(): _picture(kind) for kind in ("PNG", "GIF", "BMP", "JPEG", "WEBP", "TIFF")},
    "idx": (f"idx/{_IDX_FILE}", Target(idx_files()[_IDX_FILE], structured.IDX, idx_set, True)),
    "packed idx": (f"idx/{_IDX_FILE}.gz", Target(gzip.compress(idx_files()[_IDX_FILE]), PACKED_IDX, idx_set, True)),
    "labels idx": (f"idx/{_IDX_LABELS}", Target(idx_files()[_IDX_LABELS], structured.IDX, idx_set, True)),
    "safetensors": ("other/a.safetensors", Target(other_safetensors(), SAFETENSORS, other("fc1"), True)),
    "msgpack": ("other/a.msgpack", Target(other_msgpack(), structured.MSGPACK, other("params.encoder"), True)),
    "arrays": ("other/a.npz", Target(saved(lambda f: np.savez(f, **OTHERS)), NPZ, other("fc1"), True)),
    "pickle": ("other/a.pt", Target(other_pickle(), PICKLE, other("state_dict.fc1"), True)),
    "orbax": (f"orbax/{orbax.METADATA}", _orbax(orbax.METADATA, orbax.IN_METADATA)),
    "orbax array": (f"orbax/{orbax.ARRAY}", _orbax(orbax.ARRAY, orbax.IN_ARRAY)),
    "orbax chunk": (f"orbax/{orbax.CHUNK}", _orbax(orbax.CHUNK, orbax.IN_CHUNK)),
    "cifar": (f"cifar/{cifar_batch.NAME}", Target(cifar_batch.whole(), cifar_batch.MUTATIONS, cifar_batch.read, True)),
    "table": ("other/mine.json", Target(json.dumps(TABLE).encode(), TABLES, tabled, True)),
}


def place(folder: Path, name: str) -> Path:
    """Write what the target needs beside its file into a folder, and return the file's path."""
    path = folder / TARGETS[name][0]
    if path.parts[len(folder.parts)] == "run":
        run(folder / "run")
    else:
        path.parent.mkdir(parents=True)
        if path.parent.name == "idx":
            for file, content in idx_files().items():
                path.with_name(file).write_bytes(content)
        elif path.parent.name == "orbax":
            orbax.place(path.parent, orbax.files(OTHERS))
        elif name == "table":
            path.with_suffix(".safetensors").write_bytes(safetensors.numpy.save(of_ones_own()))
        elif path.parent.name not in ("data", "other", "arrays", "cifar"):
            Image.fromarray(_drawn(name)[1]).save(path.with_name("1.png"))
    return path
