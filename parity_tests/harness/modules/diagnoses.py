"""Diagnose a level that fails: the place where the two networks first differ, and the cause."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
import torch

from parity_tests.harness.findings import Diagnosis, Figure
from parity_tests.harness.hooks import jax_layers, torch_layers
from parity_tests.harness.hooks.compiled import compiled
from parity_tests.harness.hooks.record import LayerCall
from parity_tests.harness.modules import rounding, torch_state
from parity_tests.harness.modules.evaluation import Evaluation
from parity_tests.harness.modules.hypotheses import backward, localize, state
from parity_tests.harness.modules.hypotheses.base import distance
from parity_tests.harness.modules.hypotheses.between_layers import cause_between
from parity_tests.harness.modules.hypotheses.layers import rounded
from parity_tests.harness.modules.hypotheses.loss import cause_in_loss
from parity_tests.harness.modules.hypotheses.stages import Stage, stages, worst_difference
from parity_tests.harness.modules.outputs import parts
from parity_tests.harness.modules.pair import Arrays

TOLERANCES = {"float32": 1e-5, "float64": 1e-12}
"""How near the numbers of a cause must come, as a share of a tensor's usual size."""


Figures = tuple[tuple[str, Figure], ...]
"""The difference of each layer's output, by torch's name."""

_CLEAR = 30.0  # times the tolerance that the difference of a faulty layer is, unless none is
_FLOORS = 3  # samples of what rounding does to each layer's output
_REASON = (
    f"{rounding.REASON}, of which {_FLOORS} samples are drawn for a layer; {{clear:g}} times the tolerance of the "
    "whole networks, since of few samples some are small by chance"
)
_ONCE = f"{rounding.REASON}, of which {_FLOORS} samples are drawn for a layer"


def _recorded(evaluation: Evaluation) -> tuple[Mapping[str, LayerCall], Mapping[str, LayerCall]]:
    both = evaluation.both
    module = torch_state.copied(both.module)
    with torch_layers.record(module) as calls, torch.no_grad():
        torch_state.called(module, both.torch_arguments)
    assert both.net.watch is not None
    return both.net.watch(both.net.params, both.net.state, *both.jax_inputs), calls


def _floors(evaluation: Evaluation, calls: Mapping[str, LayerCall]) -> Arrays:
    """Return how far rounding moved each entry of the inputs and outputs of torch's layers."""
    floors: Arrays = {}
    for seed in range(_FLOORS):
        jittered = evaluation.jittered(seed)
        with torch_layers.record(jittered.module) as moved, torch.no_grad():
            torch_state.called(jittered.module, jittered.torch_arguments)
        for label, call in calls.items():
            if label in moved:
                for name, kept, now in zip((f"{label}, input", label), call, moved[label], strict=True):
                    floors[name] = np.maximum(floors.get(name, 0.0), rounding.spread({"": now}, {"": kept})[""])
    return floors


def _differs(evaluation: Evaluation, floors: Arrays, clear: float) -> localize.Differs:
    """Return a function that compares arrays of a layer entry by entry with what rounding does to them; a difference is
    so many times the tolerance."""
    both, allowed = evaluation.both, clear * _tolerance(evaluation)

    def differs(name: str, in_jax: np.ndarray, in_torch: np.ndarray) -> bool:
        if in_jax.shape != in_torch.shape:
            return True
        floor = {name: floors[name]} if name in floors and floors[name].shape == in_torch.shape else {}
        return rounding.worst({name: in_jax}, {name: in_torch}, floor, both.dtype).size > allowed

    return differs


def before_failure(error: Exception, evaluation: Evaluation) -> Diagnosis | None:
    """Find the first difference before the JAX model raised, as a layer does whose input has another shape."""
    both = evaluation.both
    if both.net.watch is None:
        return None
    calls = _recorded(evaluation)
    end = LayerCall(both.first, np.empty(0))
    found = localize.walk(both.pairs, both.module, calls, (end, end), TOLERANCES[both.dtype])
    if not found or found[0].difference == localize.NOT_CALLED:
        return None  # the first layer that differs raised, and its own message says why
    text = f"{found[0].difference} The JAX model then failed: {type(error).__name__}: {str(error).splitlines()[0]}"
    return found[0]._replace(difference=text)


def in_outputs(evaluation: Evaluation, where: str) -> Diagnosis:
    """Diagnose outputs that differ, by every layer that does."""
    both, tolerance = evaluation.both, TOLERANCES[evaluation.both.dtype]
    in_jax, in_torch = (numbers("outputs")[where] for numbers in (evaluation.jax_numbers, evaluation.torch_numbers))
    if not np.isfinite(in_jax).any() and not np.isfinite(in_torch).any():
        text = "No entry is finite in either, so that nothing was compared: pass inputs and weights that give numbers."
        return Diagnosis("the output", text, None)
    if both.net.watch is None:
        cause = rounded(in_jax, in_torch) or cause_between((in_torch, in_jax), (in_torch, in_torch), tolerance)
        why = "a bare function has no layers to record, so only outputs and gradients can be compared"
        return Diagnosis("the output", f"It differs: {worst_difference(in_jax, in_torch)}; {why}.", cause)
    found, figures = _walked(evaluation, in_jax, in_torch)
    if not found:  # no layer alone is over the tolerance
        text = f"It differs: {worst_difference(in_jax, in_torch)}."
        return Diagnosis("the output", text, None, figures=figures)
    return found[0]._replace(more=tuple(found[1:]), figures=figures)


def _walked(evaluation: Evaluation, in_jax: np.ndarray, in_torch: np.ndarray) -> tuple[list[Diagnosis], Figures]:
    """Return the layers that differ, and what lies between them, on the way to an output of both networks; and the
    difference of every layer."""
    both = evaluation.both
    ends = LayerCall(both.first, in_jax), LayerCall(both.first, in_torch)
    calls = _recorded(evaluation)
    floors = _floors(evaluation, calls[1])
    every = list(stages(both.pairs, both.module, *calls))
    for clear in (_CLEAR, 1.0):  # of few samples, some are small by chance
        differs = _differs(evaluation, floors, clear)
        tolerance = TOLERANCES[both.dtype]
        options = (tolerance, differs, both.inputs, every, both.given)
        if found := localize.walk(both.pairs, both.module, calls, ends, *options):
            return found, _figures(evaluation, every, floors, clear)
    return [], _figures(evaluation, every, floors, 1.0)


def of_layers(evaluation: Evaluation) -> Figures:
    """Measure the difference of the output of every layer that both networks have, by torch's name; nothing of a bare
    function."""
    if evaluation.both.net.watch is None:
        return ()
    calls = _recorded(evaluation)
    every = list(stages(evaluation.both.pairs, evaluation.both.module, *calls))
    return _figures(evaluation, every, _floors(evaluation, calls[1]), _CLEAR)


def _figures(evaluation: Evaluation, every: Sequence[Stage | str], floors: Arrays, clear: float) -> Figures:
    differs, dtype = _differs(evaluation, floors, clear), evaluation.both.dtype
    tolerance = clear * _tolerance(evaluation)
    reason = _REASON.format(clear=clear) if clear > 1 else _ONCE
    figures = []
    for stage in every:
        if isinstance(stage, str):
            continue
        floor = _floor(floors, stage.label, stage.in_torch.output)
        size = rounding.worst({"": stage.in_jax.output}, {"": stage.in_torch.output}, {"": floor}, dtype).size
        follows = differs(f"{stage.label}, input", stage.in_jax.input, stage.in_torch.input)  # its input does
        name, _, nth = stage.label.partition("#")
        of = f"output of call {nth}" if nth else "output"
        figures.append((name, Figure(of, "forward", dtype, size, tolerance, rounding.UNIT, reason, follows)))
    return tuple(figures)


def _tolerance(evaluation: Evaluation) -> float:
    return rounding.tolerance(max((a.size for a in evaluation.both.arrays().values()), default=1))


def _floor(floors: Arrays, name: str, like: np.ndarray) -> np.ndarray | float:
    floor = floors.get(name)
    return floor if floor is not None and floor.shape == like.shape else 0.0


def in_weights(in_jax: Arrays, in_torch: Arrays) -> Diagnosis:
    """Diagnose weights that were ported by hand."""
    name = next(name for name in in_torch if not np.array_equal(in_jax[name], in_torch[name]))
    cause = state.cause_in_weight(in_jax[name], in_torch[name], 0.0)
    return Diagnosis(name, f"It differs: {worst_difference(in_jax[name], in_torch[name])}.", cause)


def in_state(evaluation: Evaluation, where: str) -> Diagnosis:
    """Diagnose running statistics, or other state, that differ after a step."""
    both, tolerance = evaluation.both, TOLERANCES[evaluation.both.dtype]
    in_jax, in_torch = evaluation.jax_numbers("state"), evaluation.torch_numbers("state")
    found, figures = ([], ()) if both.net.watch is None else _walked(evaluation, np.empty(0), np.empty(0))
    if found:  # a layer whose difference a norm takes out of the outputs
        return found[0]._replace(more=tuple(found[1:]), figures=figures)
    norms = state.statistics(both.pairs, both.module)
    differing = [n for n, names in norms.items() if any(_far(in_jax, in_torch, x, tolerance) for x in names)]
    if not differing or not any(where in names for names in norms.values()):
        text = f"It differs: {worst_difference(in_jax[where], in_torch[where])}."
        return Diagnosis(where, text, None, figures=figures)
    norm = differing[0]
    mine, other = (np.stack([arrays[name] for name in norms[norm]]) for arrays in (in_jax, in_torch))
    module = torch_state.copied(both.module)
    with torch_layers.record(module) as calls, torch.no_grad():
        torch_state.called(module, both.torch_arguments)
    cause = state.cause_in_statistics(both.module.get_submodule(norm), calls[norm].input, mine, other, tolerance)
    worst = max(norms[norm], key=lambda name: distance(in_jax[name], in_torch[name]))
    text = f"It differs: {worst_difference(in_jax[worst], in_torch[worst])}."
    return Diagnosis(worst, text, cause, figures=figures)


def _far(in_jax: Arrays, in_torch: Arrays, name: str, tolerance: float) -> bool:
    return distance(in_jax[name], in_torch[name]) > tolerance


def in_losses(evaluation: Evaluation) -> Diagnosis:
    """Diagnose two losses of the same outputs."""
    both, losses, (outputs, torch_outputs) = evaluation.both, evaluation.losses, evaluation.trees
    assert losses is not None
    value, torch_value = losses[0](outputs), losses[1](torch_outputs)
    text = f"The outputs agree and the loss is {float(value):.6g} in JAX and {torch_value.item():.6g} in PyTorch."
    single = torch_outputs
    while (held := parts(single)) is not None and len(held.values) == 1:
        single = held.values[0]
    if single is not torch_outputs or not (isinstance(single, torch.Tensor) and single.is_floating_point()):
        why = "A loss of several outputs, or of integers, can't be diagnosed."
        return Diagnosis("the loss", f"{text} {why}", None)
    leaf = single.detach().requires_grad_()
    torch_value = losses[1](leaf)
    if torch_value.requires_grad:
        torch_value.backward()
    gradient = both.outputs(jax.grad(losses[0])(outputs), torch_outputs)[0]
    in_jax = float(value), next(iter(gradient.values()))
    held_gradient = np.zeros(leaf.shape) if leaf.grad is None else leaf.grad.numpy(force=True)
    cause = cause_in_loss(leaf.numpy(force=True), in_jax, (torch_value.item(), held_gradient), TOLERANCES[both.dtype])
    return Diagnosis("the loss", text, cause)


def in_gradients(evaluation: Evaluation, sizes: Mapping[str, float], tolerance: float) -> Diagnosis:
    """Diagnose gradients that differ where every output agrees, from the last layer to the first."""
    both = evaluation.both
    in_jax, in_torch = evaluation.jax_numbers("gradients"), evaluation.torch_numbers("gradients")
    every = torch_state.entries(both.module)

    name = next(name for name in reversed(in_torch) if sizes[name] > tolerance)
    frozen = not torch_state.entry(both.module, name, every).tensor.requires_grad
    if not frozen and (back := _backward(evaluation)) is not None:
        return back
    worst = worst_difference(in_jax[name], in_torch[name])
    text = f"The loss agrees and the gradient, last layer first, differs: {worst}."
    return Diagnosis(name, text, backward.cause_in_gradient(in_jax[name], in_torch[name], frozen))


def _backward(evaluation: Evaluation) -> Diagnosis | None:
    """Walk from the loss back to the first layer to which another gradient comes back."""
    both, losses = evaluation.both, evaluation.losses
    tapped: Any = both.net.tapped
    watch: Any = both.net.watch
    if tapped is None or watch is None or losses is None:
        return None
    loss, net = losses[0], both.net
    calls = watch(net.params, net.state, *both.jax_inputs)
    taps = {
        name: (np.zeros_like(call.input), np.zeros_like(call.output))
        for name, call in jax_layers.reached(tapped, calls, net.params, net.state, *both.jax_inputs).items()
        if call.input.dtype.kind == call.output.dtype.kind == "f"
    }

    def value(taps: Any, tapped: Any = tapped) -> jax.Array:
        return loss(tapped(taps, net.params, net.state, *both.jax_inputs))

    slopes = compiled(jax.grad(value))(taps)
    in_jax = {name: LayerCall(*map(np.asarray, slope)) for name, slope in slopes.items()}
    module = torch_state.copied(both.module)
    with torch_layers.record_gradients(module) as in_torch:
        losses[1](torch_state.called(module, both.torch_arguments)).backward()
    tolerance = 1e3 * TOLERANCES[both.dtype]  # gradients that differ by a fault differ by more
    return backward.walk_back(both.pairs, both.module, (in_jax, in_torch), tolerance)


def after_steps(name: str, in_jax: Arrays, in_torch: Arrays, cause: str | None) -> Diagnosis:
    """Diagnose weights or moments that differ after optimizer steps from the same gradients."""
    text = f"The gradients are the same and it differs: {worst_difference(in_jax[name], in_torch[name])}."
    return Diagnosis(name, text, cause)
