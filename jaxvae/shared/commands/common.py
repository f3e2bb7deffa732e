"""Flags and helpers that several commands share: opening a run, its images, and checks of flags."""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import tyro

from jaxvae.shared.backend import Backend, DeviceName, Latents, Weights
from jaxvae.shared.config.presets import DEFAULT_PRESET, preset
from jaxvae.shared.config.spec import Spec, same_run
from jaxvae.shared.data import datasets, streaming
from jaxvae.shared.data.dataset import Dataset, digest
from jaxvae.shared.errors import InputError
from jaxvae.shared.runs import find_runs, run_folder
from jaxvae.shared.runs.best_epoch import steps_and_epochs
from jaxvae.shared.text import named, printable

LoadedData = tuple[Dataset, str | None]
"""What `datasets.load` returns: the images, and why they are not MNIST's if MNIST was asked for but not found."""

MAX_COLUMNS, MAX_ROWS = 60, 100
"""Images in a row of a picture, and rows."""
_MAX_DEVIATIONS = 1000

RunPath = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
_RUNS = "The run folders, written by either package. A folder of runs stands for all runs below it."
RunPaths = Annotated[
    tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="RUN [RUN ...]", help=_RUNS, help_behavior_hint="")
]
_DATA_ROOT = (
    "The folder of the published data sets: it contains MNIST/raw, FashionMNIST/raw, cifar-10-batches-py etc., or is "
    "one of these."
)
DataRoot = Annotated[
    Path | None,
    tyro.conf.arg(
        help=f"{_DATA_ROOT} By default $JAXVAE_DATA, the user's cache, or a download.", help_behavior_hint=""
    ),
]
RunDataRoot = Annotated[
    Path | None, tyro.conf.arg(help=f"{_DATA_ROOT} By default the one that training used.", help_behavior_hint="")
]
PartsFile = Annotated[
    str | None,
    tyro.conf.arg(
        metavar="FILE.py:NAME",
        help="The own parts that the run was made with: the Parts of this name in a Python file, which is executed.",
        help_behavior_hint="",
    ),
]


Split = Literal["test", "train"]
ImageSplit = Annotated[
    Split,
    tyro.conf.arg(
        help="The images to use: those for testing, or those that the run trained on, prepared as for testing."
    ),
]
SPLITS: dict[str, str] = {"test": "test image", "train": "training image"}
"""What the images of a split are called, one of them."""


def open_run(backend: Backend, path: Path, device: DeviceName) -> tuple[run_folder.Run, Weights]:
    """Open a run folder and load its weights.

    Args:
        backend: The package that loads them, which need not be the one that trained.
        path: The run folder.
        device: Where to compute.

    Returns:
        The run and its weights.

    Raises:
        InputError: If the folder is not a run, or is damaged.
    """
    run = run_folder.read(path)
    spec, weights = backend.load(run.weights, backend.prepare(device, run.spec.training.dtype))
    if not same_run(spec, run.spec):
        raise InputError(f"{run.weights} does not match {path / 'config.json'}; restore one of the two.")
    return run, weights


def chosen_runs(backend: Backend, given: Sequence[Path]) -> list[Path]:
    """Find the runs with weights that arguments stand for, as `find_runs.chosen_runs` does."""
    return find_runs.chosen_runs(
        backend.__name__, given, lambda path: None if (path / "model.safetensors").is_file() else "no weights yet"
    )


def images_root(run: run_folder.Run, data_root: Path | None) -> Path | None:
    """The folder to look for a run's images in: `data_root`, or else the one that training used."""
    source = Path(run.config["data"]["source"])
    return data_root or (source if source.is_dir() else None)


def open_images(run: run_folder.Run, data_root: Path | None, whole: bool = False, split: Split = "test") -> Dataset:
    """Load the images that a run was trained and tested on.

    Args:
        run: The run.
        data_root: The folder that has them; None for the one that training used.
        whole: Return all training images of the data set, even if the run was trained on some of them.
        split: `train` puts the images that the run trained on in the place of the test images.

    Returns:
        The images and their labels.

    Raises:
        InputError: If the images are not available, or are not those of the run.
    """
    root, spec = images_root(run, data_root), images_spec(run)
    try:
        dataset = datasets.load(spec, root, mapped=True)[0]  # the training images need only be checked
    except streaming.UnmappableError:
        dataset = datasets.load(spec, root)[0]
    require_same_images(run, dataset)
    own = dataset
    if whole and (spec.images.train_images or spec.images.validation):
        images = replace(spec.images, train_images=None, validation=0)
        training = replace(spec.training, patience=0)
        dataset = datasets.load(replace(spec, images=images, training=training), root)[0]
    if split == "train":
        dataset = dataset._replace(test=np.asarray(own.train), test_labels=own.train_labels)
    return dataset._replace(class_names=dataset.class_names or run.class_names) if run.own_loop else dataset


def images_spec(run: run_folder.Run) -> Spec:
    """The configuration of a run, with the place of images that are in its folder."""
    own = run.own_loop and run.spec.data == run_folder.OWN_DATA
    return replace(run.spec, data=f"npy:{run.path / run_folder.DATA_FOLDER}") if own else run.spec


def require_same_images(run: run_folder.Run, dataset: Dataset) -> None:
    """Raise InputError unless these are the images that the run was trained and tested on."""
    if "imported" in run.config:
        return  # its training images are unknown
    expected, actual = run.config["data"]["digest"], digest(dataset)
    if actual != expected:
        raise InputError(
            f"The images of {dataset.name} from {dataset.source} are not those that {run.path} was trained on: their "
            f"digest should be {expected[:12]}..., found {actual[:12]}...; give the --data-root that has them, or put "
            "them back."
        )


def encode_first(backend: Backend, run: run_folder.Run, weights: Weights, dataset: Dataset, n: int) -> Latents:
    """Encode the first `n` test images, binarised and corrupted as in the evaluation of these weights."""
    key = backend.stream_key(backend.root_key(run.spec.training.seed), "evaluation", steps_and_epochs(run)[1])
    labels = dataset.test_labels[:n] if run.spec.model.classes else None
    return backend.encode_images(run.spec, weights, dataset.test[:n], key, labels)


def class_to_draw(run: run_folder.Run, label: str | None) -> int | None:
    """Find the class that --label names.

    Args:
        run: The run, whose configuration has the names.
        label: A name, in any case, or a number; a name that is a number is taken for the name.

    Returns:
        The class, 0 without a label; None for a model without classes.

    Raises:
        InputError: If the model has no classes, or no such class.
    """
    classes, names = run.spec.model.classes, run.class_names[: run.spec.model.classes]
    if label is None:
        return 0 if classes else None
    if not classes:
        raise InputError(f"--label must be left out for a model without classes, found {printable(label)}.")
    for known, wanted in ((names, label), ([name.casefold() for name in names], label.casefold())):
        if known.count(wanted) == 1:
            return known.index(wanted)
    if label.isascii() and label.isdigit() and len(label) < 10 and int(label) < classes:
        return int(label)
    expected = f"one of {named(names, most=classes)}, or " if names else ""
    raise InputError(f"--label must be {expected}from 0 to {classes - 1}, found {printable(label)}.")


def preset_spec(arguments: Sequence[str]) -> Spec:
    """Return the configuration of --preset, or of the default one. Raises InputError if there is no such preset."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--preset", nargs="?", const=DEFAULT_PRESET, default=DEFAULT_PRESET)
    return preset(parser.parse_known_args(arguments)[0].preset)


def require_within(flag: str, value: int, least: int, most: int) -> None:
    """Raise InputError unless a flag's value is from `least` to `most`."""
    if not least <= value <= most:
        raise InputError(f"--{flag} must be from {least} to {most}, found {value}.")


def require_deviations(flag: str, value: float) -> None:
    """Raise InputError unless a flag's value is a positive number of standard deviations, and not absurdly large."""
    if not 0 < value <= _MAX_DEVIATIONS:
        raise InputError(f"--{flag} must be a number above 0 and at most {_MAX_DEVIATIONS}, found {value:g}.")
