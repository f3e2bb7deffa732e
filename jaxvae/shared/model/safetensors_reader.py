"""Reads a safetensors file with nothing in it taken on trust: every number in its header is held to the file's size
before a byte is set aside for it, and what is wrong is said of the tensor that has it.

safetensors' own reader maps the file into memory, parses headers of 100 MB and says less of what it found."""

import math
import struct
from collections.abc import Mapping
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from jaxvae.shared import safe_io
from jaxvae.shared.text import named, shown

_TYPES = {
    **{f"F{bits}": f"float{bits}" for bits in (16, 32, 64)},
    **{f"I{bits}": f"int{bits}" for bits in (8, 16, 32, 64)},
    **{f"U{bits}": f"uint{bits}" for bits in (8, 16, 32, 64)},
}
_AXES = 8  # more than any tensor of ours has


class Tensor(NamedTuple):
    """What a header says of one tensor."""

    dtype: str
    """numpy's name."""
    shape: tuple[int, ...]
    start: int
    """Where its bytes begin in the file."""
    nbytes: int


def header(file: BinaryIO, size: int) -> dict[str, Any]:
    """The header of a file of `size` bytes, which is left at its end. Raises ValueError, which says what is wrong."""
    if size < 8:
        raise ValueError(f"the length of its header takes 8 bytes, found {size} in all")
    (length,) = struct.unpack("<Q", file.read(8))
    if length > size - 8:
        raise ValueError(f"its header should have {length:,} bytes, found {size - 8:,}")
    if length > safe_io.MAX_JSON_BYTES:
        raise ValueError(f"its header should have {safe_io.MAX_JSON_BYTES:,} bytes at most, found {length:,}")
    try:
        found = safe_io.parse_json(file.read(length))
    except ValueError as error:
        raise ValueError(f"its header should be JSON: {error}") from None
    if not isinstance(found, dict):
        raise ValueError(f"its header should be an object, found {shown(found)}")
    return found


def tensors(header: Mapping[str, Any], start: int, size: int) -> dict[str, Tensor]:
    """The tensors of a file of `size` bytes, by name in the order of their bytes, which begin at `start` and fill the
    file without a gap. Raises ValueError, which says what is wrong."""
    found = {name: _tensor(name, value, start) for name, value in header.items() if name != "__metadata__"}
    place = start
    for name, tensor in sorted(found.items(), key=lambda item: (item[1].start, item[1].nbytes)):
        if tensor.start != place:
            raise ValueError(
                f"tensor {named([name])} should begin at byte {place - start:,} of the tensors, where the one "
                f"before it ends, found {tensor.start - start:,}"
            )
        place += tensor.nbytes
    if place != size:
        raise ValueError(f"its tensors should have {place - start:,} bytes, found {size - start:,}")
    return dict(sorted(found.items(), key=lambda item: item[1].start))


def array(file: BinaryIO, tensor: Tensor) -> np.ndarray:
    """A tensor's numbers. Raises ValueError if the file has fewer."""
    found = np.empty(tensor.shape, np.dtype(tensor.dtype).newbyteorder("<"))
    file.seek(tensor.start)
    if file.readinto(found.reshape(-1).view(np.uint8)) != tensor.nbytes:  # type: ignore[attr-defined]
        raise ValueError("it was cut short as it was read")
    return found.astype(tensor.dtype, copy=False)


def _tensor(name: str, value: object, start: int) -> Tensor:
    who = f"tensor {named([name])}"
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{who} should have a dtype, a shape and data_offsets, found {shown(value)}")
    code, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(code, str) or code not in _TYPES:
        raise ValueError(f"{who} should have a dtype of {', '.join(_TYPES)}, found {shown(code)}")
    if not _sizes(shape) or len(shape) > _AXES:
        raise ValueError(f"{who} should have a shape of at most {_AXES} sizes below 2^48, found {shown(shape)}")
    if not _sizes(offsets) or len(offsets) != 2:
        raise ValueError(f"{who} should have two data_offsets below 2^48, found {shown(offsets)}")
    nbytes = math.prod(shape) * np.dtype(_TYPES[code]).itemsize
    if offsets[1] - offsets[0] != nbytes:
        raise ValueError(f"{who}, {code} of {shape}, should have {nbytes:,} bytes, found data_offsets {offsets}")
    return Tensor(_TYPES[code], tuple(shape), start + offsets[0], nbytes)


def _sizes(value: object) -> bool:
    return isinstance(value, list) and all(type(size) is int and 0 <= size < 2**48 for size in value)
