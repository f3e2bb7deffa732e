"""The networks as ordinary `torch.nn` modules.

Every network takes and returns images flattened in height, width, channel order."""

import torch
from torch import Tensor, nn

from jaxvae.shared.config.likelihoods import likelihood_of
from jaxvae.shared.config.networks import NetworkName
from jaxvae.shared.config.parts import ModelSpec
from jaxvae.shared.model import layout
from jaxvae.shared.model.argument_checks import require_model_spec
from torchvae import own, random
from torchvae.distributions import AnyPosterior, Decoded, reparameterize
from torchvae.layers import Block, make
from torchvae.operations import Training, activate, dropped, full, maps, posterior, with_labels


class Encoder(nn.Module):
    """Linear layers from pixels `[batch, pixels]` to the posterior, each part `[batch, latent]`."""

    def __init__(self, spec: ModelSpec):
        super().__init__()
        layers, depth = layout.by_path(spec), range(len(spec.hidden))
        self.spec = spec
        self.hidden = nn.ModuleList([make(layers["encoder", "hidden", i]) for i in depth])
        for name in layout.heads(spec):
            setattr(self, name, make(layers["encoder", name]))

    def forward(self, x: Tensor, labels: Tensor | None = None, training: Training | None = None) -> AnyPosterior:
        x = with_labels(self.spec, x, labels)
        for i, layer in enumerate(self.hidden):
            x = dropped(activate(self.spec, layer(x)), training, i)
        return posterior(self.spec, [getattr(self, name)(x) for name in layout.heads(self.spec)])


class ConvEncoder(nn.Module):
    """Convolutions and linear layers from pixels `[batch, pixels]` to the posterior."""

    def __init__(self, spec: ModelSpec):
        super().__init__()
        layers, hidden = layout.by_path(spec), layout.hidden_layers(spec, "encoder")
        self.spec, self.active = spec, tuple(layout.activated(spec, layer) for layer in hidden)
        self.hidden = nn.ModuleList([Block(layer) for layer in hidden])
        self.flat = hidden[0].kind == "linear"
        for name in layout.heads(spec):
            setattr(self, name, make(layers["encoder", name]))

    def forward(self, x: Tensor, labels: Tensor | None = None, training: Training | None = None) -> AnyPosterior:
        x = with_labels(self.spec, x, labels) if self.flat else maps(self.spec, x, labels)
        for i, block in enumerate(self.hidden):
            x = block(x)
            x = dropped(x if block.plain else activate(self.active[i], x), training, i)
        x = x.flatten(1)
        return posterior(self.spec, [getattr(self, name)(x) for name in layout.heads(self.spec)])


class Decoder(nn.Module):
    """Linear layers from latents `[batch, latent]` to the decoder's outputs: logits, never probabilities."""

    def __init__(self, spec: ModelSpec):
        super().__init__()
        layers, depth = layout.by_path(spec), range(len(spec.hidden))
        self.spec = spec
        self.hidden = nn.ModuleList([make(layers["decoder", "hidden", i]) for i in depth])
        for name in (*layout.tails(spec), *layout.scalar_parameters(spec)):
            setattr(self, name, make(layers["decoder", name]))

    def forward(self, z: Tensor, labels: Tensor | None = None, training: Training | None = None) -> Decoded:
        z = with_labels(self.spec, z, labels)
        for i, layer in enumerate(self.hidden):
            z = dropped(activate(self.spec, layer(z)), training, len(self.hidden) + i)
        return decoded(self, z)


class ConvDecoder(nn.Module):
    """Transposed convolutions with batch norm, and a last convolution, from latents to the decoder's outputs."""

    def __init__(self, spec: ModelSpec):
        super().__init__()
        layers, depth = layout.by_path(spec), range(len(spec.hidden))
        self.spec = spec
        self.input = make(layers["decoder", "input"])
        self.hidden = nn.ModuleList([Block(layers["decoder", "hidden", i, "conv"]) for i in depth])
        for name in (*layout.tails(spec), *layout.scalar_parameters(spec)):
            setattr(self, name, make(layers["decoder", name]))

    def forward(self, z: Tensor, labels: Tensor | None = None, training: Training | None = None) -> Decoded:
        z = self.input(with_labels(self.spec, z, labels))
        z = z.reshape(z.shape[0], self.spec.hidden[-1], *layout.sizes(self.spec)[-1])
        for i, block in enumerate(self.hidden):
            z = dropped(activate(self.spec, block(z)), training, len(self.hidden) + i)
        return decoded(self, z)


class LayersDecoder(nn.Module):
    """The layers of `ModelSpec.decoder`, from latents to the decoder's outputs."""

    def __init__(self, spec: ModelSpec):
        super().__init__()
        layers, hidden = layout.by_path(spec), layout.hidden_layers(spec, "decoder")
        self.spec, self.active = spec, tuple(layout.activated(spec, layer) for layer in hidden)
        self.hidden = nn.ModuleList([Block(layer) for layer in hidden])
        self.flat = layers["decoder", "logits"].kind == "linear"
        for name in (*layout.tails(spec), *layout.scalar_parameters(spec)):
            setattr(self, name, make(layers["decoder", name]))

    def forward(self, z: Tensor, labels: Tensor | None = None, training: Training | None = None) -> Decoded:
        z = with_labels(self.spec, z, labels)[:, :, None, None]
        for i, block in enumerate(self.hidden):
            z = block(z)
            z = dropped(z if block.plain else activate(self.active[i], z), training, len(self.spec.encoder) + i)
        return decoded(self, z.flatten(1) if self.flat else z)


class Discriminator(nn.Module):
    """Linear layers from latents `[batch, latent]` to the logit `[batch, 1]` of their being drawn from the prior."""

    def __init__(self, spec: ModelSpec):
        super().__init__()
        layers, depth = layout.by_path(spec), range(len(spec.discriminator))
        self.hidden = nn.ModuleList([make(layers["discriminator", "hidden", i]) for i in depth])
        self.logit = make(layers["discriminator", "logit"])

    def forward(self, z: Tensor) -> Tensor:
        for layer in self.hidden:
            z = torch.relu(layer(z))
        return full(self.logit(z))


NETWORKS: dict[NetworkName, tuple[type, type]] = {
    "mlp": (Encoder, Decoder),
    "conv": (ConvEncoder, ConvDecoder),
    "layers": (ConvEncoder, LayersDecoder),
}
"""The encoder and the decoder of each kind of network."""


class VAE(nn.Module):
    """An encoder and a decoder, and a discriminator for the adversarial objective.

    Images are `[batch, pixels]`, flattened in height, width, channel order; labels `[batch]` are for models with
    classes. The first parameters of a run are those of `init_state`; a module that is made here draws its own.

    Args:
        spec: The model's configuration, `spec.model` of a `Spec`.
        rngs: In jaxvae the `nnx.Rngs` that the parameters are drawn from.

    Raises:
        InputError: If it is another configuration, or has the other package's own parts.
    """

    def __init__(self, spec: ModelSpec):
        super().__init__()
        require_model_spec("VAE", spec, own.Parts)
        encoder, decoder = NETWORKS[spec.network]
        self.spec = spec
        self.encoder = (spec.parts.encoder or encoder)(spec)
        self.decoder = (spec.parts.decoder or decoder)(spec)
        if spec.discriminator:
            self.discriminator = Discriminator(spec)

    def encode(self, x: Tensor, labels: Tensor | None = None, training: Training | None = None) -> AnyPosterior:
        posterior = self.encoder(x, labels, training)
        return posterior if self.spec.parts.encoder is None else own.encoded(self.spec, posterior, x.shape[0])

    def decode(self, z: Tensor, labels: Tensor | None = None, training: Training | None = None) -> Decoded:
        outputs = self.decoder(z, labels, training)
        return outputs if self.spec.parts.decoder is None else own.decoded(self.spec, outputs, z.shape[0])

    def discriminate(self, z: Tensor) -> Tensor:
        return self.discriminator(z)

    def forward(self, x: Tensor, key: random.Key, labels: Tensor | None = None) -> tuple[Decoded, AnyPosterior]:
        """Decode a latent drawn from `key`: the decoder's outputs, and the posterior of the draw."""
        posterior = self.encode(x, labels)
        return self.decode(reparameterize(key, posterior), labels), posterior


def decoded(decoder: Decoder | ConvDecoder | LayersDecoder, h: Tensor) -> Decoded:
    """Apply the decoder's last layers to its last hidden one."""
    logits = full(_flat(decoder.logits(h)))  # type: ignore[operator]
    match likelihood_of(decoder.spec).logvar:
        case "shared":
            return Decoded(logits, decoder.logvar)  # type: ignore[arg-type]
        case "pixel":
            return Decoded(logits, full(_flat(decoder.logvar(h))))  # type: ignore[operator]
        case "none" | "fixed":
            return Decoded(logits, None)


def _flat(x: Tensor) -> Tensor:
    """`[batch, pixels]` in height, width, channel order."""
    return x if x.ndim == 2 else x.permute(0, 2, 3, 1).flatten(1)
