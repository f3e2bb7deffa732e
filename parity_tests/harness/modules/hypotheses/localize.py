"""Find the first place where two networks differ, and the fault that reproduces the numbers there."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from torch import nn

from parity_tests.harness.findings import Diagnosis
from parity_tests.harness.hooks.record import LayerCall
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
NOT_CALLED = "PyTorch calls it, and no call of it was recorded in JAX."
NO_GRADIENT = "no gradient reaches it in JAX (stop_gradient)"
NO_TORCH_GRADIENT = "no gradient reaches it in PyTorch (detach or no_grad)"
FROZEN = "it is frozen in PyTorch (requires_grad=False, or a buffer) and trained in JAX"

_CHANNELS_SECOND = (nn.modules.conv._ConvNd, nn.modules.batchnorm._NormBase, nn.GroupNorm)


class Stage(NamedTuple):
    """One call of a layer in both frameworks, in torch's layout."""

    name: str
    layer: nn.Module
    in_jax: LayerCall
    in_torch: LayerCall


def walk(
    pairs: Sequence[Pair],
    module: nn.Module,
    calls: tuple[Mapping[str, LayerCall], Mapping[str, LayerCall]],
    ends: tuple[LayerCall, LayerCall],
    tolerance: float,
) -> Diagnosis | None:
    """Diagnose the first layer whose input or output differs by more than its tolerance; None if all agree.

    `calls` and `ends` are those of JAX and of torch: the recorded layers, and the input and output of the whole network
    in torch's layout. `module` has the state from before the calls.
    """
    earlier = [("the input", ends[0].input, ends[1].input)]
    for stage in _stages(pairs, module, *calls):
        if isinstance(stage, str):
            return Diagnosis(stage, NOT_CALLED, None)
        name, layer, in_jax, in_torch = stage
        if distance(in_jax.input, in_torch.input) > tolerance:
            return _between(earlier, name, in_jax.input, in_torch.input, tolerance)
        if distance(in_jax.output, in_torch.output) > tolerance:
            text = f"Its input agrees and its output differs: {worst_difference(in_jax.output, in_torch.output)}."
            return Diagnosis(name, text, cause_in_layer(layer, in_jax.input, in_jax.output, in_torch.output, tolerance))
        earlier += [(f"the input of {name}", in_jax.input, in_torch.input), (name, in_jax.output, in_torch.output)]
    if distance(ends[0].output, ends[1].output) <= tolerance:
        return None
    return _between(earlier, "the output", ends[0].output, ends[1].output, tolerance)


def _between(
    earlier: Sequence[tuple[str, np.ndarray, np.ndarray]],
    name: str,
    in_jax: np.ndarray,
    in_torch: np.ndarray,
    tolerance: float,
) -> Diagnosis:
    """Diagnose the operations before `name`: those after the previous call or, where the network branches, after one
    of the calls before it, or after the sum of the two."""
    target = name if name == "the output" else f"the input of {name}"
    text = f"Every earlier layer agrees and {target} differs: {worst_difference(in_jax, in_torch)}."
    if cause := rounded(in_jax, in_torch):
        return Diagnosis(f"between {earlier[-1][0]} and {name}", text, cause)
    last, recent = earlier[-1], earlier[-2:-10:-1]
    sums = [(f"{last[0]} + {n}", last[1] + a, last[2] + b) for n, a, b in recent if a.shape == last[1].shape]
    for source, jax_source, torch_source in (last, *recent, *sums):
        if cause := cause_between((jax_source, in_jax), (torch_source, in_torch), tolerance):
            return Diagnosis(f"between {source} and {name}", text, cause)
    return Diagnosis(f"between {last[0]} and {name}", text, None)


def _stages(
    pairs: Sequence[Pair], module: nn.Module, in_jax: Mapping[str, LayerCall], in_torch: Mapping[str, LayerCall]
) -> Iterator[Stage | str]:
    """Yield the calls of the layers that hold a pair, in torch's order; only the name where JAX has no such call."""
    layers = {pair.name.rpartition(".")[0]: pair for pair in reversed(pairs)}  # by the first pair, its weight
    for label, torchs in in_torch.items():
        name, _, nth = label.partition("#")
        if (pair := layers.get(name)) is None:
            continue
        jax_name = pair.path.rpartition("/")[0].replace("/", ".")
        shown = label if name else f"the module{label}"
        shown = shown if name == jax_name else f"{shown} ({jax_name or 'the module'} in JAX)"
        jaxs = in_jax.get(f"{jax_name}#{nth}" if nth else jax_name)
        if jaxs is None:
            yield shown
            continue
        layer = module.get_submodule(name)
        jax_input = pair.transform.input_to_torch(channels_second(jaxs.input, layer))
        yield Stage(
            shown,
            layer,
            LayerCall(jax_input, pair.transform.output_to_torch(channels_second(jaxs.output, layer))),
            torchs,
        )


def channels_second(x: np.ndarray, layer: nn.Module) -> np.ndarray:
    """Convert the input or output of a Flax layer to the layout of the torch layer of its kind."""
    return np.moveaxis(x, -1, 1) if isinstance(layer, _CHANNELS_SECOND) and x.ndim > 2 else x


def worst_difference(in_jax: np.ndarray, in_torch: np.ndarray) -> str:
    """Describe the largest difference: its size, its index and both values."""
    if in_jax.shape != in_torch.shape:
        return f"its shape is {list(in_jax.shape)} in JAX and {list(in_torch.shape)} in PyTorch"
    difference = np.abs(in_jax.astype(np.float64) - in_torch.astype(np.float64))
    at = tuple(int(i) for i in np.unravel_index(int(np.nan_to_num(difference, nan=np.inf).argmax()), in_jax.shape))
    size = distance(in_jax, in_torch)
    place = f"at {list(at)} " if at else ""
    return f"by {size:.1e} of its largest, {place}{in_jax[at]:.6g} in JAX and {in_torch[at]:.6g} in PyTorch"


def cause_in_weight(in_jax: np.ndarray, in_torch: np.ndarray, tolerance: float) -> str | None:
    """Return why a weight that was ported by hand differs from the torch module's, both in torch's layout."""
    return confirmed(_misported(in_torch), in_jax, in_torch, tolerance)


def _misported(weight: np.ndarray) -> Iterator[Hypothesis]:
    if weight.ndim >= 2 and weight.shape[0] == weight.shape[1]:
        yield Hypothesis(TRANSPOSED, weight.swapaxes(0, 1))
    if weight.ndim >= 3:
        flipped = np.flip(weight, tuple(range(2, weight.ndim)))
        for kernel in (flipped, flipped.swapaxes(0, 1)):
            yield Hypothesis(UNFLIPPED, kernel)
    if weight.ndim == 4 and weight.shape[2] == weight.shape[3]:
        yield Hypothesis(SWAPPED, weight.swapaxes(2, 3))
    if weight.ndim <= 2:  # a bias, or a kernel that reads or writes a flattened image
        for order in orders(weight.shape[-1]):
            for way in (order, np.argsort(order)):
                yield Hypothesis(FLATTEN if weight.ndim == 2 else OUTPUT_BIAS, weight[..., way])
    if weight.ndim == 2:
        for order in orders(weight.shape[0]):
            for way in (order, np.argsort(order)):
                yield Hypothesis(FLATTEN, weight[way])


def cause_in_statistics(
    layer: Any, x: np.ndarray, in_jax: np.ndarray, in_torch: np.ndarray, tolerance: float
) -> str | None:
    """Return why a batch normalization's running mean and variance differ after one training step on `x`.

    `in_jax` and `in_torch` are `[2, channels]`, the mean and the variance; `layer` is torch's before the step.
    """
    x = np.moveaxis(x.astype(np.float64), 1, -1)
    x = x.reshape(-1, x.shape[-1])
    before = np.stack([layer.running_mean.numpy(force=True), layer.running_var.numpy(force=True)])
    unbiased, biased = (np.stack([x.mean(0), x.var(0, ddof=ddof)]) for ddof in (1, 0))

    def after(momentum: float, batch: np.ndarray) -> np.ndarray:
        return before + momentum * (batch - before)

    momentum = layer.momentum
    if momentum is None or distance(in_torch, after(momentum, unbiased)) > tolerance:
        return None
    fit = fitted(lambda momentum: after(momentum, unbiased)[0], in_jax[0], momentum)
    differs = f"{BATCH_NORM_MOMENTUM}: {1 - fit:.4g} in JAX, which PyTorch calls {fit:.4g}, {momentum:.4g} in PyTorch"
    hypotheses = [
        Hypothesis(NOT_UPDATED, before),
        Hypothesis(BIASED_VARIANCE, after(momentum, biased)),
        Hypothesis(differs, after(fit, unbiased)),
        Hypothesis(f"{differs}; {BIASED_VARIANCE}", after(fit, biased)),
    ]
    return confirmed(hypotheses, in_jax, in_torch, tolerance)


def cause_in_gradient(in_jax: np.ndarray, in_torch: np.ndarray, frozen: bool) -> str | None:
    """Return why a gradient differs where every output agrees; `frozen`: torch's tensor requires no gradient."""
    if frozen:
        return FROZEN
    if not in_torch.any():
        return NO_TORCH_GRADIENT
    return None if in_jax.any() else NO_GRADIENT


def statistics(pairs: Sequence[Pair], module: nn.Module) -> dict[str, tuple[str, str]]:
    """Return the names of the running mean and variance of each batch normalization that is paired."""
    names = {pair.name for pair in pairs} & set(tensors(module))
    norms = [name.rpartition(".")[0] for name in sorted(names) if name.endswith("running_mean")]
    return {norm: (f"{norm}.running_mean".lstrip("."), f"{norm}.running_var".lstrip(".")) for norm in norms}
