"""The measures of a trained model, and their figures as the rows of a table."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from jaxvae.shared.analysis import measures, pca
from jaxvae.shared.analysis.trained_model import TrainedModel
from jaxvae.shared.config.likelihoods import LIKELIHOODS
from jaxvae.shared.config.spec import Spec
from jaxvae.shared.errors import InputError
from jaxvae.shared.model import requirements
from jaxvae.shared.runs import run_folder

CHEAP = ("terms", "active-units", "kl-by-latent", "squared-error")
"""The measures that are taken unless others are named."""
COSTLY = ("log-likelihood", "mutual-information", "quadrature")
"""Minutes long on many images."""
ALL = (*CHEAP, *COSTLY)


def reason_not_applicable(spec: Spec, name: str) -> str | None:
    """Why a measure makes no sense of a model, as the end of a sentence; None if it does."""
    model = spec.model
    if name in ("kl-by-latent", "mutual-information", "log-likelihood") and not model.samples_latents:
        return f"needs the density of a posterior, which a {model.posterior} posterior doesn't have"
    if name in ("active-units", "quadrature") and not requirements.has_prior(spec):
        return f"needs a prior, which a {model.posterior} posterior trained for {spec.objective.form} doesn't have"
    if name == "quadrature" and model.latent != 2:
        return f"sums over a grid of two latents, and the model has {model.latent}"
    return None


def take(subject: TrainedModel, names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """The figures of these measures, each with what it was taken of. Raises InputError for what is not finite."""
    about = {"step": subject.step, "epoch": subject.epoch, "seed": subject.run.spec.training.seed}
    about |= {"images": len(subject.data.test), "by": subject.side.__name__, "dtype": subject.run.spec.training.dtype}
    taken = {}
    for name in names:
        taken[name] = about | _TAKE[name](subject)
        _require_finite(subject.run, name, taken[name])
    return taken


def terms(subject: TrainedModel) -> dict[str, Any]:
    """The loss and its terms, nats per image."""
    spec, dataset = subject.run.spec, subject.data
    found = subject.side.average_terms(spec, subject.weights, dataset.test, subject.key, dataset.test_labels)
    return dict(zip(spec.terms, map(float, found), strict=True))


def log_likelihood(subject: TrainedModel) -> dict[str, Any]:
    """The importance-weighted estimate."""
    spec, dataset = subject.run.spec, subject.data
    with _bar(subject, len(dataset.test), "images") as done:
        found = subject.side.log_likelihood(
            *(spec, subject.weights, dataset.test, subject.key, subject.labels, subject.samples, done)
        )
    value, effective = measures.mean(found.nats), float(found.effective.mean())
    figures = {"log_likelihood": value.value, "standard_error": value.error, "samples": subject.samples}
    return {**figures, "effective_samples": effective}


def active_units(subject: TrainedModel) -> dict[str, Any]:
    """Of the posterior's means."""
    active = measures.active_units(subject.latents.mean)
    return {"active_units": int(active.sum()), "active": active.tolist()}


def kl_by_latent(subject: TrainedModel) -> dict[str, Any]:
    """The terms of the KL."""
    return {"kl_by_latent": measures.kl_by_latent(subject.latents.mean, subject.latents.logvar).tolist()}


def mutual_information(subject: TrainedModel) -> dict[str, Any]:
    """Between image and latent."""
    latents = subject.latents
    found, most = measures.mutual_information(*latents), float(np.log(len(latents.mean)))
    return {"mutual_information": found.value, "standard_error": found.error, "at_most": most}


def squared_error(subject: TrainedModel) -> dict[str, Any]:
    """Of reconstructions through the posterior's mean, from the grey images."""
    spec, test, labels = subject.run.spec, subject.data.test, subject.data.test_labels
    found = pca.row(
        str(subject.run.path),
        spec.model.latent,
        test,
        lambda part: subject.side.reconstruct(spec, subject.weights, test[part], labels[part]),
        1,
        batch=len(test) if spec.images.binarization == "static" else 1000,
    )
    return {"squared_error": found.error}


def quadrature(subject: TrainedModel) -> dict[str, Any]:
    """The log-likelihood without sampling."""
    side, spec, dataset = subject.side, subject.run.spec, subject.data
    x = side.see_images(spec, dataset.test, subject.key)
    labels = dataset.test_labels if spec.model.classes else np.zeros(len(x), int)
    half = int(np.ceil(max(8.0, 2 + np.abs(subject.latents.mean).max())))
    log_density = LIKELIHOODS[spec.model.likelihood].log_density
    nats, change = np.empty(len(x)), np.empty(len(x))
    with _bar(subject, None, "points") as done:
        for label in np.unique(labels):
            mine = np.flatnonzero(labels == label)

            def log_p(images: np.ndarray, z: np.ndarray, label: int = label, mine: np.ndarray = mine) -> np.ndarray:
                told = np.full(len(z), label) if spec.model.classes else None
                return log_density(x[mine[images]], *side.decode_latents(spec, subject.weights, z, told))

            nats[mine], change[mine] = measures.quadrature(log_p, len(mine), half, on_points=done)
    value = measures.mean(nats)
    return {"log_likelihood": value.value, "standard_error": value.error, "last_change": float(change.max())}


_TAKE: dict[str, Callable[[TrainedModel], dict[str, Any]]] = {
    "terms": terms,
    "active-units": active_units,
    "kl-by-latent": kl_by_latent,
    "squared-error": squared_error,
    "log-likelihood": log_likelihood,
    "mutual-information": mutual_information,
    "quadrature": quadrature,
}


@contextmanager
def _bar(subject: TrainedModel, total: int | None, unit: str) -> Iterator[Callable[[int], Any]]:
    """What is told how many more are done; shows them in a terminal."""
    from tqdm import tqdm

    with tqdm(total=total, unit=f" {unit}", unit_scale=True, disable=None, leave=False) as bar:
        yield bar.update


def _require_finite(run: run_folder.Run, name: str, figures: dict[str, Any]) -> None:
    numbers = [n for value in figures.values() if not isinstance(value, str) for n in np.ravel(value)]
    if not np.isfinite(np.array(numbers, float)).all():
        raise InputError(f"{run.path} comes to a {name} that is not finite; train it again.")


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


def _estimate(name: str, value: float, figures: dict[str, Any], unit: str) -> tuple[str, str, str]:
    return name, f"{value:.3f}", f"± {figures['standard_error']:.3f} {unit}"
