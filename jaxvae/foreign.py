"""Convert models of other programs, known ones and your own, from their files and tensors and back."""

import importlib.util
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from jaxvae.nets import Params
from jaxvae.params import from_arrays, to_arrays
from jaxvae.shared.backend import Tensor
from jaxvae.shared.errors import InputError
from jaxvae.shared.interop import tensor_archive
from jaxvae.shared.interop.foreign import Foreign
from jaxvae.shared.text import printable


def _unpickle(path: Path, prefix: str | None) -> tuple[Tensor, ...]:
    """Read the tensors of a PyTorch pickle in a process of torchvae, since torch is never imported here."""
    if importlib.util.find_spec("torch") is None:
        raise InputError(
            f"{path} is a PyTorch pickle, which torch reads, and torch is not installed; run pip install torch, or "
            "save the state_dict with safetensors.torch.save_file where it is."
        )
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "tensors.npz"
        command = [sys.executable, "-P", "-m", "torchvae.pickles", str(path), str(out), *([prefix] if prefix else [])]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        result = subprocess.run(command, env=environment, capture_output=True, text=True, errors="replace")
        if result.returncode == InputError.status:
            raise InputError(result.stdout.strip())
        if result.returncode != 0:
            reason = printable((result.stderr.strip().splitlines() or ["no reason given"])[-1], 200)
            raise InputError(
                f"{path} is a PyTorch pickle, and the process that reads it with torch ended with status "
                f"{result.returncode} ({reason}); save the state_dict with safetensors.torch.save_file."
            )
        return tensor_archive.read(out)


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
