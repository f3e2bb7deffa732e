"""The levels at which a JAX model is compared with a torch module."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
import torch

from jaxvae.shared.errors import InputError
from parity_tests.harness.findings import Diagnosis, Figure, Finding
from parity_tests.harness.hooks.memory import returned
from parity_tests.harness.modules import diagnoses, rounding, torch_state
from parity_tests.harness.modules.adapters import flatten
from parity_tests.harness.modules.drawn import enlarged, scattered
from parity_tests.harness.modules.errors import raised_by
from parity_tests.harness.modules.evaluation import Evaluation, Level
from parity_tests.harness.modules.exercised import effects, exercised, unpaired
from parity_tests.harness.modules.judging import judge, judge_gradients_lean, usual
from parity_tests.harness.modules.optimizers import train_both
from parity_tests.harness.modules.outputs import MixedError, detached
from parity_tests.harness.modules.pair import Arrays, Both

Optimizers = tuple[optax.GradientTransformation, Callable[[Any], torch.optim.Optimizer]]

OUTPUTS, STATE, LOSS, GRADIENTS = "every output", "state after a training step", "the loss", "every gradient"
STEPS = "weights after {} optimizer steps from the same gradients"
LARGER = "outputs at larger inputs"
UNFUSED = "JAX's gradients as XLA fuses their operations, which rounds a maximum's numbers otherwise than the maximum"
EFFECTS = "what each weight moves"
ELSEWHERE = (
    ("outputs at other weights", "gradients at other weights"),
    ("outputs at larger biases", "gradients at larger biases and a larger loss"),
    ("outputs at smaller weights", "gradients at smaller weights"),
)

FACTOR = {"float32": 2.0**8, "float64": 2.0**20}
"""Of the losses whose gradients are compared at larger biases. A gradient that is clipped may only show it where it is
large. Powers of two change no other digit, and these leave what is nothing but rounding below usual bounds."""

Compared = tuple[Finding, Callable[[], Diagnosis | None]]


class Levels:
    """Compares level after level, and knows afterwards what was not exercised or left out."""

    def __init__(self, evaluation: Evaluation, options: dict[str, Any]):
        self.evaluation, self.options = evaluation, options
        self.both: Both = evaluation.both
        sizes = [*(x.size for x in self.both.inputs), *(a.size for a in self.both.arrays().values())]
        self.tolerance = rounding.tolerance(max(sizes, default=1))
        self.unexercised: tuple[str, ...] = ()
        self.left_out: tuple[str, ...] = ()
        self.otherwise: tuple[str, ...] = ()
        """What was computed in another way than a user's program does."""

    def __iter__(self) -> Iterator[Compared]:
        """Yield the finding of each level, with a function that diagnoses it if it fails; see `compare_modules`."""
        if self.options["compare_weights"]:
            in_jax, in_torch = self.both.named(self.both.arrays()), self.both.tensors(self.both.module)
            where = next((name for name in in_torch if not _same(in_jax[name], in_torch[name])), "")
            size = float(bool(where)) and rounding.worst(in_jax, in_torch, {}, self.both.dtype).size
            reason = "both should hold the same numbers"
            finding = Finding("every weight", self.both.dtype, size, where, 0.0, rounding.UNIT, reason)
            yield finding, lambda: diagnoses.in_weights(in_jax, in_torch)
        try:
            self._call()
        except _LayerError as error:
            diagnosis = error.diagnosis
            yield self._failure(OUTPUTS, "output"), lambda: diagnosis
            return
        except MixedError as mixed:
            text = f"{mixed}."
            yield self._failure(OUTPUTS, "the outputs"), lambda: Diagnosis("the outputs", text, None)
            return
        if self.options["layers"]:
            with contextlib.suppress(Exception):  # the levels say what is wrong
                self.differences_of_layers = diagnoses.of_layers(self.evaluation)
        yield self._level(OUTPUTS, "outputs", lambda where: diagnoses.in_outputs(self.evaluation, where))
        if self.options["statistics"]:
            yield from self._state()
        del self.after_torch, self.after_jax  # a copy of all parameters
        moved = effects(self.evaluation, frozenset(self.compared_state))
        returned()
        self.unexercised = moved.nothing
        if moved.one:
            text = f"Moving it changes an output in one framework only ({', '.join(moved.one)})."
            yield self._failure(EFFECTS, moved.one[0]), lambda: Diagnosis(moved.one[0], text, None)
        if self.options["losses"] is not None:
            yield from self._training()
        if not self.options["compare_weights"]:
            for point in range(len(ELSEWHERE)):
                if point < 2 or self.unexercised:
                    yield from self._elsewhere(point)

    def _elsewhere(self, point: int) -> Iterator[Compared]:
        """Compare outputs and gradients at other weights, which go through other branches of an activation."""
        if (other := self._at(point)) is None:
            self.left_out += ELSEWHERE[point] if self.options["losses"] is not None else ELSEWHERE[point][:1]
            return
        outputs = judge(ELSEWHERE[point][0], "outputs", other, self.tolerance, rough=True, given=self.sizes_of_outputs)
        yield outputs.finding, lambda: diagnoses.in_outputs(other, outputs.finding.where)
        if point == 1:
            yield from self._at_larger_inputs(other)
        # A buffer of torch alone was asked at the given weights: each takes some calls of the module.
        asked = sorted({*self.unexercised} - {*unpaired(self.both)})
        moved = exercised(other, asked)
        still = {*self.unexercised} - {*asked} | {*moved.nothing, *moved.one}
        fewer = len(still) < len(self.unexercised)
        self.unexercised = tuple(name for name in self.unexercised if name in still)
        # Small weights are for what a clip or a saturated function hides; gradients of the others are known to agree.
        if self.options["losses"] is not None and (point < 2 or fewer):
            yield self._gradients_elsewhere(point, other)

    def _at_larger_inputs(self, elsewhere: Evaluation) -> Iterator[Compared]:
        """Compare outputs at larger inputs too, since no bias may move a number to a bound. Gradients are left out:
        what saturates there leaves little but rounding of them."""
        if (both := enlarged(elsewhere.both)) is None:
            return
        if (other := self.evaluation.at(both)) is None:
            self.left_out += (LARGER,)
            return
        outputs = judge(LARGER, "outputs", other, self.tolerance, rough=True, given=self.sizes_of_outputs)
        yield outputs.finding, lambda: diagnoses.in_outputs(other, outputs.finding.where)

    def _gradients_elsewhere(self, point: int, evaluation: Evaluation) -> Compared:
        name = ELSEWHERE[point][1]
        sizes_given = {name: evaluation.factor * size for name, size in self.sizes_of_gradients.items()}
        finding = judge_gradients_lean(name, evaluation, self.tolerance, sizes_given)
        if finding.passed or (again := self._at(point)) is None:
            return finding, lambda: None
        finding, sizes, other = judge(name, "gradients", again, self.tolerance, rough=True, given=sizes_given)
        self._note(other)
        return finding, lambda: diagnoses.in_gradients(other, sizes, self.tolerance)

    def _at(self, point: int) -> Evaluation | None:
        returned()
        both = scattered(self.both, point)
        returned()
        if (other := self.evaluation.at(both)) is not None and point == 1:
            other.factor = FACTOR[both.dtype]
        return other

    def _call(self) -> None:
        evaluation = self.evaluation
        in_torch, self.after_torch = evaluation.forward_torch(self.both)
        try:
            in_jax, self.after_jax = evaluation.forward_jax(self.both)
        except Exception as error:
            if (diagnosis := diagnoses.before_failure(error, evaluation)) is not None:
                raise _LayerError(diagnosis) from error
            with raised_by("The JAX model"):
                raise
        evaluation.trees = in_jax, detached(in_torch)
        mine, other = self.both.outputs(in_jax, in_torch)
        if not any(array.size for array in (*mine.values(), *other.values())):
            raise InputError(
                "outputs: neither model returns a number, so there is nothing to compare: make both return some."
            )
        evaluation.know("outputs", mine, other)
        self.sizes_of_outputs = {name: usual(array) for name, array in other.items() if array.dtype.kind in "fc"}

    compared_state: tuple[str, ...] = ()
    sizes_of_outputs: Mapping[str, float] = {}
    sizes_of_gradients: Mapping[str, float] = {}
    """At the given weights."""
    differences_of_gradients: Mapping[str, float] = {}
    """Of each tensor, in rounding errors, at the given weights; empty if they were not compared."""
    differences_of_state: Mapping[str, float] = {}
    """The same of the state after a training step."""
    differences_of_layers: tuple[tuple[str, Figure], ...] = ()
    """Of each layer's output, at the given weights, by torch's name; empty if they were not asked for."""

    def _state(self) -> Iterator[Compared]:
        """Compare whatever a call has changed, in either framework, under any name."""
        both, state = self.both, flatten(self.both.net.state)
        before, after = flatten(both.net.state), flatten(self.after_jax)
        names = {pair.path: pair.name for pair in both.pairs}
        buffers = {name for name, _ in both.module.named_buffers()}
        old, new = torch_state.entries(both.module), torch_state.entries(self.after_torch)
        alone = [path for path in after if path not in names and not _same(before.get(path), after[path])]
        paired = {torch_state.whole(name) for name in names.values()}
        for name in buffers - paired:
            if name in new and not torch_state.counts_batches(name, new[name].layer):
                was = old[name].numpy() if name in old else None
                alone += [] if _same(was, new[name].numpy()) else [name]
        if alone:
            which = "JAX" if alone[0] in after else "PyTorch"
            text = f"A call changes it in {which}, and it has no counterpart in the other framework."
            yield self._failure(STATE, alone[0]), lambda: Diagnosis(alone[0], text, None)
        every = both.tensors(self.after_torch)
        in_torch = {name: array for name, array in every.items() if torch_state.whole(name) in buffers}
        in_torch |= {names[path]: every[names[path]] for path in state if path in names}
        in_jax = both.named(after)
        in_torch = {name: in_torch[name] for name in sorted(in_torch) if name in in_jax}
        start = both.named(before)
        changed = [n for n in in_torch if not (_same(start[n], in_jax[n]) and _same(start[n], in_torch[n]))]
        self.compared_state = tuple(changed)
        if changed:
            self.evaluation.know("state", in_jax, in_torch)
            compared = self._level(STATE, "state", lambda where: diagnoses.in_state(self.evaluation, where))
            self.differences_of_state = self.sizes
            yield compared

    def _training(self) -> Iterator[Compared]:
        evaluation, both, losses = self.evaluation, self.both, self.options["losses"]
        with raised_by("The JAX loss"):
            loss = losses[0](evaluation.trees[0])
        torch_loss = evaluation.torch_loss(evaluation.trees[1])
        for framework, shape in (("JAX", jnp.shape(loss)), ("torch", tuple(torch_loss.shape))):
            if shape:
                raise InputError(
                    f"losses: the {framework} loss has the shape {list(shape)}, expected one number: take its mean."
                )
        values = {"the loss": np.asarray(loss)}, {"the loss": torch_loss.numpy(force=True)}
        evaluation.know("loss", *values)
        yield self._level(LOSS, "loss", lambda _: diagnoses.in_losses(evaluation))
        compared = self._level(
            GRADIENTS, "gradients", lambda _: diagnoses.in_gradients(self.evaluation, self.sizes, self.tolerance)
        )
        self.differences_of_gradients = self.sizes
        yield compared
        gradients = self.evaluation.torch_numbers("gradients")
        self.sizes_of_gradients = {name: rounding.largest(array) for name, array in gradients.items()}
        self.evaluation.forget_gradients()
        optimizers = self.options["optimizers"]
        if optimizers is None:
            return

        if self.options["apart"]:
            text = f"The optimizers train other arrays: {'; '.join(self.options['apart'])}."
            cause = "an optimizer of one framework trains in parts what that of the other trains as one"
            where = "the optimizers"
            yield self._failure(STEPS.format(self.options["steps"]), where), lambda: Diagnosis(where, text, cause)
            return

        def gradient(params: Any) -> Any:
            net = both.net
            return net.own(evaluation.gradient(net.rearranged(params), net.state, *both.jax_inputs))

        steps = self.options["steps"]
        scheduler, skipped = self.options["scheduler"], evaluation.without_gradient
        run = train_both(both, gradient, optimizers, scheduler, steps, skipped)
        share = rounding.STEP_ERROR[both.dtype] / self.tolerance
        floors = {name: share * array for name, array in run.moved.items()}
        finding = self._finding(STEPS.format(steps), run.weights, floors)
        yield finding, lambda: diagnoses.after_steps(finding.where, *run.weights, run.cause(finding.where))
        if run.moments is not None:
            moments = run.moments
            finding = self._finding(f"optimizer moments after {steps} steps", moments, run.moment_floors(share))
            yield finding, lambda: diagnoses.after_steps(finding.where, *moments, None)

    def _level(self, name: str, level: Level, diagnose: Callable[[str], Diagnosis]) -> Compared:
        finding, self.sizes, self.evaluation = judge(name, level, self.evaluation, self.tolerance)
        self._note(self.evaluation)
        return finding, lambda: diagnose(finding.where)

    def _note(self, evaluation: Evaluation) -> None:
        if evaluation.unfused:
            self.otherwise = (UNFUSED,)

    def _finding(self, level: str, values: tuple[Arrays, Arrays], floors: Arrays) -> Finding:
        worst, dtype = rounding.worst(*values, floors, self.both.dtype), self.both.dtype
        return Finding(level, dtype, worst.size, worst.name, self.tolerance, rounding.UNIT, rounding.STEP_REASON[dtype])

    def _failure(self, level: str, where: str) -> Finding:
        return Finding(level, self.both.dtype, np.inf, where, self.tolerance, rounding.UNIT, rounding.REASON)


class _LayerError(Exception):
    """The JAX model raised an exception after a layer that differs."""

    def __init__(self, diagnosis: Diagnosis):
        super().__init__(diagnosis.difference)
        self.diagnosis = diagnosis


def _same(before: np.ndarray | None, after: np.ndarray) -> bool:
    return (
        before is not None
        and before.shape == after.shape
        and np.array_equal(before, after, equal_nan=after.dtype.kind in "fc")
    )
