"""The run folder of a model that was trained by a loop of its user's own, which the commands read as one of train's."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from jaxvae.shared import safe_io
from jaxvae.shared.backend import Backend
from jaxvae.shared.config.parts import TrainingSpec
from jaxvae.shared.config.presets import PRESETS
from jaxvae.shared.config.spec import Spec, require_spec, resolved
from jaxvae.shared.data import datasets
from jaxvae.shared.data.dataset import Dataset, as_dataset, digest, put_back, trained_on
from jaxvae.shared.errors import InputError
from jaxvae.shared.model import weight_file
from jaxvae.shared.model.argument_checks import require_bytes, require_count, require_labels
from jaxvae.shared.runs import checkpoints, metrics, run_folder
from jaxvae.shared.runs.command_line import changes


def save_run(
    backend: Backend,
    path: Path | str,
    spec: Spec,
    weights: Any,
    data: Dataset | np.ndarray,
    *,
    labels: np.ndarray | None = None,
    step: int | None = None,
    terms: np.ndarray | None = None,
) -> run_folder.Run:
    """Make a run folder, whole or not at all.

    Args:
        backend: The package whose model it is.
        path: The folder, which may not exist.
        spec: The configuration.
        weights: The weights, or a TrainState.
        data: What it was trained and tested on. Images that no data set's name stands for are copied into the folder.
        labels: The classes of images that are given as an array, `[n]`.
        step: The steps that were taken; by default those of the state, or of `terms`.
        terms: The mean terms of each step, `[steps, terms]`, for the learning curves.

    Returns:
        The run.

    Raises:
        InputError: If the folder exists or can't be made, if the weights or the images are not the configuration's, or
            if the number of steps is missing or doesn't fit.
        NonFiniteError: If a term over the test images is NaN or infinite.
    """
    require_spec(spec)
    path = safe_io.as_path(path, "The run folder")
    run_folder.require_free(path)
    dataset = trained_on(as_dataset("save_run", data, labels), spec.images)
    for images, classes in ((dataset.train, dataset.train_labels), (dataset.test, dataset.test_labels)):
        require_bytes("save_run", images, spec.model.image)
        require_labels("save_run", spec, classes if dataset.labelled else None, len(images))
    is_state = hasattr(weights, "step") and hasattr(weights, "key")
    weights, step = (weights.evaluated, int(weights.step) if step is None else step) if is_state else (weights, step)
    arrays, n = backend.to_arrays(spec, weights), len(dataset.train)
    step, terms = _steps(spec, step, terms)
    spec = replace(resolved(spec, n), training=_ending(resolved(spec, n).training, n, step))
    epoch = -(-step // spec.training.epoch_steps(n))
    key = backend.stream_key(backend.root_key(spec.training.seed), "evaluation", epoch)
    classes = dataset.test_labels if spec.model.classes else None
    tested = backend.average_terms(spec, weights, dataset.test, key, classes)
    metrics.require_finite(spec, tested, step)
    known = _is_known(spec, dataset)
    if known:
        spec = replace(spec, data=dataset.name)
    else:  # the folder has those images alone that the configuration trains on
        spec = replace(spec, data=run_folder.OWN_DATA, images=replace(spec.images, train_images=None))
    config = {
        "framework": backend.__name__,
        "preset": min(PRESETS, key=lambda name: len(changes(PRESETS[name], spec))),
        **{"log_every": None, "checkpoint_every": None, "keep": 2},
        "data": {
            "asked": spec.data,
            "name": spec.data,
            "source": dataset.source,
            "instead_of_mnist": None,
            "train": n,
            "test": len(dataset.test),
            "digest": digest(dataset),
            **({"class_names": list(dataset.class_names)} if dataset.class_names else {}),
        },
        "sessions": [],
        "own_loop": True,
    }

    def fill(made: run_folder.Run) -> None:
        weight_file.save(made.weights, spec, arrays)
        checkpoints.create_index(made)
        metrics.append(made, [*_records(spec, terms, n), metrics.record(spec, step, epoch, "test", tested)])
        if not known:
            _save_data(made.path / run_folder.DATA_FOLDER, put_back(dataset))

    return run_folder.create(path, spec, config, fill)


def _steps(spec: Spec, step: int | None, terms: Any) -> tuple[int, np.ndarray]:
    """The number of steps, and their terms: none if they are not given."""
    given = np.zeros((0, len(spec.terms))) if terms is None else np.asarray(terms, np.float64)
    if given.ndim != 2 or given.shape[1] != len(spec.terms) or not np.isfinite(given).all():
        raise InputError(
            f"save_run needs terms of the shape [steps, {len(spec.terms)}], finite, found {list(given.shape)}; give "
            f"{', '.join(spec.terms)} of each step."
        )
    step = len(given) if step is None and len(given) else step
    if step is None:
        raise InputError("save_run needs the steps that were taken, found none; give step=, terms=, or a TrainState.")
    require_count("save_run", "step", step)
    if terms is not None and len(given) != step:
        raise InputError(f"save_run needs the terms of each of {step:,} steps, found {len(given):,}; give all or none.")
    return int(step), given


def _ending(training: TrainingSpec, n: int, step: int) -> TrainingSpec:
    """The settings of a run that ends after this step."""
    epochs = max(training.epochs, -(-step // training.epoch_steps(n)))
    longer = replace(training, epochs=epochs, max_steps=None)
    return longer if longer.total_steps(n) == step else replace(longer, max_steps=step)


def _is_known(spec: Spec, dataset: Dataset) -> bool:
    """Whether the images are those that the data set's name and source stand for."""
    source = Path(dataset.source)
    try:
        found = datasets.load(replace(spec, data=dataset.name), source if source.is_dir() else None)[0]
    except InputError:
        return False
    return digest(found) == digest(dataset)


def _records(spec: Spec, terms: np.ndarray, n: int) -> list[dict[str, Any]]:
    """The mean terms of each epoch's steps."""
    per_epoch = spec.training.epoch_steps(n)
    return [
        record
        for start in range(0, len(terms), per_epoch)
        for record in metrics.train_records(terms[start : start + per_epoch], start, n, spec, None)
    ]


def _save_data(folder: Path, dataset: Dataset) -> None:
    """Write the images in the format of the data set npy:DIR."""
    folder.mkdir()
    for name in ("train", "test", *(("train_labels", "test_labels") if dataset.labelled else ())):
        np.save(folder / f"{name}.npy", np.asarray(getattr(dataset, name)))
