"""The describe command: the layers, likelihood and loss of a run or preset."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from jaxvae.shared.backend import Backend
from jaxvae.shared.config.presets import PRESETS, preset
from jaxvae.shared.errors import InputError
from jaxvae.shared.model import description
from jaxvae.shared.runs import run_folder
from jaxvae.shared.text import say


@dataclass(frozen=True)
class Describe:
    """Describe a run or a preset: its layers, its likelihood, its loss and their units.

    For example:

        describe runs/a
        describe --preset beta-h"""

    run: Annotated[tyro.conf.Positional[Path | None], tyro.conf.arg(metavar="[RUN]")] = None
    """The run folder, written by either package."""
    preset: Annotated[str | None, tyro.conf.arg(help=f"A preset instead of a run: one of {', '.join(PRESETS)}.")] = None


def run(backend: Backend, command: Describe) -> None:
    """Print the description.

    Args:
        backend: Unused: a description needs no framework.
        command: The parsed flags.

    Raises:
        InputError: If the request is invalid.
    """
    if (command.run is None) == (command.preset is None):
        raise InputError(f"describe takes a run folder or --preset with one of {', '.join(PRESETS)}.")
    if command.run is None:
        assert command.preset is not None
        say(description.text(preset(command.preset), f"preset {command.preset}"))
    else:
        run = run_folder.read(command.run)
        say(
            description.text(
                run.spec, f"run {run.path}, from preset {run.config['preset']}, by {run.config['framework']}"
            )
        )
