"""Read and write the tensors of other programs' files: safetensors, and msgpack as Flax writes it.

PyTorch's pickles need torch, so torchvae reads and writes them. The first bytes of a file decide its kind, not its
name, and nothing in a file is ever executed.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors

from jaxvae.shared.backend import File, Tensor
from jaxvae.shared.errors import InputError

_DTYPES = {
    **{"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64", "BOOL": "bool"},
    **{f"{kind}{bits}": f"{word}{bits}" for kind, word in (("I", "int"), ("U", "uint")) for bits in (8, 16, 32, 64)},
}
_NESTS = ("state_dict", "model_state_dict", "params", "model")  # an optimizer's tensors may stand beside these keys
_MAX_NESTS = 8
_NDARRAY = 1  # Flax's number for an array among msgpack's extension types


def read(path: Path, unpickle: Callable[[Path], tuple[Tensor, ...]]) -> File:
    """Read the model's tensors from a file.

    Args:
        path: The file.
        unpickle: Reads the tensors of a PyTorch pickle.

    Returns:
        The tensors, in the file's order.

    Raises:
        InputError: If the file is of another kind, is cut short or contains no tensors.
    """
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise InputError(f"{path} {what}; give the file that contains the model's tensors.")
    with path.open("rb") as opened:
        head = opened.read(9)
    if head[:4] == b"PK\x03\x04" or head[:1] == b"\x80":  # \x80 is msgpack's empty map, too
        file = File("pickle", unpickle(path))
    elif len(head) == 9 and head[8:] == b"{":
        file = _safetensors(path)
    elif head and (0x81 <= head[0] <= 0x8F or head[0] in (0xDE, 0xDF)):
        file = File("msgpack", _msgpack(path))
    else:
        raise InputError(
            f"{path} must be a safetensors file, a Flax msgpack file or a PyTorch pickle, found "
            f"{'a file of another kind' if head else 'an empty file'}; give the file that contains the model's tensors."
        )
    if not file.tensors:
        raise InputError(f"{path} contains no tensors; give the file that contains the model's.")
    return file


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
    msgpack = _library()

    def packed(tensor: Tensor) -> Any:
        content = msgpack.packb((tensor.array.shape, tensor.dtype, tensor.array.tobytes()), use_bin_type=True)
        return msgpack.ExtType(_NDARRAY, content)

    return msgpack.packb(nested(file.tensors, packed), strict_types=True)


def flat(tree: object, tensor: Callable[[Any, tuple[str, ...]], Tensor | None]) -> tuple[Tensor, ...]:
    """List the model's tensors in nested dicts.

    Args:
        tree: The dicts. Where one has a key such as `state_dict`, only what stands under it counts.
        tensor: Converts a leaf, given with its keys; None if the leaf is not a tensor.

    Returns:
        The tensors, in the order of the dicts.

    Raises:
        InputError: If the dicts contain themselves.
    """
    nest: tuple[str, ...] = ()
    while isinstance(tree, Mapping) and len(nest) < _MAX_NESTS:
        key = next((key for key in _NESTS if isinstance(tree.get(key), Mapping)), None)
        if key is None:
            break
        nest, tree = (*nest, key), tree[key]
    try:
        return tuple(_leaves(tree, nest, tensor))
    except RecursionError:
        raise InputError("The file's dicts are nested without end; save only the model's state_dict.") from None


def nested(tensors: tuple[Tensor, ...], value: Callable[[Tensor], Any]) -> dict[str, Any]:
    """Build nested dicts of the tensors' values by their paths."""
    tree: dict[str, Any] = {}
    for tensor in tensors:
        node = tree
        for key in tensor.path[:-1]:
            node = node.setdefault(key, {})
        node[tensor.path[-1]] = value(tensor)
    return tree


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


def _leaves(tree: object, path: tuple[str, ...], tensor: Callable) -> Iterator[Tensor]:
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from _leaves(value, (*path, str(key)), tensor)
    elif (leaf := tensor(tree, path)) is not None:
        yield leaf


def _safetensors(path: Path) -> File:
    content = path.read_bytes()
    try:
        parts = dict(safetensors.deserialize(content))
        header = content[8 : 8 + int.from_bytes(content[:8], "little")].decode()
        dtypes = [(name, entry["dtype"]) for name, entry in _entries(json.loads(header))]
    except (safetensors.SafetensorError, ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path} is not a whole safetensors file ({reason}); download or copy it again.") from None
    tensors = []
    for name, dtype in dtypes:
        if dtype not in _DTYPES:
            raise InputError(
                f"{path}: tensor {name} must have one of the types {', '.join(_DTYPES)}, found {dtype}; convert it."
            )
        stored = "uint16" if dtype == "BF16" else _DTYPES[dtype]
        array = np.frombuffer(parts[name]["data"], stored).reshape(parts[name]["shape"])
        tensors.append(Tensor((name,), _DTYPES[dtype], array))
    return File("safetensors", tuple(tensors), header)


def _entries(header: dict[str, Any]) -> list[tuple[str, Any]]:
    return [(name, entry) for name, entry in header.items() if name != "__metadata__"]


def _msgpack(path: Path) -> tuple[Tensor, ...]:
    msgpack = _library()
    try:
        tree = msgpack.unpackb(path.read_bytes(), raw=False)
        return flat(tree, lambda leaf, keys: _array(msgpack, leaf, keys))
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        reason = str(error) or type(error).__name__
        raise InputError(f"{path} is not a whole Flax msgpack file ({reason}); download or copy it again.") from None


def _array(msgpack: Any, leaf: Any, keys: tuple[str, ...]) -> Tensor | None:
    if not isinstance(leaf, msgpack.ExtType) or leaf.code != _NDARRAY:
        return None
    shape, name, data = msgpack.unpackb(leaf.data, raw=True)
    dtype = name.decode()
    if dtype not in _DTYPES.values():
        raise ValueError(f"{'.'.join(keys)} has the type {dtype}")
    return Tensor(keys, dtype, np.frombuffer(data, "uint16" if dtype == "bfloat16" else dtype).reshape(shape))


def _library() -> Any:
    try:
        import msgpack
    except ImportError:
        raise InputError(
            "Flax's files need the package msgpack, which is not installed; run pip install msgpack."
        ) from None
    return msgpack
