"""The layers, weights and states that a block of a random network holds, as plain data.

A part is built in Flax by jax_parts.py and in torch by torch_parts.py. Its fields are what an edit can change.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np


def same(array: np.ndarray) -> np.ndarray:
    """Return the array as it is."""
    return array


def kernel_to_torch(kernel: np.ndarray) -> np.ndarray:
    """Convert the kernel of a linear layer or of a convolution."""
    return kernel.transpose(-1, -2, *range(kernel.ndim - 2))


class Tensor(NamedTuple):
    """One array of a part: its name in Flax and in torch, and the conversion."""

    in_jax: str
    """The path below the part, `kernel`; empty where the part is the array itself."""
    in_torch: str
    to_torch: Callable[[np.ndarray], np.ndarray] = same
    to_jax: Callable[[np.ndarray], np.ndarray] | None = None
    """The inverse, where the harness does not know the conversion from the kind of the layer."""
    rows: tuple[int, int] | None = None
    """The rows of torch's tensor that it is, where torch holds several arrays in one."""
    state: bool = False
    """Whether training updates it instead of the gradient."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """A layer, a weight or a state."""

    change: str = ""
    """What is wrong with a weight as the layer reads it, a name in changes.CHANGES; empty where nothing is."""

    def tensors(self) -> tuple[Tensor, ...]:
        """Return the arrays that both frameworks hold."""
        return ()


@dataclass(frozen=True, kw_only=True)
class Linear(Part):
    """A linear layer."""

    n_in: int
    n_out: int
    bias: bool = True
    zero: bool = False
    """Whether the kernel starts at zero."""

    def tensors(self) -> tuple[Tensor, ...]:
        return (Tensor("kernel", "weight", kernel_to_torch), *([Tensor("bias", "bias")] if self.bias else []))


@dataclass(frozen=True, kw_only=True)
class Conv(Linear):
    """A convolution of one, two or three dimensions."""

    size: tuple[int, ...]
    strides: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    """The zeros before and after each axis."""
    dilation: int = 1
    groups: int = 1
    mode: str = "zeros"
    """What stands at the border: zeros, reflect or circular."""


@dataclass(frozen=True, kw_only=True)
class ConvTranspose(Linear):
    """A transposed convolution, with torch's padding."""

    size: tuple[int, ...]
    stride: int
    padding: int
    shift: int = 0
    """By how many pixels the output is moved."""

    def tensors(self) -> tuple[Tensor, ...]:
        return super().tensors()


@dataclass(frozen=True, kw_only=True)
class Norm(Part):
    """A norm over the features or over groups of channels."""

    leaves: ClassVar[tuple[str, ...]] = ("scale", "bias")
    features: int
    eps: float = 1e-5
    variant: str = ""
    """How it differs from the usual formula: unbiased, uncentred or eps outside; empty where it does not."""

    def tensors(self) -> tuple[Tensor, ...]:
        return tuple(Tensor(leaf, "weight" if leaf == "scale" else leaf) for leaf in self.leaves)


@dataclass(frozen=True, kw_only=True)
class LayerNorm(Norm):
    """A layer norm."""


@dataclass(frozen=True, kw_only=True)
class RMSNorm(Norm):
    """A norm by the root of the mean square."""

    leaves: ClassVar[tuple[str, ...]] = ("scale",)


@dataclass(frozen=True, kw_only=True)
class GroupNorm(Norm):
    """A group norm; with as many groups as channels it is an instance norm."""

    groups: int


@dataclass(frozen=True, kw_only=True)
class BatchNorm(Norm):
    """A batch norm with torch's running variance, which is unbiased."""

    momentum: float = 0.1
    """The share of the new batch, as torch has it."""
    unbiased: bool = True
    reads: str = "mode"
    """Which statistics it reads: those of its mode, of the batch or running."""
    updates: int = 1
    """How often a step updates the running statistics."""

    def tensors(self) -> tuple[Tensor, ...]:
        running = (Tensor(leaf, f"running_{leaf}", state=True) for leaf in ("mean", "var"))
        return (*super().tensors(), *running)


@dataclass(frozen=True, kw_only=True)
class Embed(Part):
    """A table of embeddings."""

    entries: int
    features: int

    def tensors(self) -> tuple[Tensor, ...]:
        return (Tensor("embedding", "weight"),)


@dataclass(frozen=True, kw_only=True)
class Weight(Part):
    """One trainable array."""

    shape: tuple[int, ...] = ()
    start: float | None = None
    """Its first value; None draws it."""

    def tensors(self) -> tuple[Tensor, ...]:
        return (Tensor("", ""),)


@dataclass(frozen=True, kw_only=True)
class State(Part):
    """One array that a call in training mode updates."""

    shape: tuple[int, ...] = ()
    whole: bool = False
    """Whether it counts in whole numbers."""

    def tensors(self) -> tuple[Tensor, ...]:
        return (Tensor("", "", state=True),)


@dataclass(frozen=True, kw_only=True)
class Constant(Part):
    """A buffer that torch holds and that Flax computes."""

    numbers: tuple[Any, ...]
    """Nested tuples of numbers."""
    persistent: bool = True


@dataclass(frozen=True, kw_only=True)
class Dropout(Part):
    """Dropout, which is off in evaluation."""

    rate: float
    on: bool = False
    """Whether it is on in evaluation."""


@dataclass(frozen=True, kw_only=True)
class Cell(Part):
    """torch's own recurrent cell; Flax holds two linear layers."""

    kind: str
    n_in: int
    n_out: int

    def tensors(self) -> tuple[Tensor, ...]:
        pairs = [("kernel", "weight", np.transpose, np.transpose), ("bias", "bias", same, same)]
        return tuple(
            Tensor(f"{side}/{leaf}", f"{name}_{side}", there, back)
            for side in ("ih", "hh")
            for leaf, name, there, back in pairs
        )


@dataclass(frozen=True, kw_only=True)
class InProjection(Part):
    """torch's own attention; Flax holds one linear layer for query, key and value, and one for the output."""

    features: int
    heads: int

    def tensors(self) -> tuple[Tensor, ...]:
        return (
            Tensor("in_proj/kernel", "in_proj_weight", np.transpose, np.transpose),
            Tensor("in_proj/bias", "in_proj_bias", same, same),
            Tensor("out_proj/kernel", "out_proj.weight", np.transpose),
            Tensor("out_proj/bias", "out_proj.bias"),
        )


@dataclass(frozen=True, kw_only=True)
class Heads(InProjection):
    """torch's own attention beside Flax's own."""

    def tensors(self) -> tuple[Tensor, ...]:
        held = []
        for i, name in enumerate(("query", "key", "value")):
            rows = i * self.features, (i + 1) * self.features
            held.append(Tensor(f"{name}/kernel", "in_proj_weight", lambda k: k.reshape(len(k), -1).T, rows=rows))
            held.append(Tensor(f"{name}/bias", "in_proj_bias", np.ravel, rows=rows))
        held.append(Tensor("out/kernel", "out_proj.weight", lambda k: k.reshape(-1, k.shape[-1]).T))
        return (*held, Tensor("out/bias", "out_proj.bias"))
