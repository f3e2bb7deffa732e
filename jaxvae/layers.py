"""The layers that the networks are made of, each from its entry in `layout.layers`."""

import inspect
import math
from collections.abc import Callable
from typing import Any, assert_never

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array, random

from jaxvae.convolution import convolve, transposed
from jaxvae.operations import Training, full
from jaxvae.shared.config.choices import Precision
from jaxvae.shared.model import layout

_MOMENTUM, _EPS = 0.1, 1e-5  # PyTorch's batch norm; Flax counts the momentum the other way round


class Module(nnx.Module):
    """A Flax module whose class shows the arguments it is made of, where Flax's would show *args and **kwargs."""

    def __init_subclass__(cls, **settings: Any):
        super().__init_subclass__(**settings)
        of_instance = inspect.signature(cls.__init__)
        cls.__signature__ = of_instance.replace(parameters=list(of_instance.parameters.values())[1:])


class Block(Module):
    """A layer, strided or transposed convolution or linear, and its batch norm if it has one, from a map to a map."""

    def __init__(self, layer: layout.Layer, *, rngs: nnx.Rngs):
        self.linear = make(layer, rngs=rngs) if layer.kind == "linear" else None
        self.conv = None if layer.kind == "linear" else make(layer, rngs=rngs)
        self.norm = BatchNorm(layout.channels(layer)) if layer.normed else None
        self.size, self.plain = layer.size, layer.plain

    def __call__(self, x: Array, training: Training | None = None) -> Array:
        if self.conv is not None:
            x = self.conv(x)
        elif self.linear is not None:
            x = self.linear(x.reshape(x.shape[0], -1)).reshape(x.shape[0], *self.size, -1)
        return x if self.norm is None else self.norm(x, training)


class BatchNorm(Module):
    """Batch norm over all but the last axis, as PyTorch has it: normalized by the batch's biased variance, while the
    running variance, for evaluation, is the unbiased one (Ioffe & Szegedy 2015, algorithms 1 and 2)."""

    def __init__(self, features: int):
        self.scale, self.bias = nnx.Param(jnp.ones(features)), nnx.Param(jnp.zeros(features))
        self.mean, self.var = nnx.BatchStat(jnp.zeros(features)), nnx.BatchStat(jnp.ones(features))

    def __call__(self, x: Array, training: Training | None = None) -> Array:
        given, x = x.dtype, full(x)
        if training is None:
            # Measured, not trained: whoever takes gradients of all parameters gets zero for these.
            mean, var = jax.lax.stop_gradient(self.mean[...]), jax.lax.stop_gradient(self.var[...])
        else:
            rows, places = training.weights, math.prod(x.shape[1:-1])
            # Images that fill up a batch count for nothing here too. In two passes: E[x^2] - E[x]^2 loses digits.
            mean = jnp.tensordot(rows, x.sum((1, 2)), 1, precision="highest") / places
            var = jnp.tensordot(rows, ((x - mean[None, None, None]) ** 2).sum((1, 2)), 1, precision="highest") / places
            count = (rows > 0).sum().astype(x.dtype) * places
            self.mean[...] = (1 - _MOMENTUM) * self.mean[...] + _MOMENTUM * jax.lax.stop_gradient(mean)
            unbiased = jax.lax.stop_gradient(var) * (count / (count - 1))
            self.var[...] = (1 - _MOMENTUM) * self.var[...] + _MOMENTUM * unbiased
        factor = self.scale[...] / jnp.sqrt(var + _EPS)
        y = (x - mean[None, None, None]) * factor[None, None, None] + self.bias[...][None, None, None]
        return y.astype(given)


def make(layer: layout.Layer, *, rngs: nnx.Rngs) -> Any:
    """Make the layer of an entry of `layout.layers`."""
    match layer.kind:
        case "linear":
            return _linear(layer.inputs, layer.outputs, rngs)
        case "conv":
            return _Conv(layer, rngs=rngs)
        case "conv-transpose":
            return _ConvTranspose(layer, rngs=rngs)
        case "norm":
            return BatchNorm(layer.outputs)
        case "scalar":
            return nnx.Param(jnp.zeros(()))
        case kind:
            assert_never(kind)


def _linear(inputs: int, outputs: int, rngs: nnx.Rngs) -> nnx.Linear:
    """A linear layer with PyTorch's initial distribution, and its float32 products where a GPU would take TF32."""
    draw = _uniform(1.0 / math.sqrt(inputs))
    return nnx.Linear(inputs, outputs, kernel_init=draw, bias_init=draw, precision="highest", rngs=rngs)


class _Conv(nnx.Conv):
    """A convolution padded and drawn as PyTorch's, where Flax's 'SAME' would pad the end more than the start."""

    def __init__(self, layer: layout.Layer, *, rngs: nnx.Rngs):
        draw = _uniform(1.0 / math.sqrt(layer.inputs * layer.kernel**2))
        shape = (layer.kernel, layer.kernel)
        super().__init__(layer.inputs, layer.outputs, shape, kernel_init=draw, bias_init=draw, rngs=rngs)
        self.stride, self.pad = layer.stride, layer.padding
        self.products: Precision = "float32"

    def __call__(self, inputs: Array, out_sharding=None) -> Array:
        x, kernel, bias = self.promote_dtype((inputs, self.kernel[...], self.bias[...]), dtype=self.dtype)  # type: ignore[index]
        return convolve(x, kernel, self.stride, self.pad, self.products) + bias[None, None, None]


class _ConvTranspose(nnx.ConvTranspose):
    """The transpose of `_Conv`."""

    def __init__(self, layer: layout.Layer, *, rngs: nnx.Rngs):
        draw = _uniform(1.0 / math.sqrt(layer.outputs * layer.kernel**2))
        shape, common = (layer.kernel, layer.kernel), {"kernel_init": draw, "bias_init": draw, "rngs": rngs}
        super().__init__(layer.inputs, layer.outputs, shape, transpose_kernel=True, **common)
        self.stride, self.pad, self.more = layer.stride, layer.padding, layer.output_padding
        self.products: Precision = "float32"

    def __call__(self, inputs: Array) -> Array:
        x, kernel, bias = self.promote_dtype((inputs, self.kernel[...], self.bias[...]), dtype=self.dtype)  # type: ignore[index]
        y = transposed(x, kernel, self.stride, self.pad, self.more, self.products)
        return y + bias[None, None, None]


def _uniform(bound: float) -> Callable[..., Array]:
    def draw(key: Array, shape: tuple[int, ...], dtype=jnp.float32, out_sharding=None) -> Array:
        return random.uniform(key, shape, dtype, -bound, bound)

    return draw
