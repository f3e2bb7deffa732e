"""Run an optax optimizer and a torch optimizer on the same gradients."""

import copy
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
import torch
from torch import nn

from jaxvae.shared.errors import InputError
from parity_tests.harness.modules.adapters import flatten
from parity_tests.harness.modules.hypotheses.localize import FROZEN
from parity_tests.harness.modules.hypotheses.optimizer import Steps, cause_in_optimizer
from parity_tests.harness.modules.validation import kind

Arrays = dict[str, np.ndarray]


class Run(NamedTuple):
    """The weights after the steps of both optimizers, and what a diagnosis needs."""

    in_jax: Arrays
    """The weights after the steps."""
    in_torch: Arrays
    moments: tuple[Arrays, Arrays] | None
    """Adam's moments, where both optimizers keep them."""
    kind: str
    options: dict[str, Any]
    steps: Steps
    trained: tuple[str, ...]
    """The names of the tensors that torch's optimizer trains."""

    def cause(self, name: str, tolerance: float) -> str | None:
        """Return why the two optimizers gave `name` different values."""
        if name not in self.trained:
            return FROZEN
        weights = ({name: arrays[name] for name in self.trained} for arrays in (self.in_jax, self.in_torch))
        in_jax, in_torch = map(_flat, weights)
        return cause_in_optimizer(self.kind, self.options, self.steps, in_jax, in_torch, tolerance)


def train_both(
    params: Any,
    gradient: Callable[[Any], Any],
    named: Callable[[Mapping[str, np.ndarray]], Arrays],
    module: nn.Module,
    optimizers: tuple[optax.GradientTransformation, Callable[[Any], torch.optim.Optimizer]],
    scheduler: Callable[[torch.optim.Optimizer], Any] | None,
    steps: int,
) -> Run:
    """Take `steps` steps with both optimizers from the same gradients.

    Both get JAX's gradient at JAX's weights. With gradients of their own, two correct optimizers would diverge, because
    Adam takes full steps even where a gradient is zero up to rounding.
    """
    module = copy.deepcopy(module)
    tensors, stepped = module.state_dict(keep_vars=True), named(flatten(params))
    trained = {name: tensors[name] for name in stepped if tensors[name].requires_grad}
    if not trained:
        raise InputError(
            "optimizers: every tensor of the torch module is frozen, so there is nothing to train: pass no optimizers."
        )
    before = {name: p.numpy(force=True).copy() for name, p in trained.items()}
    optax_optimizer, make = optimizers
    optimizer = make(trained.values())
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise InputError(f"optimizers: the second returns {kind(optimizer)}, expected a torch.optim.Optimizer.")
    options = dict(optimizer.param_groups[0])  # before a scheduler changes them
    schedule = scheduler(optimizer) if scheduler else None
    state = optax_optimizer.init(params)
    gradients, clipped, rates = [], [], []
    for _ in range(steps):
        grads = gradient(params)
        updates, state = optax_optimizer.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        shared = named(flatten(grads))
        for name, parameter in trained.items():
            parameter.grad = torch.tensor(np.ascontiguousarray(shared[name]), device=parameter.device)
        rates.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        gradients.append(_flat({name: shared[name] for name in trained}))
        clipped.append(_flat({name: p.grad.numpy(force=True) for name, p in trained.items() if p.grad is not None}))
        if schedule is not None:
            schedule.step()
    after = named(flatten(params))
    in_torch = {name: tensors[name].numpy(force=True) for name in after}
    scales = _flat({name: np.full(p.shape, np.abs(in_torch[name]).max(initial=0) or 1) for name, p in trained.items()})
    given = Steps(_flat(before), np.stack(gradients), np.stack(clipped), np.array(rates), scales)
    moments = _moments(state, named, optimizer, trained)
    return Run(after, in_torch, moments, type(optimizer).__name__, options, given, tuple(trained))


def _flat(arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    return np.concatenate([array.ravel().astype(np.float64) for array in arrays.values()])


def _moments(
    state: Any,
    named: Callable[[Mapping[str, np.ndarray]], Arrays],
    optimizer: torch.optim.Optimizer,
    trained: Mapping[str, torch.Tensor],
) -> tuple[Arrays, Arrays] | None:
    def is_adam(node: Any) -> bool:
        return hasattr(node, "mu") and hasattr(node, "nu")

    adams = [node for node in jax.tree.leaves(state, is_leaf=is_adam) if is_adam(node)]
    if len(adams) != 1 or any("exp_avg_sq" not in optimizer.state.get(p, {}) for p in trained.values()):
        return None
    in_jax, in_torch = {}, {}
    for moment, tree in {"exp_avg": adams[0].mu, "exp_avg_sq": adams[0].nu}.items():
        arrays = named(flatten(tree))
        if not arrays.keys() >= trained.keys():  # optax may mask some
            return None
        for name, parameter in trained.items():
            in_jax[f"{name}.{moment}"] = arrays[name]
            in_torch[f"{name}.{moment}"] = optimizer.state[parameter][moment].numpy(force=True)
    return in_jax, in_torch
