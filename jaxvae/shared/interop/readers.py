"""Tensors in other people's files: safetensors and msgpack, as Flax writes it, here; torch's pickles by torchvae alone.

A file's kind is told by its first bytes, never by its name, and nothing in it is run."""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import safetensors

from jaxvae.shared.errors import InputError

Kind = Literal["safetensors", "msgpack", "pickle"]

_FLOATS = ("float16", "bfloat16", "float32", "float64")
_DTYPES = {
    **{"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64", "BOOL": "bool"},
    **{f"{kind}{bits}": f"{word}{bits}" for kind, word in (("I", "int"), ("U", "uint")) for bits in (8, 16, 32, 64)},
}
_NESTS = ("state_dict", "model_state_dict", "params", "model")  # beside which there may be an optimizer's tensors
_DEEPEST = 8
_NDARRAY = 1  # Flax's number for an array among msgpack's extension types


class Tensor(NamedTuple):
    """One tensor of a file."""

    path: tuple[str, ...]
    """The keys that lead to it; one where names are flat."""
    dtype: str
    array: np.ndarray
    """A bfloat16's bits, as uint16, since NumPy has no such type."""

    @property
    def is_float(self) -> bool:
        return self.dtype in _FLOATS


class File(NamedTuple):
    """A file's tensors, in its own order."""

    kind: Kind
    tensors: tuple[Tensor, ...]
    header: str = ""
    """A safetensors file's header as it stands, so that it can be written again to the byte."""


def read(path: Path, unpickle: Callable[[Path], tuple[Tensor, ...]]) -> File:
    """The model's tensors in a file; `unpickle` opens torch's. Raises InputError for what is no such file, is cut
    short, or holds none."""
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "is not there"
        raise InputError(f"{path} {what}; give the file that holds the model's tensors.")
    with path.open("rb") as opened:
        head = opened.read(9)
    if head[:4] == b"PK\x03\x04" or head[:1] == b"\x80":  # an empty map, which msgpack would begin so, holds nothing
        file = File("pickle", unpickle(path))
    elif len(head) == 9 and head[8:] == b"{":
        file = _safetensors(path)
    elif head and (0x81 <= head[0] <= 0x8F or head[0] in (0xDE, 0xDF)):
        file = File("msgpack", _msgpack(path))
    else:
        raise InputError(
            f"{path} must be a safetensors file, a msgpack file of Flax's or a torch pickle, found "
            f"{'one that begins otherwise' if head else 'an empty one'}; give the file that holds the model's tensors."
        )
    if not file.tensors:
        raise InputError(f"{path} holds no tensors; give the file that holds the model's.")
    return file


def pack(file: File, pickle: Callable[[tuple[Tensor, ...]], bytes]) -> bytes:
    """The content of a file of these tensors, in their order, under their own keys; `pickle` writes torch's."""
    if file.kind == "pickle":
        return pickle(file.tensors)
    if file.kind == "safetensors":
        head = file.header.encode()
        begins = {name: about["data_offsets"][0] for name, about in _entries(json.loads(head))}
        laid = sorted(file.tensors, key=lambda tensor: begins[tensor.path[0]])
        return b"".join([len(head).to_bytes(8, "little"), head, *(tensor.array.tobytes() for tensor in laid)])
    msgpack = _library()

    def packed(tensor: Tensor) -> Any:
        content = msgpack.packb((tensor.array.shape, tensor.dtype, tensor.array.tobytes()), use_bin_type=True)
        return msgpack.ExtType(_NDARRAY, content)

    return msgpack.packb(nested(file.tensors, packed), strict_types=True)


def flat(tree: object, tensor: Callable[[Any, tuple[str, ...]], Tensor | None]) -> tuple[Tensor, ...]:
    """The model's tensors in nested dicts: what `tensor` takes for one, under `state_dict` and its like if there is
    such a key."""
    nest: tuple[str, ...] = ()
    while isinstance(tree, Mapping) and len(nest) < _DEEPEST:
        key = next((key for key in _NESTS if isinstance(tree.get(key), Mapping)), None)
        if key is None:
            break
        nest, tree = (*nest, key), tree[key]
    try:
        return tuple(_leaves(tree, nest, tensor))
    except RecursionError:
        raise InputError("The file's dicts have no end of dicts in them; save the model's state_dict alone.") from None


def nested(tensors: tuple[Tensor, ...], value: Callable[[Tensor], Any]) -> dict[str, Any]:
    """Nested dicts of the tensors by their paths."""
    tree: dict[str, Any] = {}
    for tensor in tensors:
        node = tree
        for key in tensor.path[:-1]:
            node = node.setdefault(key, {})
        node[tensor.path[-1]] = value(tensor)
    return tree


def widened(tensor: Tensor) -> np.ndarray:
    """Its numbers, exactly, in a type that NumPy has."""
    if tensor.dtype != "bfloat16":
        return tensor.array
    return (tensor.array.astype(np.uint32) << 16).view(np.float32)


def narrowed(path: tuple[str, ...], dtype: str, array: np.ndarray) -> Tensor:
    """The tensor of these numbers in the type `dtype`, each rounded to the nearest, ties to even."""
    if dtype != "bfloat16":
        return Tensor(path, dtype, np.ascontiguousarray(array, dtype).reshape(array.shape))
    bits = np.asarray(array, np.float32, order="C").view(np.uint32)
    return Tensor(path, dtype, ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16))


def _leaves(tree: object, path: tuple[str, ...], tensor: Callable) -> Iterator[Tensor]:
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from _leaves(value, (*path, str(key)), tensor)
    elif (found := tensor(tree, path)) is not None:
        yield found


def _safetensors(path: Path) -> File:
    content = path.read_bytes()
    try:
        parts = dict(safetensors.deserialize(content))
        header = content[8 : 8 + int.from_bytes(content[:8], "little")].decode()
        found = [(name, about["dtype"]) for name, about in _entries(json.loads(header))]
    except (safetensors.SafetensorError, ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path} is not a whole safetensors file ({reason}); get it again.") from None
    tensors = []
    for name, kind in found:
        if kind not in _DTYPES:
            raise InputError(f"{path}: tensor {name} must be of one of {', '.join(_DTYPES)}, found {kind}; convert it.")
        stored = "uint16" if kind == "BF16" else _DTYPES[kind]
        array = np.frombuffer(parts[name]["data"], stored).reshape(parts[name]["shape"])
        tensors.append(Tensor((name,), _DTYPES[kind], array))
    return File("safetensors", tuple(tensors), header)


def _entries(header: dict[str, Any]) -> list[tuple[str, Any]]:
    return [(name, about) for name, about in header.items() if name != "__metadata__"]


def _msgpack(path: Path) -> tuple[Tensor, ...]:
    msgpack = _library()
    try:
        tree = msgpack.unpackb(path.read_bytes(), raw=False)
        return flat(tree, lambda leaf, keys: _array(msgpack, leaf, keys))
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        reason = str(error) or type(error).__name__
        raise InputError(f"{path} is not a whole msgpack file of Flax's ({reason}); get it again.") from None


def _array(msgpack: Any, leaf: Any, keys: tuple[str, ...]) -> Tensor | None:
    if not isinstance(leaf, msgpack.ExtType) or leaf.code != _NDARRAY:
        return None
    shape, name, data = msgpack.unpackb(leaf.data, raw=True)
    dtype = name.decode()
    if dtype not in _DTYPES.values():
        raise ValueError(f"{'.'.join(keys)} is of the type {dtype}")
    return Tensor(keys, dtype, np.frombuffer(data, "uint16" if dtype == "bfloat16" else dtype).reshape(shape))


def _library() -> Any:
    try:
        import msgpack
    except ImportError:
        raise InputError(
            "Flax's files need the package msgpack, which is not installed; pip install msgpack."
        ) from None
    return msgpack
