"""Write down the pairs of arrays and tensors as far as they can be told, as code for the caller to correct."""

import contextlib
from collections.abc import Callable, Collection

import numpy as np
from torch import nn

from jaxvae.shared.errors import InputError
from parity_tests.harness.modules.inference.pairing import Shapes, infer
from parity_tests.harness.modules.torch_state import Entry, counts_batches, entries, persistent, whole
from parity_tests.harness.modules.transforms import layout

_OTHERS = 3  # candidates that a line names beside its own


def draft(
    shapes: Shapes,
    module: nn.Module,
    state: Collection[str],
    orders: Callable[[], tuple[list[str], list[str]]] | None,
    ignored: Collection[str] = (),
) -> str:
    """Draft a mapping.

    Args:
        shapes: The shapes of the JAX arrays, by path.
        module: The torch module.
        state: The paths of those that are no parameters.
        orders: Returns the layers of both models in the order of their calls.
        ignored: The names of tensors that stay without a pair.

    Returns:
        Python code. A line in doubt ends in a comment with the other tensors that fit; an array that no tensor fits is
        a comment, and so are the tensors that are left over.
    """
    certain: dict[str, str] = {}
    with contextlib.suppress(InputError):
        for path, name, _ in infer(shapes, module, state, orders, ignored):  # those before the first that is in doubt
            certain[path] = name
    every, saved = entries(module), persistent(module)
    buffers = {name for name, _ in module.named_buffers()}
    used = {whole(name) for name in certain.values()} | {*ignored}
    free = {
        name: held
        for name, held in every.items()
        if name not in used and not (name in buffers and (name not in saved or counts_batches(name, held.layer)))
    }
    lines, layers = [], {}  # the torch layer that a JAX layer's first array is in
    for path, shape in shapes.items():
        if (name := certain.get(path)) is not None:
            lines.append(f"    {path!r}: {name!r},")
            continue
        is_state, layer = path in state, path.rpartition("/")[0]
        fitting = [name for name, held in free.items() if (name in buffers) == is_state and _fits(shape, held)]
        if not fitting:
            if not is_state:
                lines.append(f"    # {path!r}: ?  no tensor that is left has its shape, {list(shape)}")
            continue
        here = layers.get(layer)
        chosen = max(fitting, key=lambda name: (name.rpartition(".")[0] == here, _alike(path, name)))
        layers[layer] = chosen.rpartition(".")[0]
        del free[chosen]
        others = [name for name in fitting if name != chosen]
        doubt = f"  # or {', '.join(map(repr, others[:_OTHERS]))}{', ...' * (len(others) > _OTHERS)}" if others else ""
        lines.append(f"    {path!r}: {chosen!r},{doubt}")
    lines += [
        f"    # left over in torch: {name!r} {list(held.tensor.shape)}"
        for name, held in free.items()
        if name not in buffers
    ]
    return "\n".join(["mapping = {", *lines, "}"])


def _fits(shape: tuple[int, ...], held: Entry) -> bool:
    torch_shape = tuple(held.value.shape)
    if np.prod(shape) != np.prod(torch_shape):
        return False
    transform = layout(held.layer, held.leaf, torch_shape, shape)
    return transform.to_jax(np.empty(torch_shape)).shape == shape


def _alike(path: str, name: str) -> int:
    """How many words two names share, such as `bias`."""
    return len({*path.split("/")} & {*name.split(".")})
