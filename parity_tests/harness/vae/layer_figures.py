"""The tree of modules of both packages, from the levels that compare their layers and their gradients."""

import re
from collections.abc import Iterable

from parity_tests.harness import tree
from parity_tests.harness.compare import worst
from parity_tests.harness.findings import Figure, Finding, Layer, Node
from parity_tests.harness.vae.levels import Arrays, Level

DIRECTIONS = {"every layer's output": "forward", "every gradient": "backward"}
"""The levels whose arrays are those of layers, by name."""


def add(entries: dict[tree.Path, tree.Entry], level: Level, finding: Finding, answers: tuple[Arrays, Arrays]) -> None:
    """Add the difference of each array of a level to the entries of the layers; of other levels none."""
    left, right = answers
    if level.name not in DIRECTIONS or list(left) != list(right):
        return
    for name in left:
        size = worst(level.measure, {name: right[name]}, {name: left[name]}).size
        path, of = split(level.name, name)
        figure = Figure(
            of, DIRECTIONS[level.name], finding.dtype, size, finding.tolerance, finding.unit, finding.reason
        )
        layer = Layer(".".join(path), ".".join(path))
        held = entries.get(path, tree.Entry(layer=layer))
        entries[path] = held._replace(figures=(*held.figures, figure))


def split(level: str, name: str) -> tuple[tree.Path, str]:
    """Split the name of an array of one of these levels into its layer's path and what of the layer it is."""
    dotted = re.split("[ ,]", name)[0]  # as in `encoder.mean, its bias` and `encoder.mean.bias at the start`
    path, rest = tuple(dotted.split(".")), name[len(dotted) :].strip(" ,")
    if DIRECTIONS[level] == "backward":
        return path[:-1], f"{path[-1]} {rest}".strip()
    return path, rest or "output"


def grown(name: str, entries: dict[tree.Path, tree.Entry], passed: bool) -> Node:
    """Make the tree of one configuration; the first difference is that of the first layer that fails."""
    first = next((path for path, entry in entries.items() if not all(f.passed for f in entry.figures)), None)
    return tree.grown(name, entries, first=first, passed=passed)


def joined(trees: Iterable[tuple[str, Node | None]]) -> Node:
    """Join the trees of several configurations; the first difference is that of the first that has one."""
    children: tuple[Node, ...] = ()
    for name, child in trees:
        if child is not None:
            later = any(earlier.first for earlier in children)
            children += ((_without_first(child) if later else child)._replace(name=name),)
    status = "differs" if any(child.status == "differs" for child in children) else "agrees"
    return Node("configurations", status, children=children, first=any(child.first for child in children))


def _without_first(node: Node) -> Node:
    return node._replace(first=False, children=tuple(map(_without_first, node.children)))
