"""Configurations and batches that a backend may have used instead of the correct ones."""

from dataclasses import replace
from typing import Any, get_args

import numpy as np

from jaxvae.shared.config.choices import Activation
from jaxvae.shared.config.likelihoods import LIKELIHOODS
from jaxvae.shared.config.spec import Spec
from parity_tests.harness.vae.batch import Batch


def otherwise(spec: Spec, batch: Batch) -> dict[str, tuple[Spec, Batch]]:
    """List them by the cause that each shows."""
    model, objective, images = spec.model, spec.objective, spec.images
    variants: dict[str, tuple[Spec, Batch]] = {}

    def other(cause: str, batch: Batch = batch, **parts: Any) -> None:
        variants[cause] = (_unchecked(spec, **parts), batch)

    for kind, likelihood in LIKELIHOODS.items():  # those that the decoder's logits suffice for
        if kind != model.likelihood and likelihood.logvar in ("none", "fixed"):
            other(f"the likelihood {kind} for {model.likelihood}", model=replace(model, likelihood=kind, variance=1.0))
    for variance in (0.5, 2.0):
        other(
            f"variance {variance:g} times as large",
            model=replace(model, likelihood="gaussian", variance=model.variance * variance),
        )
    for activation in get_args(Activation):
        if activation != model.activation:
            other(f"{activation} for {model.activation}", model=replace(model, activation=activation))
    signed = "unit" if images.range == "signed" else "signed"
    other(f"means bounded for pixels that are {signed}", images=replace(images, range=signed))
    other("the last layer itself for its bounded mean", model=replace(model, output="linear"))
    for step in (batch.step - 1, batch.step + 1):
        other(f"a weight that rises counted {step - batch.step:+d} steps", batch._replace(step=step))
    for units in ("image", "pixel", "mixed"):
        if units != objective.units:
            other(f"weights per {objective.units} taken as {units}", objective=replace(objective, units=units))
    if batch.labels is not None:
        other("labels left out", batch._replace(labels=np.full_like(batch.labels, 255)))
        other("labels counted one too high", batch._replace(labels=batch.labels + 1))
        other("labels counted one too low", batch._replace(labels=batch.labels - 1))
    if batch.corruption is not None:
        for factor in (0.0, 2.0, 1 / max(images.corruption_level, 1e-9), images.corruption_level):
            other(f"noise {factor:.4g} times as large", batch._replace(corruption=batch.corruption * factor))
    if objective.form == "iwae":
        other("several samples' mean bound for the bound of their mean", objective=replace(objective, form="elbo"))
    if objective.form == "capacity":
        other("the elbo for the capacity", objective=replace(objective, form="elbo", beta=objective.gamma))
    return variants


def _unchecked(spec: Spec, **parts: Any) -> Spec:
    """Make the configuration with other parts, even if they are incompatible."""
    new = object.__new__(Spec)
    for name in ("data", "model", "objective", "training", "images"):
        object.__setattr__(new, name, parts.get(name, getattr(spec, name)))
    return new
