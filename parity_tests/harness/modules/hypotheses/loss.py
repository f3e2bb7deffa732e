"""Find the known difference between two losses of the same outputs that reproduces their values and gradients.

The gradient with respect to the outputs is needed because a loss is one number, which any factor would explain.
"""

import itertools
import math
from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F

from parity_tests.harness.causes import Cause, joined
from parity_tests.harness.modules.hypotheses.base import Hypothesis, confirmed, fitted

SUM_FOR_MEAN = Cause(
    "the loss is a sum where the other side takes the mean",
    "loss-reduction",
    "take the {torch} in JAX's loss",
)
OTHER_AXIS = Cause(
    "the loss is a sum over the features and a mean over the batch where the other side takes the mean of all",
    "loss-reduction",
    "take the {torch} in JAX's loss",
)
HALF = Cause(
    "the loss is halved on one side (optax.l2_loss is half the square)",
    "loss-halved",
    "multiply JAX's loss by {torch}",
)
LABEL_SMOOTHING = Cause("the labels are smoothed on one side", "label-smoothing", "smooth the labels by {torch} in JAX")


_REDUCTIONS = {SUM_FOR_MEAN: ("sum", "mean"), OTHER_AXIS: ("sum over the features", "mean")}


def cause_in_loss(
    outputs: np.ndarray, in_jax: tuple[float, np.ndarray], in_torch: tuple[float, np.ndarray], tolerance: float
) -> str | None:
    """Return why two losses of the same outputs `[batch, ..]` differ.

    `in_jax` and `in_torch` are (the loss, its gradient with respect to the outputs), in torch's layout. If several
    known differences give the same numbers, all are returned, joined by ` or `.
    """
    causes = []
    for where, actual, plain in (("JAX", in_jax, in_torch), ("PyTorch", in_torch, in_jax)):
        target, right = _stacked(*actual), _stacked(*plain)
        hypotheses = _hypotheses(outputs, right, target, where)
        causes += [h.cause for h in hypotheses if confirmed([h], target, right, tolerance)]
    return joined(dict.fromkeys(causes), " or ") if causes else None


def _hypotheses(outputs: np.ndarray, plain: np.ndarray, actual: np.ndarray, where: str) -> Iterator[Hypothesis]:
    axes = range(outputs.ndim)
    factors: list[tuple[Cause, float]] = [(HALF, 0.5)]
    for summed in (some for count in axes for some in itertools.combinations(axes, count + 1)):
        cause = OTHER_AXIS if summed == tuple(axes[1:]) else SUM_FOR_MEAN
        factors.append((cause, math.prod(outputs.shape[axis] for axis in summed)))
    for cause, factor in factors:
        if factor != 1:
            values = _REDUCTIONS.get(cause, (0.5, 1.0))
            values = values if where == "JAX" else values[::-1]
            yield Hypothesis(cause.saying(f"{cause}: by a factor of {factor:g} in {where}", *values), plain * factor)
    for axis in {1, outputs.ndim - 1} if outputs.ndim > 1 else ():
        if outputs.shape[axis] == 1:
            continue  # its softmax is always 1
        logits = torch.tensor(outputs, dtype=torch.float64, requires_grad=True)
        uniform = -F.log_softmax(logits, axis).mean()
        uniform.backward()
        even = _stacked(uniform.item(), logits.grad.numpy())  # type: ignore[union-attr]
        share = fitted(lambda share, even=even: (1 - share) * plain + share * even, actual, 0.1)
        if 0 < share < 1:
            smoothed = (1 - share) * plain + share * even
            values = (share, 0.0) if where == "JAX" else (0.0, share)
            cause = LABEL_SMOOTHING.saying(f"{LABEL_SMOOTHING}: by {share:.4g} in {where}", *values)
            yield Hypothesis(cause, smoothed)


def _stacked(loss: float, gradient: np.ndarray) -> np.ndarray:
    return np.append(gradient.ravel().astype(np.float64), loss)
