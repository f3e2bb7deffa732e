"""Convert models of other programs, known ones and your own, from their files and tensors and back."""

import io
from typing import Any

import numpy as np
import torch

from jaxvae.shared.backend import Tensor
from jaxvae.shared.interop import tensor_trees
from jaxvae.shared.interop.foreign import Foreign
from torchvae.networks import VAE
from torchvae.params import from_arrays, to_arrays
from torchvae.pickles import unpickle


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


_foreign = Foreign[VAE](from_arrays, to_arrays, _to_numpy, unpickle, _pickle)
load_foreign = _foreign.load_foreign
from_foreign = _foreign.from_foreign
to_foreign = _foreign.to_foreign
read_foreign = _foreign.read_foreign
pack_foreign = _foreign.pack_foreign
