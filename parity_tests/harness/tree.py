"""Make the tree of modules of a report from what was measured of each."""

from collections.abc import Collection, Mapping
from typing import NamedTuple

from parity_tests.harness.findings import Figure, Layer, Node

Path = tuple[str, ...]
_WORST = ("differs", "follows", "agrees", "unmeasured")


class Entry(NamedTuple):
    """What is known of a module, or of a name."""

    figures: tuple[Figure, ...] = ()
    layer: Layer | None = None
    kind: str = ""


def grown(
    name: str,
    entries: Mapping[Path, Entry],
    differ: Collection[Path] = (),
    first: Path | None = None,
    passed: bool = True,
) -> Node:
    """Make a tree of entries, in their order.

    Args:
        name: The name of the root.
        entries: What is known of each path of names; the root's is empty.
        differ: The paths that the diagnosis names.
        first: The path of the first difference.
        passed: Whether the whole agrees.

    Returns:
        The root.
    """
    below: dict[Path, dict[Path, None]] = {}
    for path in entries:
        for i in range(len(path)):
            below.setdefault(path[:i], {})[path[: i + 1]] = None

    def node(path: Path) -> Node:
        entry = entries.get(path, Entry())
        children = tuple(node(child) for child in below.get(path, ()))
        states = [_status(entry.figures, path in differ), *(child.status for child in children)]
        if not path:
            states.append("agrees" if passed else "differs")
        here = first is not None and path == first[: len(path)]
        title = path[-1] if path else name
        return Node(title, min(states, key=_WORST.index), entry.layer, entry.kind, entry.figures, children, here)

    return node(())


def _status(figures: tuple[Figure, ...], named: bool) -> str:
    wrong = [figure for figure in figures if not figure.passed]
    if named or any(not figure.follows for figure in wrong):
        return "differs"
    return "follows" if wrong else "agrees" if figures else "unmeasured"
