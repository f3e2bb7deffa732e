"""Checks of what a user's own likelihood, networks and objective return, by their shapes."""

from typing import Any

from jaxvae.shared.config.likelihoods import likelihood_of
from jaxvae.shared.config.parts import ModelSpec
from jaxvae.shared.config.spec import Spec
from jaxvae.shared.errors import InputError
from jaxvae.shared.text import shown

POSTERIORS = {
    "gaussian": "Posterior",
    "log-sigma": "Posterior",
    "relu-sigma": "ScalePosterior",
    "point": "PointPosterior",
    "relu-point": "PointPosterior",
}
"""The class of what the encoder returns for each `ModelSpec.posterior`."""


def require_shape(spec: ModelSpec, part: str, value: Any, shape: tuple[int, ...], what: str) -> Any:
    """Check an own part's array.

    Args:
        spec: The model.
        part: Which part it is.
        value: What it returned.
        shape: The shape that it should have.
        what: What it should be, for the message.

    Returns:
        The array.

    Raises:
        InputError: If it is no array, or of another shape.
    """
    found = tuple(value.shape) if hasattr(value, "shape") else None
    if found != shape:
        raise InputError(
            f"The own {part} {spec.parts.record[part].name} must return {what} of the shape {list(shape)}, found "
            f"{shown(value) if found is None else list(found)}."
        )
    return value


def require_posterior(spec: ModelSpec, posterior: Any, rows: int) -> None:
    """Raises InputError unless an own encoder returned the posterior of `rows` images that the model has."""
    name, kind = spec.parts.record["encoder"].name, POSTERIORS[spec.posterior]
    if type(posterior).__name__ != kind:
        raise InputError(
            f"The own encoder {name} must return a {kind}, as the posterior {spec.posterior} has it, found "
            f"{shown(posterior)}."
        )
    for part in posterior:
        require_shape(spec, "encoder", part, (rows, spec.latent), f"the parts of a {kind}")


def require_decoded(spec: ModelSpec, decoded: Any, rows: int) -> None:
    """Raises InputError unless an own decoder returned what the likelihood needs of `rows` latents."""
    name = spec.parts.record["decoder"].name
    if type(decoded).__name__ != "Decoded":
        raise InputError(f"The own decoder {name} must return Decoded(logits, logvar), found {shown(decoded)}.")
    if spec.parts.nll is not None:  # whose matter the outputs are
        return
    require_shape(spec, "decoder", decoded.logits, (rows, spec.pixels), "logits")
    if learns := likelihood_of(spec).logvar in ("shared", "pixel"):
        shape = () if likelihood_of(spec).logvar == "shared" else (rows, spec.pixels)
        require_shape(spec, "decoder", decoded.logvar, shape, f"the logvar of a {spec.likelihood} likelihood")
    if not learns and decoded.logvar is not None:
        raise InputError(
            f"The own decoder {name} must return None for the logvar, which a {spec.likelihood} likelihood doesn't "
            f"have, found {shown(decoded.logvar)}."
        )


def require_terms(spec: Spec, terms: Any, rows: int) -> dict[str, Any]:
    """Check what an own objective returned.

    Args:
        spec: The configuration.
        terms: What it returned.
        rows: The number of images.

    Returns:
        The terms in the order of `Spec.terms`.

    Raises:
        InputError: If they are others, or not one number for each image.
    """
    name = spec.model.parts.record["objective"].name
    if not isinstance(terms, dict) or set(terms) != set(spec.terms):
        found = ", ".join(map(str, terms)) if isinstance(terms, dict) else shown(terms)
        raise InputError(
            f"The own objective {name} must return a dict of {', '.join(spec.terms)}, each of a batch's images, found "
            f"{found}."
        )
    return {
        term: require_shape(spec.model, "objective", terms[term], (rows,), f"the {term} of each image")
        for term in spec.terms
    }
