"""A file of tensors that one process writes for another, which reads it and removes it."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from jaxvae.shared.backend import Tensor


def write(path: Path, tensors: tuple[Tensor, ...]) -> None:
    """Write tensors to a file, in their order."""
    about = json.dumps([[tensor.path, tensor.dtype] for tensor in tensors])
    arrays: dict[str, Any] = {str(i): tensor.array for i, tensor in enumerate(tensors)}
    with path.open("wb") as file:
        np.savez(file, about=np.frombuffer(about.encode(), np.uint8), **arrays)


def read(path: Path) -> tuple[Tensor, ...]:
    """Read the tensors of a file that `write` wrote."""
    with np.load(path, allow_pickle=False) as arrays:
        about = json.loads(arrays["about"].tobytes())
        return tuple(Tensor(tuple(keys), dtype, arrays[str(i)]) for i, (keys, dtype) in enumerate(about))
