"""A run's measures.json, validated on read."""

import errno
import json
import sys
from typing import Any

import numpy as np

from jaxvae.shared import safe_io
from jaxvae.shared.config.spec import Spec
from jaxvae.shared.errors import InputError
from jaxvae.shared.runs import run_folder
from jaxvae.shared.text import shown

_ABOUT = {"step": int, "epoch": int, "seed": int, "images": int, "by": str, "dtype": str}
_ESTIMATE = {"log_likelihood": float, "standard_error": float}
_FIGURES: dict[str, dict[str, type]] = {
    "log-likelihood": {**_ESTIMATE, "samples": int, "effective_samples": float},
    "active-units": {"active_units": int, "active": list},
    "kl-by-latent": {"kl_by_latent": list},
    "mutual-information": {"mutual_information": float, "standard_error": float, "at_most": float},
    "squared-error": {"squared_error": float},
    "quadrature": {**_ESTIMATE, "last_change": float},
}  # of each measure beside the terms, with what it was taken of
_READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)


def kept(run: run_folder.Run) -> dict[str, dict[str, Any]]:
    """The measures that are kept in the run's folder. Raises InputError if what is there is none."""
    file = run.path / "measures.json"
    try:
        if safe_io.instead_of_file(file) == "nothing":
            return {}
        found = safe_io.read_json(file)
        if not isinstance(found, dict) or not set(found) <= {"terms", *_FIGURES}:
            raise ValueError("measures by their names are called for")
        for name, figures in found.items():
            _require_figures(run.spec, name, figures)
    except ValueError as error:
        raise InputError(f"{file} doesn't hold measures ({error}); remove it.") from None
    return found


def keep(name: str, run: run_folder.Run, taken: dict[str, Any]) -> None:
    """Beside the run's other measures, if the folder can be written to. Raises InputError if what is there is none."""
    before = kept(run)
    try:
        safe_io.write_atomically(run.path / "measures.json", packed(before | taken))
    except OSError as error:
        if error.errno not in _READ_ONLY:
            raise
        print(f"{name}: WARNING: {run.path} is read-only, so that the measures are not kept there.", file=sys.stderr)


def packed(taken: dict[str, Any]) -> bytes:
    """For a file."""
    return (json.dumps(taken, indent=2, allow_nan=False) + "\n").encode()


def _require_figures(spec: Spec, name: str, figures: object) -> None:
    """Raises ValueError unless these are a measure's figures, as `take` gives them."""
    fields = {**_ABOUT, **(dict.fromkeys(spec.terms, float) if name == "terms" else _FIGURES[name])}
    if not isinstance(figures, dict) or set(figures) != set(fields):
        raise ValueError(f"{name} should have {', '.join(fields)}")
    for field, kind in fields.items():
        value = figures[field]
        if kind is list:
            ok = type(value) is list and len(value) == spec.model.latent
            ok = ok and all(type(one) is (bool if field == "active" else float) for one in value)
        else:
            ok = type(value) is kind
        if not ok or (kind in (float, list) and not np.isfinite(np.array(value, float)).all()):
            raise ValueError(f"the {field} of {name} can't be {shown(value)}")
