"""The structure of a recorded output as JSON, and the output without its numbers again."""

from collections import namedtuple
from typing import Any

from parity_tests.harness.modules.common.names import kind
from parity_tests.harness.modules.common.structure import leaves, parts
from parity_tests.harness.recordings.arrays import Arrays, numbers


def arrays(tree: Any) -> Arrays:
    """Return the arrays of an output by their place.

    Raises:
        TypeError: If the output holds something else.
    """
    found = {}
    for place, leaf in leaves(tree, "output"):
        if (array := numbers(leaf)) is None:
            raise TypeError(f"{place} is {kind(leaf)}, and only arrays of numbers can be recorded")
        found[place] = array
    return found


def to_json(tree: Any, place: str = "output") -> Any:
    """Convert an output's structure to JSON values, with each array's place."""
    held = parts(tree)
    if held is None:
        return None if tree is None else {"place": place}
    inside = [f"{place}[{held.names[i]!r}]" if held.names else f"{place}[{i}]" for i in range(len(held.values))]
    inner = [to_json(value, at) for value, at in zip(held.values, inside, strict=True)]
    return {"names": held.names and list(held.names), "positions": held.positions, "parts": inner}


def from_json(value: Any) -> Any:
    """Convert what `to_json` returns to an output with the places for its arrays."""
    if value is None or "place" in value:
        return value and value["place"]
    inner = [from_json(one) for one in value["parts"]]
    if value["names"] is None:
        return inner
    if not value["positions"]:
        return dict(zip(value["names"], inner, strict=True))
    output = namedtuple("output", value["names"])  # type: ignore[misc]
    return output(*inner)
