"""The tensors in a folder that Orbax wrote, read by tensorstore, which needs no framework."""

import math
from pathlib import Path
from typing import Any

import numpy as np

from jaxvae.shared import safe_io
from jaxvae.shared.backend import Tensor
from jaxvae.shared.errors import InputError
from jaxvae.shared.interop import file_limits, tensor_trees
from jaxvae.shared.interop.file_limits import Budget
from jaxvae.shared.text import printable

_METADATA = "_METADATA"
_ITEMS = (".", "default", "params", "state")  # where a step of Orbax's CheckpointManager has its items
_LEAST_CHUNK = 2**10  # bytes that a part of an array counts as: each is looked for, even if it is not there
_PLAIN = ("float16", "bfloat16", "float32", "float64", "bool")


def item(path: Path) -> Path | None:
    """Find the folder of the arrays in a folder that Orbax wrote; None if it wrote none there."""
    return next((path / name for name in _ITEMS if (path / name / _METADATA).is_file()), None)


def read(path: Path, prefix: str | None) -> tuple[Tensor, ...]:
    """Read the model's tensors from a folder that Orbax wrote.

    Args:
        path: The folder.
        prefix: What the names of the tensors to read begin with; None for the model's.

    Returns:
        The tensors, in the order of its metadata.

    Raises:
        InputError: If the folder is incomplete or has no tensors, or if tensorstore is not installed.
    """
    try:
        import tensorstore
    except ImportError:
        raise InputError(
            f"{path} is an Orbax folder, which the package tensorstore reads, and it is not installed; run pip install "
            "tensorstore."
        ) from None
    folder = item(path) or path
    try:
        metadata = safe_io.read_json(folder / _METADATA)
        names = [[str(key["key"]) for key in entry["key_metadata"]] for entry in metadata["tree_metadata"].values()]
        file_limits.require_few(path, len(names), tensor_trees.WITH_OPTIMIZER)
        budget = Budget(path, sum(file.stat().st_size for file in path.rglob("*") if file.is_file()))
        tree = tensor_trees.nested(tuple(Tensor(tuple(name), "", np.empty(0)) for name in names), lambda it: it)

        def array(leaf: object, keys: tuple[str, ...]) -> Tensor | None:
            if type(leaf) is not Tensor:
                return None
            spec = _spec(folder.resolve(), ".".join(leaf.path), metadata)
            return _read(path, budget, tensorstore.open(spec, read=True).result(), keys)

        return tensor_trees.flat(path, tree, array, prefix)
    # What tensorstore raises, also of a text that is no Unicode, and what the metadata's reading does.
    except (ValueError, TypeError, LookupError, AttributeError, OSError, RuntimeError) as error:
        reason = printable((str(error) or type(error).__name__).splitlines()[0])
        raise InputError(f"{path} is not a whole Orbax folder ({reason}); copy it or save it again.") from None


def _spec(folder: Path, name: str, metadata: dict[str, Any]) -> dict[str, Any]:
    """Where tensorstore finds an array."""
    store = {"driver": "file", "path": f"{folder}/{'' if metadata.get('use_ocdbt') else name + '/'}"}
    if metadata.get("use_ocdbt"):
        store = {"driver": "ocdbt", "base": store, "path": f"{name}/"}
    return {"driver": "zarr3" if metadata.get("use_zarr3") else "zarr", "kvstore": store}


def _read(path: Path, budget: Budget, opened: Any, keys: tuple[str, ...]) -> Tensor:
    dtype = opened.dtype.name
    if dtype not in _PLAIN and not dtype.startswith(("int", "uint")):
        raise file_limits.wrong_type(path, ".".join(keys), dtype, "a plain number type")
    chunk = opened.chunk_layout.read_chunk.shape or opened.shape
    chunks = math.prod(-(-size // max(1, part)) for size, part in zip(opened.shape, chunk, strict=True))
    nbytes = opened.dtype.numpy_dtype.itemsize * max(math.prod(opened.shape), math.prod(chunk))
    budget.take(max(nbytes, _LEAST_CHUNK * chunks))
    array = np.asarray(opened.read().result())
    return Tensor(keys, dtype, array.view(np.uint16) if dtype == "bfloat16" else array)
