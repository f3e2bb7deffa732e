"""The golden files: safetensors with a digest of every array, as weight files have them, and what made them."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as to_bytes

from jaxvae.shared.config.serialization import from_json, to_json
from jaxvae.shared.config.spec import Spec
from jaxvae.shared.errors import InputError
from jaxvae.shared.model import weight_file

VERSION = 1
FOLDER = Path(__file__).parents[2] / "golden"
_ANEW = "restore it, or make it anew with scripts/record_golden.py"


def pack(spec: Spec, versions: Mapping[str, str], arrays: Mapping[str, np.ndarray]) -> bytes:
    """The content of a file. One entry of metadata, since safetensors shuffles several: the same arrays are the same
    bytes."""
    about = {
        "version": VERSION,
        "spec": to_json(spec),
        "seed": spec.training.seed,
        "versions": dict(versions),
        "digests": {name: weight_file.digest(array) for name, array in arrays.items()},
    }
    about["digest"] = _digest(about)
    return to_bytes({name: np.asarray(a, order="C") for name, a in arrays.items()}, {"golden": json.dumps(about)})


def read(path: Path) -> tuple[Spec, dict[str, str], dict[str, np.ndarray]]:
    """A file's specification, the versions that made it, and its arrays in the order of their making. Raises InputError
    unless it is as it was written."""
    if not path.is_file():
        raise InputError(f"There is no golden file {path}; {_ANEW}.")
    try:
        with safe_open(path, framework="np") as file:
            about = json.loads((file.metadata() or {}).get("golden", "{}"))
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, ValueError) as error:
        raise InputError(f"{path} is not a whole safetensors file ({str(error).splitlines()[0]}); {_ANEW}.") from None
    if about.pop("digest", None) != _digest(about) or about["version"] != VERSION:
        raise InputError(f"{path} must have metadata of version {VERSION} that match their digest; {_ANEW}.")
    digests = about["digests"]
    for name in sorted(digests | arrays):
        found, expected = weight_file.digest(arrays[name]) if name in arrays else "none", digests.get(name, "none")
        if found != expected:
            raise InputError(
                f"{path} was changed since it was made: {name} should have the SHA-256 digest {expected[:12]}, found "
                f"{found[:12]}; {_ANEW}."
            )
    spec = from_json(about["spec"], f"The specification in {path}")
    return spec, about["versions"], {name: arrays[name] for name in digests}


def _digest(about: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
