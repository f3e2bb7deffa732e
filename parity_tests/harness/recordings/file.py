"""Write and read recordings: safetensors with a digest of each array, of what made it and of both together."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as to_bytes

from jaxvae.shared.errors import InputError
from jaxvae.shared.safe_io import instead_of_file, write_atomically
from parity_tests.harness.recordings.arrays import Arrays, digest

VERSION = 3
FIELDS = (
    *("framework", "versions", "devices", "flags", "dtype", "mode", "method", "steps", "layers", "sample", "key"),
    *(
        "arguments",
        "outputs",
        "calls",
        "state",
        "unmoved",
        "drawn",
        "masks",
        "repeats",
        "order",
        "shapes",
        "digests of",
    ),
)
"""What `about` of a recording holds; one of torch has `skeleton` and `optimizer` too, one of JAX `function`."""
_AGAIN = "record it again"


def write(path: Path, about: Mapping[str, Any], arrays: Arrays) -> None:
    """Write a recording whole or not at all.

    Args:
        path: The file.
        about: What made it; plain JSON values.
        arrays: The arrays by name.

    Raises:
        InputError: If the file can't be written; what was there before stays.
    """
    stored = {name: _real(array) for name, array in arrays.items()}
    about = {
        **about,
        "version": VERSION,
        "complex": [name for name, array in arrays.items() if array.dtype.kind == "c"],
        "digests": {name: digest(array) for name, array in stored.items()},
    }
    about["digest"] = _digest(about)
    try:
        write_atomically(path, to_bytes(stored, {"recording": json.dumps(about, allow_nan=False)}))
    except OSError as error:
        raise InputError(f"{path} can't be written ({error.strerror}); choose another path.") from None


def read(path: Path) -> tuple[dict[str, Any], Arrays]:
    """Read and check a recording.

    Returns:
        What made it, and its arrays by name.

    Raises:
        InputError: If the file is missing, is no recording, is of another version, or was changed or cut off.
    """
    try:
        there = instead_of_file(path)
    except OSError as error:
        raise InputError(f"{path} can't be read ({error.strerror}); give another path.") from None
    if there is not None:
        raise InputError(f"{path}: expected a recording, found {there}: give the file that record wrote.")
    try:
        with safe_open(path, framework="np") as file:
            text = (file.metadata() or {}).get("recording")
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        first = (str(error).splitlines() or [""])[0]
        raise InputError(f"{path} is not a whole safetensors file ({first}); {_AGAIN}.") from None
    if text is None:
        raise InputError(f"{path} is a safetensors file but no recording; give the file that record wrote.")
    try:
        about = json.loads(text, parse_constant=_refuse)
        version, expected = about.pop("version"), about.pop("digest")
        changed = expected != _digest({**about, "version": version})
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise InputError(f"{path} is corrupt: what made it can't be read; {_AGAIN}.") from None
    if version != VERSION:
        raise InputError(f"{path} is a recording of version {version!r}, expected {VERSION}; {_AGAIN}.")
    if changed:
        raise InputError(f"{path} is corrupt: what made it was changed after it was written; {_AGAIN}.")
    if missing := [name for name in FIELDS if name not in about]:
        raise InputError(f"{path} is corrupt: it doesn't say its {missing[0]}; {_AGAIN}.")
    digests = about.pop("digests")
    for name in sorted(digests | arrays):
        if digests.get(name) != (digest(arrays[name]) if name in arrays else None):
            raise InputError(f"{path} is corrupt: {name} was changed after it was written; {_AGAIN}.")
    for name in about.pop("complex"):
        arrays[name] = np.ascontiguousarray(arrays[name]).view(np.result_type(arrays[name].dtype, np.complex64))[..., 0]
    return about, arrays


def _real(array: np.ndarray) -> np.ndarray:
    """Return an array as safetensors holds it: complex numbers as pairs, on a last axis."""
    array = np.asarray(array, order="C")
    return np.stack([np.real(array), np.imag(array)], -1) if array.dtype.kind == "c" else array


def _digest(about: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()


def _refuse(constant: str) -> NoReturn:
    raise ValueError(constant)
