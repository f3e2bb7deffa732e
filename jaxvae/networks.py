"""The networks as ordinary Flax NNX modules.

Every network takes and returns images flattened in height, width, channel order."""

from flax import nnx
from jax import Array

from jaxvae import own
from jaxvae.distributions import AnyPosterior, Decoded, reparameterize
from jaxvae.layers import Block, Module, make
from jaxvae.operations import Training, activate, dropped, full, maps, posterior, with_labels
from jaxvae.shared.config.likelihoods import likelihood_of
from jaxvae.shared.config.networks import NetworkName
from jaxvae.shared.config.parts import ModelSpec
from jaxvae.shared.model import layout
from jaxvae.shared.model.argument_checks import require_model_spec


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
