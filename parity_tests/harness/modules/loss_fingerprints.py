"""Which known difference between two losses of the same outputs gives the numbers found: in the loss and in every
entry of its gradient by the outputs, since a loss alone is one number and any one factor would explain it."""

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F

from parity_tests.harness.modules.hypotheses import Hypothesis, confirmed, fitted

SUM_FOR_MEAN = "the loss is a sum where the other side takes the mean"
OTHER_AXIS = "the loss is a sum over the features and a mean over the batch where the other side takes the mean of all"
HALF = "the loss is halved on one side (optax.l2_loss is half the square)"
LABEL_SMOOTHING = "the labels are smoothed on one side"


def cause_in_loss(
    outputs: np.ndarray, ours: tuple[float, np.ndarray], theirs: tuple[float, np.ndarray], owed: float
) -> str | None:
    """Why the losses differ for the same outputs `[batch, ..]`, in torch's layout; each side as (the loss, its
    gradient by the outputs)."""
    sides = {"JAX": (ours, theirs), "PyTorch": (theirs, ours)}
    for where, (found, plain) in sides.items():
        target, right = _stacked(*found), _stacked(*plain)
        if cause := confirmed(_hypotheses(outputs, right, target, where), target, right, owed):
            return cause
    return None


def _hypotheses(outputs: np.ndarray, plain: np.ndarray, found: np.ndarray, where: str) -> Iterator[Hypothesis]:
    total, batch = outputs.size, outputs.shape[0] if outputs.ndim else 1
    for cause, factor in ((SUM_FOR_MEAN, total), (SUM_FOR_MEAN, batch), (OTHER_AXIS, total // batch), (HALF, 0.5)):
        if factor != 1:
            yield Hypothesis(f"{cause}: by a factor of {factor:g} in {where}", plain * factor)
    if outputs.ndim < 2:
        return
    for axis in {1, outputs.ndim - 1}:
        logits = torch.tensor(outputs, dtype=torch.float64, requires_grad=True)
        uniform = -F.log_softmax(logits, axis).mean()
        uniform.backward()
        even = _stacked(uniform.item(), logits.grad.numpy())  # type: ignore[union-attr]
        share = fitted(lambda share, even=even: (1 - share) * plain + share * even, found, 0.1)
        if 0 < share < 1:
            smoothed = (1 - share) * plain + share * even
            yield Hypothesis(f"{LABEL_SMOOTHING}: by {share:.4g} in {where}", smoothed)


def _stacked(loss: float, gradient: np.ndarray) -> np.ndarray:
    return np.append(gradient.ravel().astype(np.float64), loss)
