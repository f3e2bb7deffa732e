"""Options and helpers that commands share: a run's weights and its data set, opened."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from jaxvae.shared.config.spec import same_run
from jaxvae.shared.data import datasets, streaming
from jaxvae.shared.data.dataset import Dataset, digest
from jaxvae.shared.errors import InputError
from jaxvae.shared.runs import run_folder
from jaxvae.shared.runs.metrics import steps_and_epochs

Device = Literal["auto", "cpu", "gpu", "tpu"]
LoadedData = tuple[Dataset, str | None]  # of data.load


def found_at(run: run_folder.Run, root: Path | None) -> Path | None:
    """Where to look for the run's images: under `root`, or else where training found them."""
    source = Path(run.config["data"]["source"])
    return root or (source if source.is_dir() else None)


def require_same_images(run: run_folder.Run, dataset: Dataset) -> None:
    """Raises InputError unless these are the images that the run was trained and tested on."""
    if "imported" in run.config:
        return  # nobody knows what it was trained on
    expected, found = run.config["data"]["digest"], digest(dataset)
    if found != expected:
        raise InputError(
            f"The images of {dataset.name} from {dataset.source} are not those that {run.path} was trained on: their "
            f"digest should be {expected[:12]}..., found {found[:12]}...; give the --data-root that has them, or put "
            "them back."
        )


RunPath = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
RunPaths = Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="RUN [RUN ...]")]


def open_run(side: Any, path: Path, device: Device) -> tuple[run_folder.Run, Any]:
    """The run and its weights: jaxvae's params, torchvae's model. Raises InputError for what is no run, or damaged."""
    run = run_folder.read(path)
    spec, weights = side.load(run.weights, side.prepare(device, run.spec.training.dtype))
    if not same_run(spec, run.spec):
        raise InputError(f"{run.weights} belongs to another configuration than {path / 'config.json'}; restore either.")
    return run, weights


def encode_first(side: Any, run: run_folder.Run, weights: Any, dataset: Dataset, n: int) -> Any:
    """The posteriors of the first `n` test images, or of all, seen as in the last epoch's evaluation."""
    key = side.stream_key(side.root_key(run.spec.training.seed), "evaluation", steps_and_epochs(run)[1])
    labels = dataset.test_labels[:n] if run.spec.model.classes else None
    return side.encode_images(run.spec, weights, dataset.test[:n], key, labels)


def open_images(run: run_folder.Run, root: Path | None, whole: bool = False) -> Dataset:
    """The images the run was trained on: under `root`, or else where training found them. `whole`: with those that it
    was not given to train on. Raises InputError where they are not to be had, or others."""
    place = found_at(run, root)
    try:
        found = datasets.load(run.spec, place, mapped=True)[0]  # the training images are only to be known again
    except streaming.UnmappableError:
        found = datasets.load(run.spec, place)[0]
    require_same_images(run, found)
    if whole and run.spec.images.train_images:
        found = datasets.load(replace(run.spec, images=replace(run.spec.images, train_images=None)), place)[0]
    return found
