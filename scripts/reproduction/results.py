"""The figures of a finished run by their names, in nats per image unless the name says otherwise."""

from collections.abc import Container
from typing import Any, NamedTuple

from jaxvae.shared.analysis import evaluation, pca
from jaxvae.shared.analysis.evaluation import take
from jaxvae.shared.analysis.trained_model import trained_model
from jaxvae.shared.backend import DeviceName
from jaxvae.shared.commands import compare
from jaxvae.shared.data.dataset import Dataset
from jaxvae.shared.plotting import figure_file, image_grid
from jaxvae.shared.runs import measures_record, run_folder
from jaxvae.shared.text import text_table

SHARE = "test squared error as a share of PCA's"
_PICTURED = 16


class Finished(NamedTuple):
    """A finished run and how to read it."""

    backend: Any
    run: run_folder.Run
    records: list[dict[str, Any]]
    dataset: Dataset
    device: DeviceName
    samples: int
    """Latent samples per image for the log-likelihood."""
    expected: Container[str]
    """The names of the figures with an expected range."""

    @property
    def weights(self) -> Any:
        """The parameters in jaxvae, the model in torchvae."""
        return self.backend.load(self.run.weights, self.backend.prepare(self.device, self.run.spec.training.dtype))[1]

    @property
    def epochs(self) -> int:
        """Number of trained epochs."""
        return self.records[-1]["epoch"]


def at(split: str, term: str, epoch: int) -> str:
    """Name a term's mean over an epoch, or over the test images after it."""
    return f"{split} {term}, epoch {epoch:,}"


def nll(samples: int, epoch: int) -> str:
    """Name the negative log-likelihood of the test images."""
    return f"test NLL by {samples:,} samples, epoch {epoch:,}"


def terms(finished: Finished) -> dict[str, float]:
    """Read the terms with an expected range, and the last test loss."""
    every = {
        at(record["split"], term, record["epoch"]): record[term]
        for record in finished.records
        for term in finished.run.spec.terms
    }
    last = at("test", "loss", finished.epochs)
    return {name: value for name, value in every.items() if name in finished.expected or name == last}


def likelihood(finished: Finished) -> dict[str, float]:
    """Measure the negative log-likelihood once; the run's measures.json stores it."""
    run, samples, step = finished.run, finished.samples, finished.records[-1]["step"]
    stored = measures_record.read(run).get("log-likelihood")
    if stored is None or (stored["step"], stored["samples"], stored["by"]) != (
        step,
        samples,
        finished.backend.__name__,
    ):
        seen = trained_model(finished.backend, run, finished.weights, finished.dataset, samples)
        taken = take(seen, ["log-likelihood"])
        print(text_table(evaluation.rows("log-likelihood", taken["log-likelihood"])))
        measures_record.update(finished.backend.__name__, run, taken)
        stored = taken["log-likelihood"]
    return {nll(samples, finished.epochs): -stored["log_likelihood"]}


def beside_pca(finished: Finished) -> dict[str, float]:
    """Measure squared errors per image of the run and of PCA, and draw both."""
    backend, run, test = finished.backend, finished.run, finished.dataset.test
    weights, latent, n = finished.weights, run.spec.model.latent, min(_PICTURED, len(test))
    rows = [
        pca.row(run.config["preset"], latent, test, lambda p: backend.reconstruct(run.spec, weights, test[p]), n),
        pca.pca(finished.dataset.train, test, latent, n),
    ]
    picture = run.images / "beside-pca.png"
    figure_file.save(compare.picture(rows, test, finished.dataset.name), picture)
    print(f"reconstructions beside PCA's in {picture}")
    ours, linear = (row.error for row in rows)
    return {"test squared error": ours, "test squared error of PCA": linear, SHARE: ours / linear}


def by_class(finished: Finished) -> dict[str, float]:
    """Read the terms, and draw a column of samples for each class."""
    backend, spec = finished.backend, finished.run.spec
    key = backend.stream_key(backend.root_key(spec.training.seed), "pictures", 0)
    picture = finished.run.images / "classes.png"
    samples = backend.sample(spec, finished.weights, key, 8 * spec.model.classes)
    image_grid.save(image_grid.grid(samples, spec.model.classes), picture)
    print(f"samples, a column for each class, in {picture}")
    return terms(finished)
