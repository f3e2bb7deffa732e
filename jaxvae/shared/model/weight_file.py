"""The weight file: safetensors with PyTorch's names and layout, read and written by both packages.

Its metadata holds one entry, JSON: the version, the configuration, a digest of every tensor (safetensors itself has no
checksum, and would load a flipped bit without an error), and a digest of all this. It is a single entry, since
safetensors writes several in any order: the same weights are the same bytes. `safetensors` and
`Module.load_state_dict` read the file without this package.

A checkpoint is the same file with what a run needs to resume: Adam's state as `optimizer.NAME`, and as `run.NAME` the
number of steps taken, the root key, and the terms of the current epoch's steps; with an average of the weights, this
as `average.NAME`.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors.numpy import save as to_bytes

from jaxvae.shared import safe_io
from jaxvae.shared.config import own
from jaxvae.shared.config.serialization import from_json, to_json
from jaxvae.shared.config.spec import Spec
from jaxvae.shared.errors import InputError
from jaxvae.shared.model import layout, safetensors_reader
from jaxvae.shared.model.optimizer_state import MOMENTS, STEP, prefixed_phases
from jaxvae.shared.model.tensor_checks import Expected, check, expected_weights, finite, fit
from jaxvae.shared.safe_io import write_atomically
from jaxvae.shared.text import shown

VERSION = 2
_RUN_STATE = "optimizer.", "run.", "average."  # prefixes of a checkpoint's tensors that are not weights
_RETRAIN = "restore the file from a copy or train again"


def save(path: Path | str, spec: Spec, arrays: Mapping[str, np.ndarray]) -> None:
    """Write a weight file, whole or not at all.

    Args:
        path: The file.
        spec: The configuration.
        arrays: The weights, with the names and shapes of `layout.table`.

    Raises:
        InputError: If an array is missing, extra, of the wrong shape or dtype, or not finite, or if the file's folder
            doesn't exist.
    """
    path = _writable(path)
    check(arrays, spec, f"The weights for {path}")
    write_atomically(path, pack(spec, arrays))


class Checkpoint(NamedTuple):
    """The state of a run after one of its steps."""

    spec: Spec
    weights: dict[str, np.ndarray]
    optimizer: dict[str, np.ndarray]
    """The state of the optimizers, with the names of `optimizer_to_arrays` in either package."""
    step: int
    """Steps taken."""
    key: np.ndarray
    """The run's root key: `[2]`, uint32."""
    train: np.ndarray
    """The mean terms of the current epoch's steps: `[steps, terms]`, nats per image."""
    average: dict[str, np.ndarray] | None = None
    """The moving average of the weights, if the configuration has an `ema`."""


def save_checkpoint(path: Path | str, checkpoint: Checkpoint) -> None:
    """Write a checkpoint, whole or not at all. Raises InputError if it could not be read back: if an array is missing,
    extra, of the wrong shape or dtype, or not finite; or if its folder doesn't exist."""
    path, spec = _writable(path), checkpoint.spec
    state = {
        **{f"optimizer.{name}": array for name, array in checkpoint.optimizer.items()},
        "run.step": np.asarray(checkpoint.step, np.int64),
        "run.key": np.asarray(checkpoint.key, np.uint32),
        "run.train": checkpoint.train,
        **{f"average.{name}": array for name, array in (checkpoint.average or {}).items()},
    }
    check(checkpoint.weights, spec, f"The weights for {path}")
    where = f"The checkpoint for {path}"
    fit(state, _run_state(spec), where)
    finite(state, where)
    _resumable(spec, state, where)
    write_atomically(path, pack(spec, {**checkpoint.weights, **state}))


def load_checkpoint(path: Path | str) -> Checkpoint:
    """Read and verify a checkpoint.

    Args:
        path: The file.

    Returns:
        The checkpoint.

    Raises:
        InputError: If the file is not a checkpoint, is cut short, was changed since it was written, or lacks or has a
            tensor against its configuration.
    """
    path = safe_io.as_path(path, "The checkpoint")
    spec, weights, state = _read(path)
    if not state:
        raise InputError(f"{path} contains only weights; expected a training checkpoint.")
    return Checkpoint(spec, weights, *_resumable(spec, state, str(path)), _average(state) or None)


def pack(spec: Spec, arrays: Mapping[str, np.ndarray]) -> bytes:
    """Make the content of a weight file. The arrays are not checked.

    Args:
        spec: The configuration.
        arrays: The tensors by name.

    Returns:
        The bytes of the file, the same for the same configuration and arrays.
    """
    about = {
        "version": VERSION,
        "spec": to_json(spec),
        "digests": {name: digest(array) for name, array in arrays.items()},
    }
    about["digest"] = _digest_of(about)
    return to_bytes(
        {name: np.asarray(a, order="C") for name, a in arrays.items()}, {"jaxvae": json.dumps(about, sort_keys=True)}
    )


def load(path: Path | str) -> tuple[Spec, dict[str, np.ndarray]]:
    """Read and verify the weights in a weight file or a checkpoint.

    Args:
        path: The file, or the folder of a run.

    Returns:
        The configuration, and the weights by name in the order of `layout.table`; of a checkpoint with an average of
        the weights that average.

    Raises:
        InputError: If the file is neither, is cut short, was changed since it was written, or lacks or has a tensor
            against its configuration.
    """
    path = safe_io.as_path(path, "The weight file")
    inside = path / "model.safetensors"
    spec, arrays, state = _read(inside if inside.is_file() else path)
    if state:
        _resumable(spec, state, str(path))
    return spec, _average(state) or arrays


def _writable(path: Path | str) -> Path:
    path = safe_io.as_path(path, "The file to write")
    safe_io.require_writable(path, "give a file in a folder that exists")
    return path


def _read(path: Path) -> tuple[Spec, dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The configuration, the weights, and a checkpoint's other tensors; none for a weight file."""
    try:
        if (kind := safe_io.instead_of_file(path)) is not None:
            other = "" if kind == "nothing" else f", found {kind}"
            inside = path / "model.safetensors"  # of a run folder given for its file
            give = inside if inside.is_file() else "a run folder that has a model.safetensors"
            raise InputError(f"There is no weight file {path}{other}; give {give}.")
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            header = safetensors_reader.header(file, size)
            spec, digests = _about(header.get("__metadata__"), path)
            own.require_given(spec.model.parts, str(path))
            entries = safetensors_reader.tensors(header, file.tell(), size)
            is_checkpoint = any(name.startswith(_RUN_STATE) for name in entries)
            fit(entries, {**expected_weights(spec), **(_run_state(spec) if is_checkpoint else {})}, str(path))
            arrays = {
                name: _verified(safetensors_reader.array(file, entry), name, digests, path)
                for name, entry in entries.items()
            }
    except OSError as error:
        raise InputError(f"{path} can't be read ({error.strerror or error}); check its permissions.") from None
    except ValueError as error:
        raise InputError(f"{path} is not a whole safetensors file ({error}); {_RETRAIN}.") from None
    finite(arrays, str(path))
    weights = {parameter.name: arrays.pop(parameter.name) for parameter in layout.table(spec.model)}
    return spec, weights, arrays


def _about(metadata: object, path: Path) -> tuple[Spec, dict[str, Any]]:
    """The configuration in a file's metadata, and the digests of its tensors."""
    text = metadata.get("jaxvae") if isinstance(metadata, dict) else None
    try:
        about = safe_io.parse_json(text) if isinstance(text, str) else None
    except ValueError as error:
        raise ValueError(f"its configuration should be JSON: {error}") from None
    version = about.get("version") if isinstance(about, dict) else None
    if not isinstance(about, dict) or type(version) is not int or version != VERSION:
        other = "none" if version is None else f"version {shown(version)}"
        raise InputError(f"{path} must carry a configuration of version {VERSION}, as jaxvae writes it, found {other}.")
    if about.pop("digest", None) != _digest_of(about):
        raise InputError(f"{path} was changed since it was written: its metadata doesn't match its digest; {_RETRAIN}.")
    digests = about.get("digests")
    return from_json(about.get("spec"), f"The configuration in {path}"), digests if type(digests) is dict else {}


def _verified(array: np.ndarray, name: str, digests: Mapping[str, Any], path: Path) -> np.ndarray:
    actual, expected = digest(array), digests.get(name)
    if actual != expected:
        known = f"the SHA-256 digest {expected[:12]}..." if isinstance(expected, str) else "a digest in its metadata"
        raise InputError(
            f"{path} was changed since it was written: tensor {name} should have {known}, found {actual[:12]}...; "
            f"{_RETRAIN}."
        )
    return array


def _run_state(spec: Spec) -> dict[str, Expected]:
    """The expected tensors of a checkpoint that are not weights."""
    expected: dict[str, Expected] = {"run.step": ("int64", ()), "run.key": ("uint32", (2,))}
    expected["run.train"] = (spec.training.stored, (None, len(spec.terms)))
    for prefix, table in prefixed_phases(spec):
        expected[f"optimizer.{prefix}step"] = STEP
        for moment in MOMENTS:
            weights = expected_weights(spec, table)
            expected |= {f"optimizer.{prefix}{moment}.{name}": weight for name, weight in weights.items()}
    if spec.training.ema:
        expected |= {f"average.{name}": weight for name, weight in expected_weights(spec).items()}
    return expected


def _average(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The average of the weights by name; none without one."""
    return {name.removeprefix("average."): array for name, array in state.items() if name.startswith("average.")}


def _resumable(
    spec: Spec, arrays: Mapping[str, np.ndarray], where: str
) -> tuple[dict[str, np.ndarray], int, np.ndarray, np.ndarray]:
    """A checkpoint's optimizer, step, key and train, from its tensors. Raises InputError unless they agree."""
    step, train = int(arrays["run.step"]), arrays["run.train"]
    if step < len(train):
        raise InputError(f"{where}: run.train should hold the terms of steps before step {step}, found {len(train)}.")
    optimizer = {n.removeprefix("optimizer."): a for n, a in arrays.items() if n.startswith("optimizer.")}
    for prefix, _ in prefixed_phases(spec):
        if (adam_step := int(optimizer[f"{prefix}step"])) != step:
            raise InputError(f"{where}: optimizer.{prefix}step should be {step}, found {adam_step}.")
    return optimizer, step, arrays["run.key"], train


def digest(array: np.ndarray) -> str:
    """Compute the SHA-256 of an array's dtype, shape and little-endian bytes."""
    array = np.asarray(array, order="C")
    sha = hashlib.sha256(f"{array.dtype.newbyteorder('<').str} {list(array.shape)} ".encode())
    sha.update(array.astype(array.dtype.newbyteorder("<"), copy=False).data)
    return sha.hexdigest()


def _digest_of(about: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
