"""Other people's models, known ones and your own: from their files and tensors, and back."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from jaxvae.nets import Params
from jaxvae.params import from_arrays, to_arrays
from jaxvae.shared.config.spec import Spec
from jaxvae.shared.errors import InputError
from jaxvae.shared.interop import adopt, name_mapping, readers
from jaxvae.shared.interop.name_mapping import Rule
from jaxvae.shared.interop.readers import File


def load_foreign(
    path: Path | str, preset: str | None = None, image: tuple[int, int, int] | None = None
) -> tuple[Spec, Params]:
    """The configuration and parameters of a known program's checkpoint, as `import` has them: with the loss of
    `preset` and images of height, width and channels `image` where the tensors leave these open. Raises InputError,
    listing the tensors, for one that isn't known."""
    adopted = adopt.adopt(Path(path), read_foreign(path), preset, image)
    return adopted.spec, from_arrays(adopted.spec, adopted.arrays)


def from_foreign(spec: Spec, rules: Sequence[Rule], arrays: Mapping[str, Any]) -> Params:
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


def to_foreign(spec: Spec, rules: Sequence[Rule], params: Params) -> dict[str, np.ndarray]:
    """The arrays that `from_foreign` takes, in the order of the rules."""
    return name_mapping.to_theirs(spec, rules, to_arrays(spec, params))


def read_foreign(path: Path | str) -> File:
    """The model's tensors in another program's file, in its order. A pickle is opened with torch's `weights_only`, in
    torchvae alone. Raises InputError for what is no such file, or holds code."""
    return readers.read(Path(path), _unopened)


def pack_foreign(file: File) -> bytes:
    """The content of such a file. Raises InputError for a pickle in jaxvae."""
    return readers.pack(file, _unwritten)


def _unopened(path: Path) -> NoReturn:
    raise InputError(f"{path} is a pickle of torch's, which takes torch to open; use torchvae for it: torchvae import.")


def _unwritten(tensors: tuple) -> NoReturn:
    raise InputError("The source is a pickle of torch's, which takes torch to write; use torchvae for it.")


def _numpy(array: Any) -> np.ndarray:
    array = np.asarray(array)
    return array.astype(np.float32) if array.dtype.name == "bfloat16" else array
