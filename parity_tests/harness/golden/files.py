"""Read and write golden files: safetensors with a digest of every array and the versions that recorded them."""

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
_ADVICE = "restore it, or record it again with scripts/record_golden.py"


def pack(spec: Spec, versions: Mapping[str, str], arrays: Mapping[str, np.ndarray]) -> bytes:
    """Make the content of a golden file; the same arrays give the same bytes.

    Args:
        spec: The configuration.
        versions: The version of each package that recorded the arrays.
        arrays: The arrays by name.

    Returns:
        A safetensors file with one entry of metadata, since safetensors does not keep the order of several.
    """
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
    """Read and check a golden file.

    Args:
        path: The file.

    Returns:
        Its configuration, the versions that recorded it, and its arrays in the order of recording.

    Raises:
        InputError: If the file is missing, corrupt or of another version.
    """
    if not path.is_file():
        raise InputError(f"There is no golden file {path}; {_ADVICE}.")
    try:
        with safe_open(path, framework="np") as file:
            about = json.loads((file.metadata() or {}).get("golden", "{}"))
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, ValueError) as error:
        raise InputError(f"{path} is not a whole safetensors file ({str(error).splitlines()[0]}); {_ADVICE}.") from None
    if about.pop("digest", None) != _digest(about) or about["version"] != VERSION:
        raise InputError(f"{path} must have metadata of version {VERSION} that match their digest; {_ADVICE}.")
    digests = about["digests"]
    for name in sorted(digests | arrays):
        actual, expected = weight_file.digest(arrays[name]) if name in arrays else "none", digests.get(name, "none")
        if actual != expected:
            raise InputError(
                f"{path} is corrupt: {name} should have the SHA-256 digest {expected[:12]}, found "
                f"{actual[:12]}; {_ADVICE}."
            )
    spec = from_json(about["spec"], f"The specification in {path}")
    return spec, about["versions"], {name: arrays[name] for name in digests}


def _digest(about: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
