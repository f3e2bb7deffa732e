"""The tensors in PyTorch's pickles, which torch reads without running their code.

`python -m torchvae.pickles FILE OUT [PREFIX]` writes them to an archive, for jaxvae, which never imports torch. Its
exit status is 2 if the file can't be read, with the reason on standard output.
"""

import re
import sys
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch

from jaxvae.shared.backend import Tensor
from jaxvae.shared.errors import InputError
from jaxvae.shared.interop import file_limits, pickle_limits, tensor_archive, tensor_trees
from jaxvae.shared.interop.file_limits import Budget
from jaxvae.shared.text import printable


class _Discarded:
    """Stands for a number of NumPy's, as callbacks and metrics have them beside the model; its value is not needed."""

    def __init__(self, *_: object) -> None: ...

    def __setstate__(self, _: object) -> None: ...


_NUMBERS: list[Any] = [
    (_Discarded, name) for name in ("numpy.dtype", "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
]


def unpickle(path: Path, prefix: str | None) -> tuple[Tensor, ...]:
    """Read the tensors of a PyTorch pickle. No code in it is run.

    Args:
        path: The file.
        prefix: What the names of the tensors to read begin with; None for the model's.

    Returns:
        The tensors, in the file's order.

    Raises:
        InputError: If the file is cut short, contains code or objects, or has no tensors by name.
    """
    pickle_limits.require_small_tuples(path)
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
        kind = "a nested tensor" if leaf.is_nested else str(leaf.layout).removeprefix("torch.")
        kind = kind if leaf.device.type == "cpu" else f"no numbers, since it is on {leaf.device.type}"
        raise file_limits.wrong_type(path, ".".join(keys), kind, "dense numbers")
    budget.take(leaf.numel() * leaf.element_size())
    try:
        leaf = leaf.detach().contiguous()
        array = (leaf.view(torch.uint16) if dtype == "bfloat16" else leaf).numpy()
    except (TypeError, RuntimeError):
        raise file_limits.wrong_type(path, ".".join(keys), dtype, "a plain number type") from None
    return Tensor(keys, dtype, array)


def main() -> int:
    path, out, *prefix = sys.argv[1:]
    try:
        tensor_archive.write(Path(out), unpickle(Path(path), *prefix or [None]))
    except InputError as error:
        print(error)
        return error.status
    return 0


if __name__ == "__main__":
    sys.exit(main())
