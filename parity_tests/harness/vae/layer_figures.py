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
    """Make the tree of one configuration; the first difference is forward, if any is."""
    wrong = {way: _first(entries, way) for way in ("forward", "backward")}
    first = wrong["forward"] or wrong["backward"]
    if wrong["forward"] is not None:
        entries = {path: _following(entry, path == first) for path, entry in entries.items()}
    return tree.grown(name, entries, first=first, passed=passed)


def _first(entries: dict[tree.Path, tree.Entry], way: str) -> tree.Path | None:
    """The first layer, in the order of the computation, of which something differs in this direction."""
    wrong = (path for path, one in entries.items() if any(f.direction == way and not f.passed for f in one.figures))
    return next(wrong, None)


def _following(entry: tree.Entry, first: bool) -> tree.Entry:
    """The entry with the figures marked that differ as what they are computed from does: gradients, where an output
    differs; inputs of all layers but the first; outputs of layers whose input differs, or of later ones without."""
    inputs = {figure.dtype: figure for figure in entry.figures if figure.of == "input"}

    def follows(figure: Figure) -> bool:
        if figure.direction == "backward":
            return True
        given = inputs.get(figure.dtype)
        return not first if given is None or figure is given else not given.passed

    return entry._replace(figures=tuple(figure._replace(follows=follows(figure)) for figure in entry.figures))


def joined(trees: Iterable[tuple[str, Node | None]]) -> Node:
    """Join the trees of several configurations; the first difference is that of the first that has one."""
    children: tuple[Node, ...] = ()
    for name, child in trees:
        if child is not None:
            later = any(earlier.first for earlier in children)
            children += ((_without_first(child) if later else child)._replace(name=name),)
    wrong = any(child.status == "differs" for child in children)
    name, status = ("a configuration", "differs") if wrong else ("every configuration", "agrees")
    return Node(name, status, children=children, first=any(child.first for child in children))


def _without_first(node: Node) -> Node:
    return node._replace(first=False, children=tuple(map(_without_first, node.children)))
