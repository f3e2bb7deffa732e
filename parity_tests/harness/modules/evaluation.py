"""Compute what is compared in each framework, and how far rounding moves each of its entries."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import torch

from jaxvae.shared.errors import InputError
from parity_tests.harness.hooks import torch_layers
from parity_tests.harness.hooks.compiled import OPTIONS, UNFUSED, compiled
from parity_tests.harness.hooks.memory import returned
from parity_tests.harness.hooks.settings import settings
from parity_tests.harness.modules import torch_state
from parity_tests.harness.modules.adapters import flatten
from parity_tests.harness.modules.common.slopes import slope_errors
from parity_tests.harness.modules.errors import raised_by
from parity_tests.harness.modules.hypotheses.base import distance
from parity_tests.harness.modules.outputs import detached, leaves, mixture
from parity_tests.harness.modules.pair import Arrays, Both
from parity_tests.harness.modules.rounding import SAMPLES, Sample, entries, jitter, spread, unit
from parity_tests.harness.modules.validation import kind

Losses = tuple[Callable[[Any], jax.Array], Callable[[Any], torch.Tensor]]
_SAME = 1e-9
_MOST = 100_000  # entries of an array that are compared with those of a second call
Level = Literal["outputs", "state", "loss", "gradients"]


class Evaluation:
    """Both networks at the same numbers: their outputs, their state afterwards, their losses and gradients."""

    def __init__(self, both: Both, losses: Losses | None, in_double: "Callable[[Both], Evaluation] | None" = None):
        self.both, self._losses, self._in_double = both, losses, in_double
        self.factor = 1.0
        """What the losses are multiplied by before their gradients are taken."""
        self._exact: Evaluation | None = None
        self._sharing: bool | None = None
        self._forward = compiled(both.net.apply)
        self._gradient: Callable[..., Any] | None = None
        self._slopes: Callable[..., Any] | None = None
        self.unfused = False
        """Whether XLA keeps JAX's operations apart in the gradient."""
        self._loss_slopes: tuple[Any, Any, Any] | None = None
        self.trees: tuple[Any, Any] = (None, None)
        """The outputs of both networks, once they were called; a sample is paired as they are."""
        self._called: tuple[Any, torch.nn.Module] | None = None
        """The outputs of the torch module and the module, called once already, for one gradient."""
        self.without_gradient: frozenset[str] = frozenset()
        """The tensors to which torch's last gradient brought nothing, not even zeros."""
        self._known: dict[tuple[str, Level], Arrays] = {}

    @property
    def losses(self) -> Losses | None:
        """The losses, multiplied by the factor."""
        if self._losses is None or self.factor == 1.0:
            return self._losses
        in_jax, in_torch = self._losses
        return lambda outputs: self.factor * in_jax(outputs), lambda outputs: self.factor * in_torch(outputs)

    def at(self, both: Both) -> "Evaluation | None":
        """Return an evaluation at other numbers, which shares the compiled programs; None if torch has no finite number
        in an output there."""
        other = Evaluation(both, self._losses, self._in_double)
        try:
            in_torch = self.forward_torch(both)
            finite = all(
                not array.size or np.isfinite(array).any() for array in leaves(both.chosen(in_torch[0], False)).values()
            )
        except Exception:  # the module may not take such numbers
            return None
        if not finite:
            return None
        other._called = in_torch if self.losses is not None else None
        other._forward, other._slopes, other._gradient = self._forward, self._slopes, self._gradient
        other._sharing, other.unfused = self._sharing, self.unfused
        with raised_by("The JAX model at other weights"):
            in_jax, _ = other.forward_jax(both)
        other.trees = in_jax, detached(in_torch[0])
        other.know("outputs", *both.outputs(*other.trees))
        return other

    def apart(self) -> "Evaluation":
        """Return an evaluation at the same numbers whose gradients in JAX are computed with XLA's fusion left out.

        XLA may compute numbers once for their maximum and again, rounded otherwise, where its gradient looks which of
        them is the maximum; the gradient then takes another path.
        """
        other = Evaluation(self.both, self._losses, self._in_double)
        other.factor = self.factor
        other._forward, other._sharing, other.trees, other.unfused = self._forward, self._sharing, self.trees, True
        other._known = {place: known for place, known in self._known.items() if place != ("jax", "gradients")}
        return other

    def contradicts(self, unfused: "Evaluation") -> bool:
        """Return whether the slope of JAX's loss is that of this gradient and not that of an unfused one, which then is
        none of the model's. It is neither's where the model stops a gradient."""
        net, inputs = self.both.net, self.both.jax_inputs
        gradients = [one.gradient(net.params, net.state, *inputs) for one in (self, unfused)]
        exact, _ = self._in_float64()
        with settings("float64"):
            both = exact.both

            def loss(params: Any) -> float:
                assert exact.losses is not None
                return float(exact.losses[0](exact._forward(params, both.net.state, *both.jax_inputs)[0]))

            fused, other = slope_errors(loss, both.net.params, gradients)
        return fused * 10 < other

    def forward_torch(self, both: Both) -> tuple[Any, torch.nn.Module]:
        """Return the outputs of the torch module and the module after the call."""
        module = self.copied(both.module)
        with raised_by("The torch module"):
            outputs = torch_state.called(module, both.torch_arguments)
        if self._sharing is None:  # a module that renormalizes a table in its call needs a copy each time
            self._sharing = torch_state.same_parameters(both.module, module)
        return outputs, module

    def copied(self, module: torch.nn.Module) -> torch.nn.Module:
        """Return a copy of a torch module to call; it shares the parameters if a call is known to leave them."""
        return torch_state.copied(module, bool(self._sharing))

    def forward_jax(self, both: Both) -> tuple[Any, Any]:
        """Return the outputs of the JAX model and its state after the call."""
        return self._forward(both.net.params, both.net.state, *both.jax_inputs)

    def gradient(self, params: Any, state: Any, *inputs: Any) -> Any:
        """Return the gradient of JAX's loss with respect to its parameters."""
        assert self._losses is not None
        loss, apply = self._losses[0], self.both.net.apply
        if self._gradient is None:
            if not self.unfused:
                with contextlib.suppress(Exception):  # a model that is differentiable in its parameters only
                    return self.slopes(True, params, state, list(inputs))[0]

            def of_loss(factor: jax.Array, params: Any, state: Any, *x: jax.Array) -> jax.Array:
                value = loss(apply(params, state, *x)[0])
                return factor.astype(value.dtype) * value

            self._gradient = jax.jit(jax.grad(of_loss, 1), compiler_options=UNFUSED if self.unfused else OPTIONS)
        with raised_by("The gradient of the JAX model or of its loss"):
            return self._gradient(jnp.asarray(self.factor), params, state, *inputs)

    def slopes(self, of_loss: bool, params: Any, state: Any, inputs: list[jax.Array]) -> tuple[Any, Any, Any]:
        """Return the gradients of JAX's loss, or else of a mixture of its outputs, with respect to its parameters,
        state and inputs. One program computes both, since compiling it is most of the time."""
        if self._slopes is None:
            losses, apply, both = self._losses, self.both.net.apply, self.both

            def value(factor: jax.Array, params: Any, state: Any, inputs: list[jax.Array]) -> jax.Array:
                outputs, _ = apply(params, state, *inputs)
                if losses is None:
                    return mixture(both.chosen(outputs, True))
                loss = losses[0]
                kind = jax.eval_shape(lambda: loss(outputs)).dtype
                of_loss = lambda: factor.astype(kind) * loss(outputs)  # noqa: E731
                return jax.lax.cond(factor != 0, of_loss, lambda: mixture(both.chosen(outputs, True)).astype(kind))

            self._slopes = jax.jit(jax.grad(value, (1, 2, 3), allow_int=True), compiler_options=OPTIONS)
        return self._slopes(jnp.asarray(self.factor if of_loss else 0.0), params, state, inputs)

    def loss_slopes(self) -> tuple[Any, Any, Any]:
        """Return the slopes of the loss at the numbers of this evaluation, computed once."""
        if self._loss_slopes is None:
            net = self.both.net
            self._loss_slopes = self.slopes(True, net.params, net.state, self.both.jax_inputs)
        return self._loss_slopes

    def jax_numbers(self, level: Level, both: Both | None = None) -> Arrays:
        """Return a level's numbers in JAX by torch's names and in torch's layout; at these numbers unless others are
        given."""
        if both is None:
            if ("jax", level) not in self._known:
                slopes = self._loss_slopes if level == "gradients" else None
                known = self.jax_numbers(level, self.both) if slopes is None else gradients_of(self.both, slopes[0])
                self._known["jax", level] = known
            return self._known["jax", level]
        if level == "gradients":
            return gradients_of(both, self.gradient(both.net.params, both.net.state, *both.jax_inputs))
        outputs, after = self.forward_jax(both)
        if level == "state":
            return both.named(flatten(after))
        if level == "outputs":
            return both.outputs(outputs, self.trees[1])[0]
        assert self.losses is not None
        with raised_by("The JAX loss"):
            return {"the loss": np.asarray(self.losses[0](outputs))}

    def torch_numbers(self, level: Level, both: Both | None = None) -> Arrays:
        """Return a level's numbers in torch, as `jax_numbers` does in JAX."""
        if both is None:
            if ("torch", level) not in self._known:
                self._known["torch", level] = self.torch_numbers(level, self.both)
            return self._known["torch", level]
        called, self._called = self._called, None
        outputs, module = called if called and both is self.both else self.forward_torch(both)
        if level == "state":
            state = flatten(both.net.state)
            named = {pair.name for pair in both.pairs if pair.path in state}
            return {name: array for name, array in both.tensors(module).items() if name in named}
        if level == "outputs":
            return both.outputs(self.trees[0], outputs)[1]
        loss = self.torch_loss(outputs)
        if level == "loss":
            return {"the loss": loss.numpy(force=True)}
        if loss.requires_grad:  # not where every tensor is frozen
            with raised_by("The gradient of the torch module or of its loss"):
                loss.backward()
        every = torch_state.entries(module)
        self.without_gradient = frozenset(name for name, held in every.items() if held.tensor.grad is None)
        return both.gradients(module)

    def torch_loss(self, outputs: Any) -> torch.Tensor:
        assert self.losses is not None
        with raised_by("The torch loss"):
            loss = self.losses[1](outputs)
        if not isinstance(loss, torch.Tensor):
            raise InputError(f"losses: the torch loss returns {kind(loss)}, expected a tensor: remove its item().")
        return loss

    def know(self, level: Level, in_jax: Arrays, in_torch: Arrays) -> None:
        """Keep numbers that were computed already."""
        self._known["jax", level], self._known["torch", level] = in_jax, in_torch

    def forget_gradients(self) -> None:
        """Let go of the gradients, which take as much memory as the parameters; they are computed again if needed."""
        self._loss_slopes = None
        for framework in ("jax", "torch"):
            self._known.pop((framework, "gradients"), None)
        returned()

    def forget_jax_weights(self) -> None:
        """Let go of the JAX model's weights; of its numbers only those that are known can be had afterwards."""
        self.both = self.both._replace(net=self.both.net._replace(params=None, state=None))
        returned()

    def jittered(self, seed: int) -> Both:
        """Return both networks with each input and each weight of torch moved by a unit in the last place."""
        return _jittered_torch(self.both, seed)

    def samples(self, level: Level, places: Arrays) -> Iterator[Sample]:
        """Yield how far rounding moved some entries of a level, in one sample after another; nothing if a network gives
        other numbers each time.

        A sample moves each input and weight by a unit in the last place, in one of the frameworks. It is drawn in
        float64 also where float32 is compared: a layer that rounds to fewer bits than it should would otherwise hide
        behind the jumps of its own rounding. In float64 the first sample is the error of torch's float32, which holds
        the rounding within layers too; it is scaled to float64. The last sample moves the inputs of the layers: what
        stands behind a clip sees none of the units that move the networks' inputs.
        """
        exact, scale = self._in_float64()
        with settings("float64"):
            in_jax, in_torch = exact.jax_numbers(level), exact.torch_numbers(level)
            some = _thinned(in_jax), _thinned(in_torch)
            in_jax, in_torch = entries(in_jax, places), entries(in_torch, places)
            if level == "gradients":
                exact.forget_gradients()
            if not (_repeats(_thinned(exact.jax_numbers(level, exact.both)), some[0])
                    and _repeats(_thinned(exact.torch_numbers(level, exact.both)), some[1])):  # fmt: skip
                return
            if exact is self:
                with contextlib.suppress(Exception):  # a module that can't compute in float32
                    single = entries(exact.torch_numbers(level, _in_single(exact.both)), places)
                    factor = unit("float64") / unit("float32")
                    yield "torch", {name: array * factor for name, array in spread(single, in_torch).items()}
            for seed in range(SAMPLES):
                if seed % 2:
                    returned()  # the weights that are moved and their gradient are new arrays in JAX
                    moved = entries(exact.jax_numbers(level, _jittered_jax(exact.both, seed)), places)
                    yield "jax", {name: array * scale for name, array in spread(moved, in_jax).items()}
                else:
                    moved = entries(exact.torch_numbers(level, _jittered_torch(exact.both, seed)), places)
                    yield "torch", {name: array * scale for name, array in spread(moved, in_torch).items()}
            within: dict[str, Arrays] = {}
            with contextlib.suppress(Exception):  # a layer that takes no other numbers
                within = exact._moved_within(level)
            for framework, moved in within.items():
                apart = spread(entries(moved, places), in_jax if framework == "jax" else in_torch)
                yield framework, {name: array * scale for name, array in apart.items()}

    def _moved_within(self, level: Level) -> dict[str, Arrays]:
        """Return a level's numbers in both networks with the inputs of their layers moved by a unit in the last place;
        nothing where JAX's layers can't be reached."""
        both, net, change = self.both, self.both.net, jitter(SAMPLES)
        tapped, watch = net.tapped, net.watch
        if tapped is None or watch is None or level == "state":
            return {}
        taps = {
            label: (change(call.input) - call.input, np.zeros_like(call.output))
            for label, call in watch(net.params, net.state, *both.jax_inputs).items()
            if call.input.dtype.kind in "fc"
        }

        def in_jax(taps: Any, params: Any) -> Any:
            return tapped(taps, params, net.state, *both.jax_inputs)

        module = self.copied(both.module)
        with torch_layers.moved(module, change):
            outputs = torch_state.called(module, both.torch_arguments)
        if level == "outputs":
            mine, other = both.outputs(compiled(in_jax)(taps, net.params), detached(outputs))
            return {"jax": mine, "torch": other}
        assert self.losses is not None
        loss, torch_loss = self.losses[0], self.torch_loss(outputs)
        if level == "loss":
            return {
                "jax": {"the loss": np.asarray(loss(in_jax(taps, net.params)))},
                "torch": {"the loss": torch_loss.numpy(force=True)},
            }
        slopes = compiled(jax.grad(lambda params, taps: loss(in_jax(taps, params))))(net.params, taps)
        torch_loss.backward()
        return {"jax": gradients_of(both, slopes), "torch": both.gradients(module)}

    def _in_float64(self) -> "tuple[Evaluation, float]":
        if self._in_double is None:
            return self, 1.0
        if self._exact is None:
            with settings("float64"):
                self._exact = self._in_double(self.both)
                self._exact.unfused, self._exact.factor = self.unfused, self.factor
        return self._exact, unit(self.both.dtype) / unit("float64")


def gradients_of(both: Both, slopes: Any) -> Arrays:
    """Return JAX's gradients of every pair by torch's names and in torch's layout, zeros where there is none."""
    named = both.named(
        {path: slope for path, slope in flatten(slopes).items() if jnp.issubdtype(slope.dtype, jnp.inexact)}
    )
    tensors = both.tensors(both.module)
    return {
        pair.name: _conjugate(named[pair.name]) if pair.name in named else np.zeros_like(tensors[pair.name])
        for pair in both.differentiated()
    }


def _conjugate(array: np.ndarray) -> np.ndarray:
    return np.conj(array) if array.dtype.kind == "c" else array


def _thinned(arrays: Arrays) -> Arrays:
    """Return entries of each array at equal distances, all of one that isn't large."""
    return {name: array.flat[:: -(-array.size // _MOST) or 1] for name, array in arrays.items()}


def _repeats(again: Arrays, before: Arrays) -> bool:
    """Return whether a second call gave the same numbers, up to sums in another order."""
    return all(np.array_equal(again[n], array) or distance(again[n], array) < _SAME for n, array in before.items())


def _in_single(both: Both) -> Both:
    module = torch_state.recast(torch_state.copied(both.module), "float32")
    return both._replace(module=module, inputs=[_lowered(x) for x in both.inputs], dtype="float32")


def _lowered(x: np.ndarray) -> np.ndarray:
    return x.astype({"f": np.float32, "c": np.complex64}.get(x.dtype.kind, x.dtype))


def _jittered_jax(both: Both, seed: int) -> Both:
    change = jitter(seed)

    def one(leaf: Any) -> Any:
        return jnp.asarray(change(np.asarray(leaf))) if jnp.issubdtype(leaf.dtype, jnp.inexact) else leaf

    net = both.net
    moved = net._replace(params=jax.tree.map(one, net.params), state=jax.tree.map(one, net.state))
    return both._replace(net=moved, inputs=[change(x) for x in both.inputs])


def _jittered_torch(both: Both, seed: int) -> Both:
    change = jitter(seed)
    return both._replace(module=torch_state.perturbed(both.module, change), inputs=[change(x) for x in both.inputs])
