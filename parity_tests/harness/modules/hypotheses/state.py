"""Name the fault of a weight that was ported by hand, or of running statistics after a step."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from torch import nn

from parity_tests.harness.causes import Cause, joined
from parity_tests.harness.modules.hypotheses.base import Hypothesis, confirmed, distance, fitted
from parity_tests.harness.modules.hypotheses.between_layers import FLATTEN
from parity_tests.harness.modules.hypotheses.layers import OUTPUT_BIAS, SWAPPED, TRANSPOSED, UNFLIPPED, orders
from parity_tests.harness.modules.mapping import Pair, tensors

BATCH_NORM_MOMENTUM = Cause(
    "batch normalization's momentum differs",
    "batch-norm-momentum",
    "give the Flax layer momentum={torch}, which is 1 - PyTorch's",
)
BIASED_VARIANCE = Cause(
    "the running variance is biased in JAX and unbiased in PyTorch, N/(N-1) times as large",
    "biased-variance",
    "multiply the batch's variance by N/(N-1) in the running variance, which Flax has no option for",
)
NOT_UPDATED = Cause(
    "the running statistics are not updated in JAX",
    "statistics-not-updated",
    "update the running statistics in training",
)


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
    text = f"{BATCH_NORM_MOMENTUM}: {1 - fit:.4g} in JAX, which PyTorch calls {fit:.4g}, {momentum:.4g} in PyTorch"
    differs = BATCH_NORM_MOMENTUM.saying(text, float(f"{1 - fit:.12g}"), float(f"{1 - momentum:.12g}"))
    biased_only = BIASED_VARIANCE.saying(BIASED_VARIANCE, "biased", "unbiased")
    hypotheses = [
        Hypothesis(NOT_UPDATED, before),
        Hypothesis(biased_only, after(momentum, biased)),
        Hypothesis(differs, after(fit, unbiased)),
        Hypothesis(joined([differs, biased_only]), after(fit, biased)),
    ]
    return confirmed(hypotheses, in_jax, in_torch, tolerance)


def statistics(pairs: Sequence[Pair], module: nn.Module) -> dict[str, tuple[str, str]]:
    """Return the names of the running mean and variance of each batch normalization that is paired."""
    names = {pair.name for pair in pairs} & set(tensors(module))
    norms = [name.rpartition(".")[0] for name in sorted(names) if name.endswith("running_mean")]
    return {norm: (f"{norm}.running_mean".lstrip("."), f"{norm}.running_var".lstrip(".")) for norm in norms}
