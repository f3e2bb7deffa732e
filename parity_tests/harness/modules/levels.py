"""The levels at which a JAX model is compared with a torch module, and the diagnosis of a level that fails."""

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch

from jaxvae.shared.errors import InputError
from parity_tests.harness.findings import Diagnosis, Finding
from parity_tests.harness.hooks import torch_layers
from parity_tests.harness.hooks.record import LayerCall
from parity_tests.harness.modules.adapters import flatten
from parity_tests.harness.modules.hypotheses import localize
from parity_tests.harness.modules.hypotheses.base import distance
from parity_tests.harness.modules.hypotheses.between_layers import cause_between
from parity_tests.harness.modules.hypotheses.layers import rounded
from parity_tests.harness.modules.hypotheses.loss import cause_in_loss
from parity_tests.harness.modules.optimizers import train_both
from parity_tests.harness.modules.pair import Arrays, Both
from parity_tests.harness.modules.validation import kind

Losses = tuple[Callable[[Any], jax.Array], Callable[[Any], torch.Tensor]]
Optimizers = tuple[optax.GradientTransformation, Callable[[Any], torch.optim.Optimizer]]

TOLERANCES = {"float32": 1e-5, "float64": 1e-12}
REASONS = {
    "float32": "one rounding is 6e-08, and the frameworks sum in different orders",
    "float64": "one rounding is 1e-16, and the frameworks sum in different orders",
}
# optax computes 1 - 0.999 in float32, to 3e-05: Adam's corrected second moment has that error, a step half of it.
STEPS_TOLERANCES = {"float32": 1e-4, "float64": 1e-12}
STEPS_REASON = {
    **REASONS,
    "float32": "Adam's first steps are divided by 1 - 0.999, which float32 gives to 3e-05",
}
OF_LARGEST = "of the tensor's largest"

Level = tuple[Finding, Callable[[], Diagnosis]]


def levels(
    both: Both,
    compare_weights: bool,
    statistics: bool,
    losses: Losses | None,
    optimizers: Optimizers | None,
    scheduler: Callable[[torch.optim.Optimizer], Any] | None,
    steps: int,
) -> Iterator[Level]:
    """Yield the finding of each level, with a function that diagnoses it if it fails; see `compare_modules`."""
    net, tolerance = both.net, TOLERANCES[both.dtype]
    if compare_weights:
        in_jax, in_torch = both.named(both.arrays()), both.tensors(both.module)
        finding = _finding("every weight", both, in_jax, in_torch, 0.0, "both should hold the same numbers")
        yield finding, lambda: _in_weights(in_jax, in_torch)

    module = copy.deepcopy(both.module)
    torch_outputs = module(*both.torch_inputs)
    try:
        jax_outputs, after = net.apply(net.params, net.statistics, *both.jax_inputs)
    except Exception as error:
        if (diagnosis := _before(error, both)) is None:
            raise
        finding = Finding("every output", both.dtype, np.inf, "output", tolerance, OF_LARGEST, REASONS[both.dtype])
        yield finding, lambda: diagnosis
        return
    in_jax, in_torch = both.outputs(jax_outputs), both.outputs(torch_outputs)
    if not any(array.size for array in (*in_jax.values(), *in_torch.values())):
        raise InputError(
            "outputs: neither model returns a number, so there is nothing to compare: make both return some."
        )
    if len(in_jax) != len(in_torch):
        raise InputError(
            f"outputs: the JAX model returns {len(in_jax)} arrays and the torch module {len(in_torch)}: "
            "make both return the same number."
        )
    in_jax = dict(zip(in_torch, in_jax.values(), strict=True))
    finding = _finding("every output", both, in_jax, in_torch, tolerance)
    yield finding, lambda: _in_outputs(both, in_jax[finding.where], in_torch[finding.where])

    norms = localize.statistics(both.pairs, both.module)
    if statistics and norms:
        named = {name for pair in norms.values() for name in pair}
        held, updated = both.tensors(module), both.named(flatten(after))
        ours_after, theirs_after = ({name: arrays[name] for name in sorted(named)} for arrays in (updated, held))
        finding = _finding("running statistics after a training step", both, ours_after, theirs_after, tolerance)
        yield finding, lambda: _in_statistics(both, norms, ours_after, theirs_after)

    if losses is None:
        return
    loss, torch_loss = losses[0](jax_outputs), losses[1](torch_outputs)
    if not isinstance(torch_loss, torch.Tensor):
        raise InputError(f"losses: the torch loss returns {kind(torch_loss)}, expected a tensor: remove its item().")
    for framework, shape in (("JAX", jnp.shape(loss)), ("torch", tuple(torch_loss.shape))):
        if shape:
            raise InputError(
                f"losses: the {framework} loss has the shape {list(shape)}, expected one number: take its mean."
            )
    pair = ({"the loss": np.asarray(loss)}, {"the loss": torch_loss.numpy(force=True)})
    yield _finding("the loss", both, *pair, tolerance, unit="of itself"), lambda: _in_losses(both, losses)

    def jax_loss(params: Any) -> jax.Array:
        return losses[0](net.apply(params, net.statistics, *both.jax_inputs)[0])

    gradient = jax.jit(jax.grad(jax_loss))
    if torch_loss.requires_grad:  # not where every tensor is frozen
        torch_loss.backward()
    jax_gradients, tensors = both.named(flatten(gradient(net.params))), module.state_dict(keep_vars=True)
    expected = {pair.name: _gradient(tensors[pair.name]) for pair in both.pairs}
    every = {name: jax_gradients.get(name, np.zeros_like(array)) for name, array in expected.items()}
    ours_grad, theirs_grad = _without_noise(every, expected, both.dtype)
    frozen = {name for name in expected if not tensors[name].requires_grad}
    finding = _finding("every gradient", both, ours_grad, theirs_grad, tolerance)
    yield finding, lambda: _in_gradients(ours_grad, theirs_grad, frozen, tolerance)

    if optimizers is None:
        return
    run = train_both(net.params, gradient, both.named, both.module, optimizers, scheduler, steps)
    level = f"weights after {steps} optimizer steps from the same gradients"
    tolerance, reason = STEPS_TOLERANCES[both.dtype], STEPS_REASON[both.dtype]
    finding = _finding(level, both, run.in_jax, run.in_torch, tolerance, reason)
    yield finding, lambda: _after_steps(finding.where, run.in_jax, run.in_torch, run.cause(finding.where, tolerance))
    if run.moments is not None:
        mine, other = run.moments
        finding = _finding(f"optimizer moments after {steps} steps", both, mine, other, tolerance, reason)
        yield finding, lambda: _after_steps(finding.where, mine, other, None)


def _finding(
    level: str,
    both: Both,
    in_jax: Arrays,
    in_torch: Arrays,
    tolerance: float,
    reason: str | None = None,
    unit: str = OF_LARGEST,
) -> Finding:
    size, where = max(((distance(in_jax[name], in_torch[name]), name) for name in in_torch), default=(0.0, ""))
    return Finding(level, both.dtype, size, where, tolerance, unit, reason or REASONS[both.dtype])


def _without_noise(in_jax: Arrays, in_torch: Arrays, dtype: str) -> tuple[Arrays, Arrays]:
    """Drop the gradients that are zero up to rounding, such as that of a bias just before batch normalization: a
    difference relative to their largest entry means nothing."""
    every = [*in_jax.values(), *in_torch.values()]
    largest = max((np.abs(array[np.isfinite(array)]).max(initial=0) for array in every), default=0)
    noise = 100 * np.finfo(dtype).eps * largest

    def is_noise(name: str) -> bool:
        return all(np.abs(arrays[name]).max(initial=0) <= noise for arrays in (in_jax, in_torch))  # NaN is not

    kept = [name for name in in_torch if not is_noise(name)]
    return {name: in_jax[name] for name in kept}, {name: in_torch[name] for name in kept}


def _gradient(tensor: torch.Tensor) -> np.ndarray:
    return np.zeros(tensor.shape) if tensor.grad is None else tensor.grad.numpy(force=True)


def _recorded(both: Both) -> tuple[Mapping[str, LayerCall], Mapping[str, LayerCall]]:
    net, module = both.net, copy.deepcopy(both.module)
    assert net.watch is not None
    with torch_layers.record(module) as calls, torch.no_grad():
        module(*both.torch_inputs)
    return net.watch(net.params, net.statistics, *both.jax_inputs), calls


def _before(error: Exception, both: Both) -> Diagnosis | None:
    """Find the first difference before the JAX model raised, as a layer does whose input has another shape."""
    if both.net.watch is None:
        return None
    in_jax, in_torch = _recorded(both)
    end = LayerCall(both.inputs[0], np.empty(0))
    diagnosis = localize.walk(both.pairs, both.module, (in_jax, in_torch), (end, end), TOLERANCES[both.dtype])
    if diagnosis is None or diagnosis.difference == localize.NOT_CALLED:
        return None  # the first layer that differs raised, and its own message says why
    text = f"{diagnosis.difference} The JAX model then failed: {type(error).__name__}: {str(error).splitlines()[0]}"
    return diagnosis._replace(difference=text)


def _in_outputs(both: Both, in_jax: np.ndarray, in_torch: np.ndarray) -> Diagnosis:
    tolerance = TOLERANCES[both.dtype]
    if both.net.watch is None:
        cause = rounded(in_jax, in_torch) or cause_between((in_torch, in_jax), (in_torch, in_torch), tolerance)
        why = "a bare function has no layers to record, so only outputs and gradients can be compared"
        return Diagnosis("the output", f"It differs: {localize.worst_difference(in_jax, in_torch)}; {why}.", cause)
    ends = LayerCall(both.inputs[0], in_jax), LayerCall(both.inputs[0], in_torch)
    diagnosis = localize.walk(both.pairs, both.module, _recorded(both), ends, tolerance)
    assert diagnosis is not None
    return diagnosis


def _in_weights(in_jax: Arrays, in_torch: Arrays) -> Diagnosis:
    name = next(name for name in in_torch if distance(in_jax[name], in_torch[name]) > 0)
    cause = localize.cause_in_weight(in_jax[name], in_torch[name], 0.0)
    return Diagnosis(name, f"It differs: {localize.worst_difference(in_jax[name], in_torch[name])}.", cause)


def _in_statistics(both: Both, norms: Mapping[str, tuple[str, str]], in_jax: Arrays, in_torch: Arrays) -> Diagnosis:
    tolerance = TOLERANCES[both.dtype]
    norm = next(n for n, names in norms.items() if any(distance(in_jax[x], in_torch[x]) > tolerance for x in names))
    mine, other = (np.stack([arrays[name] for name in norms[norm]]) for arrays in (in_jax, in_torch))
    module = copy.deepcopy(both.module)
    with torch_layers.record(module) as calls, torch.no_grad():
        module(*both.torch_inputs)
    cause = localize.cause_in_statistics(both.module.get_submodule(norm), calls[norm].input, mine, other, tolerance)
    worst = max(norms[norm], key=lambda name: distance(in_jax[name], in_torch[name]))
    return Diagnosis(worst, f"It differs: {localize.worst_difference(in_jax[worst], in_torch[worst])}.", cause)


def _in_losses(both: Both, losses: Losses) -> Diagnosis:
    net = both.net
    outputs, _ = net.apply(net.params, net.statistics, *both.jax_inputs)
    torch_outputs = copy.deepcopy(both.module)(*both.torch_inputs)
    value = losses[0](outputs)
    text = f"The outputs agree and the loss is {float(value):.6g} in JAX"
    if not (isinstance(torch_outputs, torch.Tensor) and torch_outputs.is_floating_point()):
        why = "a loss of several outputs, or of integers, can't be diagnosed"
        return Diagnosis("the loss", f"{text}; {why}.", None)
    leaf = torch_outputs.detach().requires_grad_()
    torch_value = losses[1](leaf)
    if torch_value.requires_grad:
        torch_value.backward()
    (gradient,) = both.outputs(jax.grad(losses[0])(outputs)).values()
    in_jax = float(value), gradient
    in_torch = torch_value.item(), _gradient(leaf)
    cause = cause_in_loss(leaf.numpy(force=True), in_jax, in_torch, TOLERANCES[both.dtype])
    return Diagnosis("the loss", f"{text} and {torch_value.item():.6g} in PyTorch.", cause)


def _in_gradients(in_jax: Arrays, in_torch: Arrays, frozen: set[str], tolerance: float) -> Diagnosis:
    name = next(name for name in reversed(in_torch) if distance(in_jax[name], in_torch[name]) > tolerance)
    worst = localize.worst_difference(in_jax[name], in_torch[name])
    text = f"The loss agrees and the gradient, last layer first, differs: {worst}."
    return Diagnosis(name, text, localize.cause_in_gradient(in_jax[name], in_torch[name], name in frozen))


def _after_steps(name: str, in_jax: Arrays, in_torch: Arrays, cause: str | None) -> Diagnosis:
    text = f"The gradients are the same and it differs: {localize.worst_difference(in_jax[name], in_torch[name])}."
    return Diagnosis(name, text, cause)
