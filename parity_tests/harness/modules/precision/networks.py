"""Compute outputs, loss and gradients of both networks in the precision in which they are run, and in float64."""

import contextlib
import types
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import torch

from jaxvae.shared.errors import InputError
from parity_tests.harness.hooks.compiled import AS_RUN, compiled
from parity_tests.harness.modules import torch_state
from parity_tests.harness.modules.errors import raised_by
from parity_tests.harness.modules.evaluation import Losses, gradients_of
from parity_tests.harness.modules.outputs import paired
from parity_tests.harness.modules.pair import Arrays, Both

Numbers = dict[str, Arrays]
"""The arrays of each level, by the level and by torch's names; in float64's digits."""


class Networks:
    """Both networks in one precision."""

    def __init__(self, both: Both, losses: Losses | None):
        self.both, self.losses, self.dtype = both, losses, both.dtype
        apply = both.net.apply
        loss = losses[0] if losses is not None else None

        def slopes(params: Any, state: Any, *inputs: jax.Array) -> tuple[Any, Any]:
            def of_loss(params: Any) -> tuple[jax.Array, Any]:
                assert loss is not None
                outputs, _ = apply(params, state, *inputs)
                return loss(outputs), outputs

            return jax.value_and_grad(of_loss, has_aux=True, allow_int=True)(params)

        self.slopes = slopes
        """Maps JAX's arguments to the loss with the outputs, and to the gradient of its parameters."""
        self.dtypes: dict[str, tuple[str, ...]] = {}
        """Of the outputs in JAX and in torch, once they were computed."""
        self._forward, self._slopes = compiled(lambda *args: apply(*args)[0], AS_RUN), compiled(slopes, AS_RUN)

    def at(self, numbers: Arrays, inputs: Sequence[np.ndarray]) -> Both:
        """Return both networks with these numbers, by torch's names, and these inputs, each in its own dtype."""
        held = self.both.inputs
        given = [array.astype(like.dtype) for array, like in zip(inputs, held, strict=True)]
        both = self.both.filled(numbers)._replace(module=torch_state.copied(self.both.module), inputs=given)
        every = torch_state.entries(both.module)
        with torch.no_grad():
            for name, values in numbers.items():
                torch_state.entry(both.module, name, every).value.copy_(torch_state.tensor(values))
        return both

    def outputs(self, both: Both) -> tuple[Any, Any]:
        """Return the outputs of both models, JAX's first; torch is called first, as masks that are shared ask."""
        module = torch_state.copied(both.module)
        with _in_torch(module, self.dtype), torch.no_grad():
            in_torch = torch_state.called(module, both.torch_arguments)
        with raised_by(f"The JAX model in {self.dtype}"):
            return self._forward(both.net.params, both.net.state, *both.jax_inputs), in_torch

    def numbers(self, both: Both) -> tuple[Numbers, Numbers]:
        """Return the numbers of both at every level."""
        if self.losses is None:
            return self._two(both, *self.outputs(both))
        in_torch, torch_loss, module = self._backward(both)
        with raised_by(f"The JAX model in {self.dtype}, or its loss,"):
            (loss, in_jax), slopes = self._slopes(both.net.params, both.net.state, *both.jax_inputs)
        mine, other = self._two(both, in_jax, in_torch)
        mine["the loss"] = {"the loss": wide(np.asarray(loss))}
        other["the loss"] = {"the loss": wide(torch_state.numpy(torch_loss))}
        mine["gradients"] = {name: wide(array) for name, array in gradients_of(both, slopes).items()}
        other["gradients"] = {name: wide(array) for name, array in both.gradients(module).items()}
        return mine, other

    def _two(self, both: Both, in_jax: Any, in_torch: Any) -> tuple[Numbers, Numbers]:
        mine, other = both.outputs(in_jax, in_torch)
        floats = [name for name, array in other.items() if jnp.issubdtype(array.dtype, jnp.inexact)]
        if not floats:
            raise InputError(f"outputs: neither model returns a float, which {both.dtype!r} is about: leave dtype out.")
        leaves = paired(in_jax, in_torch, both.order)
        self.dtypes = {name: tuple(str(x.dtype).removeprefix("torch.") for x in leaves[name]) for name in floats}
        return (
            {"outputs": {name: wide(mine[name]) for name in floats}},
            {"outputs": {name: wide(other[name]) for name in floats}},
        )

    def torch_gradients(self, both: Both) -> Arrays:
        """Return torch's gradients."""
        return {name: wide(array) for name, array in both.gradients(self._backward(both)[2]).items()}

    def _backward(self, both: Both) -> tuple[Any, torch.Tensor, torch.nn.Module]:
        """Return torch's outputs, its loss, and the module with its gradients."""
        assert self.losses is not None
        module = torch_state.copied(both.module)
        with _in_torch(module, self.dtype):
            outputs = torch_state.called(module, both.torch_arguments)
        with raised_by(f"The torch loss in {self.dtype}"):
            loss = self.losses[1](outputs)
        if loss.requires_grad:
            with raised_by("The gradient of the torch module or of its loss"):
                loss.backward()
        return outputs, loss, module


@contextlib.contextmanager
def _in_torch(module: torch.nn.Module, dtype: str) -> Iterator[None]:
    """Say in which layer of a torch module, or after which, an exception was raised."""
    inside: list[str] = []
    left: list[str] = []
    with contextlib.ExitStack() as stack:
        for name, layer in module.named_modules():
            if name:
                before = layer.register_forward_pre_hook(lambda *_, name=name: inside.append(name))
                after = layer.register_forward_hook(lambda *_: left.append(inside.pop()))
                stack.callback(before.remove)
                stack.callback(after.remove)
        try:
            yield
        except Exception as error:
            place = f", in {inside[-1]}," if inside else f", after {left[-1]}," if left else ""
            with raised_by(f"The torch module in {dtype}{place}"):
                raise error


def wide(array: np.ndarray) -> np.ndarray:
    """Return the array in float64, or in complex128."""
    return array.astype(np.complex128 if array.dtype.kind == "c" else np.float64)


def autocast(module: torch.nn.Module, losses: Losses | None) -> Losses | None:
    """Let a copy of a torch module compute as under `torch.autocast` in bfloat16, and return the losses that do so."""
    kind = next((p.device.type for p in module.parameters()), "cpu")
    forward = module.forward

    def under(self: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        with torch.autocast(kind, torch.bfloat16):
            call = forward.__func__ if isinstance(forward, types.MethodType) else None
            return forward(*args, **kwargs) if call is None else call(self, *args, **kwargs)

    module.forward = types.MethodType(under, module)
    if losses is None:
        return None
    in_torch = losses[1]

    def loss(outputs: Any) -> torch.Tensor:
        with torch.autocast(kind, torch.bfloat16):
            return in_torch(outputs)

    return losses[0], loss


def unpaired_rounded(low: Both, exact: Both) -> tuple[Both, list[str]]:
    """Return the networks in float64 with the torch buffers that are in no pair rounded as those of `low` are, and the
    names of those that rounding changes, such as a table of frequencies."""
    module, held = torch_state.copied(exact.module), torch_state.entries(low.module)
    paired = {torch_state.whole(pair.name) for pair in exact.pairs}
    names = []
    for name, entry in torch_state.entries(module).items():
        if name in paired or name not in held or not entry.tensor.is_floating_point():
            continue
        as_held = entry.tensor.to(held[name].tensor.dtype).to(entry.tensor.dtype)
        if not torch.equal(as_held, entry.tensor):
            names.append(name)
            entry.tensor.data.copy_(as_held)
    return exact._replace(module=module), names


def stored(low: Both) -> dict[str, tuple[str, str]]:
    """Return the dtypes in JAX and in torch of the weights that they hold in other dtypes."""
    held, every = low.named(low.arrays()), torch_state.entries(low.module)
    dtypes = {
        name: (str(array.dtype), str(torch_state.entry(low.module, name, every).tensor.dtype).removeprefix("torch."))
        for name, array in held.items()
    }
    return {name: both for name, both in dtypes.items() if both[0] != both[1]}


def rounded(both: Both, numbers: Arrays) -> Arrays:
    """Round numbers, by torch's names, to what the arrays of both networks can hold."""
    held = both.named(both.arrays())
    every = torch_state.entries(both.module)
    result = {}
    for name, array in numbers.items():
        there = torch_state.entry(both.module, name, every).tensor.dtype
        result[name] = wide(array.astype(held[name].dtype).astype(_DTYPES.get(there, array.dtype)))
    return result


_DTYPES: dict[torch.dtype, Any] = {
    torch.bfloat16: ml_dtypes.bfloat16,
    torch.float16: np.float16,
    torch.float32: np.float32,
}


class Sample(NamedTuple):
    """Numbers of the arrays and of the inputs that are near the given ones and are rounded otherwise."""

    numbers: Arrays
    inputs: list[np.ndarray]


def sampled(seed: int, numbers: Arrays, inputs: Sequence[np.ndarray], low: Both) -> Sample:
    """Return the given numbers (seed 0), or others near them, as both networks can hold them."""
    rng = np.random.default_rng(seed)

    def moved(array: np.ndarray) -> np.ndarray:
        few = array.dtype.kind not in "fc" or np.unique(array).size <= _FEW
        return array if few or not seed else array * (1 + _MOVED * rng.uniform(-1, 1, array.shape))

    near = {name: moved(array) for name, array in numbers.items()}
    given = [_in(x.dtype, moved(x), like.dtype) for x, like in zip(inputs, low.inputs, strict=True)]
    return Sample(rounded(low, near), given)


_MOVED, _FEW = 1 / 16, 4
"""Far enough that bfloat16 rounds each number otherwise, and so near that each layer computes alike."""


def _in(dtype: np.dtype, array: np.ndarray, low: np.dtype) -> np.ndarray:
    return array.astype(low).astype(dtype) if jnp.issubdtype(low, jnp.inexact) else array
