"""Convert models of other programs, known ones and your own, from their files and tensors and back."""

import io
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from jaxvae.shared.backend import Tensor
from jaxvae.shared.errors import InputError
from jaxvae.shared.interop import readers
from jaxvae.shared.interop.foreign import Foreign
from torchvae.nets import VAE
from torchvae.params import from_arrays, to_arrays


def _unpickle(path: Path) -> tuple[Tensor, ...]:
    try:
        with warnings.catch_warnings(action="ignore"):  # of old formats
            tree = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch, zipfile and the unpickler each raise their own kinds
        named = re.search(r"GLOBAL (\S+)", str(error))
        raise InputError(
            f"{path} is not a whole file of plain tensors, as torch.load opens it with weights_only"
            f"{f' (it asks for {named[1]})' if named else ''}: files that contain code or objects are not opened; save "
            "only the model's state_dict."
        ) from None
    return readers.flat(tree, lambda leaf, keys: _tensor(path, leaf, keys))


def _tensor(path: Path, leaf: Any, keys: tuple[str, ...]) -> Tensor | None:
    if not isinstance(leaf, torch.Tensor):
        return None
    dtype = str(leaf.dtype).removeprefix("torch.")
    try:
        leaf = leaf.detach().contiguous()
        array = (leaf.view(torch.uint16) if dtype == "bfloat16" else leaf).numpy()
    except (TypeError, RuntimeError):
        raise InputError(
            f"{path}: tensor {'.'.join(keys)} must have a plain number type, found {dtype}; convert it."
        ) from None
    return Tensor(keys, dtype, array)


def _pickle(tensors: tuple[Tensor, ...]) -> bytes:
    content = io.BytesIO()
    torch.save(readers.nested(tensors, _torch), content)
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
