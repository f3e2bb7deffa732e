"""The tree of what two runs yield, by quantity and name."""

import re
from collections.abc import Mapping, Sequence

from parity_tests.harness import tree
from parity_tests.harness.findings import Figure, Node
from parity_tests.harness.loops import judging
from parity_tests.harness.loops.judging import Floor, Parted, Sizes
from parity_tests.harness.loops.naming import QUANTITIES, Record

UNIT = "of the largest"
_PARTS = re.compile("[./]")  # of names in torch, or of paths where both runs have the same
_DIRECTIONS = {
    **dict.fromkeys(("inputs", "loss in evaluation", "loss", "terms"), "forward"),
    "gradients": "backward",
}

Key = tuple[str, str]


def of_step(parted: Parted, at: Sequence[Record], dtype: str, reason: str) -> Node:
    """Return the difference of each array in the step in which the runs part.

    Args:
        parted: Where they part.
        at: What both yield in this step.
        dtype: The precision of the runs.
        reason: How the tolerance is chosen.
    """
    later = QUANTITIES[QUANTITIES.index(parted.quantity) + 1 :]
    figures = {}
    for quantity, apart in judging.sizes(at[0], at[1]).items():
        for name, size in apart.items():
            figure = _figure(quantity, name, dtype, size, parted.tolerance, reason)
            figures[quantity, name] = figure._replace(follows=quantity in later)
    title = "before the first step" if parted.step < 0 else f"step {parted.step}"
    return _grown(title, figures, (parted.quantity, parted.name))


def of_all(steps: Sequence[Sizes], dtype: str, floor: Floor | None, chaos: str | None) -> Node:
    """Return the largest difference of each array in all steps.

    Args:
        steps: The difference of each array in each step.
        dtype: The precision of the runs.
        floor: The noise floor of each step, if it was measured.
        chaos: Why numbers beyond their tolerance agree, if they do.
    """
    worst: dict[Key, float] = {}
    noise: dict[Key, float] = {}
    for i, step in enumerate(steps):
        for quantity, apart in step.items():
            for name, size in apart.items():
                here = floor[i].get(quantity, {}).get(name, 0.0) if floor else 0.0
                worst[quantity, name] = max(size, worst.get((quantity, name), 0.0))
                noise[quantity, name] = max(here, noise.get((quantity, name), 0.0))
    figures = {}
    for (quantity, name), size in worst.items():
        tolerance, reason = judging.allowance(dtype, noise[quantity, name]), judging.REASON[dtype]
        if not size <= tolerance:
            tolerance, reason = float("inf"), chaos or reason
        figures[quantity, name] = _figure(quantity, name, dtype, size, tolerance, reason)
    return _grown(f"all {len(steps)} steps", figures)


def _figure(quantity: str, name: str, dtype: str, size: float, tolerance: float, reason: str) -> Figure:
    of = _PARTS.split(name)[-1] or quantity
    return Figure(of, _DIRECTIONS.get(quantity, ""), dtype, size, tolerance, UNIT, reason)


def _grown(title: str, figures: Mapping[Key, Figure], first: Key | None = None) -> Node:
    entries: dict[tree.Path, tree.Entry] = {}
    for key, figure in figures.items():
        held = entries.get(path := _path(*key), tree.Entry())
        entries[path] = held._replace(figures=(*held.figures, figure))
    parted = None if first is None else _path(*first)
    return tree.grown(title, entries, [] if parted is None else [parted], parted, parted is None)


def _path(quantity: str, name: str) -> tree.Path:
    slot, of, tensor = name.rpartition(" of ")
    return (quantity, *([slot] if of else []), *_PARTS.split(tensor)[:-1])
