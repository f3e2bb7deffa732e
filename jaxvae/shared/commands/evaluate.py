"""The evaluate command."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from jaxvae.shared import safe_io
from jaxvae.shared.analysis.evaluation import ALL, CHEAP, reason_not_applicable, rows, take
from jaxvae.shared.analysis.trained_model import trained_model
from jaxvae.shared.commands.common import Device, RunPath, open_images, open_run
from jaxvae.shared.config.spec import Spec
from jaxvae.shared.data.dataset import Dataset
from jaxvae.shared.errors import InputError
from jaxvae.shared.runs import measures_record, metrics, run_folder
from jaxvae.shared.text import text_table

_MOST = 10_000_000  # samples


@dataclass(frozen=True)
class Evaluate:
    """Evaluate a run on the test images: the terms of its loss, in nats per image, and other measures.

    What is found is kept in the run folder's measures.json. For example, all that makes sense, with the log-likelihood
    from 1,000 samples:

        evaluate runs/a --measures all --samples 1000"""

    run: RunPath
    """The run folder, whichever package wrote it."""
    measures: Annotated[tuple[str, ...], tyro.conf.arg(help=f"Which: {', '.join(ALL)}, or all that make sense.")] = (
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


def chosen(spec: Spec, command: Evaluate) -> list[str]:
    """The measures that a command asks for. Raises InputError for one that there isn't, or that makes no sense of the
    model; what is not named is left out instead."""
    if not 1 <= command.samples <= _MOST:
        raise InputError(f"--samples must be from 1 to {_MOST:,}, found {command.samples:,}.")
    if command.json is not None and not command.json.parent.is_dir():
        raise InputError(f"{command.json} can't be written: {command.json.parent} is no folder; give another --json.")
    if command.measures in (CHEAP, ("all",)):
        return [
            name for name in (CHEAP if command.measures == CHEAP else ALL) if reason_not_applicable(spec, name) is None
        ]
    for name in command.measures:
        if name == "all":
            raise InputError("The measure all stands alone; leave out the others, or it.")
        if name not in ALL:
            raise InputError(f"There is no measure {name!r}; choose of {', '.join(ALL)}, or all.")
        if (reason := reason_not_applicable(spec, name)) is not None:
            raise InputError(f"The measure {name} {reason}; leave it out.")
    return list(dict.fromkeys(command.measures))


def evaluate(side: Any, command: Evaluate, run: run_folder.Run, weights: Any, dataset: Dataset) -> None:
    """Takes the measures, prints them and keeps them in the run's folder. Raises InputError for what can't be done as
    asked, and for figures that are not finite."""
    names = chosen(run.spec, command)
    taken = take(trained_model(side, run, weights, dataset, command.samples), names)
    if "terms" in taken:
        told = metrics.sentence(run.spec, taken["terms"])
        print(f"{command.run}: test {told} over {len(dataset.test):,} images of {dataset.name}")
    else:
        print(f"{command.run}: {len(dataset.test):,} test images of {dataset.name}")
    if told := [row for name in names for row in rows(name, taken[name])]:
        print(text_table(told))
    measures_record.update(side.__name__, run, taken)
    if command.json is not None:
        safe_io.write_atomically(command.json, measures_record.to_bytes(taken))


def run_evaluate(side: Any, command: Evaluate) -> None:
    run, weights = open_run(side, command.run, command.device)
    chosen(run.spec, command)  # before the images are looked for
    evaluate(side, command, run, weights, open_images(run, command.data_root))
