"""The networks as ordinary Flax NNX modules, and their binding to a plain nested dict of arrays.

Every network takes and returns images flattened in height, width, channel order."""

import functools
import math
from typing import Any, cast

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array, random

from jaxvae import own
from jaxvae.checks import check_latents, check_params, check_pixels
from jaxvae.compilation import program
from jaxvae.distributions import AnyPosterior, Decoded, reparameterize
from jaxvae.layers import Block, Module, Training, activate, dropped, full, make, maps, posterior, with_labels
from jaxvae.packed import PackedVAE, packed
from jaxvae.parallel import used
from jaxvae.products import dot_general
from jaxvae.shared.config.choices import Dtype, Precision
from jaxvae.shared.config.likelihoods import likelihood_of
from jaxvae.shared.config.networks import NetworkName
from jaxvae.shared.config.parts import ModelSpec
from jaxvae.shared.config.spec import Spec, require_spec
from jaxvae.shared.model import layout
from jaxvae.shared.model.argument_checks import require_model_spec

Params = dict  # nested, by layout.Parameter.path


class Encoder(Module):
    """Linear layers from pixels `[batch, pixels]` to the posterior, each part `[batch, latent]`."""

    def __init__(self, spec: ModelSpec, *, rngs: nnx.Rngs):
        layers, depth = layout.by_path(spec), range(len(spec.hidden))
        self.spec = spec
        self.hidden = nnx.List([make(layers["encoder", "hidden", i], rngs=rngs) for i in depth])
        for name in layout.heads(spec):
            setattr(self, name, make(layers["encoder", name], rngs=rngs))

    def __call__(self, x: Array, labels: Array | None = None, training: Training | None = None) -> AnyPosterior:
        x = with_labels(self.spec, x, labels)
        for i, layer in enumerate(self.hidden):
            x = dropped(activate(self.spec, layer(x)), training, i)
        return posterior(self.spec, [getattr(self, name)(x) for name in layout.heads(self.spec)])


class ConvEncoder(Module):
    """Convolutions and linear layers from pixels `[batch, pixels]` to the posterior."""

    def __init__(self, spec: ModelSpec, *, rngs: nnx.Rngs):
        layers, hidden = layout.by_path(spec), layout.hidden_layers(spec, "encoder")
        self.spec, self.active = spec, tuple(layout.activated(spec, layer) for layer in hidden)
        self.hidden = nnx.List([Block(layer, rngs=rngs) for layer in hidden])
        self.flat = hidden[0].kind == "linear"
        for name in layout.heads(spec):
            setattr(self, name, make(layers["encoder", name], rngs=rngs))

    def __call__(self, x: Array, labels: Array | None = None, training: Training | None = None) -> AnyPosterior:
        x = with_labels(self.spec, x, labels) if self.flat else maps(self.spec, x, labels)
        for i, block in enumerate(self.hidden):
            x = block(x, training)
            x = dropped(x if block.plain else activate(self.active[i], x), training, i)
        x = x.reshape(x.shape[0], -1)
        return posterior(self.spec, [getattr(self, name)(x) for name in layout.heads(self.spec)])


class Decoder(Module):
    """Linear layers from latents `[batch, latent]` to the decoder's outputs: logits, never probabilities."""

    def __init__(self, spec: ModelSpec, *, rngs: nnx.Rngs):
        layers, depth = layout.by_path(spec), range(len(spec.hidden))
        self.spec = spec
        self.hidden = nnx.List([make(layers["decoder", "hidden", i], rngs=rngs) for i in depth])
        for name in (*layout.tails(spec), *layout.scalar_parameters(spec)):
            setattr(self, name, make(layers["decoder", name], rngs=rngs))

    def __call__(self, z: Array, labels: Array | None = None, training: Training | None = None) -> Decoded:
        z = with_labels(self.spec, z, labels)
        for i, layer in enumerate(self.hidden):
            z = dropped(activate(self.spec, layer(z)), training, len(self.hidden) + i)
        return decoded(self, z)


class ConvDecoder(Module):
    """Transposed convolutions with batch norm, and a last convolution, from latents to the decoder's outputs."""

    def __init__(self, spec: ModelSpec, *, rngs: nnx.Rngs):
        layers, depth = layout.by_path(spec), range(len(spec.hidden))
        self.spec = spec
        self.input = make(layers["decoder", "input"], rngs=rngs)
        self.hidden = nnx.List([Block(layers["decoder", "hidden", i, "conv"], rngs=rngs) for i in depth])
        for name in (*layout.tails(spec), *layout.scalar_parameters(spec)):
            setattr(self, name, make(layers["decoder", name], rngs=rngs))

    def __call__(self, z: Array, labels: Array | None = None, training: Training | None = None) -> Decoded:
        z = self.input(with_labels(self.spec, z, labels))
        z = z.reshape(z.shape[0], *layout.sizes(self.spec)[-1], self.spec.hidden[-1])
        for i, block in enumerate(self.hidden):
            z = dropped(activate(self.spec, block(z, training)), training, len(self.hidden) + i)
        return decoded(self, z)


class LayersDecoder(Module):
    """The layers of `ModelSpec.decoder`, from latents to the decoder's outputs."""

    def __init__(self, spec: ModelSpec, *, rngs: nnx.Rngs):
        layers, hidden = layout.by_path(spec), layout.hidden_layers(spec, "decoder")
        self.spec, self.active = spec, tuple(layout.activated(spec, layer) for layer in hidden)
        self.hidden = nnx.List([Block(layer, rngs=rngs) for layer in hidden])
        self.flat = layers["decoder", "logits"].kind == "linear"
        for name in (*layout.tails(spec), *layout.scalar_parameters(spec)):
            setattr(self, name, make(layers["decoder", name], rngs=rngs))

    def __call__(self, z: Array, labels: Array | None = None, training: Training | None = None) -> Decoded:
        z = with_labels(self.spec, z, labels)[:, None, None]
        for i, block in enumerate(self.hidden):
            z = block(z, training)
            z = dropped(z if block.plain else activate(self.active[i], z), training, len(self.spec.encoder) + i)
        return decoded(self, z.reshape(z.shape[0], -1) if self.flat else z)


class Discriminator(Module):
    """Linear layers from latents `[batch, latent]` to the logit `[batch, 1]` of their being drawn from the prior."""

    def __init__(self, spec: ModelSpec, *, rngs: nnx.Rngs):
        layers, depth = layout.by_path(spec), range(len(spec.discriminator))
        self.hidden = nnx.List([make(layers["discriminator", "hidden", i], rngs=rngs) for i in depth])
        self.logit = make(layers["discriminator", "logit"], rngs=rngs)

    def __call__(self, z: Array) -> Array:
        for layer in self.hidden:
            z = nnx.relu(layer(z))
        return full(self.logit(z))


NETWORKS: dict[NetworkName, tuple[type, type]] = {
    "mlp": (Encoder, Decoder),
    "conv": (ConvEncoder, ConvDecoder),
    "layers": (ConvEncoder, LayersDecoder),
}
"""The encoder and the decoder of each kind of network."""


class VAE(Module):
    """An encoder and a decoder, and a discriminator for the adversarial objective.

    Images are `[batch, pixels]`, flattened in height, width, channel order; labels `[batch]` are for models with
    classes. The first parameters of a run are those of `init_state`; a module that is made here draws its own.

    Args:
        spec: The model's configuration, `spec.model` of a `Spec`.
        rngs: In jaxvae the `nnx.Rngs` that the parameters are drawn from.

    Raises:
        InputError: If it is another configuration, or has the other package's own parts.
    """

    def __init__(self, spec: ModelSpec, *, rngs: nnx.Rngs):
        require_model_spec("VAE", spec, own.Parts)
        encoder, decoder = NETWORKS[spec.network]
        self.spec = spec
        self.encoder = (spec.parts.encoder or encoder)(spec, rngs=rngs)
        self.decoder = (spec.parts.decoder or decoder)(spec, rngs=rngs)
        if spec.discriminator:
            self.discriminator = Discriminator(spec, rngs=rngs)

    def encode(self, x: Array, labels: Array | None = None, training: Training | None = None) -> AnyPosterior:
        posterior = self.encoder(x, labels, training)
        return posterior if self.spec.parts.encoder is None else own.encoded(self.spec, posterior, x.shape[0])

    def decode(self, z: Array, labels: Array | None = None, training: Training | None = None) -> Decoded:
        outputs = self.decoder(z, labels, training)
        return outputs if self.spec.parts.decoder is None else own.decoded(self.spec, outputs, z.shape[0])

    def discriminate(self, z: Array) -> Array:
        return self.discriminator(z)

    def __call__(self, x: Array, key: Array, labels: Array | None = None) -> tuple[Decoded, AnyPosterior]:
        """Decode a latent drawn from `key`: the decoder's outputs, and the posterior of the draw."""
        posterior = self.encode(x, labels)
        return self.decode(reparameterize(key, posterior), labels), posterior


def init(spec: Spec, key: Array, last_bias: Array | None = None) -> Params:
    """Draw the initial parameters of a run.

    Array i of `layout.table` is drawn from fold_in(key, i), in PyTorch's layout.

    Args:
        spec: The configuration.
        key: The key of the stream `init`.
        last_bias: The decoder's last bias, `[pixels]`, if it is not drawn.

    Returns:
        The parameters, nested by `layout.Parameter.path`.
    """
    require_spec(spec)
    params = _init(spec, key)
    if last_bias is not None:
        params["decoder"]["logits"]["bias"] = last_bias
    return params


def encode(spec: Spec, params: Params, x: Array, labels: Array | None = None) -> AnyPosterior:
    """Encode images.

    Args:
        spec: The configuration.
        params: The model's parameters.
        x: Pixels in the configuration's range, `[batch, pixels]`.
        labels: Classes, `[batch]`, for a model with classes.

    Returns:
        The posterior, each part `[batch, latent]`.

    Raises:
        InputError: If the model, the pixels or the labels are not the configuration's.
    """
    check_pixels("encode", spec, params, x, labels)
    return bind(spec.model, params).encode(x, labels)


def decode(spec: Spec, params: Params, z: Array, labels: Array | None = None) -> Decoded:
    """Decode latents.

    Args:
        spec: The configuration.
        params: The model's parameters.
        z: Latents, `[batch, latent]`.
        labels: Classes, `[batch]`, for a model with classes.

    Returns:
        Logits, and log-variances where they are learned, `[batch, pixels]`.

    Raises:
        InputError: If the model, the latents or the labels are not the configuration's.
    """
    require_spec(spec)
    check_latents("decode", spec, params, z, labels, spec.training.stored)
    return bind(spec.model, params).decode(z, labels)


def bind(spec: ModelSpec, params: Params, dtype: Dtype | None = None, precision: Precision = "float32") -> VAE:
    """Bind parameters to the Flax module.

    Args:
        spec: The model.
        params: The parameters, nested by `layout.Parameter.path`.
        dtype: bfloat16 has the layers compute in it; otherwise they compute in the parameters' dtype.
        precision: Of the layers' products and of those of their gradients.

    Returns:
        The module, for use inside one function; what it does to its state stays in it.

    Raises:
        InputError: If the parameters are not the model's.
    """
    if packed(params):
        return cast("VAE", PackedVAE(spec, params))
    check_params("bind", spec, params)
    return nnx.merge(_graphdef(spec, dtype == "bfloat16", precision), used(params))


def statistics(model: VAE) -> Params:
    """The running statistics of a bound model, nested as the parameters are."""
    return {} if isinstance(model, PackedVAE) else nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))


def partition(spec: ModelSpec, params: Params, networks: tuple[str, ...]) -> tuple[Params, Params]:
    """Split the parameters into those that the optimizer of these networks trains, and all others; both are nested as
    the parameters are, with None in place of each other's."""
    if packed(params):
        none = jax.tree.map(lambda _: None, params)
        return (
            {name: (params if name in networks else none)[name] for name in params},
            {name: (none if name in networks else params)[name] for name in params},
        )
    chosen: Params = {}
    for parameter in layout.table(spec):
        _put(chosen, parameter.path, parameter.trained and parameter.network in networks)
    chosen_arrays = jax.tree.map(lambda mine, array: array if mine else None, chosen, params)
    return chosen_arrays, jax.tree.map(lambda mine, array: None if mine else array, chosen, params)


def combine(params: Params, others: Params) -> Params:
    """Replace those parameters that `others` has."""
    if not isinstance(params, dict):
        return params if others is None else others
    return {name: combine(value, others[name]) if name in others else value for name, value in params.items()}


def decoded(decoder: Decoder | ConvDecoder | LayersDecoder, h: Array) -> Decoded:
    """Apply the decoder's last layers to its last hidden one."""
    logits = full(decoder.logits(h).reshape(h.shape[0], -1))  # type: ignore[attr-defined]
    match likelihood_of(decoder.spec).logvar:
        case "shared":
            return Decoded(logits, decoder.logvar[...])  # type: ignore[attr-defined]
        case "pixel":
            return Decoded(logits, full(decoder.logvar(h).reshape(h.shape[0], -1)))  # type: ignore[attr-defined]
        case "none" | "fixed":
            return Decoded(logits, None)


@functools.cache
def _graphdef(spec: ModelSpec, bfloat16: bool, precision: Precision) -> nnx.GraphDef:
    """The model without its numbers: static, so `bind` costs nothing inside jit."""
    model = nnx.eval_shape(lambda: VAE(spec, rngs=nnx.Rngs(0)))
    if bfloat16:
        model.set_attributes(dtype="bfloat16")
    if precision != "float32":
        model.set_attributes(dot_general=dot_general(precision), products=precision, raise_if_not_found=False)
    return nnx.split(model)[0]


@program(["spec"])
def _init(spec: Spec, key: Array) -> Params:
    params: Params = {}
    table, dtype = layout.table(spec.model), spec.training.stored
    # Number n of a draw depends on n alone. So sizes are rounded up to powers of two and those of one size drawn as a
    # batch: a cipher for each array would take a deep network's program minutes to compile. Drawing 4,096 numbers takes
    # less time than compiling another cipher for fewer.
    groups: dict[int, list[int]] = {}
    for i, parameter in enumerate(table):
        if parameter.bound:
            groups.setdefault(max(12, (math.prod(parameter.shape) - 1).bit_length()), []).append(i)
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
    for i, network in enumerate(spec.model.parts.networks):
        params |= own.initial(spec, random.fold_in(key, len(table) + i), network)
    return params


def _units(key: Array, places: list[int], size: int, dtype: str) -> Array:
    """Uniforms of the arrays at these places of the table: `[places, size]`."""
    return jax.vmap(lambda i: random.uniform(random.fold_in(key, i), (size,), dtype))(jnp.asarray(places))


def _put(params: Params, path: layout.Path, value: Any) -> None:
    for name in path[:-1]:
        params = params.setdefault(name, {})
    params[path[-1]] = value
