"""Find the known difference between two losses of the same outputs that reproduces their values and gradients.

The gradient with respect to the outputs is needed because a loss is one number, which any factor would explain.
"""

import itertools
import math
from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F

from parity_tests.harness.modules.hypotheses.base import Hypothesis, confirmed, fitted

SUM_FOR_MEAN = "the loss is a sum where the other side takes the mean"
OTHER_AXIS = "the loss is a sum over the features and a mean over the batch where the other side takes the mean of all"
HALF = "the loss is halved on one side (optax.l2_loss is half the square)"
LABEL_SMOOTHING = "the labels are smoothed on one side"


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
    return " or ".join(dict.fromkeys(causes)) or None


def _hypotheses(outputs: np.ndarray, plain: np.ndarray, actual: np.ndarray, where: str) -> Iterator[Hypothesis]:
    axes = range(outputs.ndim)
    factors: list[tuple[str, float]] = [(HALF, 0.5)]
    for summed in (some for count in axes for some in itertools.combinations(axes, count + 1)):
        cause = OTHER_AXIS if summed == tuple(axes[1:]) else SUM_FOR_MEAN
        factors.append((cause, math.prod(outputs.shape[axis] for axis in summed)))
    for cause, factor in factors:
        if factor != 1:
            yield Hypothesis(f"{cause}: by a factor of {factor:g} in {where}", plain * factor)
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
            yield Hypothesis(f"{LABEL_SMOOTHING}: by {share:.4g} in {where}", smoothed)


def _stacked(loss: float, gradient: np.ndarray) -> np.ndarray:
    return np.append(gradient.ravel().astype(np.float64), loss)
