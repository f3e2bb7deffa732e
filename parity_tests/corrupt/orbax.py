"""Folders as Orbax writes them with each array in files of its own, whose metadata and arrays may be malformed."""

import json
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from parity_tests.corrupt.fuzz import PLAIN, json_field
from parity_tests.corrupt.structured import with_plain

METADATA, ARRAY, CHUNK = "_METADATA", "array.json", "chunk"
"""The files that are changed: those of an array lie beside its folder until they are read."""
_PACKING = {"id": "zlib", "level": 1}
_PLACES = {ARRAY: "fc1.weight/.zarray", CHUNK: "fc1.weight/0.0"}


def files(arrays: Mapping[str, np.ndarray]) -> dict[str, bytes]:
    """Make the files of a folder.

    Args:
        arrays: The arrays by their names, whose parts are keys.

    Returns:
        The content of each file by its path in the folder.
    """
    leaves: dict[str, Any] = {}
    made: dict[str, bytes] = {}
    for name, array in arrays.items():
        keys = [{"key": key, "key_type": 2} for key in name.split(".")]
        leaves[str(tuple(name.split(".")))] = {"key_metadata": keys, "value_metadata": {}}
        about = {"chunks": array.shape, "shape": array.shape, "dtype": array.dtype.str, "fill_value": None}
        about |= {"order": "C", "zarr_format": 2, "dimension_separator": ".", "filters": None, "compressor": _PACKING}
        made[f"{name}/.zarray"] = json.dumps(about).encode()
        made[f"{name}/{'.'.join('0' * array.ndim) or '0'}"] = zlib.compress(array.tobytes())
    metadata = {"tree_metadata": leaves, "use_ocdbt": False, "use_zarr3": False}
    return {METADATA: json.dumps(metadata).encode(), **made}


def content(arrays: Mapping[str, np.ndarray], file: str) -> bytes:
    """Return the content of one of the files that are changed."""
    return files(arrays)[_PLACES.get(file, file)]


def place(folder: Path, made: Mapping[str, bytes]) -> None:
    """Write the files of a folder."""
    for name, content in made.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def read_by(read: Callable[[Path], str]) -> Callable[[Path], str]:
    """Make the reader of a folder's file from that of the folder."""

    def of_file(path: Path) -> str:
        if path.name in _PLACES:
            (path.parent / _PLACES[path.name]).write_bytes(path.read_bytes())
        return read(path.parent)

    return of_file


def leaf(random: Random, content: bytearray) -> None:
    """Change the keys of a leaf, or where the arrays are."""
    metadata: dict[str, Any] = json.loads(content)
    leaves = metadata["tree_metadata"]
    name = random.choice(sorted(leaves))
    keys = ("", ".", "..", "../fc1", "/etc", "a/b", "é", "fc1.weight", "n" * 300, 0, None, "params", "opt_state")
    match random.randrange(4):
        case 0:
            leaves[name]["key_metadata"] = [{"key": random.choice(keys)} for _ in range(random.randrange(4))]
        case 1:
            random.choice(leaves[name]["key_metadata"])["key"] = random.choice(keys)
        case 2:
            leaves[str(random.random())] = leaves[random.choice(sorted(leaves))]
        case _:
            metadata[random.choice(("use_ocdbt", "use_zarr3"))] = random.choice((True, False, None, 1, "no"))
    content[:] = json.dumps(metadata).encode()


def array(random: Random, content: bytearray) -> None:
    """Change the shape, the parts, the type or the packing of an array."""
    about: dict[str, Any] = json.loads(content)
    sizes = (0, 1, 2, 5, 2**20, 2**31, 2**62, 2**64, -1, 1.5, None)
    match random.randrange(5):
        case 0:
            about["shape"] = [random.choice(sizes) for _ in range(random.randrange(4))]
        case 1:
            about["chunks"] = [random.choice(sizes) for _ in about["chunks"]]
        case 2:
            about["shape"] = about["chunks"] = [random.choice((1, 2, 3, 4, 12, 2**16)) for _ in about["shape"]]
        case 3:
            types = ("<f2", ">f4", "<i8", "|u1", "|b1", "<c8", "<U4", "|V3", "bfloat16", "", [["a", "<f4"]])
            about["dtype"] = random.choice(types)
        case _:
            packing = {"id": random.choice(("gzip", "zstd", "blosc", "bz2", "lzma", "", 3))}
            about["compressor"] = random.choice((None, {}, packing, {"id": "zlib", "level": 99}))
    content[:] = json.dumps(about).encode()


def numbers(random: Random, content: bytearray) -> None:
    """Change an array's numbers, packed as they should be."""
    unpacked = bytearray(zlib.decompress(bytes(content)))
    random.choice(PLAIN)(random, unpacked)
    content[:] = zlib.compress(bytes(unpacked))


IN_METADATA, IN_ARRAY, IN_CHUNK = with_plain(json_field, leaf), with_plain(json_field, array), with_plain(numbers)
