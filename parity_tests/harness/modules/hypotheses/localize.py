"""Where two networks first part, and the fault that reproduces the numbers there."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from torch import nn

from parity_tests.harness.findings import Diagnosis
from parity_tests.harness.hooks.record import Layer
from parity_tests.harness.modules.hypotheses.base import Hypothesis, confirmed, distance, fitted
from parity_tests.harness.modules.hypotheses.between_layers import FLATTEN, cause_between
from parity_tests.harness.modules.hypotheses.layers import (
    OUTPUT_BIAS,
    SWAPPED,
    TRANSPOSED,
    UNFLIPPED,
    cause_in_layer,
    orders,
    rounded,
)
from parity_tests.harness.modules.mapping import Pair, tensors

BATCH_NORM_MOMENTUM = "batch normalization's momentum differs"
BIASED_VARIANCE = "the running variance is biased in JAX and unbiased in PyTorch, N/(N-1) times as large"
NOT_UPDATED = "the running statistics are not updated in JAX"
NOT_CALLED = "PyTorch calls it, and no call of it was seen in JAX."
NO_GRADIENT = "no gradient reaches it in JAX (stop_gradient)"
NO_TORCH_GRADIENT = "no gradient reaches it in PyTorch (detach or no_grad)"
FROZEN = "it is frozen in PyTorch (requires_grad=False, or a buffer) and trained in JAX"

_CHANNELS_SECOND = (nn.modules.conv._ConvNd, nn.modules.batchnorm._NormBase, nn.GroupNorm)


class Stage(NamedTuple):
    """One call of a layer on both sides, in torch's layout."""

    name: str
    layer: nn.Module
    ours: Layer
    theirs: Layer


def walk(
    pairs: Sequence[Pair],
    module: nn.Module,
    calls: tuple[Mapping[str, Layer], Mapping[str, Layer]],
    ends: tuple[Layer, Layer],
    owed: float,
) -> Diagnosis | None:
    """The first place over tolerance, or None where no layer and no output is. `calls` are JAX's and torch's layers;
    `ends` are what either network is given and gives, in torch's layout; `module` is as it was before its calls."""
    earlier = [("the input", ends[0].given, ends[1].given)]
    for stage in _stages(pairs, module, *calls):
        if isinstance(stage, str):
            return Diagnosis(stage, NOT_CALLED, None)
        name, layer, ours, theirs = stage
        if distance(ours.given, theirs.given) > owed:
            return _between(earlier, name, ours.given, theirs.given, owed)
        if distance(ours.gave, theirs.gave) > owed:
            found = f"Its input agrees and its output differs: {apart(ours.gave, theirs.gave)}."
            return Diagnosis(name, found, cause_in_layer(layer, ours.given, ours.gave, theirs.gave, owed))
        earlier += [(f"the input of {name}", ours.given, theirs.given), (name, ours.gave, theirs.gave)]
    if distance(ends[0].gave, ends[1].gave) <= owed:
        return None
    return _between(earlier, "the output", ends[0].gave, ends[1].gave, owed)


def _between(
    earlier: Sequence[tuple[str, np.ndarray, np.ndarray]], name: str, ours: np.ndarray, theirs: np.ndarray, owed: float
) -> Diagnosis:
    """What leads to `name` from the call before it or, where the network branches, from another not long before, or
    from the sum of the two."""
    found = f"Every layer before it agrees and what it is given differs: {apart(ours, theirs)}."
    if cause := rounded(ours, theirs):
        return Diagnosis(f"between {earlier[-1][0]} and {name}", found, cause)
    last, recent = earlier[-1], earlier[-2:-10:-1]
    sums = [(f"{last[0]} + {n}", last[1] + a, last[2] + b) for n, a, b in recent if a.shape == last[1].shape]
    for source, our_source, their_source in (last, *recent, *sums):
        if cause := cause_between((our_source, ours), (their_source, theirs), owed):
            return Diagnosis(f"between {source} and {name}", found, cause)
    return Diagnosis(f"between {last[0]} and {name}", found, None)


def _stages(
    pairs: Sequence[Pair], module: nn.Module, ours: Mapping[str, Layer], theirs: Mapping[str, Layer]
) -> Iterator[Stage | str]:
    """The calls of the layers that hold a pair, in torch's order; a name alone for a call that JAX doesn't make."""
    layers = {pair.name.rpartition(".")[0]: pair for pair in reversed(pairs)}  # the first pair, its weight, tells
    for label, torchs in theirs.items():
        name, _, nth = label.partition("#")
        if (pair := layers.get(name)) is None:
            continue
        jax_name = pair.path.rpartition("/")[0].replace("/", ".")
        shown = label if name else f"the module{label}"
        shown = shown if name == jax_name else f"{shown} ({jax_name or 'the module'} in JAX)"
        jaxs = ours.get(f"{jax_name}#{nth}" if nth else jax_name)
        if jaxs is None:
            yield shown
            continue
        layer = module.get_submodule(name)
        given = pair.transform.given(channels_second(jaxs.given, layer))
        yield Stage(shown, layer, Layer(given, pair.transform.gave(channels_second(jaxs.gave, layer))), torchs)


def channels_second(x: np.ndarray, layer: nn.Module) -> np.ndarray:
    """What a Flax layer is given or gives, as the torch layer of its kind has it."""
    return np.moveaxis(x, -1, 1) if isinstance(layer, _CHANNELS_SECOND) and x.ndim > 2 else x


def apart(ours: np.ndarray, theirs: np.ndarray) -> str:
    """The worst difference in words."""
    if ours.shape != theirs.shape:
        return f"its shape is {list(ours.shape)} in JAX and {list(theirs.shape)} in PyTorch"
    difference = np.abs(ours.astype(np.float64) - theirs.astype(np.float64))
    at = tuple(int(i) for i in np.unravel_index(int(np.nan_to_num(difference, nan=np.inf).argmax()), ours.shape))
    size = distance(ours, theirs)
    place = f"at {list(at)} " if at else ""
    return f"by {size:.1e} of its largest, {place}{ours[at]:.6g} in JAX and {theirs[at]:.6g} in PyTorch"


def cause_in_weight(ours: np.ndarray, theirs: np.ndarray, owed: float) -> str | None:
    """Why a weight ported by hand is not the torch module's, both in its layout."""
    return confirmed(_misported(theirs), ours, theirs, owed)


def _misported(weight: np.ndarray) -> Iterator[Hypothesis]:
    if weight.ndim >= 2 and weight.shape[0] == weight.shape[1]:
        yield Hypothesis(TRANSPOSED, weight.swapaxes(0, 1))
    if weight.ndim >= 3:
        flipped = np.flip(weight, tuple(range(2, weight.ndim)))
        for kernel in (flipped, flipped.swapaxes(0, 1)):
            yield Hypothesis(UNFLIPPED, kernel)
    if weight.ndim == 4 and weight.shape[2] == weight.shape[3]:
        yield Hypothesis(SWAPPED, weight.swapaxes(2, 3))
    if weight.ndim <= 2:  # a bias, or the side of a kernel that reads or writes a flattened image
        for order in orders(weight.shape[-1]):
            for way in (order, np.argsort(order)):
                yield Hypothesis(FLATTEN if weight.ndim == 2 else OUTPUT_BIAS, weight[..., way])
    if weight.ndim == 2:
        for order in orders(weight.shape[0]):
            for way in (order, np.argsort(order)):
                yield Hypothesis(FLATTEN, weight[way])


def cause_in_statistics(layer: Any, x: np.ndarray, ours: np.ndarray, theirs: np.ndarray, owed: float) -> str | None:
    """Why a batch normalization's running mean and variance after one training step on `x` are `ours` and `theirs`,
    each `[2, channels]`. `layer` is torch's as it was before."""
    x = np.moveaxis(x.astype(np.float64), 1, -1)
    x = x.reshape(-1, x.shape[-1])
    before = np.stack([layer.running_mean.numpy(force=True), layer.running_var.numpy(force=True)])
    unbiased, biased = (np.stack([x.mean(0), x.var(0, ddof=ddof)]) for ddof in (1, 0))

    def after(momentum: float, batch: np.ndarray) -> np.ndarray:
        return before + momentum * (batch - before)

    momentum = layer.momentum
    if momentum is None or distance(theirs, after(momentum, unbiased)) > owed:
        return None
    fit = fitted(lambda momentum: after(momentum, unbiased)[0], ours[0], momentum)
    differs = f"{BATCH_NORM_MOMENTUM}: {1 - fit:.4g} in JAX, which PyTorch calls {fit:.4g}, {momentum:.4g} in PyTorch"
    hypotheses = [
        Hypothesis(NOT_UPDATED, before),
        Hypothesis(BIASED_VARIANCE, after(momentum, biased)),
        Hypothesis(differs, after(fit, unbiased)),
        Hypothesis(f"{differs}; {BIASED_VARIANCE}", after(fit, biased)),
    ]
    return confirmed(hypotheses, ours, theirs, owed)


def cause_in_gradient(ours: np.ndarray, theirs: np.ndarray, frozen: bool) -> str | None:
    """Why a gradient differs where every output agrees; `frozen` where torch's tensor has none."""
    if frozen:
        return FROZEN
    if not theirs.any():
        return NO_TORCH_GRADIENT
    return None if ours.any() else NO_GRADIENT


def statistics(pairs: Sequence[Pair], module: nn.Module) -> dict[str, tuple[str, str]]:
    """The names of the running mean and variance of each batch normalization that is paired."""
    names = {pair.name for pair in pairs} & set(tensors(module))
    norms = [name.rpartition(".")[0] for name in sorted(names) if name.endswith("running_mean")]
    return {norm: (f"{norm}.running_mean".lstrip("."), f"{norm}.running_var".lstrip(".")) for norm in norms}
