"""The layers that the networks are made of, each from its entry in `layout.layers`, and the operations between them."""

import inspect
import math
from collections.abc import Callable
from typing import Any, NamedTuple, assert_never

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array, random

from jaxvae.convolution import convolve, transposed
from jaxvae.distributions import AnyPosterior, PointPosterior, Posterior, ScalePosterior
from jaxvae.shared.config.choices import Precision
from jaxvae.shared.config.parts import ModelSpec
from jaxvae.shared.model import layout

_MOMENTUM, _EPS = 0.1, 1e-5  # PyTorch's batch norm; Flax counts the momentum the other way round


class Training(NamedTuple):
    """What the networks are given in training only."""

    weights: Array
    """The share of each image in the batch, `[batch]`; 0 for images that only fill it up."""
    masks: tuple[Array, ...] = ()
    """Factors on the hidden units, shaped as `layout.hidden_units`; empty without dropout."""


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


def activate(spec: ModelSpec, x: Array) -> Array:
    """Apply the activation that follows a hidden layer."""
    match spec.activation:
        case "relu":
            return nnx.relu(x)
        case "tanh":
            return jnp.tanh(x)
        case "leaky-relu":
            return jnp.where(x > 0, x, spec.slope * x)  # this slope at 0 too, where JAX's own has 1
        case "leaky-relu-0.2":
            return jnp.where(x > 0, x, 0.2 * x)
        case "softplus":
            return nnx.softplus(full(x)).astype(x.dtype)
        case "elu":
            return nnx.elu(x)


def full(x: Array) -> Array:
    """Cast bfloat16 numbers to float32, for what is not computed in bfloat16."""
    return x.astype(jnp.float32) if x.dtype == jnp.bfloat16 else x


def one_hot(spec: ModelSpec, labels: Array | None, dtype: jnp.dtype) -> Array:
    """Encode labels one-hot.

    Args:
        spec: The model.
        labels: Classes from 0, `[batch]`.
        dtype: The dtype of the result.

    Returns:
        Ones and zeros, `[batch, classes]`.

    Raises:
        ValueError: If there are no labels.
    """
    if labels is None:
        raise ValueError(f"A model of {spec.classes} classes requires labels.")
    return (labels.astype(jnp.int32)[:, None] == jnp.arange(spec.classes, dtype=jnp.int32)[None]).astype(dtype)


def with_labels(spec: ModelSpec, x: Array, labels: Array | None) -> Array:
    """Append the one-hot labels to the input `[batch, features]` of a model with classes."""
    return jnp.concatenate([x, one_hot(spec, labels, x.dtype)], -1) if spec.classes else x


def maps(spec: ModelSpec, x: Array, labels: Array | None) -> Array:
    """Make images of pixels `[batch, pixels]`, with the one-hot labels of a model with classes as channels."""
    # By its shape: len() would have to be a number, which an exported program's batch size is not.
    x = x.reshape(x.shape[0], *spec.image)
    if spec.classes:  # each class is a plane of ones or zeros
        planes = one_hot(spec, labels, x.dtype)[:, None, None]
        x = jnp.concatenate([x, jnp.broadcast_to(planes, (*x.shape[:3], spec.classes))], -1)
    return x


def dropped(x: Array, training: Training | None, layer: int) -> Array:
    """Apply the mask of a hidden layer, counted through encoder and decoder, where there is dropout."""
    return x if training is None or not training.masks else x * training.masks[layer].astype(x.dtype)


def posterior(spec: ModelSpec, parts: list[Array]) -> AnyPosterior:
    """Build the posterior from the outputs of the encoder's heads, each `[batch, latent]`."""
    parts = [full(part) for part in parts]
    match spec.posterior:
        case "gaussian":
            return Posterior(*parts)
        case "log-sigma":
            return Posterior(parts[0], 2.0 * parts[1])
        case "relu-sigma":
            return ScalePosterior(*map(nnx.relu, parts))
        case "point":
            return PointPosterior(*parts)
        case "relu-point":
            return PointPosterior(*map(nnx.relu, parts))


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
