"""Pair layers that JAX holds as one stack, as under `scan` and `vmap`, with torch's list of layers."""

import contextlib
from collections.abc import Callable, Mapping

from torch import nn

from jaxvae.shared.errors import InputError
from parity_tests.harness.modules.inference.pieces import Arrangement
from parity_tests.harness.modules.joining.joints import Shape, stacked
from parity_tests.harness.modules.joining.links import in_parts
from parity_tests.harness.modules.torch_state import entries

Resolve = Callable[[Mapping[str, Shape], nn.Module, str, str], Arrangement]
"""Arranges the arrays of a part of the JAX model with a torch module; the last two are the names of the parts."""


def stacks(shapes: Mapping[str, Shape], module: nn.Module, resolve: Resolve) -> Arrangement:
    """Pair the stacks of a JAX model with the lists of alike layers of a torch module.

    Args:
        shapes: The shapes of the JAX arrays, by path.
        module: The torch module.
        resolve: Arranges one layer of a stack with the first of its list.

    Returns:
        The arrangement of all layers; empty if there is no stack.

    Raises:
        InputError: If a stack could be several lists.
    """
    lists = {name: layers for name, layers in module.named_modules() if _alike(layers)}
    found = Arrangement()
    for prefix in _prefixes(shapes):
        if any(path.startswith(f"{prefix}/") for path in found.paths):
            continue  # a part of a stack that is paired as a whole
        held = {path.removeprefix(f"{prefix}/"): s for path, s in shapes.items() if path.startswith(f"{prefix}/")}
        size = next(iter(held.values()))[0]
        one = {path: shape[1:] for path, shape in held.items()}
        fitting = {}
        for name, layers in lists.items():
            if len(list(layers.children())) == size:
                with contextlib.suppress(InputError):
                    fitting[name] = resolve(one, next(iter(layers.children())), prefix, f"{name}.0".lstrip("."))
        same = [name for name in fitting if name.split(".") == prefix.split("/")] or list(fitting)
        if len(same) > 1:
            raise InputError(
                f"mapping: the stack {prefix!r} of the JAX model could be any of {', '.join(map(repr, same))} in the "
                "torch module: give pairs for its arrays, with the joint stacked()."
            )
        if not same:
            continue
        (name,) = same
        path = name.replace(".", "/")
        links = tuple(
            in_parts(f"{prefix}/{leaf}", (size, *shape), [shape] * size, stacked(),
                     [f"{path}/{i}/{leaf}".lstrip("/") for i in range(size)])
            for leaf, shape in one.items()
        )  # fmt: skip
        found += Arrangement(links=links, stacks={prefix.replace("/", "."): name})
        for i in range(size):
            found += fitting[name].below(f"{path}/{i}".lstrip("/"), f"{name}.{i}".lstrip("."))
    return found


def _prefixes(shapes: Mapping[str, Shape]) -> list[str]:
    """Return the parts of the model all of whose arrays have a common first axis, the outer ones first."""
    every = dict.fromkeys(
        "/".join(words[:i]) for words in (path.split("/") for path in shapes) for i in range(1, len(words))
    )
    found = []
    for prefix in sorted(every, key=lambda prefix: prefix.count("/")):
        sizes = {shape[:1] for path, shape in shapes.items() if path.startswith(f"{prefix}/")}
        if len(sizes) == 1 and sizes != {()}:
            found.append(prefix)
    return found


def _alike(layers: nn.Module) -> bool:
    """Return whether a module is a list of layers that hold tensors of the same names and shapes."""
    children = dict(layers.named_children())
    if not children or any(name != str(i) for i, name in enumerate(children)):
        return False
    first, *others = (
        {name: tuple(held.tensor.shape) for name, held in entries(child).items()} for child in children.values()
    )
    return bool(first) and all(other == first for other in others)
