"""The export command: a run's model for other programs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from jaxvae.shared.backend import Backend, Format
from jaxvae.shared.commands.common import PartsFile, RunPath, open_run
from jaxvae.shared.commands.import_ import export_source
from jaxvae.shared.runs import run_folder
from jaxvae.shared.text import say


@dataclass(frozen=True)
class Export:
    """Write a run's model for other software: its weights, or its encode, decode and reconstruct functions as programs.

    safetensors: a folder for model hubs, with config.json; torch: a state_dict, with NAME.config.json beside the file;
    flax: msgpack, with the same; orbax: a checkpoint, with config.json in its folder; stablehlo, torch-export, onnx: a
    folder with the three programs, for any batch size, and a signature.json that describes their inputs and outputs.

    For example:

        export runs/a --format safetensors --out model"""

    run: RunPath
    """The run folder, written by either package."""
    format: Format | Literal["source"]
    """The format. Only jaxvae writes flax, orbax and stablehlo; only torchvae writes torch, torch-export and onnx.
    source: an imported run in the format and with the names of the program it was imported from."""
    out: Path
    """The file or folder to create."""
    parts: PartsFile = None


def run(backend: Backend, command: Export) -> None:
    """Write the model.

    Args:
        backend: The package that exports.
        command: The parsed flags.

    Raises:
        InputError: If the request is invalid.
    """
    if command.format == "source":
        export_source(backend, run_folder.read(command.run), command.out)
    else:
        run, weights = open_run(backend, command.run, "cpu")
        backend.export_model(command.out, run.spec, weights, command.format)
    say(f"{command.format} of {command.run} in {command.out}")
