"""Zip files that hold tensors: what kind each is, and NumPy's .npz."""

import io
import zipfile
from pathlib import Path
from typing import Literal

import numpy as np

from jaxvae.shared.backend import Tensor
from jaxvae.shared.errors import InputError
from jaxvae.shared.interop import file_limits, tensor_trees
from jaxvae.shared.interop.file_limits import Budget
from jaxvae.shared.text import printable

_PLAIN = "biuf"  # NumPy's kinds of booleans, integers and floating-point numbers


def kind(path: Path) -> Literal["pickle", "npz"]:
    """Recognise a zip file by the files in it, and check their sizes.

    Args:
        path: The zip file.

    Returns:
        `pickle` for a file of torch.save, `npz` for NumPy's.

    Raises:
        InputError: If it is of another program, is cut short, or expands to far more bytes than it has.
    """
    try:
        with zipfile.ZipFile(path) as opened:
            members = opened.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, EOFError):
        raise InputError(
            f"{path} is not a whole file of plain tensors: it begins as a zip file, as torch.save writes it, and lacks "
            "its end; download or copy it again."
        ) from None
    names = [member.filename for member in members]
    folder = names[0].partition("/")[0] if names else ""
    if other := _other(set(names), folder):
        raise InputError(f"{path} must be a file of plain tensors, found {other}.")
    file_limits.require_few(path, len(members), tensor_trees.WITH_OPTIMIZER)
    budget = Budget(path)
    for member in members:
        budget.take(member.file_size)
    if names and all(name.endswith(".npy") for name in names):
        return "npz"
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise InputError(
            f"{path} must be a zip file as torch.save writes it, whose files are stored, found compressed ones; "
            "save the model's state_dict with torch.save."
        )
    return "pickle"


def _other(names: set[str], folder: str) -> str:
    """What another program's zip file is called, and what to do with it; empty for a file of tensors."""
    if {"config.json", "model.weights.h5"} <= names:
        return "a Keras model (.keras); save its weights with numpy.savez, by a known program's names"
    if f"{folder}/archive_format" in names or f"{folder}/serialized_exported_program.json" in names:
        return "a program of torch.export (.pt2); save the state_dict of the model that it was exported from"
    if f"{folder}/constants.pkl" in names or any(name.startswith(f"{folder}/code/") for name in names):
        return "a TorchScript program; save its state_dict: torch.save(torch.jit.load(FILE).state_dict(), OTHER)"
    if not any(name.endswith(("data.pkl", ".npy")) for name in names):
        return "a zip file of another kind; give the file that contains the model's tensors"
    return ""


def read_npz(path: Path) -> tuple[Tensor, ...]:
    """Read the arrays of a .npz file.

    Args:
        path: The file, whose sizes were checked by `kind`.

    Returns:
        The arrays as tensors, in the file's order. A `/` in a name separates keys as a `.` does.

    Raises:
        InputError: If an array contains objects, or the file is corrupt.
    """
    tensors = []
    try:
        with np.load(path, allow_pickle=False) as arrays:
            file_limits.require_few(path, len(arrays.files))
            for name in arrays.files:
                array = arrays[name]
                if array.dtype.kind not in _PLAIN:
                    raise file_limits.wrong_type(path, name, str(array.dtype), "a plain number type")
                array = array.astype(array.dtype.newbyteorder("="), copy=False)
                tensors.append(Tensor((name,), array.dtype.name, array))
    except InputError:
        raise
    except Exception as error:  # numpy, zipfile, zlib and Python's tokenizer each raise their own kinds
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"{path} is not a whole .npz file of plain arrays ({printable(reason)}); download or copy it again."
        ) from None
    return tuple(tensors)


def pack_npz(tensors: tuple[Tensor, ...]) -> bytes:
    """Pack arrays into the content of a .npz file, as numpy.savez writes it."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_STORED, allowZip64=True) as opened:
        for tensor in tensors:
            with opened.open(f"{tensor.path[0]}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, tensor.array, allow_pickle=False)
    return content.getvalue()
