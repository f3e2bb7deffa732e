"""Find out which parameters, buffers and inputs a comparison has exercised."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch.func import functional_call
from torch.nn import Embedding

from parity_tests.harness.hooks.torch_slopes import differentiable_norms
from parity_tests.harness.modules import torch_state
from parity_tests.harness.modules.adapters import flatten
from parity_tests.harness.modules.common.effects import changes, differ, matters, reach
from parity_tests.harness.modules.evaluation import Evaluation
from parity_tests.harness.modules.outputs import leaves, torch_mixture
from parity_tests.harness.modules.pair import Arrays, Both


class Effect(NamedTuple):
    """What moving each parameter, buffer and input does."""

    nothing: tuple[str, ...]
    """Those that move no output in either framework."""
    one: tuple[str, ...]
    """Those that move an output in one framework only."""


def effects(evaluation: Evaluation, compared: frozenset[str]) -> Effect:
    """Find the parameters, buffers and inputs that move no output.

    Gradients of the loss and of random weights of the outputs find most that do; the others are moved one by one.

    Args:
        evaluation: Both networks, whose outputs agree.
        compared: Names of the state that was compared after a step, which therefore counts as exercised.

    Returns:
        The names of those that move nothing, or something in one framework only.
    """
    both = evaluation.both
    in_torch = _by_gradient(lambda: _torch_slopes(evaluation))
    in_jax = _by_gradient(lambda: _jax_slopes(evaluation, evaluation.losses is not None))
    names = [pair.name for pair in both.pairs] + both.names
    alone = unpaired(both)
    if evaluation.losses is not None and any(in_torch.get(n) and not in_jax.get(n) for n in names):
        other = _by_gradient(lambda: _jax_slopes(evaluation, False))  # what moves an output and not the loss
        in_jax = {name: in_jax.get(name, False) or moves for name, moves in other.items()}
    doubtful = [n for n in names if n not in compared and not (in_torch.get(n) and in_jax.get(n))]
    return exercised(evaluation, [*doubtful, *(n for n in alone if not in_torch.get(n))], in_jax, in_torch)


def unpaired(both: Both) -> list[str]:
    """Return the buffers of the torch module that JAX has no array for, as it may compute a mask."""
    every, paired = torch_state.entries(both.module), {torch_state.whole(pair.name) for pair in both.pairs}
    buffers = [name for name, _ in both.module.named_buffers() if name in every and name not in paired]
    return [name for name in buffers if not torch_state.counts_batches(name, every[name].layer)]


def paddings(both: Both) -> tuple[str, ...]:
    """Return the rows of torch's embeddings that get no gradient, by `padding_idx`, and that no input asks for."""
    ids = [x for x in both.inputs if x.dtype.kind in "iu"]
    layers = ((name, layer.padding_idx) for name, layer in both.module.named_modules() if isinstance(layer, Embedding))
    return tuple(
        f"{name}.weight[{row}] (padding_idx, which is in no input)"
        for name, row in layers
        if row is not None and ids and not any((x == row).any() for x in ids)
    )


def accumulated(module: torch.nn.Module) -> tuple[str, ...]:
    """Return the parameters with hooks that copies of the module don't have, since they may move the parameters."""
    hooked = (name for name, p in module.named_parameters() if getattr(p, "_post_accumulate_grad_hooks", None))
    return tuple(f"{name} (its hooks of register_post_accumulate_grad_hook)" for name in hooked)


def exercised(
    evaluation: Evaluation,
    names: Sequence[str],
    in_jax: Mapping[str, bool] = {},
    in_torch: Mapping[str, bool] = {},
) -> Effect:
    """Find those of some parameters, buffers and inputs that move no output, by moving them.

    Args:
        evaluation: Both networks, whose outputs agree.
        names: The names of the parameters, buffers and inputs.
        in_jax: Those that are known to move an output of the JAX model.
        in_torch: Those that are known to move one of the torch module.
    """
    both = evaluation.both
    entries, alone = torch_state.entries(both.module), frozenset(unpaired(both))
    every = both.tensors(both.module) | {name: entries[name].numpy() for name in alone}
    every |= dict(zip(both.names, both.inputs, strict=True))
    floats = [name for name in names if every[name].dtype.kind in "fc"]
    moves = _each(evaluation, floats, every, alone)
    for name in names:
        if name not in moves:
            moves |= _each(evaluation, [name], every, alone)
    nothing, one = [], []
    for name in names:
        moved = moves[name]
        if moved is None or not any(moved):  # neither could be asked, or a gradient of one is the rounding of zero
            nothing.append(name)
        elif name not in alone and not all(
            known.get(name) or side for known, side in zip((in_jax, in_torch), moved, strict=True)
        ):
            one.append(name)
    return Effect(tuple(nothing), tuple(one))


def _by_gradient(slopes: Callable[[], dict[str, bool]]) -> dict[str, bool]:
    with contextlib.suppress(Exception):  # what has no gradient is moved
        return slopes()
    return {}


def _torch_slopes(evaluation: Evaluation) -> dict[str, bool]:
    both = evaluation.both
    module = evaluation.copied(both.module)
    every = torch_state.entries(module)
    wanted = {
        name: held.tensor.detach().requires_grad_()
        for name, held in every.items()
        if held.tensor.is_floating_point() or held.tensor.is_complex()
    }
    inputs = [x.requires_grad_(x.is_floating_point()) for x in both.torch_inputs]
    with torch.random.fork_rng(), differentiable_norms():
        torch_state.begin_call()
        outputs = both.chosen(functional_call(module, wanted, *both.in_torch(inputs)), False)
    size = sum(float(np.abs(array).sum()) for array in leaves(outputs).values() if array.dtype.kind in "fc")
    torch_mixture(outputs).backward()
    held = {name: (torch_state.Entry(tensor, slice(None), module, "")) for name, tensor in wanted.items()}
    result = {}
    for pair in both.pairs:
        entry = torch_state.entry(module, pair.name, held) if torch_state.whole(pair.name) in held else None
        result[pair.name] = entry is not None and matters(entry.gradient(), entry.numpy(), size, both.dtype)
    for name in unpaired(both):
        if (tensor := wanted.get(name)) is not None and tensor.grad is not None:
            slope, value = tensor.grad.numpy(force=True), tensor.numpy(force=True)
            result[name] = matters(slope, value, size, both.dtype)
    for name, x in zip(both.names, inputs, strict=True):
        result[name] = x.grad is not None and matters(x.grad.numpy(force=True), x.numpy(force=True), size, both.dtype)
    return result


def _jax_slopes(evaluation: Evaluation, of_loss: bool) -> dict[str, bool]:
    both, net = evaluation.both, evaluation.both.net
    params, state, inputs = (
        evaluation.loss_slopes() if of_loss else evaluation.slopes(False, net.params, net.state, both.jax_inputs)
    )
    values, slopes = both.arrays(), flatten(params) | flatten(state)
    moving = {pair.name: (slopes[pair.path], values[pair.path]) for pair in both.pairs}
    of_inputs = zip(map(np.asarray, inputs), both.moved(both.inputs), strict=True)
    moving |= dict(zip(both.names, of_inputs, strict=True))
    real = {name: pair for name, pair in moving.items() if pair[0].dtype.kind in "fc"}
    if of_loss:  # parts of a loss may cancel, and so does its size then
        size = max((far for pair in real.values() if np.isfinite(far := reach(*pair))), default=0.0)
    else:
        outputs, _ = evaluation.forward_jax(both)
        size = sum(
            float(np.abs(array).sum())
            for array in leaves(both.chosen(outputs, True)).values()
            if array.dtype.kind in "fc"
        )
    return {name: name in real and matters(*pair, size, both.dtype) for name, pair in moving.items()}


def _each(
    evaluation: Evaluation, names: list[str], every: Arrays, alone: frozenset[str]
) -> dict[str, tuple[bool, bool] | None]:
    """Find for each name whether moving it moves an output: all are moved together, and halved where that does."""
    if not names:
        return {}
    found = _moves(evaluation, {name: every[name] for name in names}, {*names} <= alone)
    if len(names) == 1 or found == (False, False):
        return dict.fromkeys(names, found)
    middle = len(names) // 2
    halves = names[:middle], names[middle:]
    return _each(evaluation, halves[0], every, alone) | _each(evaluation, halves[1], every, alone)


def _moves(evaluation: Evaluation, values: Arrays, torch_alone: bool) -> tuple[bool, bool] | None:
    """Return whether moving some tensors moves an output in JAX and in torch; None if no other value could be tried.

    A value that only one of them accepts, such as an index that a table does not have, says nothing about either. What
    torch alone holds moves nothing in JAX.
    """
    moves = None
    asked = [evaluation.jax_numbers, evaluation.torch_numbers][torch_alone:]
    for changed in zip(*map(changes, values.values()), strict=False):
        with contextlib.suppress(Exception):
            moved = _with(evaluation.both, dict(zip(values, changed, strict=True)))
            dtype = evaluation.both.dtype
            now = [differ(numbers("outputs", moved), numbers("outputs"), dtype) for numbers in asked]
            moves = now if moves is None else [a or b for a, b in zip(moves, now, strict=True)]
            if all(moves):
                break
    return None if moves is None else (not torch_alone and moves[0], moves[-1])


def _with(both: Both, changed: Arrays) -> Both:
    inputs = [changed.get(name, x) for name, x in zip(both.names, both.inputs, strict=True)]
    tensors = {name: array for name, array in changed.items() if name not in both.names}
    return both.filled(changed)._replace(inputs=inputs, module=torch_state.changed(both.module, tensors))
