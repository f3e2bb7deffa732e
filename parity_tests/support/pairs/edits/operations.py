"""Edits of what happens between layers: activations, residuals, attention, recurrence, pixels, outputs."""

from dataclasses import replace
from typing import Any

import numpy as np

from parity_tests.support.pairs.blocks import (
    attention,
    features,
    grids,
    heads,
    pointwise,
    recurrent,
    resampling,
    sequences,
)
from parity_tests.support.pairs.edits.edit import AFTER, BEFORE, Edit, of_block, swapped_blocks

OTHER = {"relu": "elu", "gelu": "gelu tanh", "gelu tanh": "gelu", "silu": "gelu quick", "tanh": "softsign",
         "sigmoid": "hard sigmoid", "softplus": "softplus, beta 2", "elu": "elu, alpha 0.5",
         "leaky relu": "leaky relu, slope 0.2", "selu": "elu", "mish": "silu"}  # fmt: skip
"""For each activation one that is easily taken for it."""


def _other(block: Any) -> str:
    return OTHER[block.activation]


def _function(name: str) -> Any:
    return lambda block: block.function == name


def _scores(**values: Any) -> Any:
    return lambda block: replace(block.scores, **values)


def _masked(block: Any) -> bool:
    return block.scores.mask != ""


def _plain(block: Any) -> bool:
    return block.scores.mask == ""


def _rotary(block: Any) -> bool:
    return block.scores.rotary > 0


def _activation(name: str, other: str, known: bool) -> Edit:
    return Edit(f"{other} for {name}", "value", of_block(pointwise.Activation, (BEFORE, AFTER), _function(name),
                function=other), known=known)  # fmt: skip


_written = {"relu": True, "gelu": True, "gelu tanh": True, "elu": True, "leaky relu": True, "selu": True, "mish": True}
ACTIVATIONS: tuple[Edit, ...] = (
    *(_activation(name, other, _written.get(name, False)) for name, other in OTHER.items()),
    _activation("relu", "square of relu", False),
    _activation("relu", "none", True),
    Edit("activation scaled", "value", of_block(pointwise.Activation, scale=1.5), known=True),
    Edit("activation's input moved", "value", of_block(pointwise.Activation, shift=0.3)),
    Edit("softmax's axis", "value", of_block(pointwise.Softmax, axis=0), known=True),
    Edit("softmax's temperature", "value", of_block(pointwise.Softmax, temperature=2.0)),
    Edit("log of the softmax", "value", of_block(pointwise.Softmax, log=True), known=True),
    Edit("scalar parameter without exp", "value", of_block(pointwise.Temperature, (BEFORE, "temperature", AFTER),
         form="plain")),
    Edit("scalar parameter's softplus", "value", of_block(pointwise.Temperature, (BEFORE, "temperature", AFTER),
         form="softplus")),
    Edit("scalar parameter added", "value", of_block(pointwise.Temperature, (BEFORE, "temperature", AFTER),
         added=True)),
    Edit("lower bound", "value", of_block(pointwise.Clip, low=-0.3)),
    Edit("tanh for a bound", "value", of_block(pointwise.Clip, soft=True)),
    Edit("sum of magnitudes for the length", "value", of_block(pointwise.UnitLength, order=1)),
    Edit("length over the batch", "value", of_block(pointwise.UnitLength, axis=0)),
    Edit("eps of the length", "value", of_block(pointwise.UnitLength, eps=1e-2)),
    Edit("weight norm over the outputs", "value", of_block(pointwise.WeightNorm, None, axis=1)),
    Edit("weight norm by the square", "value", of_block(pointwise.WeightNorm, None, squared=True)),
    Edit("tied kernel not transposed", "weight", of_block(pointwise.Tied, None, untransposed=True)),
    Edit("activation between tied kernels", "value", of_block(pointwise.Tied, None, activation="sin")),
)  # fmt: skip

_residual, _conv = features.Residual, grids.ConvResidual
_DOWN, _MIDDLE = ("down", "norm", AFTER), ("up", "down")
STRUCTURE: tuple[Edit, ...] = (
    Edit("skip left out", "value", of_block(_residual, _DOWN, skip=0.0)),
    Edit("skip scaled", "value", of_block(_residual, _DOWN, skip=0.5)),
    Edit("branch scaled", "value", of_block(_residual, _DOWN, branch=0.5)),
    Edit("norm on the other side", "order", of_block(_residual, ("norm", "up"), before=lambda block: not block.before)),
    Edit("skip from the norm", "value", of_block(_residual, _DOWN, lambda block: block.before, from_norm=True)),
    Edit("norm left out", "value", of_block(_residual, ("norm", "up", "down"), normed=False)),
    Edit("activation in a residual", "value", of_block(_residual, _MIDDLE, activation=_other)),
    Edit("sin in a branch that starts at zero", "value", of_block(_residual, _MIDDLE, lambda block: block.zero,
         activation="sin")),
    Edit("second activation in a residual", "value", of_block(_residual, _DOWN, second_activation=True)),
    Edit("skip of convolutions left out", "value", of_block(_conv, ("conv2", AFTER), skip=0.0)),
    Edit("branch of convolutions scaled", "value", of_block(_conv, ("conv2", AFTER), branch=1.5)),
    Edit("activation between convolutions", "value", of_block(_conv, ("norm", "conv1", "conv2"), activation=_other)),
    Edit("norm after the activation", "order", of_block(_conv, (BEFORE, "norm"), first=False)),
    Edit("activation after the sum", "value", of_block(_conv, ("conv2", AFTER), after_sum=True)),
    Edit("gate's halves swapped", "order", of_block(features.Gate, ("wide", "out"), swapped=True)),
    Edit("gate interleaved", "order", of_block(features.Gate, ("wide", "out"), interleaved=True)),
    Edit("gate inverted", "value", of_block(features.Gate, ("wide", "out"), inverted=True)),
    Edit("gate from one", "value", of_block(features.Gate, ("wide", "out"), plus_one=True)),
    Edit("gate's activation", "value", of_block(features.Gate, ("wide", "out"), activation="hard sigmoid")),
    Edit("highway swapped", "order", of_block(features.Mix, ("gate", "branch", AFTER), swapped=True)),
    Edit("highway's gate squared", "value", of_block(features.Mix, ("gate", "branch", AFTER), square=True)),
    Edit("concatenation reversed", "order", of_block(features.Concatenate, ("join",), reverse=True)),
    Edit("one branch concatenated twice", "order", of_block(features.Concatenate, ("join",), same=True)),
    Edit("excitation's gate", "value", of_block(grids.Excite, ("excite", AFTER), gate="hard sigmoid")),
    Edit("excitation of the largest", "value", of_block(grids.Excite, ("squeeze",), pool="max")),
    Edit("excitation from one", "value", of_block(grids.Excite, ("excite", AFTER), residual=True)),
    Edit("blocks swapped", "order", swapped_blocks),
)  # fmt: skip

_attention, _OUT = attention.Attention, ("query", "key", "value", "out")


def _attending(label: str, when: Any = lambda block: True, kind: Any = "value", **values: Any) -> Edit:
    return Edit(label, kind, of_block(_attention, _OUT, when, scores=_scores(**values)))


def _of_torchs(label: str, when: Any = lambda block: True, kind: Any = "value", **values: Any) -> Edit:
    return Edit(label, kind, of_block(attention.TorchAttention, ("attention",), when, scores=_scores(**values)))


def _of_flaxs(label: str, **values: Any) -> Edit:
    return Edit(label, "value", of_block(attention.FlaxAttention, ("attention",), scores=_scores(**values)))


ATTENTION: tuple[Edit, ...] = (
    _attending("query and key swapped", lambda block: not block.cross, "order", order="kqv"),
    _attending("key and value swapped", kind="order", order="qvk"),
    _attending("number of heads", heads=1),
    _attending("heads' features apart", kind="order", split_features_first=True),
    _attending("logits scaled by the width", scale="width"),
    _attending("logits not scaled", scale="one"),
    _attending("attention's softmax over queries", lambda block: not _masked(block), axis=-2),
    _attending("attention's temperature", temperature=1.3),
    _attending("mask left out", _masked, mask=""),
    _attending("mask added", lambda block: _plain(block) and not block.cross, mask="causal"),
    _attending("mask one step late", _masked, offset=1),
    _attending("mask of the past", _masked, upward=True),
    _attending("mask after the softmax", _masked, late=True),
    _attending("mask too weak", _masked, fill=-1.0),
    _attending("rotary base", _rotary, rotary=500.0),
    Edit("rotary pairs", "order", of_block(_attention, _OUT, _rotary,
         scores=lambda block: replace(block.scores, halves=not block.scores.halves))),
    _attending("rotation backwards", _rotary, backwards=True),
    _attending("rotation left out", _rotary, rotary=0.0),
    _of_torchs("heads of torch's attention", heads=4),
    _of_torchs("mask of torch's attention left out", _masked, mask=""),
    _of_torchs("query and key of torch's attention swapped", _masked, "order", order="kqv"),
    _of_flaxs("logits of Flax's attention not scaled", scale="one"),
    _of_flaxs("mask of Flax's attention added", mask="causal"),
)  # fmt: skip

_cell = recurrent.Recurrent


def _cell_edit(label: str, cell: str, kind: Any = "value", **values: Any) -> Edit:
    return Edit(label, kind, of_block(_cell, ("cell",), lambda block: cell in ("", block.kind), **values))


SEQUENCES: tuple[Edit, ...] = (
    _cell_edit("LSTM's gates in another order", "lstm", "order", gates="figo"),
    _cell_edit("GRU's gates in another order", "gru", "order", gates="zrn"),
    _cell_edit("GRU's reset before the product", "gru", reset_before=True),
    _cell_edit("GRU's update the other way", "gru", update_swapped=True),
    _cell_edit("LSTM's forget gate from one", "lstm", forget=1.0),
    _cell_edit("cell's activation", "", activation="softsign"),
    _cell_edit("sequence read backwards", "", "order", backwards=True),
    _cell_edit("cell's first state", "", start=0.5),
    Edit("word one further", "value", of_block(sequences.Embedding, ("table",), offset=1)),
    Edit("embedding not scaled", "value", of_block(sequences.Embedding, ("table", AFTER),
         scaled=lambda block: not block.scaled)),
    Edit("padding word masked", "value", of_block(sequences.Embedding, ("table", AFTER), masked=True)),
    Edit("positions from one", "value", of_block(sequences.Positions, (BEFORE, "positions", AFTER), first=1)),
    Edit("base of the positions", "value", of_block(sequences.Positions, (BEFORE, "positions", AFTER),
         lambda block: not block.learned, base=50.0)),
    Edit("cosines before sines", "order", of_block(sequences.Positions, (BEFORE, "positions", AFTER),
         lambda block: not block.learned, cosines_first=True)),
    Edit("sines and cosines interleaved", "order", of_block(sequences.Positions, (BEFORE, "positions", AFTER),
         lambda block: not block.learned, interleaved=True)),
    Edit("positions scaled", "value", of_block(sequences.Positions, (BEFORE, "positions", AFTER), factor=0.5)),
    Edit("complex rotation's base", "value", of_block(sequences.ComplexRotary, base=50.0)),
    Edit("complex rotation from one", "value", of_block(sequences.ComplexRotary, first=1)),
    Edit("complex rotation backwards", "value", of_block(sequences.ComplexRotary, conjugate=True)),
    Edit("imaginary part forgotten", "value", of_block(sequences.ComplexRotary, real_part=True)),
    Edit("pooling over time", "value", of_block(sequences.TimePool,
         kind=lambda block: {"mean": "max", "max": "mean", "first": "last", "last": "first"}[block.kind])),
    Edit("shift in time the other way", "order", of_block(sequences.TimeMixer, (BEFORE, "mixer"), shift=-1)),
    Edit("shift in time wraps around", "value", of_block(sequences.TimeMixer, (BEFORE, "mixer"), wraps=True)),
    Edit("time reversed into the mixer", "order", of_block(sequences.TimeMixer, (BEFORE, "mixer"), transposed=True)),
)  # fmt: skip


def _padded(block: Any) -> bool:
    return block.size == 3


PIXELS: tuple[Edit, ...] = (
    Edit("flattened with channels last", "order", of_block(grids.Flatten, channels_last=True), known=True),
    Edit("patches by columns", "order", of_block(grids.Patches, columns_first=True)),
    Edit("pooling's kind", "value", of_block(resampling.Pool,
         kind=lambda block: {"max": "mean", "mean": "max"}[block.kind]), known=True),
    Edit("pooling's padding at the end", "value", of_block(resampling.Pool, (BEFORE, AFTER), _padded, ends=(1, 1)),
         known=True),
    Edit("padding left out of the mean", "value", of_block(resampling.Pool, (BEFORE, AFTER),
         lambda block: block.kind == "mean" and _padded(block), counted=False), known=True),
    Edit("global pooling's kind", "value", of_block(resampling.GlobalPool,
         kind=lambda block: {"max": "mean", "mean": "max"}[block.kind]), known=True),
    Edit("global sum for the mean", "value", of_block(resampling.GlobalPool, (BEFORE, AFTER),
         lambda block: block.kind == "mean", kind="sum"), known=True),
    Edit("global deviation for the mean", "value", of_block(resampling.GlobalPool, (BEFORE, AFTER),
         lambda block: block.kind == "mean", kind="deviation")),
    Edit("nearest for bilinear, or the reverse", "value", of_block(resampling.Resize,
         method=lambda block: {"nearest": "bilinear", "bilinear": "nearest"}[block.method])),
    Edit("corners aligned", "value", of_block(resampling.Resize, (BEFORE, AFTER),
         lambda block: block.method == "bilinear", method="corners")),
    Edit("pixels shuffled with channels inside", "order", of_block(resampling.PixelShuffle, channels_inside=True)),
    Edit("pixels shuffled by columns", "order", of_block(resampling.PixelShuffle, columns_first=True)),
    Edit("image turned over on the other axis", "order", of_block(resampling.Turn,
         axis=lambda block: {"height": "width", "width": "height"}[block.axis])),
    Edit("channels shuffled the other way", "order", of_block(resampling.Turn, (BEFORE, AFTER),
         lambda block: block.shuffled, undone=True)),
)  # fmt: skip

OUTPUTS: tuple[Edit, ...] = (
    Edit("outputs swapped", "order", of_block(heads.Several, None, swapped=True)),
    Edit("log-variance halved", "value", of_block(heads.Several, ("logvar", "mean", AFTER), half=True)),
    Edit("output scaled", "value", of_block(heads.One, scale=2.0), known=True),
    Edit("signal scaled", "value", of_block(heads.Signal, scale=2.0)),
    Edit("logits scaled under the mask", "value", of_block(heads.Logits, ("logits", AFTER), scale=2.0)),
    Edit("another logit masked", "value", of_block(heads.Logits, ("logits", AFTER), hidden=(2,))),
    Edit("one more logit masked", "value", of_block(heads.Logits, ("logits", AFTER), hidden=(1, 4))),
    Edit("-1e9 for infinity, or the reverse", "value", of_block(heads.Logits, ("logits", AFTER),
         fill=lambda block: -1e9 if np.isinf(block.fill) else -np.inf)),
    Edit("map scaled beside its mean", "value", of_block(heads.MapAndMean, scale=1.5)),
    Edit("mean of the squares", "value", of_block(heads.MapAndMean, crossed=True)),
)  # fmt: skip

OPERATION_EDITS: tuple[Edit, ...] = (*ACTIVATIONS, *STRUCTURE, *ATTENTION, *SEQUENCES, *PIXELS, *OUTPUTS)
"""The edits of what happens between layers."""
