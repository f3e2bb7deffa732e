"""The table of commands, which the parser, the dispatch and the tests read: a command that is not in it does not exist.

To add a command, write a module with a frozen dataclass for its flags and `run(backend, command)`, and add its entry.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from jaxvae.shared.backend import Backend
from jaxvae.shared.commands import (
    compare,
    curves,
    describe,
    embed,
    evaluate,
    export,
    import_,
    interpolate,
    list_,
    manifold,
    reconstruct,
    report,
    sample,
    sweep,
    train,
    traverse,
)


class Entry(NamedTuple):
    """A command."""

    flags: type
    """The frozen dataclass of its flags; its lower-case name is the command's, its docstring the help."""
    run: Callable[[Backend, Any], None]
    """Runs the command with an instance of the dataclass."""
    defaults: Callable[[Sequence[str]], Any] | None = None
    """Returns the instance with the flags' defaults, for a command where these depend on the command line."""

    @property
    def name(self) -> str:
        return self.flags.__name__.lower()


COMMANDS = (
    Entry(train.Train, train.run, train.defaults),
    Entry(sweep.Sweep, sweep.run, sweep.defaults),
    Entry(list_.List, list_.run),
    Entry(evaluate.Evaluate, evaluate.run),
    Entry(sample.Sample, sample.run),
    Entry(reconstruct.Reconstruct, reconstruct.run),
    Entry(interpolate.Interpolate, interpolate.run),
    Entry(traverse.Traverse, traverse.run),
    Entry(manifold.Manifold, manifold.run),
    Entry(embed.Embed, embed.run),
    Entry(compare.Compare, compare.run),
    Entry(curves.Curves, curves.run),
    Entry(report.Report, report.run),
    Entry(describe.Describe, describe.run, describe.defaults),
    Entry(export.Export, export.run),
    Entry(import_.Import, import_.run),
)
