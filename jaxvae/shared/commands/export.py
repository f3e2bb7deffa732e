"""The export command."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from jaxvae.shared.commands.common import open_run
from jaxvae.shared.commands.import_ import export_source
from jaxvae.shared.interop.export_files import Format
from jaxvae.shared.runs import run_folder


@dataclass(frozen=True)
class Export:
    """Write a run's model for other programs: its weights, or encode, decode and reconstruct as programs of their own.

    safetensors: a folder with config.json as model hubs have it; torch: a state_dict; flax: msgpack; orbax: a
    checkpoint; stablehlo, torch-export, onnx: a folder with the three programs, for a batch of any size, and a
    signature.json that says what they take and give.

    For example:

        export runs/a --format safetensors --out model"""

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """The run folder, whichever package wrote it."""
    format: Format | Literal["source"]
    """What to write. jaxvae alone writes flax, orbax and stablehlo; torchvae alone torch, torch-export and onnx.
    source: an imported run as the program that it was imported from has it, names and all."""
    out: Path
    """The file or folder to make."""


def run_export(side: Any, command: Export) -> None:
    if command.format == "source":
        export_source(side, run_folder.read(command.run), command.out)
    else:
        run, weights = open_run(side, command.run, "cpu")
        side.export_model(command.out, run.spec, weights, command.format)
    print(f"{command.format} of {command.run} in {command.out}")
