"""Turn an intact weight file or checkpoint into a malformed one."""

import hashlib
import io
import json
import os
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors.numpy import load as from_bytes

from jaxvae.shared.config.parts import ModelSpec
from jaxvae.shared.config.serialization import from_json
from jaxvae.shared.config.spec import Spec
from jaxvae.shared.model import layout, weight_file

SPEC = Spec("digits", ModelSpec((4, 5, 1), (5,), 2))
NAME, TWIN = "encoder.mean.weight", "encoder.logvar.weight"  # [2, 5], both


class Kind(NamedTuple):
    """One kind of malformed file and the message it must cause."""

    name: str
    put: Callable[[Path, bytes], Any]
    """Writes the malformed file to a path, from the bytes of an intact file."""
    says: str
    """A part of the error message, after the path."""


def plain_weights() -> dict[str, np.ndarray]:
    """Return weights that differ between any two tensors."""
    tables = enumerate(layout.table(SPEC.model))
    return {p.name: (np.linspace(-1, 1, np.prod(p.shape)) + i).astype("f").reshape(p.shape) for i, p in tables}


def whole_weights() -> bytes:
    return weight_file.pack(SPEC, plain_weights())


def whole_checkpoint() -> bytes:
    """Return a checkpoint of step 3, with the terms of the three steps of its epoch so far."""
    arrays = plain_weights()
    moments = {f"optimizer.{m}.{n}": np.abs(a) for m in ("exp_avg", "exp_avg_sq") for n, a in arrays.items()}
    return weight_file.pack(
        SPEC,
        {
            **arrays,
            **moments,
            "optimizer.step": np.asarray(3, np.int32),
            "run.step": np.asarray(3, np.int64),
            "run.key": np.array([0, 7], np.uint32),
            "run.train": np.arange(9, dtype=np.float32).reshape(3, 3),
        },
    )


def split(whole: bytes) -> tuple[dict[str, Any], bytes]:
    """Return a file's header and the bytes of its tensors."""
    (length,) = struct.unpack("<Q", whole[:8])
    return json.loads(whole[8 : 8 + length]), whole[8 + length :]


def joined(header: Any, tensors: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + tensors


def about(whole: bytes) -> dict[str, Any]:
    return json.loads(split(whole)[0]["__metadata__"]["jaxvae"])


def sealed(about: dict[str, Any]) -> dict[str, Any]:
    """Return the metadata with its digest recomputed."""
    about.pop("digest", None)
    return {**about, "digest": hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()}


def content(change: Callable[[bytes], bytes]) -> Callable[[Path, bytes], Any]:
    return lambda path, whole: path.write_bytes(change(whole))


def header(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path, bytes], Any]:
    """Change the header in place, or replace it by the returned one; keep the tensors' bytes."""

    def changed(whole: bytes) -> bytes:
        entries, tensors = split(whole)
        return joined(change(entries) or entries, tensors)

    return content(changed)


def entry(**fields: Any) -> Callable[[Path, bytes], Any]:
    """Change fields of one tensor's entry in the header."""
    return header(lambda h: h[NAME].update(fields))


def text(change: Callable[[bytes], bytes]) -> Callable[[Path, bytes], Any]:
    """Change the text of the header."""
    return header(lambda h: change(json.dumps(h).encode()))


def metadata(change: Callable[[dict[str, Any]], Any], seal: bool = True) -> Callable[[Path, bytes], Any]:
    """Change the metadata in place, and recompute its digest if `seal`."""

    def changed(whole: bytes) -> bytes:
        entries, tensors = split(whole)
        fields = about(whole)
        fields = change(fields) or fields
        entries["__metadata__"]["jaxvae"] = json.dumps(sealed(fields) if seal else fields)
        return joined(entries, tensors)

    return content(changed)


def config(text: str) -> Callable[[Path, bytes], Any]:
    """Replace the configuration by another text."""
    return header(lambda h: h["__metadata__"].update(jaxvae=text))


def forged(change: Callable[[dict[str, np.ndarray]], Any]) -> Callable[[Path, bytes], Any]:
    """Change the arrays in place and recompute every digest: an intact file that does not fit the model."""

    def changed(whole: bytes) -> bytes:
        arrays = from_bytes(whole)
        change(arrays)
        return weight_file.pack(from_json(about(whole)["spec"], "the file"), arrays)

    return content(changed)


def array(make: Callable[[np.ndarray], Any], name: str = NAME) -> Callable[[Path, bytes], Any]:
    return forged(lambda a: a.update({name: np.ascontiguousarray(make(a[name]))}))


def renamed(arrays: dict[str, Any]) -> None:
    arrays["encoder.mu.weight"] = arrays.pop(NAME)


def exchanged(entries: dict[str, Any]) -> None:
    entries[NAME], entries[TWIN] = entries[TWIN], entries[NAME]


def bytes_exchanged(whole: bytes) -> bytes:
    entries, tensors = split(whole)
    (a, b), (c, d) = (entries[name]["data_offsets"] for name in (NAME, TWIN))
    moved = bytearray(tensors)
    moved[a:b], moved[c:d] = tensors[c:d], tensors[a:b]
    return joined(entries, bytes(moved))


def zeroed(whole: bytes) -> bytes:
    entries, tensors = split(whole)
    a, b = entries[NAME]["data_offsets"]
    return joined(entries, tensors[:a] + bytes(b - a) + tensors[b:])


def spread(by: int) -> Callable[[dict[str, Any]], None]:
    """Shift every tensor after the first by a number of bytes."""

    def change(entries: dict[str, Any]) -> None:
        for value in entries.values():
            if "data_offsets" in value and value["data_offsets"][0]:
                value["data_offsets"] = [place + by for place in value["data_offsets"]]

    return change


def at(name: str, value: Any) -> Callable[[Path, bytes], Any]:
    return forged(lambda a: a.update({name: value}))


def poked(place: float, value: Any) -> Callable[[np.ndarray], np.ndarray]:
    def change(changed: np.ndarray) -> np.ndarray:
        changed = changed.copy()
        changed.flat[int(place)] = value
        return changed

    return change


class Code:
    """An object whose pickle runs code when it is read: the code makes a folder."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


def marker(path: Path) -> Path:
    """Return the path of the folder that exists if the code was run."""
    return path.with_name("code was run")


def bomb(path: Path, length: int) -> None:
    """Write a sparse file that declares a header of `length` bytes."""
    with path.open("wb") as file:
        file.write(struct.pack("<Q", length) + b"{")
        file.truncate(8 + length)


def many(count: int) -> Callable[[dict[str, Any]], None]:
    def change(entries: dict[str, Any]) -> None:
        end = max(value["data_offsets"][1] for value in entries.values() if "data_offsets" in value)
        entries.update({f"t{i}": {"dtype": "F32", "shape": [0], "data_offsets": [end, end]} for i in range(count)})

    return change


def empty_lists(length: int) -> Callable[[bytes], bytes]:
    """Return JSON that takes Python the most memory for its length."""
    return lambda text: b"[" + b"[]," * (length // 3 - 1) + b"0]"


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def a_socket(path: Path, whole: bytes) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # a socket's path is short
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(here)
