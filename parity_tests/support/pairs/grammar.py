"""Draw a random network: an input, blocks that fit one after the other, and a head."""

from collections.abc import Sequence

import numpy as np

from parity_tests.support.pairs.block import Block, chance, pick
from parity_tests.support.pairs.blocks import (
    attention,
    features,
    grids,
    heads,
    pointwise,
    recurrent,
    resampling,
    sequences,
    training,
)
from parity_tests.support.pairs.network import Net
from parity_tests.support.pairs.values import GRIDS, IMAGE, ROWS, SEQUENCE, SIGNAL, TOKENS, VOLUME, Value

BLOCKS: tuple[type[Block], ...] = (
    features.Dense,
    features.FeatureNorm,
    features.Residual,
    features.Gate,
    features.Mix,
    features.Concatenate,
    pointwise.Activation,
    pointwise.Softmax,
    pointwise.Dropped,
    pointwise.Temperature,
    pointwise.Clip,
    pointwise.UnitLength,
    pointwise.WeightNorm,
    pointwise.Tied,
    attention.Attention,
    attention.TorchAttention,
    attention.FlaxAttention,
    sequences.Embedding,
    sequences.Positions,
    sequences.ComplexRotary,
    recurrent.Recurrent,
    sequences.TimePool,
    sequences.TimeMixer,
    grids.Convolution,
    grids.Upconvolution,
    grids.ChannelNorm,
    grids.BatchNormed,
    grids.ConvResidual,
    grids.Excite,
    grids.Patches,
    grids.Flatten,
    resampling.Pool,
    resampling.GlobalPool,
    resampling.Resize,
    resampling.PixelShuffle,
    resampling.Turn,
    training.Average,
    training.Counter,
    training.Backward,
    training.Branches,
)
"""The blocks between input and output."""

HEADS: tuple[type[Block], ...] = (heads.One, heads.Signal, heads.Logits, heads.Several, heads.MapAndMean)
"""The blocks that make the outputs."""

LARGEST = 160
"""The most numbers that an array has for each example."""


def draw_net(rng: np.random.Generator, seed: int) -> Net:
    """Draw a network of two to five blocks and a head."""
    flavour = pick(rng, ("nnx", "nnx", "nnx", "nnx", "linen", "linen", "function"))
    start = value = _start(rng)
    count, chosen = int(rng.integers(2, 6)), []
    for i in range(count):
        fitting = _fitting(BLOCKS, value, flavour)
        fitting = [kind for kind in fitting if not (_repeats(kind, chosen) or _slow(kind, value))]
        if i == count - 1 and value.kind in GRIDS and chance(rng, 0.5):
            fitting = [kind for kind in fitting if kind in (grids.Flatten, resampling.GlobalPool)] or fitting
        kind = pick(rng, fitting)
        block = kind.draw(rng, value, f"{_label(kind)}{i}")
        value = block.after(value)
        chosen.append(block)
    head = pick(rng, _fitting(HEADS, value, flavour))
    chosen.append(head.draw(rng, value, "head"))
    return Net(seed, flavour, pick(rng, (3, 4)), start, tuple(chosen))


def _start(rng: np.random.Generator) -> Value:
    kind = pick(rng, (ROWS, SEQUENCE, SEQUENCE, TOKENS, IMAGE, IMAGE, IMAGE, SIGNAL, VOLUME))
    features = pick(rng, (4, 8))
    match kind:
        case "rows":
            return Value(kind, features)
        case "sequence" | "tokens":
            return Value(kind, features, (pick(rng, (3, 4)),))
        case "signal":
            return Value(kind, 4, (6,))
        case "image":
            return Value(kind, features, pick(rng, ((4, 4), (4, 6))) if features == 4 else (4, 4))
    return Value(kind, 2, (3, 4, 4))


def _fitting(kinds: Sequence[type[Block]], value: Value, flavour: str) -> list[type[Block]]:
    return [kind for kind in kinds if flavour in kind.flavours and kind.fits(value)]


def _repeats(kind: type[Block], chosen: Sequence[Block]) -> bool:
    return any(type(block) is kind for block in chosen) and kind is not features.Dense


def _slow(kind: type[Block], value: Value) -> bool:
    """Return whether the arrays would be large."""
    size = value.features * int(np.prod(value.sides))
    grows = kind in (grids.Upconvolution, resampling.Resize)
    return grows and 4 * size > 4 * LARGEST


def _label(kind: type[Block]) -> str:
    return kind.__name__.lower()
