"""Run an optax optimizer and a torch optimizer on the same gradients."""

from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
import torch

from jaxvae.shared.errors import InputError
from parity_tests.harness.modules.adapters import flatten
from parity_tests.harness.modules.errors import raised_by
from parity_tests.harness.modules.hypotheses.backward import FROZEN
from parity_tests.harness.modules.hypotheses.optimizer import SKIPPED, Steps, cause_in_optimizer
from parity_tests.harness.modules.pair import Arrays, Both, joined
from parity_tests.harness.modules.torch_state import copied, entries
from parity_tests.harness.modules.validation import kind

NEAR = {"float32": 1e-4, "float64": 1e-12}
"""How near a formula must come to an optimizer's weights."""


class Run(NamedTuple):
    """The weights after the steps of both optimizers, and what a diagnosis needs."""

    weights: tuple[Arrays, Arrays]
    """The weights after the steps, in JAX and in torch."""
    moved: Arrays
    """How far each weight was moved, summed over the steps."""
    largest: Arrays
    """The largest gradient of each weight."""
    moments: tuple[Arrays, Arrays] | None
    """Adam's moments, where both optimizers keep them."""
    kind: str
    options: dict[str, Any]
    steps: Steps
    trained: tuple[str, ...]
    """The names of the tensors that torch's optimizer trains, and to which a gradient comes."""
    skipped: frozenset[str]
    """Those that it is given and to which none came at the given weights."""

    def moment_floors(self, share: float) -> Arrays:
        """Return the rounding error of each moment, which is a mean of gradients or of their squares."""
        floors = {}
        for name in self.trained:
            floors[f"{name}.exp_avg"] = share * self.largest[name]
            floors[f"{name}.exp_avg_sq"] = share * self.largest[name] ** 2
        return floors

    def cause(self, name: str) -> str | None:
        """Return why the two optimizers gave `name` different values."""
        if name in self.skipped:
            return None if self.largest[name].any() else SKIPPED
        if name not in self.trained:
            return FROZEN
        tolerance = NEAR.get(str(self.weights[1][name].dtype), 1e-12)
        weights = ({name: arrays[name] for name in self.trained} for arrays in self.weights)
        in_jax, in_torch = map(_flat, weights)
        return cause_in_optimizer(self.kind, self.options, self.steps, in_jax, in_torch, tolerance)


def train_both(
    both: Both,
    gradient: Callable[[Any], Any],
    optimizers: tuple[optax.GradientTransformation, Callable[[Any], torch.optim.Optimizer]],
    scheduler: Callable[[torch.optim.Optimizer], Any] | None,
    steps: int,
    without_gradient: Collection[str] = (),
) -> Run:
    """Take `steps` steps with both optimizers from the same gradients.

    Both get JAX's gradient at JAX's weights. With gradients of their own, two correct optimizers would diverge, because
    Adam takes full steps even where a gradient is zero up to rounding. What torch has no gradient of (`grad` is None)
    is given none while JAX's is zero: torch's optimizers leave it alone, and don't even decay it.
    """
    module, params = copied(both.module), both.net.own(both.net.params)

    def named(tree: Any) -> Arrays:
        return joined(both.named(flatten(both.net.rearranged(tree))))

    stepped = named(params)
    every = entries(module)
    tensors = {name: every[name].tensor for name in stepped}
    trained = {name: tensors[name] for name in stepped if tensors[name].requires_grad}
    if not trained:
        raise InputError(
            "optimizers: every tensor of the torch module is frozen, so there is nothing to train: pass no optimizers."
        )
    reached = {name: p for name, p in trained.items() if name not in without_gradient}
    before = {name: p.numpy(force=True).copy() for name, p in reached.items()}
    optax_optimizer, make = optimizers
    optimizer = make(trained.values())
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise InputError(f"optimizers: the second returns {kind(optimizer)}, expected a torch.optim.Optimizer.")
    options = dict(optimizer.param_groups[0])  # before a scheduler changes them
    schedule = scheduler(optimizer) if scheduler else None
    state = optax_optimizer.init(params)
    gradients, clipped, rates = [], [], []
    moved = {name: np.zeros(array.shape) for name, array in stepped.items()}
    largest = {name: np.zeros(array.shape) for name, array in stepped.items()}
    for _ in range(steps):
        grads = gradient(params)
        with raised_by("The optax optimizer"):
            updates, state = optax_optimizer.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        for name, update in named(updates).items():
            moved[name] += np.abs(update)
        # Torch's gradient of a complex number is the conjugate of JAX's.
        shared = {name: np.conj(array) for name, array in named(grads).items()}
        largest = {name: np.maximum(array, np.abs(shared[name])) for name, array in largest.items()}
        for name, parameter in trained.items():
            none = name in without_gradient and not largest[name].any()
            parameter.grad = None if none else torch.tensor(shared[name].copy(), device=parameter.device)
        rates.append(float(optimizer.param_groups[0]["lr"]))
        with raised_by("The torch optimizer"):
            optimizer.step()
        gradients.append(_flat({name: shared[name] for name in reached}))
        clipped.append(_flat({name: p.grad.numpy(force=True) for name, p in reached.items() if p.grad is not None}))
        if schedule is not None:
            schedule.step()
    after = named(params)
    in_torch = {name: tensors[name].numpy(force=True) for name in after}
    sizes = {name: np.abs(in_torch[name]).max(initial=0) or 1 for name in reached}
    both_parts = {name: size * (1 + 1j) if np.iscomplexobj(in_torch[name]) else size for name, size in sizes.items()}
    scales = _flat({name: np.full(p.shape, both_parts[name], in_torch[name].dtype) for name, p in reached.items()})
    imaginary = _flat({n: np.full(p.shape, 1j if p.is_complex() else 0.0) for n, p in reached.items()}) > 0
    given = Steps(_flat(before), np.stack(gradients), np.stack(clipped), np.array(rates), scales, imaginary)
    moments = _moments(state, named, optimizer, reached) if reached else None
    kind_of, skipped = type(optimizer).__name__, frozenset(trained) - frozenset(reached)
    return Run((after, in_torch), moved, largest, moments, kind_of, options, given, tuple(reached), skipped)


def _flat(arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    flat = [array.ravel() for array in arrays.values()]
    wide = [np.stack([np.real(a), np.imag(a)], -1).ravel() if a.dtype.kind == "c" else a for a in flat]
    return np.concatenate([np.empty(0), *(array.astype(np.float64) for array in wide)])


def _moments(
    state: Any,
    named: Callable[[Any], Arrays],
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
        arrays = named(tree)
        if not arrays.keys() >= trained.keys():  # optax may mask some
            return None
        for name, parameter in trained.items():
            in_jax[f"{name}.{moment}"] = arrays[name]
            in_torch[f"{name}.{moment}"] = optimizer.state[parameter][moment].numpy(force=True)
    return in_jax, in_torch
