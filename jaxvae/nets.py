"""The networks as ordinary Flax NNX modules, and their binding to a plain nested dict of arrays.

Every network takes and gives images flattened in height, width, channel order."""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array, random

from jaxvae.convolution import convolve, transposed
from jaxvae.distributions import AnyPosterior, Decoded, PointPosterior, Posterior, ScalePosterior, reparameterize
from jaxvae.shared.config.choices import Dtype
from jaxvae.shared.config.parts import ModelSpec
from jaxvae.shared.config.spec import Spec
from jaxvae.shared.model import layout

Params = dict  # nested, by layout.Parameter.path

_MOMENTUM, _EPS = 0.1, 1e-5  # PyTorch's batch norm; Flax counts the momentum the other way round


class Training(NamedTuple):
    """What the networks are told in training, and are not in evaluation."""

    weights: Array
    """Each image's share of the batch `[batch]`; 0 for images that only fill it up."""
    masks: tuple[Array, ...] = ()
    """Factors on the hidden units, of `layout.hidden_units`; none without dropout."""


class Encoder(nnx.Module):
    """`[batch, pixels]` to the posterior, each part `[batch, latent]`."""

    def __init__(self, spec: ModelSpec, *, rngs: nnx.Rngs):
        widths = (spec.pixels + spec.classes, *spec.hidden)
        self.spec = spec
        self.hidden = nnx.List([_linear(widths[i], widths[i + 1], rngs) for i in range(len(spec.hidden))])
        for name in layout.heads(spec):
            setattr(self, name, _linear(widths[-1], spec.latent, rngs))

    def __call__(self, x: Array, labels: Array | None = None, training: Training | None = None) -> AnyPosterior:
        x = _told(self.spec, x, labels)
        for i, layer in enumerate(self.hidden):
            x = _dropped(activate(self.spec, layer(x)), training, i)
        return posterior(self.spec, [getattr(self, name)(x) for name in layout.heads(self.spec)])


class ConvEncoder(nnx.Module):
    """The same by strided convolutions, each followed by batch norm."""

    def __init__(self, spec: ModelSpec, *, rngs: nnx.Rngs):
        self.spec = spec
        found = layout.layers(spec)
        self.hidden = nnx.List([Block(found[2 * i], rngs=rngs) for i in range(len(spec.hidden))])
        for name in layout.heads(spec):
            head = next(layer for layer in found if layer.path == ("encoder", name))
            setattr(self, name, _linear(head.inputs, head.outputs, rngs))

    def __call__(self, x: Array, labels: Array | None = None, training: Training | None = None) -> AnyPosterior:
        # By its shape: len() would have to be a number, which an exported program's batch size is not.
        x = x.reshape(x.shape[0], *self.spec.image)
        if self.spec.classes:  # each class is a plane of ones or zeros
            planes = one_hot(self.spec, labels, x.dtype)[:, None, None]
            x = jnp.concatenate([x, jnp.broadcast_to(planes, (*x.shape[:3], self.spec.classes))], -1)
        for i, block in enumerate(self.hidden):
            x = _dropped(activate(self.spec, block(x, training)), training, i)
        x = x.reshape(x.shape[0], -1)
        return posterior(self.spec, [getattr(self, name)(x) for name in layout.heads(self.spec)])


class Decoder(nnx.Module):
    """`[batch, latent]` to what is said of the pixels: logits, never probabilities."""

    def __init__(self, spec: ModelSpec, *, rngs: nnx.Rngs):
        widths = (spec.latent + spec.classes, *reversed(spec.hidden))
        self.spec = spec
        self.hidden = nnx.List([_linear(widths[i], widths[i + 1], rngs) for i in range(len(spec.hidden))])
        for name in layout.tails(spec):
            setattr(self, name, _linear(widths[-1], spec.pixels, rngs))
        if spec.likelihood == "gaussian-learned":
            self.logvar = nnx.Param(jnp.zeros(()))

    def __call__(self, z: Array, labels: Array | None = None, training: Training | None = None) -> Decoded:
        z = _told(self.spec, z, labels)
        for i, layer in enumerate(self.hidden):
            z = _dropped(activate(self.spec, layer(z)), training, len(self.hidden) + i)
        return decoded(self, z)


class ConvDecoder(nnx.Module):
    """The same by transposed convolutions, each followed by batch norm, and a last convolution."""

    def __init__(self, spec: ModelSpec, *, rngs: nnx.Rngs):
        self.spec = spec
        found = {layer.path: layer for layer in layout.layers(spec)}
        first = found["decoder", "input"]
        self.input = _linear(first.inputs, first.outputs, rngs)
        self.hidden = nnx.List(
            [Block(found["decoder", "hidden", i, "conv"], rngs=rngs) for i in range(len(spec.hidden))]
        )
        for name in layout.tails(spec):
            setattr(self, name, _Conv(found["decoder", name], rngs=rngs))
        if spec.likelihood == "gaussian-learned":
            self.logvar = nnx.Param(jnp.zeros(()))

    def __call__(self, z: Array, labels: Array | None = None, training: Training | None = None) -> Decoded:
        z = self.input(_told(self.spec, z, labels))
        z = z.reshape(z.shape[0], *layout.sizes(self.spec)[-1], self.spec.hidden[-1])
        for i, block in enumerate(self.hidden):
            z = _dropped(activate(self.spec, block(z, training)), training, len(self.hidden) + i)
        return decoded(self, z)


class Block(nnx.Module):
    """A convolution, strided or transposed, and its batch norm."""

    def __init__(self, layer: layout.Layer, *, rngs: nnx.Rngs):
        self.conv = (_Conv if layer.kind == "conv" else _ConvTranspose)(layer, rngs=rngs)
        self.norm = BatchNorm(layer.outputs)

    def __call__(self, x: Array, training: Training | None = None) -> Array:
        return self.norm(self.conv(x), training)


class BatchNorm(nnx.Module):
    """Batch norm over all but the last axis, as PyTorch has it: normalized by the batch's biased variance, while the
    running variance, for evaluation, is the unbiased one (Ioffe & Szegedy 2015, algorithms 1 and 2)."""

    def __init__(self, features: int):
        self.scale, self.bias = nnx.Param(jnp.ones(features)), nnx.Param(jnp.zeros(features))
        self.mean, self.var = nnx.BatchStat(jnp.zeros(features)), nnx.BatchStat(jnp.ones(features))

    def __call__(self, x: Array, training: Training | None = None) -> Array:
        given, x = x.dtype, full(x)
        if training is None:
            mean, var = self.mean[...], self.var[...]
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


class Discriminator(nnx.Module):
    """Latents `[batch, latent]` to the logit `[batch, 1]` of their being drawn from the prior."""

    def __init__(self, spec: ModelSpec, *, rngs: nnx.Rngs):
        widths = (spec.latent, *spec.discriminator)
        self.hidden = nnx.List([_linear(widths[i], widths[i + 1], rngs) for i in range(len(spec.discriminator))])
        self.logit = _linear(widths[-1], 1, rngs)

    def __call__(self, z: Array) -> Array:
        for layer in self.hidden:
            z = nnx.relu(layer(z))
        return full(self.logit(z))


class VAE(nnx.Module):
    """The autoencoder alone. Images are `[batch, pixels]`, flattened in height, width, channel order; labels `[batch]`
    are for models with classes."""

    def __init__(self, spec: ModelSpec, *, rngs: nnx.Rngs):
        conv = spec.network == "conv"
        self.encoder = (ConvEncoder if conv else Encoder)(spec, rngs=rngs)
        self.decoder = (ConvDecoder if conv else Decoder)(spec, rngs=rngs)
        if spec.discriminator:
            self.discriminator = Discriminator(spec, rngs=rngs)

    def encode(self, x: Array, labels: Array | None = None, training: Training | None = None) -> AnyPosterior:
        return self.encoder(x, labels, training)

    def decode(self, z: Array, labels: Array | None = None, training: Training | None = None) -> Decoded:
        return self.decoder(z, labels, training)

    def discriminate(self, z: Array) -> Array:
        return self.discriminator(z)

    def __call__(self, x: Array, key: Array, labels: Array | None = None) -> tuple[Decoded, AnyPosterior]:
        """What is said of the pixels at a latent drawn from `key`, and the posterior it was drawn from."""
        posterior = self.encode(x, labels)
        return self.decode(reparameterize(key, posterior), labels), posterior


def init(spec: Spec, key: Array, last_bias: Array | None = None) -> Params:
    """The initial parameters of a run, from its initialization key. Array i of `layout.table` is drawn from
    fold_in(key, i), in PyTorch's layout; the decoder's last bias is `last_bias` `[pixels]`, if that is given."""
    params = _init(spec, key)
    if last_bias is not None:
        params["decoder"]["logits"]["bias"] = last_bias
    return params


def encode(spec: Spec, params: Params, x: Array, labels: Array | None = None) -> AnyPosterior:
    """The posterior of images `[batch, pixels]` in the range of the configuration."""
    return bind(spec.model, params).encode(x, labels)


def decode(spec: Spec, params: Params, z: Array, labels: Array | None = None) -> Decoded:
    """What is said of the pixels `[batch, pixels]` of latents `[batch, latent]`."""
    return bind(spec.model, params).decode(z, labels)


def bind(spec: ModelSpec, params: Params, dtype: Dtype | None = None) -> VAE:
    """The module over a nested dict of arrays. Its layers compute in bfloat16 for that dtype, else in the arrays'."""
    return nnx.merge(_graphdef(spec, dtype == "bfloat16"), params)


def statistics(model: VAE) -> Params:
    """The running statistics of a bound model, nested as the parameters are."""
    return nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))


def partition(spec: ModelSpec, params: Params, networks: tuple[str, ...]) -> tuple[Params, Params]:
    """The arrays that these networks train, and all others: both nested as the parameters are, with None in place of
    the other's."""
    chosen: Params = {}
    for parameter in layout.table(spec):
        _put(chosen, parameter.path, parameter.trained and parameter.network in networks)
    theirs = jax.tree.map(lambda mine, array: array if mine else None, chosen, params)
    return theirs, jax.tree.map(lambda mine, array: None if mine else array, chosen, params)


def combine(params: Params, others: Params) -> Params:
    """The parameters with those of `others`, which may be fewer, in their place."""
    if not isinstance(params, dict):
        return params if others is None else others
    return {name: combine(value, others[name]) if name in others else value for name, value in params.items()}


def activate(spec: ModelSpec, x: Array) -> Array:
    """What follows a hidden layer."""
    match spec.activation:
        case "relu":
            return nnx.relu(x)
        case "tanh":
            return jnp.tanh(x)
        case "leaky-relu":
            return jnp.where(x > 0, x, 0.01 * x)  # slope 0.01 at 0 too, where JAX's own has 1


def posterior(spec: ModelSpec, parts: list[Array]) -> AnyPosterior:
    """The posterior of what the encoder's heads give."""
    parts = [full(part) for part in parts]
    match spec.posterior:
        case "gaussian":
            return Posterior(*parts)
        case "relu-sigma":
            return ScalePosterior(*map(nnx.relu, parts))
        case "point":
            return PointPosterior(*parts)
        case "relu-point":
            return PointPosterior(*map(nnx.relu, parts))


def decoded(decoder: Decoder | ConvDecoder, h: Array) -> Decoded:
    """What the decoder's last layers make of what its hidden ones gave."""
    logits = full(decoder.logits(h).reshape(h.shape[0], -1))  # type: ignore[attr-defined]
    match decoder.spec.likelihood:
        case "gaussian-learned":
            return Decoded(logits, decoder.logvar[...])
        case "gaussian-pixel":
            return Decoded(logits, full(decoder.logvar(h).reshape(h.shape[0], -1)))
        case _:
            return Decoded(logits, None)


def full(x: Array) -> Array:
    """What is not to be computed in bfloat16."""
    return x.astype(jnp.float32) if x.dtype == jnp.bfloat16 else x


def one_hot(spec: ModelSpec, labels: Array | None, dtype: jnp.dtype) -> Array:
    """Labels `[batch]` as `[batch, classes]`. Raises ValueError without labels."""
    if labels is None:
        raise ValueError(f"A model of {spec.classes} classes has to be told the labels of its images.")
    return (labels.astype(jnp.int32)[:, None] == jnp.arange(spec.classes, dtype=jnp.int32)[None]).astype(dtype)


@functools.cache
def _graphdef(spec: ModelSpec, bfloat16: bool) -> nnx.GraphDef:
    """The model without its numbers: static, so `bind` costs nothing inside jit."""
    model = nnx.eval_shape(lambda: VAE(spec, rngs=nnx.Rngs(0)))
    if bfloat16:
        model.set_attributes(dtype="bfloat16")
    return nnx.split(model)[0]


@functools.partial(jax.jit, static_argnums=0)
def _init(spec: Spec, key: Array) -> Params:
    params: Params = {}
    table, dtype = layout.table(spec.model), spec.training.stored
    # Number n of a draw depends on n alone. So sizes are rounded up to powers of two and those of one size drawn as a
    # batch: a cipher for each array would take a deep network's program minutes to compile.
    groups: dict[int, list[int]] = {}
    for i, parameter in enumerate(table):
        if parameter.bound:
            groups.setdefault((math.prod(parameter.shape) - 1).bit_length(), []).append(i)
    units = {
        i: unit
        for bits, places in groups.items()
        for i, unit in zip(places, _units(key, places, 1 << bits, dtype), strict=True)
    }
    for i, parameter in enumerate(table):
        value = jnp.full(parameter.shape, parameter.fill, dtype)
        if parameter.bound:
            unit = units[i][: math.prod(parameter.shape)].reshape(parameter.shape)
            # 2u - 1 is exact, so that the product is rounded once, whatever the compiler fuses.
            value = (2.0 * unit - 1.0) * parameter.bound
        moved = value.reshape(parameter.view).transpose(parameter.axes)
        _put(params, parameter.path, moved.reshape(parameter.flax_shape))
    return params


def _units(key: Array, places: list[int], size: int, dtype: str) -> Array:
    """Uniforms of the arrays at these places of the table: `[places, size]`."""
    return jax.vmap(lambda i: random.uniform(random.fold_in(key, i), (size,), dtype))(jnp.asarray(places))


def _put(params: Params, path: layout.Path, value: Any) -> None:
    for name in path[:-1]:
        params = params.setdefault(name, {})
    params[path[-1]] = value


def _told(spec: ModelSpec, x: Array, labels: Array | None) -> Array:
    """A network's input with the label beside it, where it is told."""
    return jnp.concatenate([x, one_hot(spec, labels, x.dtype)], -1) if spec.classes else x


def _dropped(x: Array, training: Training | None, layer: int) -> Array:
    return x if training is None or not training.masks else x * training.masks[layer].astype(x.dtype)


def _linear(inputs: int, outputs: int, rngs: nnx.Rngs) -> nnx.Linear:
    """A linear layer with PyTorch's initial distribution, and its float32 products where a GPU would take TF32."""
    draw = _uniform(1.0 / math.sqrt(inputs))
    return nnx.Linear(inputs, outputs, kernel_init=draw, bias_init=draw, precision="highest", rngs=rngs)


class _Conv(nnx.Conv):
    """A convolution padded and drawn as PyTorch's, where Flax's 'SAME' would pad the end more than the start."""

    def __init__(self, layer: layout.Layer, *, rngs: nnx.Rngs):
        draw = _uniform(1.0 / math.sqrt(layer.inputs * layout.KERNEL**2))
        shape = (layout.KERNEL, layout.KERNEL)
        super().__init__(layer.inputs, layer.outputs, shape, kernel_init=draw, bias_init=draw, rngs=rngs)
        self.stride = layer.stride

    def __call__(self, inputs: Array, out_sharding=None) -> Array:
        x, kernel, bias = self.promote_dtype((inputs, self.kernel[...], self.bias[...]), dtype=self.dtype)  # type: ignore[index]
        return convolve(x, kernel, self.stride) + bias[None, None, None]


class _ConvTranspose(nnx.ConvTranspose):
    """The transpose of such a one."""

    def __init__(self, layer: layout.Layer, *, rngs: nnx.Rngs):
        draw = _uniform(1.0 / math.sqrt(layer.outputs * layout.KERNEL**2))
        shape, common = (layout.KERNEL, layout.KERNEL), {"kernel_init": draw, "bias_init": draw, "rngs": rngs}
        super().__init__(layer.inputs, layer.outputs, shape, transpose_kernel=True, **common)
        self.stride, self.more = layer.stride, layer.output_padding

    def __call__(self, inputs: Array) -> Array:
        x, kernel, bias = self.promote_dtype((inputs, self.kernel[...], self.bias[...]), dtype=self.dtype)  # type: ignore[index]
        return transposed(x, kernel, self.stride, self.more) + bias[None, None, None]


def _uniform(bound: float) -> Callable[..., Array]:
    def draw(key: Array, shape: tuple[int, ...], dtype=jnp.float32, out_sharding=None) -> Array:
        return random.uniform(key, shape, dtype, -bound, bound)

    return draw
