"""Convert models of other programs, known ones and your own, from their files and tensors and back."""

import io
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from jaxvae.shared.backend import Tensor
from jaxvae.shared.errors import InputError
from jaxvae.shared.interop import file_limits, tensor_trees
from jaxvae.shared.interop.file_limits import Budget
from jaxvae.shared.interop.foreign import Foreign
from jaxvae.shared.text import printable
from torchvae.nets import VAE
from torchvae.params import from_arrays, to_arrays


class _Discarded:
    """Stands for a number of NumPy's, as callbacks and metrics have them beside the model; its value is not needed."""

    def __init__(self, *_: object) -> None: ...

    def __setstate__(self, _: object) -> None: ...


_NUMBERS: list[Any] = [
    (_Discarded, name) for name in ("numpy.dtype", "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
]


def _unpickle(path: Path, prefix: str | None) -> tuple[Tensor, ...]:
    try:
        with warnings.catch_warnings(action="ignore"), torch.serialization.safe_globals(_NUMBERS):  # of old formats
            tree = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # torch, zipfile and the unpickler each raise their own kinds
        asked = re.search(r"GLOBAL (\S+)", str(error))
        raise InputError(
            f"{path} is not a whole file of plain tensors, as torch.load opens it with weights_only"
            f"{f' (it asks for {printable(asked[1])})' if asked else ''}: files that contain code or objects are not "
            "opened; save only the model's state_dict."
        ) from None
    budget = Budget(path)
    return tensor_trees.flat(path, tree, lambda leaf, keys: _tensor(path, budget, leaf, keys), prefix)


def _tensor(path: Path, budget: Budget, leaf: Any, keys: tuple[str, ...]) -> Tensor | None:
    if not isinstance(leaf, torch.Tensor):
        return None
    dtype = str(leaf.dtype).removeprefix("torch.")
    if leaf.layout != torch.strided or leaf.is_nested or leaf.device.type != "cpu":
        kind = "a nested tensor" if leaf.is_nested else f"{leaf.layout} on {leaf.device.type}"
        raise file_limits.wrong_type(path, ".".join(keys), kind.removeprefix("torch."), "dense numbers")
    budget.take(leaf.numel() * leaf.element_size())
    try:
        leaf = leaf.detach().contiguous()
        array = (leaf.view(torch.uint16) if dtype == "bfloat16" else leaf).numpy()
    except (TypeError, RuntimeError):
        raise file_limits.wrong_type(path, ".".join(keys), dtype, "a plain number type") from None
    return Tensor(keys, dtype, array)


def _pickle(tensors: tuple[Tensor, ...]) -> bytes:
    content = io.BytesIO()
    torch.save(tensor_trees.nested(tensors, _torch), content)
    return content.getvalue()


def _torch(tensor: Tensor) -> torch.Tensor:
    array = torch.tensor(tensor.array)
    return array.view(torch.bfloat16) if tensor.dtype == "bfloat16" else array


def _to_numpy(array: Any) -> np.ndarray:
    if not isinstance(array, torch.Tensor):
        return np.asarray(array)
    array = array.detach().cpu()
    return (array.float() if array.dtype == torch.bfloat16 else array).numpy()


_foreign = Foreign[VAE](from_arrays, to_arrays, _to_numpy, _unpickle, _pickle)
load_foreign = _foreign.load_foreign
from_foreign = _foreign.from_foreign
to_foreign = _foreign.to_foreign
read_foreign = _foreign.read_foreign
pack_foreign = _foreign.pack_foreign
