"""A run's measures: its measures.json, read with distrust, and their figures as the rows of a table."""

import errno
import json
import sys
from typing import Any

import numpy as np

from jaxvae.shared import runs, strict
from jaxvae.shared.errors import InputError
from jaxvae.shared.spec import Spec

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


def rows(name: str, figures: dict[str, Any]) -> list[tuple[str, str, str]]:
    """A measure's figures for a table: name, figure, unit. The terms of the loss are a sentence instead."""
    match name:
        case "log-likelihood":
            effective, samples = f"{figures['effective_samples']:.1f}", f"of {figures['samples']:,}, mean over images"
            found = [_estimate("log-likelihood", figures["log_likelihood"], figures, "nats per image")]
            return [*found, ("  effective samples", effective, samples)]
        case "active-units":
            return [("active units", str(figures["active_units"]), f"of {len(figures['active'])} latents")]
        case "kl-by-latent":
            kl = np.array(figures["kl_by_latent"])
            order = np.argsort(-kl, kind="stable")
            return [(f"kl of latent {i + 1}", f"{kl[i]:.3f}", "nats per image") for i in order]
        case "mutual-information":
            unit = f"nats; so many images show {figures['at_most']:.3f} at most"
            return [_estimate("mutual information", figures["mutual_information"], figures, unit)]
        case "squared-error":
            return [("squared error", f"{figures['squared_error']:.3f}", "per image, pixels in [0, 1]")]
        case "quadrature":
            row = _estimate("log-likelihood by quadrature", figures["log_likelihood"], figures, "nats per image")
            return [row, ("  last change", f"{figures['last_change']:.1e}", "nats, the largest of an image")]
        case _:
            return []


def table(rows: list[tuple[str, str, str]]) -> str:
    """The rows in columns."""
    first, second = (max(len(row[i]) for row in rows) for i in (0, 1))
    return "\n".join(f"  {name:<{first}}  {figure:>{second}}  {unit}".rstrip() for name, figure, unit in rows)


def kept(run: runs.Run) -> dict[str, dict[str, Any]]:
    """The measures that are kept in the run's folder. Raises InputError if what is there is none."""
    file = run.path / "measures.json"
    try:
        if strict.instead_of_file(file) == "nothing":
            return {}
        found = strict.read(file)
        if not isinstance(found, dict) or not set(found) <= {"terms", *_FIGURES}:
            raise ValueError("measures by their names are called for")
        for name, figures in found.items():
            _require_figures(run.spec, name, figures)
    except ValueError as error:
        raise InputError(f"{file} doesn't hold measures ({error}); remove it.") from None
    return found


def keep(name: str, run: runs.Run, taken: dict[str, Any]) -> None:
    """Beside the run's other measures, if the folder can be written to. Raises InputError if what is there is none."""
    before = kept(run)
    try:
        runs.write_atomically(run.path / "measures.json", packed(before | taken))
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
            raise ValueError(f"the {field} of {name} can't be {strict.shown(value)}")


def _estimate(name: str, value: float, figures: dict[str, Any], unit: str) -> tuple[str, str, str]:
    return name, f"{value:.3f}", f"± {figures['standard_error']:.3f} {unit}"
