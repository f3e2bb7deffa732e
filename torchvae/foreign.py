"""Other people's models, known ones and your own: from their files and tensors, and back."""

import io
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from jaxvae.shared.config.spec import Spec
from jaxvae.shared.errors import InputError
from jaxvae.shared.interop import adopt, name_mapping, readers
from jaxvae.shared.interop.name_mapping import Rule
from jaxvae.shared.interop.readers import File, Tensor
from torchvae.nets import VAE
from torchvae.params import from_arrays, to_arrays


def load_foreign(
    path: Path | str, preset: str | None = None, image: tuple[int, int, int] | None = None
) -> tuple[Spec, VAE]:
    """The configuration and parameters of a known program's checkpoint, as `import` has them: with the loss of
    `preset` and images of height, width and channels `image` where the tensors leave these open. Raises InputError,
    listing the tensors, for one that isn't known."""
    adopted = adopt.adopt(Path(path), read_foreign(path), preset, image)
    return adopted.spec, from_arrays(adopted.spec, adopted.arrays)


def from_foreign(spec: Spec, rules: Sequence[Rule], arrays: Mapping[str, Any]) -> VAE:
    """The parameters from named arrays, NumPy's or the framework's, of your own model, by a table of where each goes. A
    state_dict is such arrays, and so is what flax.traverse_util.flatten_dict(params, sep=".") gives. Raises InputError,
    naming each, if one is missing, extra or misshapen.

    >>> import numpy as np
    >>> from jaxvae.shared.foreign import Rule
    >>> from jaxvae.shared.spec import ModelSpec, Spec
    >>> spec = Spec(model=ModelSpec(image=(2, 2, 1), hidden=(3,), latent=1))
    >>> rules = [
    ...     Rule("enc.{2i}.*", "encoder.hidden.{i}.*"),
    ...     Rule("enc.{2n}.*", "encoder.mean.* + encoder.logvar.*"),
    ...     Rule("dec.{2i}.*", "decoder.hidden.{i}.*"),
    ...     Rule("dec.{2n}.*", "decoder.logits.*"),
    ... ]
    >>> shapes = {"enc.0": (3, 4), "enc.2": (2, 3), "dec.0": (3, 1), "dec.2": (4, 3)}
    >>> arrays = {f"{name}.weight": np.ones(shape) for name, shape in shapes.items()}
    >>> arrays |= {f"{name}.bias": np.zeros(shape[0]) for name, shape in shapes.items()}
    >>> back = to_foreign(spec, rules, from_foreign(spec, rules, arrays))
    >>> [(name, array.shape) for name, array in back.items()][:4]
    [('enc.0.weight', (3, 4)), ('enc.0.bias', (3,)), ('enc.2.weight', (2, 3)), ('enc.2.bias', (2,))]
    """
    return from_arrays(
        spec, name_mapping.to_ours(spec, rules, {n: _numpy(a) for n, a in arrays.items()}, "What is given")
    )


def to_foreign(spec: Spec, rules: Sequence[Rule], model: VAE) -> dict[str, np.ndarray]:
    """The arrays that `from_foreign` takes, in the order of the rules."""
    return name_mapping.to_theirs(spec, rules, to_arrays(spec, model))


def read_foreign(path: Path | str) -> File:
    """The model's tensors in another program's file, in its order. A pickle is opened with torch's `weights_only`, in
    torchvae alone. Raises InputError for what is no such file, or holds code."""
    return readers.read(Path(path), _unpickled)


def pack_foreign(file: File) -> bytes:
    """The content of such a file. Raises InputError for a pickle in jaxvae."""
    return readers.pack(file, _pickled)


def _unpickled(path: Path) -> tuple[Tensor, ...]:
    try:
        with warnings.catch_warnings(action="ignore"):  # of old formats, which are no concern of the reader's
            tree = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch, zipfile and its unpickler each raise their own kinds
        named = re.search(r"GLOBAL (\S+)", str(error))
        raise InputError(
            f"{path} is not a whole file of plain tensors, as torch.load opens it with weights_only"
            f"{f' (it asks for {named[1]})' if named else ''}: one that holds code or objects is not opened; save the "
            "model's state_dict alone."
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
            f"{path}: tensor {'.'.join(keys)} must be of plain numbers, found {dtype}; convert it."
        ) from None
    return Tensor(keys, dtype, array)


def _pickled(tensors: tuple[Tensor, ...]) -> bytes:
    content = io.BytesIO()
    torch.save(readers.nested(tensors, _torch), content)
    return content.getvalue()


def _torch(tensor: Tensor) -> torch.Tensor:
    array = torch.tensor(tensor.array)
    return array.view(torch.bfloat16) if tensor.dtype == "bfloat16" else array


def _numpy(array: Any) -> np.ndarray:
    if not isinstance(array, torch.Tensor):
        return np.asarray(array)
    array = array.detach().cpu()
    return (array.float() if array.dtype == torch.bfloat16 else array).numpy()
