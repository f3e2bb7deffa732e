"""The weight file: safetensors with PyTorch's names and layout, read and written by both packages.

Its metadata holds one entry, JSON: the version, the configuration, a digest of every tensor (safetensors itself has no
checksum: a flipped bit would load in silence), and a digest of all this. One entry, since safetensors shuffles several:
so the same weights are the same bytes. `safetensors` and `Module.load_state_dict` read the file with no code of ours.

A checkpoint is the same file with what a run needs to go on: Adam's state behind `optimizer.`, and behind `run.` the
steps taken, the root key, and the terms of the epoch's steps so far.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as to_bytes

from jaxvae.shared import layout
from jaxvae.shared import spec as specs
from jaxvae.shared.errors import InputError
from jaxvae.shared.runs import write_atomically
from jaxvae.shared.spec import Spec

VERSION = 2
_CARRIED = "optimizer.", "run."  # what a checkpoint's tensors are called that are no weights
_RETRAIN = "restore the file from a copy or train again"


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
    _carried(spec, carried, f"The checkpoint for {path}")
    write_atomically(path, pack(spec, {**checkpoint.weights, **carried}))


def load_checkpoint(path: Path) -> Checkpoint:
    """Reads it. Raises InputError for a file that is not one, is cut short, was changed since it was written, or
    doesn't hold exactly what its configuration calls for."""
    spec, weights, carried = _read(path)
    if not carried:
        raise InputError(f"{path} holds weights alone; a checkpoint, which a run can go on from, is called for.")
    return Checkpoint(spec, weights, *_carried(spec, carried, str(path)))


def pack(spec: Spec, arrays: Mapping[str, np.ndarray]) -> bytes:
    """The content of a weight file of these arrays, whatever they are."""
    about = {
        "version": VERSION,
        "spec": specs.to_json(spec),
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
        _carried(spec, carried, str(path))
    return spec, arrays


def _read(path: Path) -> tuple[Spec, dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The configuration, the weights, and what else a checkpoint carries."""
    if not path.is_file():
        raise InputError(f"There is no weight file {path}; give a run folder that has a model.safetensors.")
    try:
        with safe_open(path, framework="np") as file:
            about = json.loads((file.metadata() or {}).get("jaxvae", "{}"))
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except OSError as error:
        raise InputError(f"{path} can't be read ({error.strerror or error}); see who may read it.") from None
    except (SafetensorError, ValueError, TypeError, RecursionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path} is not a whole safetensors file ({reason}); {_RETRAIN}.") from None
    if not isinstance(about, dict) or about.get("version") != VERSION:
        found = f"version {about['version']!r}" if isinstance(about, dict) and "version" in about else "none"
        raise InputError(f"{path} must carry a configuration of version {VERSION}, as jaxvae writes it, found {found}.")
    if about.pop("digest", None) != _digest_of(about):
        raise InputError(f"{path} was changed since it was written: its metadata doesn't match its digest; {_RETRAIN}.")
    spec = specs.from_json(about.get("spec"), f"The configuration in {path}")
    digests = about.get("digests", {})
    for name, array in arrays.items():
        found, expected = digest(array), str(digests.get(name) if isinstance(digests, dict) else None)
        if found != expected:
            raise InputError(
                f"{path} was changed since it was written: tensor {name} should have the SHA-256 digest "
                f"{expected[:12]}..., found {found[:12]}...; {_RETRAIN}."
            )
    carried = {name: arrays.pop(name) for name in list(arrays) if name.startswith(_CARRIED)}
    check(arrays, spec, str(path))
    return spec, {parameter.name: arrays[parameter.name] for parameter in layout.table(spec.model)}, carried


def _carried(
    spec: Spec, arrays: Mapping[str, np.ndarray], where: str
) -> tuple[dict[str, np.ndarray], int, np.ndarray, np.ndarray]:
    """What a checkpoint carries beside the weights, from its file's arrays. Raises InputError unless it is whole."""
    rest = dict(arrays)
    optimizer = {n.removeprefix("optimizer."): rest.pop(n) for n in list(rest) if n.startswith("optimizer.")}
    expected = {"run.step": ([], "int64"), "run.key": ([2], "uint32"), "run.train": (None, spec.training.dtype)}
    if set(rest) != set(expected):
        raise InputError(f"{where} must carry {', '.join(expected)}, found {', '.join(sorted(rest)) or 'none'}.")
    for name, (shape, dtype) in expected.items():
        found, terms = rest[name], len(spec.terms)
        fits = found.ndim == 2 and found.shape[1] == terms if shape is None else list(found.shape) == shape
        if not fits or found.dtype != np.dtype(dtype):
            owed = f"[steps, {terms}]" if shape is None else str(shape)
            raise InputError(
                f"{where}: {name} should be {dtype} of the shape {owed}, found {found.dtype} of {list(found.shape)}."
            )
    step, train = int(rest["run.step"]), rest["run.train"]
    if step < len(train) or not np.isfinite(train).all():
        raise InputError(f"{where}: run.train should hold the finite terms of steps before step {step}.")
    for phase, adam in moments(optimizer, spec, f"{where}: the optimizer").items():
        if adam.step != step:
            raise InputError(f"{where}: the steps of the optimizer {phase} should be {step}, found {adam.step}.")
    return optimizer, step, rest["run.key"], train


def check(
    arrays: Mapping[str, np.ndarray], spec: Spec, where: str, table: Sequence[layout.Parameter] | None = None
) -> None:
    """Raises InputError unless the arrays are exactly the model's, or those of `table`: no name missing or extra, every
    shape right, every dtype the configuration's, every number finite."""
    table = layout.table(spec.model) if table is None else table
    missing = [parameter.name for parameter in table if parameter.name not in arrays]
    extra = sorted(set(arrays) - {parameter.name for parameter in table})
    if missing:
        raise InputError(f"{where} lacks the tensor {', '.join(missing)} that its configuration calls for.")
    if extra:
        raise InputError(f"{where} has the tensor {', '.join(extra)} that its configuration doesn't call for.")
    for parameter in table:
        array = arrays[parameter.name]
        if array.shape != parameter.shape:
            raise InputError(
                f"{where}: tensor {parameter.name} should have the shape {list(parameter.shape)}, "
                f"found {list(array.shape)}."
            )
        if array.dtype != np.dtype(spec.training.dtype):
            raise InputError(f"{where}: tensor {parameter.name} should be {spec.training.dtype}, found {array.dtype}.")
        if not np.isfinite(array).all():
            place = [int(i) for i in np.argwhere(~np.isfinite(array))[0]]
            raise InputError(
                f"{where}: tensor {parameter.name} must be finite, found {array[tuple(place)]} at {place}."
            )


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
    for phase, networks in spec.phases.items():
        prefix = phase and f"{phase}."
        step = rest.pop(f"{prefix}step", None)
        if step is None:
            raise InputError(f"{where}'s state lacks its {prefix}step.")
        both = []
        for moment in ("exp_avg", "exp_avg_sq"):
            names = [name for name in rest if name.startswith(f"{prefix}{moment}.")]
            both.append({name.removeprefix(f"{prefix}{moment}."): rest.pop(name) for name in names})
            check(both[-1], spec, f"{where}'s {prefix}{moment}", trained(spec, networks))
        found[phase] = Moments(int(step), *both)
    if rest:
        raise InputError(f"{where}'s state has {', '.join(rest)} without a place.")
    return found


def trained(spec: Spec, networks: tuple[str, ...]) -> tuple[layout.Parameter, ...]:
    """What the optimizer of these networks trains, in the order of `layout.table`."""
    return tuple(p for p in layout.table(spec.model) if p.trained and p.network in networks)


def digest(array: np.ndarray) -> str:
    """SHA-256 of the array's dtype, shape and little-endian bytes."""
    array = np.asarray(array, order="C")
    head = f"{array.dtype.newbyteorder('<').str} {list(array.shape)} "
    return hashlib.sha256(head.encode() + array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()).hexdigest()


def _digest_of(about: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
