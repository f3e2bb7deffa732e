"""The definitions of another program's files, executed without the rest of them."""

import __future__

import ast
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxvae.shared.errors import InputError

_IMPORTED = {*sys.stdlib_module_names, "typing_extensions", "numpy", "torch", "jax", "flax", "optax"} - {"__future__"}


class Code:
    """The names that a program's files define.

    Of the files, imports of Python's own modules, NumPy, PyTorch, JAX, Flax and optax, definitions of classes and
    functions, and the assignments that are asked for are executed: nothing else.
    """

    def __init__(self, clone: Path, files: Sequence[str], assigned: Sequence[str], names: Mapping[str, Any]):
        """Execute the definitions.

        Args:
            clone: A git clone of the program's repository.
            files: Python files and notebooks of its newest commit, in the order of their definitions.
            assigned: Names whose assignments in the files are executed, too.
            names: What takes the place of modules that may not be installed.

        Raises:
            InputError: If the clone doesn't have a file.
        """
        self._names, self._assignments = dict(names), {}
        for file in files:
            nodes = []
            for node in _statements(ast.parse(_source(clone, file))):
                if not isinstance(node, ast.Assign):
                    nodes.append(node)
                elif isinstance(node.targets[0], ast.Name):
                    self._assignments[node.targets[0].id] = node
                    nodes += [node] if node.targets[0].id in assigned else []
            self._execute(nodes, self._names)

    def __getitem__(self, name: str) -> Any:
        return self._names[name]

    def evaluate(self, targets: Sequence[str], **values: Any) -> Any:
        """Execute the last assignments to some names, as in the program's training loop.

        Args:
            targets: The names, in their order.
            **values: The other names that the assignments have.

        Returns:
            The value of the last name.
        """
        names = self._names | values
        self._execute([self._assignments[target] for target in targets], names)
        return names[targets[-1]]

    def _execute(self, nodes: list[ast.stmt], names: dict[str, Any]) -> None:
        lazy = __future__.annotations.compiler_flag  # they may name modules that aren't installed
        exec(compile(ast.Module(nodes, []), "a program's file", "exec", lazy, dont_inherit=True), names)


def git(clone: Path, *arguments: str) -> str:
    """Return what git prints. Raises InputError if it fails."""
    result = subprocess.run(["git", "-C", str(clone), *arguments], capture_output=True, text=True, check=False)
    if result.returncode:
        raise InputError(
            f"{clone} is not a clone that has its files: git says {result.stderr.strip()}; clone it again."
        )
    return result.stdout


def _statements(tree: ast.AST) -> Iterator[ast.stmt]:
    """The imports, definitions and assignments of a file, those inside functions and loops too."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.Assign):
            yield node
        elif isinstance(node, ast.Import):
            names = [name for name in node.names if name.name.partition(".")[0] in _IMPORTED]
            yield from [ast.copy_location(ast.Import(names), node)] if names else []
        elif isinstance(node, ast.ImportFrom) and not node.level and str(node.module).partition(".")[0] in _IMPORTED:
            yield node
        if not isinstance(node, ast.ClassDef):
            yield from _statements(node)


def _source(clone: Path, file: str) -> str:
    text = git(clone, "show", f"HEAD:{file}")
    if not file.endswith(".ipynb"):
        return text
    cells = ["".join(cell["source"]) for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    return "\n".join(line for cell in cells for line in cell.splitlines() if not line.startswith(("%", "!")))
