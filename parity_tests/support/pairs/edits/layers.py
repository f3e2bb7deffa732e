"""Edits of a single layer: its settings, and its weights as it reads them."""

from typing import Any

from parity_tests.support.pairs.edits.edit import Edit, of_part
from parity_tests.support.pairs.parts import (
    BatchNorm,
    Conv,
    ConvTranspose,
    Dropout,
    Embed,
    GroupNorm,
    LayerNorm,
    Linear,
    RMSNorm,
)

_Weights = tuple[tuple[str, type, bool], ...]


def _square(part: Any) -> bool:
    return part.n_in == part.n_out and getattr(part, "groups", 1) == 1


def _grouped(part: Any) -> Any:
    """Return another number of groups of the same channels."""
    return next(n for n in range(1, part.features + 1) if part.features % n == 0 and n != part.groups)


def _shifted(part: Any) -> Any:
    return tuple((start - 1, end + 1) for start, end in part.padding)


def _zeros(part: Any) -> bool:
    return part.mode == "zeros"


SETTINGS: tuple[Edit, ...] = (
    Edit("layer norm's eps", "value", of_part(LayerNorm, eps=1e-3), known=True),
    Edit("layer norm's eps, Flax's own", "value", of_part(LayerNorm, eps=1e-6), "JAX", known=True),
    Edit("RMS norm's eps", "value", of_part(RMSNorm, eps=1e-3)),
    Edit("group norm's eps", "value", of_part(GroupNorm, eps=1e-3), known=True),
    Edit("batch norm's eps", "value", of_part(BatchNorm, eps=1e-3), known=True),
    Edit("layer norm's variance unbiased", "value", of_part(LayerNorm, variant="unbiased")),
    Edit("layer norm without its mean", "value", of_part(LayerNorm, variant="uncentred")),
    Edit("layer norm's eps outside the root", "value", of_part(LayerNorm, variant="eps outside", eps=1e-3)),
    Edit("RMS norm's eps outside the root", "value", of_part(RMSNorm, variant="eps outside", eps=1e-3)),
    Edit("RMS norm's variance unbiased", "value", of_part(RMSNorm, variant="unbiased")),
    Edit("number of groups", "value", of_part(GroupNorm, lambda part: part.features > 1, groups=_grouped), known=True),
    Edit("padding at the end", "value", of_part(Conv, _zeros, padding=_shifted), known=True),
    Edit("reflected border", "value", of_part(Conv, _zeros, mode="reflect")),
    Edit("circular border", "value", of_part(Conv, _zeros, mode="circular")),
    Edit("border of zeros", "value", of_part(Conv, lambda part: part.mode == "circular", mode="zeros")),
    Edit("dilation", "value", of_part(
        Conv, lambda part: _zeros(part) and set(part.strides) == {1}, dilation=2,
        padding=lambda part: ((2, 2),) * len(part.size),
    ), known=True),
    Edit("order of strides", "value", of_part(
        Conv, lambda part: len(part.strides) == 2 and part.strides == (2, 2), strides=(2, 1),
    )),
    Edit("transposed convolution moved", "value", of_part(ConvTranspose, shift=1), known=True),
    Edit("dropout left on", "value", of_part(Dropout, on=True), train=False, known=True),
    Edit("batch statistics in evaluation", "state", of_part(BatchNorm, reads="batch"), train=False, known=True),
    Edit("running statistics in training", "state", of_part(BatchNorm, reads="running"), train=True, known=True),
    Edit("batch norm's momentum", "state", of_part(BatchNorm, momentum=0.01), train=True, known=True),
    Edit("batch norm's momentum the other way", "state", of_part(BatchNorm, momentum=0.9), train=True, known=True),
    Edit("batch norm's variance biased", "state", of_part(BatchNorm, unbiased=False), train=True, known=True),
    Edit("batch norm updated twice", "state", of_part(BatchNorm, updates=2), train=True),
    Edit("batch norm not updated", "state", of_part(BatchNorm, updates=0), train=True, known=True),
)  # fmt: skip


def _weight(label: str, kind: type, change: str, known: bool = False, when: Any = lambda part: True) -> Edit:
    return Edit(label, "weight", of_part(kind, when, change=change), known=known)


def _biased(part: Any) -> bool:
    return part.bias


WEIGHTS: tuple[Edit, ...] = (
    _weight("linear kernel transposed", Linear, "transposed", True, _square),
    _weight("linear kernel's inputs reversed", Linear, "inputs reversed"),
    _weight("linear kernel's outputs reversed", Linear, "outputs reversed"),
    _weight("linear kernel's outputs moved by one", Linear, "outputs rolled"),
    _weight("linear kernel negated", Linear, "negated"),
    _weight("linear kernel without its first input", Linear, "kernel's first input left out"),
    _weight("linear bias left out", Linear, "bias left out", True, _biased),
    _weight("linear bias doubled", Linear, "bias doubled", False, _biased),
    _weight("linear bias reversed", Linear, "bias reversed", False, _biased),
    _weight("kernel rotated", Conv, "rotated", True),
    _weight("kernel's inputs and outputs swapped", Conv, "transposed", True, _square),
    _weight("kernel's height and width swapped", Conv, "axes swapped", True, lambda part: len(part.size) == 2),
    _weight("convolution's outputs reversed", Conv, "outputs reversed"),
    _weight("convolution's bias left out", Conv, "bias left out", True, _biased),
    _weight("convolution's bias doubled", Conv, "bias doubled", False, _biased),
    _weight("transposed convolution's kernel rotated", ConvTranspose, "rotated", True),
    _weight("transposed convolution's kernel swapped", ConvTranspose, "transposed", True, _square),
    _weight("transposed convolution's bias left out", ConvTranspose, "bias left out", True),
    _weight("layer norm's scale left out", LayerNorm, "scale left out", True),
    _weight("layer norm's scale from one", LayerNorm, "scale from one"),
    _weight("layer norm's bias left out", LayerNorm, "bias left out", True),
    _weight("RMS norm's scale from one", RMSNorm, "scale from one"),
    _weight("group norm's scale left out", GroupNorm, "scale left out", True),
    _weight("group norm's scale reversed", GroupNorm, "scale reversed"),
    _weight("group norm's bias doubled", GroupNorm, "bias doubled"),
    _weight("batch norm's scale left out", BatchNorm, "scale left out", True),
    _weight("batch norm's bias left out", BatchNorm, "bias left out", True),
    _weight("embedding table moved by one", Embed, "table rolled"),
    _weight("embedding of the first word zero", Embed, "table's first row zero"),
)

LAYER_EDITS: tuple[Edit, ...] = (*SETTINGS, *WEIGHTS)
"""The edits of single layers."""
