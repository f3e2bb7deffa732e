"""Read and write the tensors of other programs' files: safetensors, msgpack as Flax writes it, and NumPy's .npz.

PyTorch's pickles need torch, so torchvae reads and writes them, and reads them for jaxvae, too. The first bytes of a
file decide its kind, not its name, and nothing in a file is ever executed.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, assert_never

import numpy as np
import safetensors

from jaxvae.shared import safe_io
from jaxvae.shared.backend import File, FileKind, Tensor
from jaxvae.shared.errors import InputError
from jaxvae.shared.interop import file_limits, orbax_folder, tensor_names, tensor_trees, zip_files
from jaxvae.shared.text import printable, shown

_DTYPES = {
    **{"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64", "BOOL": "bool"},
    **{f"{kind}{bits}": f"{word}{bits}" for kind, word in (("I", "int"), ("U", "uint")) for bits in (8, 16, 32, 64)},
}
_OTHERS = {
    b"\x89HDF\r\n": "an HDF5 file, as Keras writes it (.h5), whose arrays numpy.savez can save",
    b"\x93NUMPY": "a single array without a name (.npy)",
    b"GGUF": "a GGUF file",
    b"\x1f\x8b": "a file compressed by gzip, which gunzip unpacks",
}
_MAX_HEADER = 2**24  # bytes; that of 10,000 tensors has 2 MB
_NDARRAY = 1  # Flax's number for an array among msgpack's extension types


Unpickle = Callable[[Path, str | None], tuple[Tensor, ...]]
"""Reads the tensors of a PyTorch pickle whose names begin with a prefix, if one is given."""


def read(path: Path, unpickle: Unpickle, prefix: str | None = None) -> File:
    """Read the model's tensors from a file.

    Args:
        path: The file.
        unpickle: Reads the tensors of a PyTorch pickle.
        prefix: What the names of the tensors to read begin with; None for the model's.

    Returns:
        The tensors, in the file's order.

    Raises:
        InputError: If the file is of another kind, is cut short or contains no tensors.
    """
    kind = safe_io.instead_of_file(path)
    if kind == "a folder" and orbax_folder.item(path):
        return _required(path, File("orbax", orbax_folder.read(path, prefix)))
    if kind is not None:
        what = "does not exist" if kind == "nothing" else f"is {kind}"
        raise InputError(f"{path} {what}; give the file that contains the model's tensors.")
    file_limits.require_content(path)
    with path.open("rb") as opened:
        head = opened.read(9)
    kind = _kind(path, head)
    match kind:
        case "pickle":
            file = File(kind, unpickle(path, prefix))
        case "npz":
            file = File(kind, zip_files.read_npz(path))
        case "safetensors":
            file = _safetensors(path)
        case "msgpack":
            file = File(kind, _msgpack(path, prefix))
        case "orbax":
            raise ValueError(f"{kind} is a folder")
        case _:
            assert_never(kind)
    if prefix is not None and kind in ("safetensors", "npz"):
        file = _behind(path, file, prefix)
    return _required(path, file)


def pack(file: File, pickle: Callable[[tuple[Tensor, ...]], bytes]) -> bytes:
    """Pack tensors into the content of a file of their kind, in their order and under their keys.

    Args:
        file: The tensors, with the header that a safetensors file had.
        pickle: Packs the tensors of a PyTorch pickle.

    Returns:
        The content of the file.
    """
    if file.kind == "pickle":
        return pickle(file.tensors)
    if file.kind == "safetensors":
        head = file.header.encode()
        offsets = {name: entry["data_offsets"][0] for name, entry in _entries(json.loads(head))}
        in_order = sorted(file.tensors, key=lambda tensor: offsets[tensor.path[0]])
        return b"".join([len(head).to_bytes(8, "little"), head, *(tensor.array.tobytes() for tensor in in_order)])
    if file.kind == "orbax":
        raise InputError("The source is an Orbax folder, which has no single file; use jaxvae export --format orbax.")
    if file.kind == "npz":
        return zip_files.pack_npz(file.tensors)
    msgpack = _library()

    def packed(tensor: Tensor) -> Any:
        content = msgpack.packb((tensor.array.shape, tensor.dtype, tensor.array.tobytes()), use_bin_type=True)
        return msgpack.ExtType(_NDARRAY, content)

    return msgpack.packb(tensor_trees.nested(file.tensors, packed), strict_types=True)


def widened(tensor: Tensor) -> np.ndarray:
    """Return the tensor's values, exactly, in a type that NumPy has: bfloat16 becomes float32."""
    if tensor.dtype != "bfloat16":
        return tensor.array
    return (tensor.array.astype(np.uint32) << 16).view(np.float32)


def narrowed(path: tuple[str, ...], dtype: str, array: np.ndarray) -> Tensor:
    """Make a tensor of the type `dtype`, each value rounded to the nearest, ties to even."""
    if dtype != "bfloat16":
        return Tensor(path, dtype, np.ascontiguousarray(array, dtype).reshape(array.shape))
    bits = np.asarray(array, np.float32, order="C").view(np.uint32)
    return Tensor(path, dtype, ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16))


def _required(path: Path, file: File) -> File:
    """The file, if it has tensors and their names can be shown."""
    if not file.tensors:
        raise InputError(f"{path} contains no tensors; give the file that contains the model's.")
    file_limits.require_names(path, file.tensors)
    return file


def _kind(path: Path, head: bytes) -> FileKind:
    """The kind of a file by its first bytes."""
    if head.startswith(b"PK\x03\x04"):
        return zip_files.kind(path)
    if head.startswith(b"\x80"):  # msgpack's empty map, too
        return "pickle"
    if len(head) == 9 and head.endswith(b"{"):
        return "safetensors"
    found = next((what for start, what in _OTHERS.items() if head.startswith(start)), None)
    if head and not found and (0x81 <= head[0] <= 0x8F or head[0] in (0xDE, 0xDF)):
        return "msgpack"
    found = found or ("a file of another kind" if head else "an empty file")
    raise InputError(
        f"{path} must be a safetensors file, a Flax msgpack file, a NumPy .npz file or a PyTorch pickle, found "
        f"{found}; give the file that contains the model's tensors."
    )


def _safetensors(path: Path) -> File:
    try:
        content = memoryview(np.memmap(path, np.uint8, "r"))  # type: ignore[arg-type]
        header = bytes(content[8 : 8 + _header_length(content)]).decode()
        entries = _entries(json.loads(header))
        file_limits.require_few(path, len(entries))
        with safetensors.safe_open(path, "numpy"):  # validates the header against the file's size
            tensors = [_tensor(path, content[8 + len(header.encode()) :], *entry) for entry in entries]
    except (safetensors.SafetensorError, ValueError, TypeError, LookupError, RecursionError) as error:
        reason = printable((str(error) or type(error).__name__).splitlines()[0])
        raise InputError(f"{path} is not a whole safetensors file ({reason}); download or copy it again.") from None
    return File("safetensors", tuple(tensors), header)


def _behind(path: Path, file: File, prefix: str) -> File:
    """The file that would have only the tensors behind a prefix."""
    names = [tensor.path[0] for tensor in file.tensors]
    tensors = tuple(tensor for tensor in file.tensors if tensor_names.is_behind(tensor.path[0], prefix))
    if not tensors:
        raise tensor_names.nothing_behind(path, prefix, names)
    if not file.header:
        return file._replace(tensors=tensors)
    header, start = json.loads(file.header), 0
    for name, entry in sorted(_entries(header), key=lambda item: item[1]["data_offsets"]):
        if tensor_names.is_behind(name, prefix):
            first, last = entry["data_offsets"]
            start, entry["data_offsets"] = start + last - first, [start, start + last - first]
        else:
            del header[name]
    text = json.dumps(header, separators=(",", ":"))
    return File(file.kind, tensors, text + " " * (-len(text.encode()) % 8))  # tensors start at multiples of 8


def _header_length(content: memoryview) -> int:
    if (length := int.from_bytes(content[:8], "little")) > _MAX_HEADER:
        raise ValueError(f"its header should have {_MAX_HEADER:,} bytes at most, found {length:,}")
    return length


def _tensor(path: Path, content: memoryview, name: str, entry: Any) -> Tensor:
    if (dtype := entry["dtype"]) not in _DTYPES:
        raise file_limits.wrong_type(path, name, str(dtype), f"one of the types {', '.join(_DTYPES)}")
    stored, (start, end) = "uint16" if dtype == "BF16" else _DTYPES[dtype], entry["data_offsets"]
    return Tensor((name,), _DTYPES[dtype], np.frombuffer(content[start:end], stored).reshape(entry["shape"]))


def _entries(header: dict[str, Any]) -> list[tuple[str, Any]]:
    return [(name, entry) for name, entry in header.items() if name != "__metadata__"]


def _msgpack(path: Path, prefix: str | None) -> tuple[Tensor, ...]:
    msgpack = _library()
    try:
        tree = msgpack.unpackb(path.read_bytes(), raw=False)
        return tensor_trees.flat(path, tree, lambda leaf, keys: _array(path, msgpack, leaf, keys), prefix)
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as error:
        reason = printable(str(error) or type(error).__name__)
        raise InputError(f"{path} is not a whole Flax msgpack file ({reason}); download or copy it again.") from None


def _array(path: Path, msgpack: Any, leaf: Any, keys: tuple[str, ...]) -> Tensor | None:
    if not isinstance(leaf, msgpack.ExtType) or leaf.code != _NDARRAY:
        return None
    shape, name, data = msgpack.unpackb(leaf.data, raw=True)
    dtype = name.decode() if isinstance(name, bytes) else shown(name)
    if dtype not in _DTYPES.values():
        raise file_limits.wrong_type(path, ".".join(keys), dtype, f"one of the types {', '.join(_DTYPES.values())}")
    return Tensor(keys, dtype, np.frombuffer(data, "uint16" if dtype == "bfloat16" else dtype).reshape(shape))


def _library() -> Any:
    try:
        import msgpack
    except ImportError:
        raise InputError(
            "Flax's files need the package msgpack, which is not installed; run pip install msgpack."
        ) from None
    return msgpack
