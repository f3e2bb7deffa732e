"""The describe command: the layers, likelihood and loss of a run, or of a configuration before it is trained."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from jaxvae.shared.backend import Backend
from jaxvae.shared.commands.common import PartsFile, preset_spec
from jaxvae.shared.config.presets import DEFAULT_PRESET, PRESETS, preset
from jaxvae.shared.config.spec import Spec
from jaxvae.shared.errors import InputError
from jaxvae.shared.model import description
from jaxvae.shared.runs import command_line, run_folder
from jaxvae.shared.text import say

_PRESET_HELP = f"A preset instead of a run: one of {', '.join(PRESETS)}."


@dataclass(frozen=True)
class Describe:
    """Describe a run, or a preset and the flags of train: the layers, the likelihood, the loss and their units. In a
    convolution 3x3/2 p1 is a kernel of 3x3, stride 2 and padding 1.

    For example:

        describe runs/a
        describe --preset beta-h
        describe --network layers --encoder conv32k4s2p1 --decoder linear14x14x32 up1k4s2p1"""

    run: Annotated[tyro.conf.Positional[Path | None], tyro.conf.arg(metavar="[RUN]")] = None
    """The run folder, written by either package."""
    preset: Annotated[
        str | None,
        tyro.conf.arg(help=f"A preset instead of a run: one of {', '.join(PRESETS)}.", help_behavior_hint=""),
    ] = None
    spec: Spec = field(default_factory=Spec)
    parts: PartsFile = None


def defaults(arguments: Sequence[str]) -> Describe:
    """Choose the defaults of the flags, which depend on --preset. Raises InputError if it names no preset."""
    return Describe(spec=preset_spec(arguments))


def run(backend: Backend, command: Describe) -> None:
    """Print the description.

    Args:
        backend: Unused: a description needs no framework.
        command: The parsed flags.

    Raises:
        InputError: If the request is invalid.
    """
    name = command.preset or DEFAULT_PRESET
    flags = command_line.changes(preset(name), command.spec)
    if (command.run is None) == (command.preset is None and not flags):
        alone = "a run folder alone, or" if command.run else "a run folder or"
        raise InputError(
            f"describe takes {alone} --preset with one of {', '.join(PRESETS)} and flags of train such as --hidden."
        )
    if command.run is None:
        changed = f" with {shlex.join(flags)}" if flags else ""
        say(description.text(command.spec, f"preset {name}{changed}"))
    else:
        run = run_folder.read(command.run)
        say(
            description.text(
                run.spec,
                f"run {run.path}, from preset {run.config['preset']}, by {run.config['framework']}",
                run.own_loop,
            )
        )
