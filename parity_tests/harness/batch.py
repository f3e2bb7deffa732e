"""What both packages are given of a batch, in numbers."""

from typing import NamedTuple

import numpy as np

from jaxvae.shared import layout
from jaxvae.shared.spec import Spec

Arrays = dict[str, np.ndarray]


class Batch(NamedTuple):
    """Pixels and everything drawn beside them."""

    x: np.ndarray
    """What is to be reconstructed, `[batch, pixels]`."""
    eps: np.ndarray
    """Standard normals `[batch, latent]`, or `[samples, batch, latent]`."""
    labels: np.ndarray | None = None
    """`[batch]`, of a model with classes."""
    prior: np.ndarray | None = None
    corruption: np.ndarray | None = None
    masks: tuple[np.ndarray, ...] = ()
    step: int = 0
    """Steps taken before."""


def together(spec: Spec, arrays: Arrays) -> Arrays:
    """Every bias that batch norm takes away again beside the weights of its layer, as one array. Its gradient is zero
    but for rounding, and rounding is measured by what was rounded: the layer's own numbers."""
    idle = {p.name.removesuffix(".bias") for p in layout.table(spec.model) if p.idle}
    found = {}
    for name, array in arrays.items():
        layer, _, kind = name.rpartition(".")
        if any(layer == other or layer.endswith(f".{other}") for other in idle):
            if kind == "bias":
                continue
            array = np.concatenate([array.ravel(), arrays[f"{layer}.bias"]])
        found[name] = array
    return found


def idle_names(spec: Spec) -> set[str]:
    """The biases in front of batch norm, and the running means behind, which count them in."""
    biases = {p.name for p in layout.table(spec.model) if p.idle}
    return biases | {name.replace(".conv.bias", ".norm.running_mean") for name in biases}


def without_idle(spec: Spec, arrays: Arrays) -> Arrays:
    """The arrays but for those biases and means. Adam divides the rounding of a zero gradient by its own size, so that
    they wander."""
    idle = idle_names(spec)
    return {n: a for n, a in arrays.items() if not any(n == name or n.endswith(f".{name}") for name in idle)}
