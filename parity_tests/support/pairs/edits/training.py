"""Edits that only training shows: of states that a step updates, and of gradients."""

from typing import Any

from parity_tests.support.pairs.blocks import attention, pointwise, training
from parity_tests.support.pairs.edits.edit import AFTER, BEFORE, Edit, of_block, of_part
from parity_tests.support.pairs.parts import Conv, Embed, LayerNorm, Linear

_average, _counter, _backward, _branches = training.Average, training.Counter, training.Backward, training.Branches
_AVERAGES = ("average", "center", "ema_mean", "baseline", BEFORE, AFTER)


def _kind(name: str) -> Any:
    return lambda block: block.kind == name


STATES: tuple[Edit, ...] = (
    Edit("moving average's momentum", "state", of_block(_average, _AVERAGES, momentum=0.99), train=True),
    Edit("moving average of the sum", "state", of_block(_average, _AVERAGES, statistic="sum"), train=True),
    Edit("moving average of the largest", "state", of_block(_average, _AVERAGES, statistic="largest"), train=True),
    Edit("moving average not updated", "state", of_block(_average, _AVERAGES, updated=False), train=True),
    Edit("moving average read after its update", "state", of_block(_average, _AVERAGES, uses_new=True)),
    Edit("steps counted by two", "state", of_block(_counter, (BEFORE, "steps", AFTER), stride=2), train=True),
    Edit("step counts itself", "state", of_block(_counter, (BEFORE, "steps", AFTER), counted_first=True), train=True),
    Edit("steps not counted", "state", of_block(_counter, (BEFORE, "steps", AFTER), stride=0), train=True),
)


def _gradient(name: str, changed: Any, known: bool = False) -> Edit:
    return Edit(name, "backward", changed, losses=True, known=known)


_LINEAR = ("linear",)
GRADIENTS: tuple[Edit, ...] = (
    _gradient("gradient stopped on a branch", of_block(_backward, _LINEAR, stopped=True), True),
    _gradient("gradient scaled by another number", of_block(_backward, _LINEAR, _kind("scaled"), factor=0.25)),
    _gradient("gradient not scaled", of_block(_backward, _LINEAR, _kind("scaled"), factor=1.0)),
    _gradient("gradient reversed", of_block(_backward, _LINEAR, _kind("scaled"), factor=-0.5)),
    _gradient("gradient scaled on one side", of_block(_backward, _LINEAR, _kind("plain"), kind="scaled")),
    _gradient("gradient clipped at another bound", of_block(_backward, _LINEAR, _kind("clipped"), bound=0.002)),
    _gradient("gradient clipped by its norm", of_block(_backward, _LINEAR, _kind("clipped"), by_norm=True)),
    _gradient("gradient clipped on one side", of_block(_backward, _LINEAR, _kind("plain"), kind="clipped",
                                                       bound=0.002)),
    _gradient("no gradient through the rounding", of_block(_backward, _LINEAR, _kind("rounded"), through=False), True),
    _gradient("gradient through the rounding near zero", of_block(_backward, _LINEAR, _kind("rounded"), window=0.2)),
    _gradient("both branches stopped", of_block(_branches, ("online",), stopped="both"), True),
    _gradient("other branch stopped", of_block(_branches, ("online", "target"), stopped="online")),
    _gradient("no branch stopped", of_block(_branches, ("target",), stopped="none"), True),
    _gradient("keys without a gradient", of_block(attention.Attention, ("key",), keys_frozen=True), True),
    _gradient("second use of a kernel frozen", of_block(pointwise.Tied, ("kernel",), second_frozen=True)),
    _gradient("linear kernel frozen", of_part(Linear, change="kernel frozen"), True),
    _gradient("linear kernel's gradient halved", of_part(Linear, change="halved in the gradient")),
    _gradient("convolution's kernel frozen", of_part(Conv, change="kernel frozen"), True),
    _gradient("layer norm's bias frozen", of_part(LayerNorm, change="bias frozen"), True),
    _gradient("embedding table frozen", of_part(Embed, change="table frozen"), True),
)  # fmt: skip

TRAINING_EDITS: tuple[Edit, ...] = (*STATES, *GRADIENTS)
"""The edits that only training shows."""
