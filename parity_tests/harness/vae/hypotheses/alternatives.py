"""Configurations and batches that a backend may have used instead of the correct ones."""

from dataclasses import replace
from typing import Any, get_args

import numpy as np

from jaxvae.shared.config.choices import Activation
from jaxvae.shared.config.likelihoods import LIKELIHOODS
from jaxvae.shared.config.spec import Spec
from parity_tests.harness.causes import Cause
from parity_tests.harness.vae.batch import Batch
from parity_tests.harness.vae.hypotheses.kinds import named


def otherwise(spec: Spec, batch: Batch) -> dict[Cause, tuple[Spec, Batch]]:
    """List them by the cause that each shows."""
    model, objective, images = spec.model, spec.objective, spec.images
    variants: dict[Cause, tuple[Spec, Batch]] = {}

    def other(cause: Cause, batch: Batch = batch, **parts: Any) -> None:
        variants[cause] = (_unchecked(spec, **parts), batch)

    for kind, likelihood in LIKELIHOODS.items():  # those that the decoder's logits suffice for
        if kind != model.likelihood and likelihood.logvar in ("none", "fixed"):
            cause = named("likelihood", f"the likelihood {kind} for {model.likelihood}", kind, model.likelihood)
            other(cause, model=replace(model, likelihood=kind, variance=1.0))
    for variance in (0.5, 2.0):
        found = model.variance * variance
        cause = named("variance", f"variance {variance:g} times as large", found, model.variance)
        other(cause, model=replace(model, likelihood="gaussian", variance=found))
    for activation in get_args(Activation):
        if activation != model.activation:
            sentence = f"{activation} for {model.activation}"
            cause = named("activation", sentence, activation, model.activation, "operations.activate")
            other(cause, model=replace(model, activation=activation))
    signed = "unit" if images.range == "signed" else "signed"
    bound = f"those of {images.range} pixels"
    cause = named("pixel-means", f"means bounded for pixels that are {signed}", f"those of {signed} pixels", bound)
    other(cause, images=replace(images, range=signed))
    cause = named("pixel-means", "the last layer itself for its bounded mean", "the last layer's output", bound)
    other(cause, model=replace(model, output="linear"))
    for step in (batch.step - 1, batch.step + 1):
        shift = step - batch.step
        cause = named("warm-up", f"a weight that rises counted {shift:+d} steps", 1 + shift, 1)
        other(cause, batch._replace(step=step))
    for units in ("image", "pixel", "mixed"):
        if units != objective.units:
            sentence = f"weights per {objective.units} taken as {units}"
            cause = named("loss-units", sentence, units, objective.units)
            other(cause, objective=replace(objective, units=units))
    if batch.labels is not None:
        cause = named("labels-missing", "labels left out", "none", "labels")
        other(cause, batch._replace(labels=np.full_like(batch.labels, 255)))
        other(named("labels-offset", "labels counted one too high", 1, 0), batch._replace(labels=batch.labels + 1))
        other(named("labels-offset", "labels counted one too low", -1, 0), batch._replace(labels=batch.labels - 1))
    if batch.corruption is not None:
        for factor in (0.0, 2.0, 1 / max(images.corruption_level, 1e-9), images.corruption_level):
            level = images.corruption_level
            cause = named("noise-scale", f"noise {factor:.4g} times as large", level * factor, level)
            other(cause, batch._replace(corruption=batch.corruption * factor))
    if objective.form == "iwae":
        sentence = "several samples' mean bound for the bound of their mean"
        cause = named("objective", sentence, "the mean of the samples' bounds", "the bound of the samples' mean")
        other(cause, objective=replace(objective, form="elbo"))
    if objective.form == "capacity":
        cause = named("objective", "the elbo for the capacity", "the elbo", "the distance from the capacity")
        other(cause, objective=replace(objective, form="elbo", beta=objective.gamma))
    return variants


def _unchecked(spec: Spec, **parts: Any) -> Spec:
    """Make the configuration with other parts, even if they are incompatible."""
    new = object.__new__(Spec)
    for name in ("data", "model", "objective", "training", "images"):
        object.__setattr__(new, name, parts.get(name, getattr(spec, name)))
    return new
