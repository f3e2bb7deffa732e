"""The order in which gradients come back through the layers of a network, from the loss to the inputs."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple


class Stop(NamedTuple):
    """Something whose gradient is known."""

    kind: Literal["output", "input", "parameter"]
    name: str
    """The label of the call whose output or input it is, or the parameter."""


def stops(labels: Sequence[str], owners: Mapping[str, Collection[str]]) -> Iterator[Stop]:
    """Yield the outputs and inputs of calls, and the parameters, as their gradients come back from the loss.

    The gradient of a call's input is known after those of the calls within it, that of a parameter after the calls of
    all layers that own it and of the layers within these.

    Args:
        labels: The calls in the order in which they return: `NAME`, or `NAME#2` of a second one.
        owners: The layers that own each parameter, by its name, in the order of the model.
    """
    layers = [label.partition("#")[0] for label in labels]
    begins: dict[int, list[str]] = {}
    for i in sorted(range(len(labels)), key=lambda i: -len(layers[i])):
        before = next((j for j in reversed(range(i)) if layers[j] == layers[i]), -1)
        begin = next((j for j in range(before + 1, i) if _within(layers[j], layers[i])), i)
        begins.setdefault(begin, []).append(labels[i])
    known: dict[int, list[str]] = {}
    for name in reversed(owners):  # type: ignore[call-overload]
        held = owners[name]
        at = next((j for j, layer in enumerate(layers) if any(_within(layer, owner) for owner in held)), 0)
        known.setdefault(at, []).append(name)
    for i in reversed(range(len(labels))):
        yield Stop("output", labels[i])
        yield from (Stop("input", label) for label in begins.get(i, ()))
        yield from (Stop("parameter", name) for name in known.get(i, ()))


def _within(layer: str, outer: str) -> bool:
    return not outer or f"{layer}.".startswith(f"{outer}.")


def place(stop: Stop, name: str, name_after: str) -> str:
    """Name the place where the gradient that comes back is the first that differs.

    Args:
        stop: What it is the gradient of.
        name: The layer's name, as it is shown.
        name_after: The name of the layer that follows, or of the loss.
    """
    return f"backward between {name} and {name_after}" if stop.kind == "output" else f"backward in {name}"


def text(stop: Stop, name: str, difference: str) -> str:
    """Say how it differs."""
    what = stop.name if stop.kind == "parameter" else f"the {stop.kind} of {name}"
    return (
        f"The loss agrees, and so does the gradient of every later layer; the gradient of {what} differs: {difference}."
    )
