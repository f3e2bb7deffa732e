"""Reads a safetensors file, validated: every size in its header is compared with the file's before memory is allocated,
and a message names the tensor that is wrong.

safetensors' own reader maps the file into memory, parses headers of 100 MB and reports less."""

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
_AXES = 8  # more than any tensor of the models has


class Tensor(NamedTuple):
    """A tensor's entry in the header."""

    dtype: str
    """NumPy's name of it."""
    shape: tuple[int, ...]
    start: int
    """The offset of its bytes in the file."""
    nbytes: int


def header(file: BinaryIO, size: int) -> dict[str, Any]:
    """Read the header of a safetensors file.

    Args:
        file: The file, at its beginning; at the end of the header afterwards.
        size: Its size in bytes.

    Returns:
        The header, not validated beyond being a JSON object.

    Raises:
        ValueError: If it has no such header; the message says what is wrong.
    """
    if size < 8:
        raise ValueError(f"the length of its header takes 8 bytes, found {size} in all")
    (length,) = struct.unpack("<Q", file.read(8))
    if length > size - 8:
        raise ValueError(f"its header should have {length:,} bytes, found {size - 8:,}")
    if length > safe_io.MAX_JSON_BYTES:
        raise ValueError(f"its header should have {safe_io.MAX_JSON_BYTES:,} bytes at most, found {length:,}")
    try:
        content = safe_io.parse_json(file.read(length))
    except ValueError as error:
        raise ValueError(f"its header should be JSON: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"its header should be an object, found {shown(content)}")
    return content


def tensors(header: Mapping[str, Any], start: int, size: int) -> dict[str, Tensor]:
    """Validate the entries of a header.

    Args:
        header: The header of a file.
        start: The offset of the first tensor's bytes, where the header ends.
        size: The size of the file in bytes.

    Returns:
        The tensors by name, in the order of their bytes, which fill the file without a gap.

    Raises:
        ValueError: If an entry is invalid or the bytes have gaps; the message names the tensor.
    """
    entries = {name: _tensor(name, value, start) for name, value in header.items() if name != "__metadata__"}
    end = start
    for name, tensor in sorted(entries.items(), key=lambda item: (item[1].start, item[1].nbytes)):
        if tensor.start != end:
            raise ValueError(
                f"tensor {named([name])} should begin at byte {end - start:,} of the tensors, where the one "
                f"before it ends, found {tensor.start - start:,}"
            )
        end += tensor.nbytes
    if end != size:
        raise ValueError(f"its tensors should have {end - start:,} bytes, found {size - start:,}")
    return dict(sorted(entries.items(), key=lambda item: item[1].start))


def array(file: BinaryIO, tensor: Tensor) -> np.ndarray:
    """Read the numbers of one tensor. Raises ValueError if the file ends before them."""
    values = np.empty(tensor.shape, np.dtype(tensor.dtype).newbyteorder("<"))
    file.seek(tensor.start)
    if file.readinto(values.reshape(-1).view(np.uint8)) != tensor.nbytes:  # type: ignore[attr-defined]
        raise ValueError("it was cut short as it was read")
    return values.astype(tensor.dtype, copy=False)


def _tensor(name: str, value: object, start: int) -> Tensor:
    label = f"tensor {named([name])}"
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{label} should have a dtype, a shape and data_offsets, found {shown(value)}")
    code, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(code, str) or code not in _TYPES:
        raise ValueError(f"{label} should have a dtype of {', '.join(_TYPES)}, found {shown(code)}")
    if not _sizes(shape) or len(shape) > _AXES:
        raise ValueError(f"{label} should have a shape of at most {_AXES} sizes below 2^48, found {shown(shape)}")
    if not _sizes(offsets) or len(offsets) != 2:
        raise ValueError(f"{label} should have two data_offsets below 2^48, found {shown(offsets)}")
    nbytes = math.prod(shape) * np.dtype(_TYPES[code]).itemsize
    if offsets[1] - offsets[0] != nbytes:
        raise ValueError(f"{label}, {code} of {shape}, should have {nbytes:,} bytes, found data_offsets {offsets}")
    return Tensor(_TYPES[code], tuple(shape), start + offsets[0], nbytes)


def _sizes(value: object) -> bool:
    return isinstance(value, list) and all(type(size) is int and 0 <= size < 2**48 for size in value)
