"""Find the place where the gradients of two networks part, from the loss back to the inputs, and why."""

from collections.abc import Mapping, Sequence

import numpy as np
from torch import nn

from parity_tests.harness.causes import Cause
from parity_tests.harness.findings import Diagnosis
from parity_tests.harness.hooks.record import LayerCall
from parity_tests.harness.modules.common import way_back
from parity_tests.harness.modules.hypotheses.base import distance
from parity_tests.harness.modules.hypotheses.stages import Stage, stages, worst_difference
from parity_tests.harness.modules.mapping import Pair

NO_GRADIENT = Cause(
    "no gradient reaches it in JAX (stop_gradient)",
    "gradient-stopped",
    "remove jax.lax.stop_gradient",
    found="stopped",
    expected="passed on",
)
NO_TORCH_GRADIENT = Cause(
    "no gradient reaches it in PyTorch (detach or no_grad)",
    "gradient-stopped",
    "stop the gradient in JAX too, by jax.lax.stop_gradient",
    found="passed on",
    expected="stopped",
)
GRADIENT_SCALED = Cause(
    "the gradient is multiplied by a constant on its way back",
    "gradient-scaled",
    "take the factor of the gradient out",
)
BRANCH_STOPPED = Cause(
    "the gradient of one branch is stopped",
    "gradient-stopped",
    "let the gradient through the same branches in both",
)
FROZEN = Cause(
    "it is frozen in PyTorch (requires_grad=False, or a buffer) and trained in JAX",
    "frozen",
    "keep it out of what JAX trains, or train it in PyTorch",
)

Later = tuple[str, np.ndarray, np.ndarray]
"""The name of a layer, and the gradients of its input in JAX and in torch."""


def walk_back(
    pairs: Sequence[Pair],
    module: nn.Module,
    gradients: tuple[Mapping[str, LayerCall], Mapping[str, LayerCall]],
    tolerance: float,
) -> Diagnosis | None:
    """Diagnose the first place, from the loss to the inputs, where the gradient of a layer's output or input differs.

    Args:
        pairs: The pairs of arrays.
        module: The torch module.
        gradients: The gradients of the inputs and outputs of the calls of JAX and of torch.
        tolerance: How near two gradients are.

    Returns:
        The diagnosis; None if all gradients of outputs agree.
    """
    every = {stage.label: stage for stage in stages(pairs, module, *gradients) if isinstance(stage, Stage)}
    later: list[Later] = []
    name_after = "the loss"
    for stop in way_back.stops(list(every), {}):
        stage = every[stop.name]
        ours, theirs = (getattr(call, stop.kind) for call in (stage.in_jax, stage.in_torch))
        if ours.shape == theirs.shape and distance(ours, theirs) > tolerance:
            where = way_back.place(stop, stage.name, name_after)
            text = way_back.text(stop, stage.name, worst_difference(ours, theirs))
            return Diagnosis(where, text, cause_backward(ours, theirs, later, tolerance), layer=stage.both)
        if stop.kind == "output":
            name_after = stage.name
            later.append((stage.name, stage.in_jax.input, stage.in_torch.input))
    return None


def cause_backward(in_jax: np.ndarray, in_torch: np.ndarray, later: Sequence[Later], tolerance: float) -> str | None:
    """Return why the gradient that comes back to a place differs: it is stopped, multiplied, or a branch is."""
    if not in_jax.any() or not in_torch.any():
        return NO_GRADIENT if in_torch.any() else NO_TORCH_GRADIENT
    factor = float((in_jax * in_torch).sum() / (in_torch * in_torch).sum())
    if distance(in_jax, factor * in_torch) <= tolerance:
        return GRADIENT_SCALED.saying(f"{GRADIENT_SCALED}: by {factor:.4g} in JAX", factor, 1.0)
    for name, jax_back, torch_back in later:
        if torch_back.shape == in_torch.shape and distance(in_torch - in_jax, torch_back) <= tolerance:
            return BRANCH_STOPPED.only("JAX") + f": that through {name}"
        if jax_back.shape == in_torch.shape and distance(in_jax - in_torch, jax_back) <= tolerance:
            return BRANCH_STOPPED.only("PyTorch") + f": that through {name}"
    return None


def cause_in_gradient(in_jax: np.ndarray, in_torch: np.ndarray, frozen: bool) -> str | None:
    """Return why a gradient differs where every output agrees; `frozen`: torch's tensor requires no gradient."""
    if frozen:
        return FROZEN
    if not in_torch.any():
        return NO_TORCH_GRADIENT
    return None if in_jax.any() else NO_GRADIENT
