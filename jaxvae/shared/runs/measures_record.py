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
from jaxvae.shared.text import say, shown

_ABOUT = {"step": int, "epoch": int, "seed": int, "images": int, "by": str, "dtype": str}
_ESTIMATE = {"log_likelihood": float, "standard_error": float}
_FIGURES: dict[str, dict[str, type]] = {
    "log-likelihood": {**_ESTIMATE, "samples": int, "effective_samples": float},
    "active-units": {"active_units": int, "active": list},
    "kl-by-latent": {"kl_by_latent": list},
    "mutual-information": {"mutual_information": float, "standard_error": float, "at_most": float},
    "squared-error": {"squared_error": float},
    "quadrature": {**_ESTIMATE, "last_change": float},
    "label-accuracy": {
        **dict.fromkeys(("neighbours", "logistic", "pca_neighbours", "pca_logistic", "chance"), float),
        "fitted": int,
    },
    "sample-accuracy": {"sample_accuracy": float, "real_accuracy": float, "samples": int, "fitted": int},
}  # the fields of each measure but the terms, beside _ABOUT
_READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)


def read(run: run_folder.Run) -> dict[str, dict[str, Any]]:
    """Read the measures in a run's folder.

    Args:
        run: The run.

    Returns:
        The fields of each measure by its name; empty if no measure was taken.

    Raises:
        InputError: If measures.json is not valid.
    """
    file = run.path / "measures.json"
    try:
        if safe_io.instead_of_file(file) == "nothing":
            return {}
        measures = safe_io.read_json(file)
        if not isinstance(measures, dict) or not set(measures) <= {"terms", *_FIGURES}:
            raise ValueError("expected measures by their names")
        for name, figures in measures.items():
            _require_figures(run.spec, name, figures)
    except ValueError as error:
        raise InputError(f"{file} is not a valid record of measures ({error}); remove it.") from None
    return measures


def update(program: str, run: run_folder.Run, measures: dict[str, Any]) -> None:
    """Add measures to those in a run's folder; print a warning if the folder is read-only.

    Args:
        program: The name of the program, for the warning.
        run: The run.
        measures: The fields of each measure by its name.

    Raises:
        InputError: If measures.json is not valid, or a link.
        OSError: If it can't be written for another reason.
    """
    before = read(run)
    try:
        safe_io.write_atomically(run.path / "measures.json", to_bytes(before | measures))
    except OSError as error:
        if error.errno not in _READ_ONLY:
            raise
        say(f"{program}: WARNING: {run.path} is read-only; the measures were not written there.", sys.stderr)


def to_bytes(measures: dict[str, Any]) -> bytes:
    """Convert measures to the bytes of a JSON file."""
    return (json.dumps(measures, indent=2, allow_nan=False) + "\n").encode()


def _require_figures(spec: Spec, name: str, figures: object) -> None:
    """Raises ValueError unless these are the fields of a measure, as `analysis.evaluation.take` returns them."""
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
