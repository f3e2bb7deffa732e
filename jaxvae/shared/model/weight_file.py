"""The weight file: safetensors with PyTorch's names and layout, read and written by both packages.

Its metadata holds one entry, JSON: the version, the configuration, a digest of every tensor (safetensors itself has no
checksum: a flipped bit would load in silence), and a digest of all this. One entry, since safetensors shuffles several:
so the same weights are the same bytes. `safetensors` and `Module.load_state_dict` read the file with no code of ours.

A checkpoint is the same file with what a run needs to go on: Adam's state behind `optimizer.`, and behind `run.` the
steps taken, the root key, and the terms of the epoch's steps so far.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors.numpy import save as to_bytes

from jaxvae.shared import safe_io
from jaxvae.shared.config.serialization import from_json, to_json
from jaxvae.shared.config.spec import Spec
from jaxvae.shared.errors import InputError
from jaxvae.shared.model import layout, safetensors_reader
from jaxvae.shared.safe_io import write_atomically
from jaxvae.shared.text import named, shown

VERSION = 2
_CARRIED = "optimizer.", "run."  # what a checkpoint's tensors are called that are no weights
_MOMENTS = "exp_avg", "exp_avg_sq"
_STEP = "int32", ()
_RETRAIN = "restore the file from a copy or train again"

Expected = tuple[str, tuple[int | None, ...]]
"""A tensor's dtype, and its shape with None where any size will do."""
Shaped = np.ndarray | safetensors_reader.Tensor


def save(path: Path, spec: Spec, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes the arrays, named and shaped as `layout.table` says, whole or not at all. Raises InputError if one is
    missing, extra, misshapen or not finite: such a file could not be read back."""
    check(arrays, spec, f"The weights for {path}")
    write_atomically(path, pack(spec, arrays))


class Checkpoint(NamedTuple):
    """A run at one of its steps, within an epoch or at its end."""

    spec: Spec
    weights: dict[str, np.ndarray]
    optimizer: dict[str, np.ndarray]
    """As `optimizer_to_arrays` of either package names it."""
    step: int
    """Steps taken."""
    key: np.ndarray
    """The run's root key: `[2]`, uint32."""
    train: np.ndarray
    """The mean terms of its epoch's steps so far: `[steps, terms]`, nats per image."""


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Writes it whole or not at all. Raises InputError for what could not be read back."""
    spec = checkpoint.spec
    carried = {
        **{f"optimizer.{name}": array for name, array in checkpoint.optimizer.items()},
        "run.step": np.asarray(checkpoint.step, np.int64),
        "run.key": np.asarray(checkpoint.key, np.uint32),
        "run.train": checkpoint.train,
    }
    check(checkpoint.weights, spec, f"The weights for {path}")
    where = f"The checkpoint for {path}"
    fit(carried, _carried(spec), where)
    finite(carried, where)
    _resumable(spec, carried, where)
    write_atomically(path, pack(spec, {**checkpoint.weights, **carried}))


def load_checkpoint(path: Path) -> Checkpoint:
    """Reads it. Raises InputError for a file that is not one, is cut short, was changed since it was written, or
    doesn't hold exactly what its configuration calls for."""
    spec, weights, carried = _read(path)
    if not carried:
        raise InputError(f"{path} holds weights alone; a checkpoint, which a run can go on from, is called for.")
    return Checkpoint(spec, weights, *_resumable(spec, carried, str(path)))


def pack(spec: Spec, arrays: Mapping[str, np.ndarray]) -> bytes:
    """The content of a weight file of these arrays, whatever they are."""
    about = {
        "version": VERSION,
        "spec": to_json(spec),
        "digests": {name: digest(array) for name, array in arrays.items()},
    }
    about["digest"] = _digest_of(about)
    return to_bytes(
        {name: np.asarray(a, order="C") for name, a in arrays.items()}, {"jaxvae": json.dumps(about, sort_keys=True)}
    )


def load(path: Path) -> tuple[Spec, dict[str, np.ndarray]]:
    """The configuration and the arrays of a weight file or a checkpoint, in the order of `layout.table`. Raises
    InputError for a file that is not one, is cut short, was changed since it was written, or doesn't hold exactly its
    model's tensors."""
    spec, arrays, carried = _read(path)
    if carried:
        _resumable(spec, carried, str(path))
    return spec, arrays


def _read(path: Path) -> tuple[Spec, dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The configuration, the weights, and what else a checkpoint carries."""
    try:
        if (found := safe_io.instead_of_file(path)) is not None:
            found = "" if found == "nothing" else f", found {found}"
            raise InputError(f"There is no weight file {path}{found}; give a run folder that has a model.safetensors.")
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            header = safetensors_reader.header(file, size)
            spec, digests = _about(header.get("__metadata__"), path)
            named = safetensors_reader.tensors(header, file.tell(), size)
            carries = any(name.startswith(_CARRIED) for name in named)
            fit(named, {**_weights(spec), **(_carried(spec) if carries else {})}, str(path))
            arrays = {
                name: _verified(safetensors_reader.array(file, named[name]), name, digests, path) for name in named
            }
    except OSError as error:
        raise InputError(f"{path} can't be read ({error.strerror or error}); see who may read it.") from None
    except ValueError as error:
        raise InputError(f"{path} is not a whole safetensors file ({error}); {_RETRAIN}.") from None
    finite(arrays, str(path))
    weights = {parameter.name: arrays.pop(parameter.name) for parameter in layout.table(spec.model)}
    return spec, weights, arrays


def _about(metadata: object, path: Path) -> tuple[Spec, dict[str, Any]]:
    """The configuration that a file carries, and the digests of its tensors."""
    text = metadata.get("jaxvae") if isinstance(metadata, dict) else None
    try:
        about = safe_io.parse_json(text) if isinstance(text, str) else None
    except ValueError as error:
        raise ValueError(f"its configuration should be JSON: {error}") from None
    version = about.get("version") if isinstance(about, dict) else None
    if not isinstance(about, dict) or type(version) is not int or version != VERSION:
        found = "none" if version is None else f"version {shown(version)}"
        raise InputError(f"{path} must carry a configuration of version {VERSION}, as jaxvae writes it, found {found}.")
    if about.pop("digest", None) != _digest_of(about):
        raise InputError(f"{path} was changed since it was written: its metadata doesn't match its digest; {_RETRAIN}.")
    digests = about.get("digests")
    return from_json(about.get("spec"), f"The configuration in {path}"), digests if type(digests) is dict else {}


def _verified(array: np.ndarray, name: str, digests: Mapping[str, Any], path: Path) -> np.ndarray:
    found, expected = digest(array), digests.get(name)
    if found != expected:
        told = f"the SHA-256 digest {expected[:12]}..." if isinstance(expected, str) else "a digest in its metadata"
        raise InputError(
            f"{path} was changed since it was written: tensor {name} should have {told}, found {found[:12]}...; "
            f"{_RETRAIN}."
        )
    return array


def _weights(spec: Spec, table: Sequence[layout.Parameter] | None = None) -> dict[str, Expected]:
    """What the tensors of the model, or of `table`, should be."""
    table = layout.table(spec.model) if table is None else table
    return {parameter.name: (spec.training.stored, parameter.shape) for parameter in table}


def _carried(spec: Spec) -> dict[str, Expected]:
    """What a checkpoint's other tensors should be."""
    expected: dict[str, Expected] = {"run.step": ("int64", ()), "run.key": ("uint32", (2,))}
    expected["run.train"] = (spec.training.stored, (None, len(spec.terms)))
    for prefix, table in _phases(spec):
        expected[f"optimizer.{prefix}step"] = _STEP
        for moment in _MOMENTS:
            found = _weights(spec, table)
            expected |= {f"optimizer.{prefix}{moment}.{name}": owed for name, owed in found.items()}
    return expected


def _resumable(
    spec: Spec, arrays: Mapping[str, np.ndarray], where: str
) -> tuple[dict[str, np.ndarray], int, np.ndarray, np.ndarray]:
    """What a checkpoint carries beside the weights, from its file's arrays. Raises InputError unless it is whole."""
    step, train = int(arrays["run.step"]), arrays["run.train"]
    if step < len(train):
        raise InputError(f"{where}: run.train should hold the terms of steps before step {step}, found {len(train)}.")
    optimizer = {n.removeprefix("optimizer."): a for n, a in arrays.items() if n.startswith("optimizer.")}
    for prefix, _ in _phases(spec):
        if (found := int(optimizer[f"{prefix}step"])) != step:
            raise InputError(f"{where}: optimizer.{prefix}step should be {step}, found {found}.")
    return optimizer, step, arrays["run.key"], train


def check(
    arrays: Mapping[str, np.ndarray], spec: Spec, where: str, table: Sequence[layout.Parameter] | None = None
) -> None:
    """Raises InputError unless the arrays are exactly the model's, or those of `table`: no name missing or extra, every
    shape right, every dtype the configuration's, every number finite."""
    fit(arrays, _weights(spec, table), where)
    finite(arrays, where)


def fit(found: Mapping[str, Shaped], expected: Mapping[str, Expected], where: str) -> None:
    """Raises InputError unless what is found are tensors of these names, dtypes and shapes, and no others."""
    missing = [name for name in expected if name not in found]
    extra = sorted(name for name in found if name not in expected)
    if missing:
        raise InputError(f"{where} lacks the tensor {named(missing)} that its configuration calls for.")
    if extra:
        raise InputError(f"{where} has the tensor {named(extra)} that its configuration doesn't call for.")
    for name, (dtype, shape) in expected.items():
        tensor = found[name]
        same = len(shape) == len(tensor.shape) and all(s in (None, t) for s, t in zip(shape, tensor.shape, strict=True))
        if not same:
            owed = ", ".join("steps" if size is None else str(size) for size in shape)
            raise InputError(
                f"{where}: tensor {name} should have the shape [{owed}], found {list(map(int, tensor.shape))}."
            )
        if str(tensor.dtype) != dtype:
            raise InputError(f"{where}: tensor {name} should be {dtype}, found {tensor.dtype}.")


def finite(arrays: Mapping[str, np.ndarray], where: str) -> None:
    """Raises InputError if one of the arrays is not finite."""
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            place = [int(i) for i in np.argwhere(~np.isfinite(array))[0]]
            raise InputError(f"{where}: tensor {name} must be finite, found {array[tuple(place)]} at {place}.")


class Moments(NamedTuple):
    """The state of one Adam."""

    step: int
    exp_avg: dict[str, np.ndarray]
    """By the name of the weight."""
    exp_avg_sq: dict[str, np.ndarray]


def moments(arrays: Mapping[str, np.ndarray], spec: Spec, where: str = "The optimizer") -> dict[str, Moments]:
    """Each phase's Adam, from `exp_avg.NAME`, `exp_avg_sq.NAME` and `step`, which several phases write behind their own
    name and a dot. Raises InputError unless the arrays are these and no others."""
    found, rest = {}, dict(arrays)
    for phase, (prefix, table) in zip(spec.phases, _phases(spec), strict=True):
        step = rest.pop(f"{prefix}step", None)
        if step is None:
            raise InputError(f"{where}'s state lacks its {prefix}step.")
        fit({f"{prefix}step": step}, {f"{prefix}step": _STEP}, f"{where}'s state")
        both = []
        for moment in _MOMENTS:
            names = [name for name in rest if name.startswith(f"{prefix}{moment}.")]
            both.append({name.removeprefix(f"{prefix}{moment}."): rest.pop(name) for name in names})
            check(both[-1], spec, f"{where}'s {prefix}{moment}", table)
        found[phase] = Moments(int(step), *both)
    if rest:
        raise InputError(f"{where}'s state has {', '.join(rest)} without a place.")
    return found


def _phases(spec: Spec) -> list[tuple[str, tuple[layout.Parameter, ...]]]:
    """What the names of each phase's Adam begin with, and what it trains."""
    return [(phase and f"{phase}.", trained(spec, networks)) for phase, networks in spec.phases.items()]


def trained(spec: Spec, networks: tuple[str, ...]) -> tuple[layout.Parameter, ...]:
    """What the optimizer of these networks trains, in the order of `layout.table`."""
    return tuple(p for p in layout.table(spec.model) if p.trained and p.network in networks)


def digest(array: np.ndarray) -> str:
    """SHA-256 of the array's dtype, shape and little-endian bytes."""
    array = np.asarray(array, order="C")
    sha = hashlib.sha256(f"{array.dtype.newbyteorder('<').str} {list(array.shape)} ".encode())
    sha.update(array.astype(array.dtype.newbyteorder("<"), copy=False).data)
    return sha.hexdigest()


def _digest_of(about: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
