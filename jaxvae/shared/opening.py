"""A run's weights and images, as a command that looks at it wants them."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import tyro

from jaxvae.shared import data, runs, streaming
from jaxvae.shared.errors import InputError
from jaxvae.shared.spec import same_run
from jaxvae.shared.training import Device, found_at, require_same_images

RunPath = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
RunPaths = Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="RUN [RUN ...]")]


def open_run(side: Any, path: Path, device: Device) -> tuple[runs.Run, Any]:
    """The run and its weights: jaxvae's params, torchvae's model. Raises InputError for what is no run, or damaged."""
    run = runs.read(path)
    spec, weights = side.load(run.weights, side.prepare(device, run.spec.training.dtype))
    if not same_run(spec, run.spec):
        raise InputError(f"{run.weights} belongs to another configuration than {path / 'config.json'}; restore either.")
    return run, weights


def trained(run: runs.Run) -> tuple[int, int]:
    """The steps and epochs that the run's metrics tell of; those of a run without any are not known."""
    records = runs.read_metrics(run)
    return (records[-1]["step"], records[-1]["epoch"]) if records else (0, run.spec.training.epochs)


def encode_first(side: Any, run: runs.Run, weights: Any, dataset: data.Dataset, n: int) -> Any:
    """The posteriors of the first `n` test images, or of all, seen as in the last epoch's evaluation."""
    key = side.stream_key(side.root_key(run.spec.training.seed), "evaluation", trained(run)[1])
    labels = dataset.test_labels[:n] if run.spec.model.classes else None
    return side.encode_images(run.spec, weights, dataset.test[:n], key, labels)


def open_images(run: runs.Run, root: Path | None, whole: bool = False) -> data.Dataset:
    """The images the run was trained on: under `root`, or else where training found them. `whole`: with those that it
    was not given to train on. Raises InputError where they are not to be had, or others."""
    place = found_at(run, root)
    try:
        found = data.load(run.spec, place, mapped=True)[0]  # the training images are only to be known again
    except streaming.UnmappableError:
        found = data.load(run.spec, place)[0]
    require_same_images(run, found)
    if whole and run.spec.images.train_images:
        found = data.load(replace(run.spec, images=replace(run.spec.images, train_images=None)), place)[0]
    return found
