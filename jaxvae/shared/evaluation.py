"""The command that says how good a run is: which measures make sense of it, their figures as a table and as JSON."""

import functools
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from jaxvae.shared import comparison, data, measures, metrics, needs, runs
from jaxvae.shared.errors import InputError
from jaxvae.shared.keeping import keep, packed, rows, table
from jaxvae.shared.opening import RunPath, trained
from jaxvae.shared.spec import Spec
from jaxvae.shared.training import Device

CHEAP = ("terms", "active-units", "kl-by-latent", "squared-error")
"""The measures that are taken unless others are named."""
COSTLY = ("log-likelihood", "mutual-information", "quadrature")
"""Minutes long on many images."""
_ALL = (*CHEAP, *COSTLY)
_MOST = 10_000_000  # samples


@dataclass(frozen=True)
class Evaluate:
    """Evaluate a run on the test images: the terms of its loss, in nats per image, and other measures.

    What is found is kept in the run folder's measures.json. For example, all that makes sense, with the log-likelihood
    from 1,000 samples:

        evaluate runs/a --measures all --samples 1000"""

    run: RunPath
    """The run folder, whichever package wrote it."""
    measures: Annotated[tuple[str, ...], tyro.conf.arg(help=f"Which: {', '.join(_ALL)}, or all that make sense.")] = (
        CHEAP
    )
    samples: int = 5000
    """Of the log-likelihood: latents drawn for each image."""
    json: Path | None = None
    """A file to write the figures to as well."""
    data_root: Path | None = None
    """The folder that holds MNIST/raw. Else where training found it."""
    device: Device = "auto"
    """Where to compute."""


@dataclass(frozen=True)
class Subject:
    """What is measured."""

    side: Any
    run: runs.Run
    weights: Any
    data: data.Dataset
    key: Any
    samples: int
    step: int
    epoch: int

    @functools.cached_property
    def labels(self) -> np.ndarray | None:
        """For a model with classes."""
        return self.data.test_labels if self.run.spec.model.classes else None

    @functools.cached_property
    def latents(self) -> Any:
        """The posteriors, which several measures are of."""
        return self.side.encode_images(self.run.spec, self.weights, self.data.test, self.key, self.labels)


def senseless(spec: Spec, name: str) -> str | None:
    """Why a measure makes no sense of a model, as the end of a sentence; None if it does."""
    model = spec.model
    if name in ("kl-by-latent", "mutual-information", "log-likelihood") and not model.samples_latents:
        return f"needs the density of a posterior, which a {model.posterior} posterior doesn't have"
    if name in ("active-units", "quadrature") and not needs.has_prior(spec):
        return f"needs a prior, which a {model.posterior} posterior trained for {spec.objective.form} doesn't have"
    if name == "quadrature" and model.latent != 2:
        return f"sums over a grid of two latents, and the model has {model.latent}"
    return None


def chosen(spec: Spec, command: Evaluate) -> list[str]:
    """The measures that a command asks for. Raises InputError for one that there isn't, or that makes no sense of the
    model; what is not named is left out instead."""
    if not 1 <= command.samples <= _MOST:
        raise InputError(f"--samples must be from 1 to {_MOST:,}, found {command.samples:,}.")
    if command.json is not None and not command.json.parent.is_dir():
        raise InputError(f"{command.json} can't be written: {command.json.parent} is no folder; give another --json.")
    if command.measures in (CHEAP, ("all",)):
        return [name for name in (CHEAP if command.measures == CHEAP else _ALL) if senseless(spec, name) is None]
    for name in command.measures:
        if name == "all":
            raise InputError("The measure all stands alone; leave out the others, or it.")
        if name not in _ALL:
            raise InputError(f"There is no measure {name!r}; choose of {', '.join(_ALL)}, or all.")
        if (reason := senseless(spec, name)) is not None:
            raise InputError(f"The measure {name} {reason}; leave it out.")
    return list(dict.fromkeys(command.measures))


def evaluate(side: Any, command: Evaluate, run: runs.Run, weights: Any, dataset: data.Dataset) -> None:
    """Takes the measures, prints them and keeps them in the run's folder. Raises InputError for what can't be done as
    asked, and for figures that are not finite."""
    names = chosen(run.spec, command)
    taken = take(subject(side, run, weights, dataset, command.samples), names)
    if "terms" in taken:
        told = metrics.sentence(run.spec, taken["terms"])
        print(f"{command.run}: test {told} over {len(dataset.test):,} images of {dataset.name}")
    else:
        print(f"{command.run}: {len(dataset.test):,} test images of {dataset.name}")
    if told := [row for name in names for row in rows(name, taken[name])]:
        print(table(told))
    keep(side.__name__, run, taken)
    if command.json is not None:
        runs.write_atomically(command.json, packed(taken))


def subject(side: Any, run: runs.Run, weights: Any, dataset: data.Dataset, samples: int = 5000) -> Subject:
    """A run as it stands, on the test images. What is drawn for these is drawn as in its last epoch's evaluation."""
    step, epoch = trained(run)
    key = side.stream_key(side.root_key(run.spec.training.seed), "evaluation", epoch)
    return Subject(side, run, weights, dataset, key, samples, step, epoch)


def take(subject: Subject, names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """The figures of these measures, each with what it was taken of. Raises InputError for what is not finite."""
    about = {"step": subject.step, "epoch": subject.epoch, "seed": subject.run.spec.training.seed}
    about |= {"images": len(subject.data.test), "by": subject.side.__name__, "dtype": subject.run.spec.training.dtype}
    taken = {}
    for name in names:
        taken[name] = about | _TAKE[name](subject)
        _require_finite(subject.run, name, taken[name])
    return taken


def terms(subject: Subject) -> dict[str, Any]:
    """The loss and its terms, nats per image."""
    spec, dataset = subject.run.spec, subject.data
    found = subject.side.average_terms(spec, subject.weights, dataset.test, subject.key, dataset.test_labels)
    return dict(zip(spec.terms, map(float, found), strict=True))


def log_likelihood(subject: Subject) -> dict[str, Any]:
    """The importance-weighted estimate."""
    spec, dataset = subject.run.spec, subject.data
    with _bar(subject, len(dataset.test), "images") as done:
        found = subject.side.log_likelihood(
            *(spec, subject.weights, dataset.test, subject.key, subject.labels, subject.samples, done)
        )
    value, effective = measures.mean(found.nats), float(found.effective.mean())
    figures = {"log_likelihood": value.value, "standard_error": value.error, "samples": subject.samples}
    return {**figures, "effective_samples": effective}


def active_units(subject: Subject) -> dict[str, Any]:
    """Of the posterior's means."""
    active = measures.active_units(subject.latents.mean)
    return {"active_units": int(active.sum()), "active": active.tolist()}


def kl_by_latent(subject: Subject) -> dict[str, Any]:
    """The terms of the KL."""
    return {"kl_by_latent": measures.kl_by_latent(subject.latents.mean, subject.latents.logvar).tolist()}


def mutual_information(subject: Subject) -> dict[str, Any]:
    """Between image and latent."""
    latents = subject.latents
    found, most = measures.mutual_information(*latents), float(np.log(len(latents.mean)))
    return {"mutual_information": found.value, "standard_error": found.error, "at_most": most}


def squared_error(subject: Subject) -> dict[str, Any]:
    """Of reconstructions through the posterior's mean, from the grey images."""
    spec, test, labels = subject.run.spec, subject.data.test, subject.data.test_labels
    found = comparison.row(
        str(subject.run.path),
        spec.model.latent,
        test,
        lambda part: subject.side.reconstruct(spec, subject.weights, test[part], labels[part]),
        1,
        batch=len(test) if spec.images.binarization == "static" else 1000,
    )
    return {"squared_error": found.error}


def quadrature(subject: Subject) -> dict[str, Any]:
    """The log-likelihood without sampling."""
    side, spec, dataset = subject.side, subject.run.spec, subject.data
    x = side.see_images(spec, dataset.test, subject.key)
    labels = dataset.test_labels if spec.model.classes else np.zeros(len(x), int)
    half = int(np.ceil(max(8.0, 2 + np.abs(subject.latents.mean).max())))
    nats, change = np.empty(len(x)), np.empty(len(x))
    with _bar(subject, None, "points") as done:
        for label in np.unique(labels):
            mine = np.flatnonzero(labels == label)

            def log_p(images: np.ndarray, z: np.ndarray, label: int = label, mine: np.ndarray = mine) -> np.ndarray:
                told = np.full(len(z), label) if spec.model.classes else None
                return measures.log_probabilities(x[mine[images]], *side.decode_latents(spec, subject.weights, z, told))

            nats[mine], change[mine] = measures.quadrature(log_p, len(mine), half, on_points=done)
    value = measures.mean(nats)
    return {"log_likelihood": value.value, "standard_error": value.error, "last_change": float(change.max())}


_TAKE: dict[str, Callable[[Subject], dict[str, Any]]] = {
    "terms": terms,
    "active-units": active_units,
    "kl-by-latent": kl_by_latent,
    "squared-error": squared_error,
    "log-likelihood": log_likelihood,
    "mutual-information": mutual_information,
    "quadrature": quadrature,
}


@contextmanager
def _bar(subject: Subject, total: int | None, unit: str) -> Iterator[Callable[[int], Any]]:
    """What is told how many more are done; shows them in a terminal."""
    from tqdm import tqdm

    with tqdm(total=total, unit=f" {unit}", unit_scale=True, disable=None, leave=False) as bar:
        yield bar.update


def _require_finite(run: runs.Run, name: str, figures: dict[str, Any]) -> None:
    numbers = [n for value in figures.values() if not isinstance(value, str) for n in np.ravel(value)]
    if not np.isfinite(np.array(numbers, float)).all():
        raise InputError(f"{run.path} comes to a {name} that is not finite; train it again.")
