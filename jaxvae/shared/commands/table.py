"""The table of commands, which the parser, the dispatch and the tests read: a command that is not in it does not exist.

To add a command, write a module with a frozen dataclass for its flags and `run(backend, command)`, and add its name. A
process imports the module of its own command alone.
"""

import importlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from jaxvae.shared.backend import Backend


class Entry(NamedTuple):
    """A command."""

    name: str
    """As it is typed; its module's name, but for an underscore after one of Python's own words."""

    @property
    def flags(self) -> type:
        """The frozen dataclass of its flags, with the command's name as a class; its docstring is the help."""
        return getattr(self._module, self.name.capitalize())

    @property
    def run(self) -> Callable[[Backend, Any], None]:
        """Runs the command with an instance of the dataclass."""
        return self._module.run

    @property
    def defaults(self) -> Callable[[Sequence[str]], Any] | None:
        """Returns the instance with the flags' defaults, for a command where these depend on the command line."""
        return getattr(self._module, "defaults", None)

    @property
    def _module(self) -> Any:
        return importlib.import_module(f"{__package__}.{self.name}{'_' * (self.name in _PYTHON)}")


_PYTHON = ("import", "list")

COMMANDS = tuple(
    Entry(name)
    for name in (
        "train",
        "sweep",
        "list",
        "evaluate",
        "sample",
        "reconstruct",
        "interpolate",
        "traverse",
        "manifold",
        "embed",
        "compare",
        "curves",
        "report",
        "describe",
        "export",
        "import",
    )
)
