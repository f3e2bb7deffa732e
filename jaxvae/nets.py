"""The networks as ordinary Flax NNX modules, and their binding to a plain nested dict of arrays."""

import functools
import math

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array, random

from jaxvae.distributions import Posterior, reparameterize
from jaxvae.shared import layout
from jaxvae.shared.spec import ModelSpec, Spec

Params = dict  # nested, by layout.Parameter.path


class Encoder(nnx.Module):
    """`[batch, pixels]` to the posterior's mean and logvar, each `[batch, latent]`."""

    def __init__(self, spec: ModelSpec, *, rngs: nnx.Rngs):
        widths = (spec.pixels, *spec.hidden)
        self.hidden = nnx.List([_linear(widths[i], widths[i + 1], rngs) for i in range(len(spec.hidden))])
        self.mean = _linear(widths[-1], spec.latent, rngs)
        self.logvar = _linear(widths[-1], spec.latent, rngs)

    def __call__(self, x: Array) -> Posterior:
        for layer in self.hidden:
            x = nnx.relu(layer(x))
        return Posterior(self.mean(x), self.logvar(x))


class Decoder(nnx.Module):
    """`[batch, latent]` to Bernoulli logits `[batch, pixels]`, never probabilities."""

    def __init__(self, spec: ModelSpec, *, rngs: nnx.Rngs):
        widths = (spec.latent, *reversed(spec.hidden))
        self.hidden = nnx.List([_linear(widths[i], widths[i + 1], rngs) for i in range(len(spec.hidden))])
        self.logits = _linear(widths[-1], spec.pixels, rngs)

    def __call__(self, z: Array) -> Array:
        for layer in self.hidden:
            z = nnx.relu(layer(z))
        return self.logits(z)


class VAE(nnx.Module):
    """The autoencoder alone. Images are `[batch, pixels]`, flattened in height, width, channel order, in [0, 1]."""

    def __init__(self, spec: ModelSpec, *, rngs: nnx.Rngs):
        self.encoder = Encoder(spec, rngs=rngs)
        self.decoder = Decoder(spec, rngs=rngs)

    def encode(self, x: Array) -> Posterior:
        return self.encoder(x)

    def decode(self, z: Array) -> Array:
        return self.decoder(z)

    def __call__(self, x: Array, key: Array) -> tuple[Array, Posterior]:
        """The logits at a latent drawn from `key`, and the posterior it was drawn from."""
        posterior = self.encode(x)
        return self.decode(reparameterize(key, posterior)), posterior


def init(spec: Spec, key: Array) -> Params:
    """The initial parameters of a run, from its initialization key: U(-1/sqrt(fan_in), 1/sqrt(fan_in)), PyTorch's own
    distribution. Array i of `layout.table` is drawn from fold_in(key, i), in PyTorch's layout."""
    return _init(spec, key)


def encode(spec: Spec, params: Params, x: Array) -> Posterior:
    """The posterior of images `[batch, pixels]` in [0, 1]."""
    return bind(spec.model, params).encode(x)


def decode(spec: Spec, params: Params, z: Array) -> Array:
    """The logits `[batch, pixels]` of latents `[batch, latent]`."""
    return bind(spec.model, params).decode(z)


def bind(spec: ModelSpec, params: Params) -> VAE:
    """The module over a nested dict of arrays."""
    return nnx.merge(_graphdef(spec), params)


@functools.cache
def _graphdef(spec: ModelSpec) -> nnx.GraphDef:
    """The model without its numbers: static, so `bind` costs nothing inside jit."""
    return nnx.split(nnx.eval_shape(lambda: VAE(spec, rngs=nnx.Rngs(0))))[0]


@functools.partial(jax.jit, static_argnums=0)
def _init(spec: Spec, key: Array) -> Params:
    params: Params = {}
    for i, parameter in enumerate(layout.table(spec.model)):
        unit = random.uniform(random.fold_in(key, i), parameter.shape, spec.training.dtype)
        # 2u - 1 is exact, so that the product is rounded once, whatever the compiler fuses.
        value = (2.0 * unit - 1.0) * (1.0 / math.sqrt(parameter.fan_in))
        node = params
        for name in parameter.path[:-1]:
            node = node.setdefault(name, {})
        node[parameter.path[-1]] = value.transpose(parameter.axes)
    return params


def _linear(inputs: int, outputs: int, rngs: nnx.Rngs) -> nnx.Linear:
    """A linear layer with PyTorch's initial distribution, and its float32 products where a GPU would take TF32."""

    def draw(key: Array, shape: tuple[int, ...], dtype=jnp.float32, out_sharding=None) -> Array:
        bound = 1.0 / math.sqrt(inputs)
        return random.uniform(key, shape, dtype, -bound, bound)

    return nnx.Linear(inputs, outputs, kernel_init=draw, bias_init=draw, precision="highest", rngs=rngs)
