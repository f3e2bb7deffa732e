"""The command `parity compare`: compare two recordings."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from jaxvae.shared.cli import join_help, parse
from jaxvae.shared.errors import InputError
from jaxvae.shared.report import neighbours
from jaxvae.shared.safe_io import write_atomically
from parity_tests.harness.formats import files


@dataclass(frozen=True)
class Compare:
    """Compare two recordings, which `parity_tests.record` wrote where the models' frameworks are: inputs, weights,
    outputs, state, losses, gradients and optimizer steps. Print whether they agree or the first layer that differs. The
    exit status is 0 if they agree, 1 if they differ, and 2 if they could not be compared: one is no whole recording, or
    they were recorded otherwise. Recordings of JAX and of PyTorch are compared where torch is installed; two of one
    framework are paired by equal names and need no framework.

    Examples: parity compare jax.safetensors torch.safetensors
              parity compare jax.safetensors torch.safetensors --mapping mapping.json --html report.html
              parity compare one-device.safetensors four-devices.safetensors"""

    left: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="A")]
    """A recording."""
    right: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="B")]
    """Another one."""
    mapping: Path | None = None
    """Which JAX array is which torch tensor, as JSON: pairs {"conv1/kernel": "conv1.weight"}, or rules [["(.*)/bias",
    "\\\\1.bias"]], of which the first that matches a whole path gives the name. A pair ["NAME", "transposed"] or a rule
    of three has a transform: as_is, transposed, flipped_kernel or {"flattened": {"rows": [C, H, W]}}. By default arrays
    are paired by name, then by kind of layer and shape, then by the order of calls."""
    ignore: tuple[str, ...] = field(default=())
    """Regexes of whole paths and names that have no counterpart; they are listed as not exercised."""
    channels_last: bool = True
    """Whether JAX's inputs of four axes are [batch, height, width, channels]."""
    json: Path | None = None
    """Write the report to this file: every level, and what made both recordings."""
    markdown: Path | None = None
    """Write the report to this file as Markdown, for an issue or a pull request."""
    junit: Path | None = None
    """Write the levels to this file as JUnit XML, for CI."""
    html: Path | None = None
    """Write a self-contained web page to this file."""


def main(arguments: Sequence[str]) -> int:
    """Run the command.

    Returns:
        The exit status, 0 if the recordings agree, else 1.

    Raises:
        InputError: If they can't be compared, or a file can't be written.
    """
    join_help(Compare)
    options = parse(Compare, prog="parity compare", args=arguments)
    files.require_separate(options.json, options.markdown, options.junit, options.html)
    from parity_tests.harness import report
    from parity_tests.harness.recordings.comparing import mapping_file
    from parity_tests.harness.recordings.comparing.compare import compare_recordings

    mapping = None if options.mapping is None else mapping_file.read(options.mapping)
    result = compare_recordings(
        options.left, options.right, mapping, channels_last=options.channels_last, ignore=options.ignore
    )
    print(result)
    try:
        if options.json is not None:
            write_atomically(options.json, files.to_text(result.to_json()).encode())
        if options.markdown is not None:
            write_atomically(options.markdown, result.to_markdown().encode(errors="replace"))
        if options.junit is not None:
            write_atomically(options.junit, report.to_junit(result))
        if options.html is not None:
            neighbours.write(options.html, result.to_html().encode())
    except OSError as error:
        raise InputError(f"{error.filename} can't be written ({error.strerror}); choose another path.") from None
    return 0 if result.passed else 1
