"""The evaluate command: measures of a trained model."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from jaxvae.shared import safe_io
from jaxvae.shared.analysis.evaluation import ALL, CHEAP, reason_not_applicable, reason_without_labels, rows, take
from jaxvae.shared.analysis.trained_model import trained_model
from jaxvae.shared.backend import Backend, DeviceName
from jaxvae.shared.commands.common import SPLITS, ImageSplit, PartsFile, RunDataRoot, RunPath, open_images, open_run
from jaxvae.shared.config.spec import Spec
from jaxvae.shared.errors import InputError
from jaxvae.shared.runs import measures_record, metrics
from jaxvae.shared.runs.best_epoch import kept
from jaxvae.shared.text import counted, say, suggestion, text_table

_MAX_SAMPLES = 10_000_000
_MEASURES_HELP = (
    f"One or more of {', '.join(ALL)}, or all that apply. quadrature is the log-likelihood by numerical integration, "
    "for models with two latents. label-accuracy: how well k-nearest neighbours and logistic regression, fitted to the "
    "latents of at most 10,000 training images, name the labels of the test images. sample-accuracy: how many samples "
    "of a conditional model a support vector machine, fitted to training images, sees as the class asked for."
)


@dataclass(frozen=True)
class Evaluate:
    """Evaluate a run on the test images: the terms of its loss, in nats per image, and other measures.

    Results on the test images are stored in the run folder's measures.json. For example, all measures that apply to
    the model, with the log-likelihood from 1,000 samples:

        evaluate runs/a --measures all --samples 1000"""

    run: RunPath
    """The run folder, written by either package."""
    measures: Annotated[tuple[str, ...], tyro.conf.arg(help=_MEASURES_HELP)] = CHEAP
    samples: int = 5000
    """Latent samples per image for the log-likelihood."""
    json: Path | None = None
    """A file to write the results to as well."""
    split: ImageSplit = "test"
    data_root: RunDataRoot = None
    device: DeviceName = "auto"
    """Where to compute."""
    parts: PartsFile = None


def chosen(spec: Spec, command: Evaluate) -> list[str]:
    """Select the measures to take.

    Args:
        spec: The configuration of the run.
        command: The parsed flags.

    Returns:
        The names of the measures. Measures that do not apply to the model are left out unless they were named.

    Raises:
        InputError: If a named measure is unknown or does not apply to the model.
    """
    if not 1 <= command.samples <= _MAX_SAMPLES:
        raise InputError(f"--samples must be from 1 to {_MAX_SAMPLES:,}, found {command.samples:,}.")
    if command.json is not None:
        safe_io.require_writable(command.json, "give another --json")
    if command.measures in (CHEAP, ("all",)):
        return [
            name for name in (CHEAP if command.measures == CHEAP else ALL) if reason_not_applicable(spec, name) is None
        ]
    for name in command.measures:
        if name == "all":
            raise InputError("--measures all includes the others; give it alone, or leave it out.")
        if name not in ALL:
            alike = suggestion(name, ALL)
            raise InputError(f"There is no measure {name!r}{alike}; choose from {', '.join(ALL)}, or all.")
        if (reason := reason_not_applicable(spec, name)) is not None:
            raise InputError(f"The measure {name} {reason}; leave it out.")
    return list(dict.fromkeys(command.measures))


def run(backend: Backend, command: Evaluate) -> None:
    """Take the measures, print them and store them in the run folder.

    Args:
        backend: The package that evaluates.
        command: The parsed flags.

    Raises:
        InputError: If the request is invalid, or a result is not finite.
    """
    run, weights = open_run(backend, command.run, command.device)
    names = chosen(run.spec, command)  # before the images are loaded
    dataset, noun = open_images(run, command.data_root, split=command.split), SPLITS[command.split]
    without = {name: why for name in names if (why := reason_without_labels(dataset, name)) is not None}
    if without and command.measures != ("all",):
        name = next(iter(without))
        raise InputError(f"The measure {name} {without[name]}; leave it out.")
    names = [name for name in names if name not in without]
    taken = take(trained_model(backend, run, weights, dataset, command.samples), names)
    if "terms" in taken:
        terms = metrics.sentence(run.spec, taken["terms"])
        say(f"{command.run}: {command.split} {terms} over {counted(len(dataset.test), 'image')} of {dataset.name}")
    else:
        say(f"{command.run}: {counted(len(dataset.test), noun)} of {dataset.name}")
    if run.spec.images.validation and (record := kept(run)) is not None:
        say(f"with the weights of epoch {record['epoch']}, the best by validation loss")
    if lines := [row for name in ALL if name in taken for row in rows(name, taken[name])]:
        say(text_table(lines))
    if command.split == "test":
        measures_record.update(backend.__name__, run, taken)
    else:
        taken = {name: {**figures, "split": command.split} for name, figures in taken.items()}
    if command.json is not None:
        safe_io.write_atomically(command.json, measures_record.to_bytes(taken))
