"""The measures of a trained model: one table with how each is taken, when it applies and how it is printed."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from jaxvae.shared.analysis import classifiers, measures, pca
from jaxvae.shared.analysis.classifiers import Labelled
from jaxvae.shared.analysis.trained_model import TrainedModel
from jaxvae.shared.config.likelihoods import LIKELIHOODS
from jaxvae.shared.config.spec import Spec
from jaxvae.shared.data.dataset import Dataset
from jaxvae.shared.data.spread import spread
from jaxvae.shared.errors import InputError
from jaxvae.shared.model import requirements
from jaxvae.shared.runs import run_folder

Figures = dict[str, Any]
"""A measure's results by name, as JSON values."""
Row = tuple[str, str, str]
"""A printed result: name, value, unit."""


class Measure(NamedTuple):
    """A measure of a trained model."""

    take: Callable[[TrainedModel], Figures]
    rows: Callable[[Figures], list[Row]]
    """Formats the results for a table."""
    why_not: Callable[[Spec], str | None] = lambda spec: None
    """Why the measure does not apply to a model, as a clause without its subject; None if it applies."""
    costly: bool = False
    """Whether it takes minutes on many images, so that it is taken only if it is named."""
    of_labels: bool = False
    """Whether it needs images with labels, of two classes or more."""


_FITTED, _JUDGED = 10_000, 100  # training images that classifiers are fitted to at most; samples of each class


def _terms(model: TrainedModel) -> Figures:
    """The loss and its terms, nats per image."""
    spec, dataset = model.run.spec, model.data
    terms = model.backend.average_terms(spec, model.weights, dataset.test, model.key, dataset.test_labels)
    return dict(zip(spec.terms, map(float, terms), strict=True))


def _log_likelihood(model: TrainedModel) -> Figures:
    """The importance-weighted estimate."""
    spec, dataset = model.run.spec, model.data
    with _bar(len(dataset.test), "images") as on_images:
        estimate = model.backend.log_likelihood(
            *(spec, model.weights, dataset.test, model.key, model.labels, model.samples, on_images)
        )
    value, effective = measures.mean(estimate.nats), float(estimate.effective.mean())
    figures = {"log_likelihood": value.value, "standard_error": value.error, "samples": model.samples}
    return {**figures, "effective_samples": effective}


def _log_likelihood_rows(figures: Figures) -> list[Row]:
    effective, samples = f"{figures['effective_samples']:.1f}", f"of {figures['samples']:,}, mean over images"
    estimate = _estimate("log-likelihood", figures["log_likelihood"], figures, "nats per image")
    return [estimate, ("  effective samples", effective, samples)]


def _active_units(model: TrainedModel) -> Figures:
    """The latents whose posterior means vary."""
    active = measures.active_units(model.latents.mean)
    return {"active_units": int(active.sum()), "active": active.tolist()}


def _kl_by_latent(model: TrainedModel) -> Figures:
    """The KL's term of each latent."""
    mean, logvar, _ = _densities(model)
    return {"kl_by_latent": measures.kl_by_latent(mean, logvar).tolist()}


def _kl_by_latent_rows(figures: Figures) -> list[Row]:
    kl = np.array(figures["kl_by_latent"])
    return [(f"kl of latent {i + 1}", f"{kl[i]:.3f}", "nats per image") for i in np.argsort(-kl, kind="stable")]


def _mutual_information(model: TrainedModel) -> Figures:
    """Between image and latent."""
    mean, logvar, z = _densities(model)
    value, most = measures.mutual_information(mean, logvar, z), float(np.log(len(mean)))
    return {"mutual_information": value.value, "standard_error": value.error, "at_most": most}


def _mutual_information_rows(figures: Figures) -> list[Row]:
    unit = f"nats; this number of images shows {figures['at_most']:.3f} at most"
    return [_estimate("mutual information", figures["mutual_information"], figures, unit)]


def _squared_error(model: TrainedModel) -> Figures:
    """The error of reconstructions through the posterior's mean, from the grey images."""
    spec, test, labels = model.run.spec, model.data.test, model.data.test_labels
    row = pca.row(
        str(model.run.path),
        spec.model.latent,
        test,
        lambda part: model.backend.reconstruct(spec, model.weights, test[part], labels[part]),
        1,
        batch=len(test) if spec.images.binarization == "static" else 1000,
    )
    return {"squared_error": row.error}


def _quadrature(model: TrainedModel) -> Figures:
    """The log-likelihood without sampling."""
    backend, spec, dataset = model.backend, model.run.spec, model.data
    x = backend.see_images(spec, dataset.test, model.key)
    labels = dataset.test_labels if spec.model.classes else np.zeros(len(x), int)
    half = int(np.ceil(max(8.0, 2 + np.abs(model.latents.mean).max())))
    log_density = LIKELIHOODS[spec.model.likelihood].log_density
    nats, change = np.empty(len(x)), np.empty(len(x))
    with _bar(None, "points") as on_points:
        for label in np.unique(labels):
            members = np.flatnonzero(labels == label)

            def log_p(
                images: np.ndarray, z: np.ndarray, label: int = label, members: np.ndarray = members
            ) -> np.ndarray:
                classes = np.full(len(z), label) if spec.model.classes else None
                pixels = backend.decode_latents(spec, model.weights, z, classes)
                return log_density(x[members[images]], pixels.location, pixels.logvar)

            nats[members], change[members] = measures.quadrature(log_p, len(members), half, on_points=on_points)
    value = measures.mean(nats)
    return {"log_likelihood": value.value, "standard_error": value.error, "last_change": float(change.max())}


def _quadrature_rows(figures: Figures) -> list[Row]:
    row = _estimate("log-likelihood by quadrature", figures["log_likelihood"], figures, "nats per image")
    return [row, ("  last change", f"{figures['last_change']:.1e}", "nats, the largest of any image")]


def _label_accuracy(model: TrainedModel) -> Figures:
    """Of classifiers that see the posteriors' means, or as many principal components of the images."""
    spec, data = model.run.spec, model.data
    images, labels = _fitted(data)
    means = model.backend.encode_images(spec, model.weights, images, model.key, None).mean
    of_latents = Labelled(means, labels), Labelled(model.latents.mean, data.test_labels)
    projected = classifiers.components(images, data.test, spec.model.latent)
    of_images = Labelled(projected[0], labels), Labelled(projected[1], data.test_labels)
    figures = {}
    with _bar(4, "classifiers") as on_classifier:
        for name, (train, test) in (("", of_latents), ("pca_", of_images)):
            for classifier in (classifiers.neighbours, classifiers.logistic):
                figures[name + classifier.__name__] = classifier(train, test)
                on_classifier(1)
    return {**figures, "chance": classifiers.chance(*of_latents), "fitted": len(images)}


def _label_accuracy_rows(figures: Figures) -> list[Row]:
    rows = []
    for name, words in (("neighbours", f"{classifiers.NEIGHBOURS} neighbours"), ("logistic", "logistic regression")):
        unit = f"of labels, from latents; from as many principal components {_percent(figures['pca_' + name])}"
        rows.append((f"accuracy of {words}", _percent(figures[name]), unit))
    fitted = f"of labels, by the most frequent class; all fitted to {figures['fitted']:,} training images"
    return [*rows, ("  chance", _percent(figures["chance"]), fitted)]


def _sample_accuracy(model: TrainedModel) -> Figures:
    """Of samples of each class, as a classifier of real images sees them."""
    backend, spec, data = model.backend, model.run.spec, model.data
    classes = spec.model.classes
    images, labels = _fitted(data)
    key = backend.stream_key(backend.root_key(spec.training.seed), "pictures", 0)
    with _bar(3, "steps") as on_step:
        judge = classifiers.judge(images, labels)
        on_step(1)
        real = float((judge(data.test / 255) == data.test_labels).mean())
        on_step(1)
        asked = np.arange(_JUDGED * classes) % classes
        drawn = backend.sample(spec, model.weights, key, len(asked), asked)
        right = float((judge(drawn) == asked).mean())
        on_step(1)
    return {"sample_accuracy": right, "real_accuracy": real, "samples": len(asked), "fitted": len(images)}


def _sample_accuracy_rows(figures: Figures) -> list[Row]:
    judged = f"of {figures['samples']:,} samples are seen as the class that was asked for"
    judge = f"of test images, by the same support vector machine, fitted to {figures['fitted']:,} training images"
    return [
        ("accuracy of samples", _percent(figures["sample_accuracy"]), judged),
        ("  real images", _percent(figures["real_accuracy"]), judge),
    ]


def _fitted(data: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Training images of all classes for classifiers to be fitted to, and their labels."""
    chosen = np.sort(spread(data.train_labels, min(_FITTED, len(data.train))))
    return np.asarray(data.train[chosen]), data.train_labels[chosen]


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"


def _with_classes(spec: Spec) -> str | None:
    if not spec.model.classes:
        return None
    return "needs latents of images alone, and this encoder sees the class too (sample-accuracy measures such models)"


def _without_classes(spec: Spec) -> str | None:
    if (reason := _without_prior(spec)) is not None or spec.model.classes:
        return reason
    return "needs a model that draws images of a class (--classes)"


def _without_density(spec: Spec) -> str | None:
    if spec.model.samples_latents:
        return None
    return f"needs the density of a posterior, which a {spec.model.posterior} posterior doesn't have"


def _without_prior(spec: Spec) -> str | None:
    if requirements.has_prior(spec):
        return None
    posterior, form = spec.model.posterior, spec.objective.form
    return f"needs a prior, which a {posterior} posterior trained for {form} doesn't have"


def _without_plane(spec: Spec) -> str | None:
    if spec.model.parts.nll is not None:
        return "needs one of the package's likelihoods, and the model has its user's own"
    if (reason := _without_prior(spec)) is not None or spec.model.latent == 2:
        return reason
    return f"sums over a grid of two latents, and the model has {spec.model.latent}"


MEASURES = {
    "terms": Measure(_terms, lambda figures: []),  # printed as a sentence instead
    "active-units": Measure(
        _active_units,
        lambda figures: [("active units", str(figures["active_units"]), f"of {len(figures['active'])} latents")],
        _without_prior,
    ),
    "squared-error": Measure(
        _squared_error,
        lambda figures: [("squared error", f"{figures['squared_error']:.3f}", "per image, pixels in [0, 1]")],
    ),
    "log-likelihood": Measure(_log_likelihood, _log_likelihood_rows, _without_density, costly=True),
    "mutual-information": Measure(_mutual_information, _mutual_information_rows, _without_density, costly=True),
    "quadrature": Measure(_quadrature, _quadrature_rows, _without_plane, costly=True),
    "label-accuracy": Measure(_label_accuracy, _label_accuracy_rows, _with_classes, costly=True, of_labels=True),
    "sample-accuracy": Measure(_sample_accuracy, _sample_accuracy_rows, _without_classes, costly=True, of_labels=True),
    "kl-by-latent": Measure(_kl_by_latent, _kl_by_latent_rows, _without_density),
}
"""The measures by name, in the order in which they are printed: those of the whole model, then those of each latent."""
CHEAP = tuple(name for name, measure in MEASURES.items() if not measure.costly)
"""The measures that are taken unless others are named."""
ALL = tuple(MEASURES)


def reason_not_applicable(spec: Spec, name: str) -> str | None:
    """Return why a measure does not apply to a model, as a clause without its subject; None if it applies."""
    return MEASURES[name].why_not(spec)


def reason_without_labels(data: Dataset, name: str) -> str | None:
    """Return why a measure can't be taken on images without labels, as a clause without its subject; None if it can."""
    if not MEASURES[name].of_labels or (data.labelled and len(np.unique(data.train_labels)) > 1):
        return None
    return f"needs labels of two classes or more, which {data.name} doesn't have"


def take(model: TrainedModel, names: Iterable[str]) -> dict[str, Figures]:
    """Take measures of a trained model.

    Args:
        model: The model and its test images.
        names: The measures.

    Returns:
        The results by measure, each with the step, seed, images, package and type it was taken with.

    Raises:
        InputError: If a result is not finite.
    """
    spec = model.run.spec
    origin = {"step": model.step, "epoch": model.epoch, "seed": spec.training.seed}
    origin |= {"images": len(model.data.test), "by": model.backend.__name__, "dtype": spec.training.dtype}
    taken = {}
    for name in names:
        taken[name] = origin | MEASURES[name].take(model)
        _require_finite(model.run, name, taken[name])
    return taken


def rows(name: str, figures: Figures) -> list[Row]:
    """Format a measure's results for a table."""
    return MEASURES[name].rows(figures)


def _densities(model: TrainedModel) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Means, log-variances and draws of posteriors that have a density."""
    mean, logvar, z = model.latents
    assert logvar is not None
    assert z is not None
    return mean, logvar, z


@contextmanager
def _bar(total: int | None, unit: str) -> Iterator[Callable[[int], Any]]:
    """A progress bar in a terminal; yields the function to call with each further number done."""
    from tqdm import tqdm

    with tqdm(total=total, unit=f" {unit}", unit_scale=True, disable=None, leave=False) as bar:
        yield bar.update


def _require_finite(run: run_folder.Run, name: str, figures: Figures) -> None:
    numbers = [n for value in figures.values() if not isinstance(value, str) for n in np.ravel(value)]
    if not np.isfinite(np.array(numbers, float)).all():
        raise InputError(f"{run.path}: {name} is not finite; train the run again.")


def _estimate(name: str, value: float, figures: Figures, unit: str) -> Row:
    return name, f"{value:.3f}", f"± {figures['standard_error']:.3f} {unit}"
