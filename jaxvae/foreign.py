"""Convert models of other programs, known ones and your own, from their files and tensors and back."""

from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from jaxvae.nets import Params
from jaxvae.params import from_arrays, to_arrays
from jaxvae.shared.backend import Tensor
from jaxvae.shared.errors import InputError
from jaxvae.shared.interop.foreign import Foreign


def _unpickle(path: Path, _: str | None) -> NoReturn:
    raise InputError(f"{path} is a PyTorch pickle, which only torchvae opens; use torchvae import.")


def _pickle(tensors: tuple[Tensor, ...]) -> NoReturn:
    raise InputError("The source is a PyTorch pickle, which only torchvae writes; use torchvae export.")


def _to_numpy(array: Any) -> np.ndarray:
    array = np.asarray(array)
    return array.astype(np.float32) if array.dtype.name == "bfloat16" else array


_foreign = Foreign[Params](from_arrays, to_arrays, _to_numpy, _unpickle, _pickle)
load_foreign = _foreign.load_foreign
from_foreign = _foreign.from_foreign
to_foreign = _foreign.to_foreign
read_foreign = _foreign.read_foreign
pack_foreign = _foreign.pack_foreign
