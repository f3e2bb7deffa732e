"""The networks as ordinary `torch.nn` modules.

Every network takes and gives images flattened in height, width, channel order."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from jaxvae.shared.config.parts import ModelSpec
from jaxvae.shared.config.spec import Spec
from jaxvae.shared.model import layout
from torchvae import random
from torchvae.distributions import AnyPosterior, Decoded, PointPosterior, Posterior, ScalePosterior, reparameterize
from torchvae.parallel import processes, summed

_MOMENTUM, _EPS = 0.1, 1e-5


class Training(NamedTuple):
    """What the networks are told in training, and are not in evaluation."""

    weights: Tensor
    """Each image's share of the batch `[batch]`; 0 for images that only fill it up."""
    masks: tuple[Tensor, ...] = ()
    """Factors on the hidden units, of `layout.hidden_units`; none without dropout."""


class Encoder(nn.Module):
    """`[batch, pixels]` to the posterior, each part `[batch, latent]`."""

    def __init__(self, spec: ModelSpec):
        super().__init__()
        widths = (spec.pixels + spec.classes, *spec.hidden)
        self.spec = spec
        self.hidden = nn.ModuleList([nn.Linear(widths[i], widths[i + 1]) for i in range(len(spec.hidden))])
        for name in layout.heads(spec):
            setattr(self, name, nn.Linear(widths[-1], spec.latent))

    def forward(self, x: Tensor, labels: Tensor | None = None, training: Training | None = None) -> AnyPosterior:
        x = _told(self.spec, x, labels)
        for i, layer in enumerate(self.hidden):
            x = _dropped(activate(self.spec, layer(x)), training, i)
        return posterior(self.spec, [getattr(self, name)(x) for name in layout.heads(self.spec)])


class ConvEncoder(nn.Module):
    """The same by strided convolutions, each followed by batch norm."""

    def __init__(self, spec: ModelSpec):
        super().__init__()
        self.spec = spec
        found = layout.layers(spec)
        self.hidden = nn.ModuleList([Block(found[2 * i]) for i in range(len(spec.hidden))])
        for name in layout.heads(spec):
            head = next(layer for layer in found if layer.path == ("encoder", name))
            setattr(self, name, nn.Linear(head.inputs, head.outputs))

    def forward(self, x: Tensor, labels: Tensor | None = None, training: Training | None = None) -> AnyPosterior:
        # By its shape: len() would have to be a number, which an exported program's batch size is not.
        # In PyTorch's own order in memory too: with channels last its batch norm adds float32 numbers one after another
        # in float32 on a CPU, and is off by 3e-4.
        x = x.reshape(x.shape[0], *self.spec.image).permute(0, 3, 1, 2)
        x = x.clone(memory_format=torch.contiguous_format)
        if self.spec.classes:  # each class is a plane of ones or zeros
            planes = one_hot(self.spec, labels, x.dtype)[:, :, None, None]
            x = torch.cat([x, planes.expand(-1, -1, *x.shape[2:])], 1)
        for i, block in enumerate(self.hidden):
            x = _dropped(activate(self.spec, block(x)), training, i)
        x = x.flatten(1)
        return posterior(self.spec, [getattr(self, name)(x) for name in layout.heads(self.spec)])


class Decoder(nn.Module):
    """`[batch, latent]` to what is said of the pixels: logits, never probabilities."""

    def __init__(self, spec: ModelSpec):
        super().__init__()
        widths = (spec.latent + spec.classes, *reversed(spec.hidden))
        self.spec = spec
        self.hidden = nn.ModuleList([nn.Linear(widths[i], widths[i + 1]) for i in range(len(spec.hidden))])
        for name in layout.tails(spec):
            setattr(self, name, nn.Linear(widths[-1], spec.pixels))
        if spec.likelihood == "gaussian-learned":
            self.logvar = nn.Parameter(torch.zeros(()))

    def forward(self, z: Tensor, labels: Tensor | None = None, training: Training | None = None) -> Decoded:
        z = _told(self.spec, z, labels)
        for i, layer in enumerate(self.hidden):
            z = _dropped(activate(self.spec, layer(z)), training, len(self.hidden) + i)
        return decoded(self, z)


class ConvDecoder(nn.Module):
    """The same by transposed convolutions, each followed by batch norm, and a last convolution."""

    def __init__(self, spec: ModelSpec):
        super().__init__()
        self.spec = spec
        found = {layer.path: layer for layer in layout.layers(spec)}
        first = found["decoder", "input"]
        self.input = nn.Linear(first.inputs, first.outputs)
        self.hidden = nn.ModuleList([Block(found["decoder", "hidden", i, "conv"]) for i in range(len(spec.hidden))])
        for name in layout.tails(spec):
            setattr(self, name, _Last(*_given(found["decoder", name])))
        if spec.likelihood == "gaussian-learned":
            self.logvar = nn.Parameter(torch.zeros(()))

    def forward(self, z: Tensor, labels: Tensor | None = None, training: Training | None = None) -> Decoded:
        z = self.input(_told(self.spec, z, labels))
        z = z.reshape(z.shape[0], self.spec.hidden[-1], *layout.sizes(self.spec)[-1])
        for i, block in enumerate(self.hidden):
            z = _dropped(activate(self.spec, block(z)), training, len(self.hidden) + i)
        return decoded(self, z)


class Block(nn.Module):
    """A convolution, strided or transposed, and its batch norm."""

    def __init__(self, layer: layout.Layer):
        super().__init__()
        self.conv = _conv(layer)
        self.norm = BatchNorm(layer.outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))


class BatchNorm(nn.BatchNorm2d):
    """PyTorch's own, but for float64 in training, and for batches that several processes share. PyTorch adds float32
    numbers up in float64, and float64 ones too, one after another: equal ones, of which a dark border has thousands,
    round the same way each time, and 2e-13 of a mean was lost. `torch.var_mean` adds in a tree."""

    def __init__(self, features: int):
        super().__init__(features, eps=_EPS, momentum=_MOMENTUM)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or (x.dtype != torch.float64 and processes() == 1):
            return super().forward(x)
        given, x = x.dtype, full(x)
        if processes() == 1:
            var, mean = torch.var_mean(x, (0, 2, 3), correction=0)
            count = x.numel() // len(mean)
        else:
            count = summed(torch.tensor(x.numel() // x.shape[1], dtype=x.dtype, device=x.device))
            mean = summed(x.sum((0, 2, 3))) / count
            var = summed(((x - mean[:, None, None]) ** 2).sum((0, 2, 3))) / count
        with torch.no_grad():
            for running, now in ((self.running_mean, mean), (self.running_var, var * (count / (count - 1)))):
                assert running is not None
                running.mul_(1 - _MOMENTUM).add_(_MOMENTUM * now)
        factor = self.weight / torch.sqrt(var + self.eps)
        y = (x - mean[:, None, None]) * factor[:, None, None] + self.bias[:, None, None]
        return y.to(given)


class Discriminator(nn.Module):
    """Latents `[batch, latent]` to the logit `[batch, 1]` of their being drawn from the prior."""

    def __init__(self, spec: ModelSpec):
        super().__init__()
        widths = (spec.latent, *spec.discriminator)
        self.hidden = nn.ModuleList([nn.Linear(widths[i], widths[i + 1]) for i in range(len(spec.discriminator))])
        self.logit = nn.Linear(widths[-1], 1)

    def forward(self, z: Tensor) -> Tensor:
        for layer in self.hidden:
            z = torch.relu(layer(z))
        return full(self.logit(z))


class VAE(nn.Module):
    """The autoencoder alone. Images are `[batch, pixels]`, flattened in height, width, channel order; labels `[batch]`
    are for models with classes."""

    def __init__(self, spec: ModelSpec):
        super().__init__()
        conv = spec.network == "conv"
        self.encoder = (ConvEncoder if conv else Encoder)(spec)
        self.decoder = (ConvDecoder if conv else Decoder)(spec)
        if spec.discriminator:
            self.discriminator = Discriminator(spec)

    def encode(self, x: Tensor, labels: Tensor | None = None, training: Training | None = None) -> AnyPosterior:
        return self.encoder(x, labels, training)

    def decode(self, z: Tensor, labels: Tensor | None = None, training: Training | None = None) -> Decoded:
        return self.decoder(z, labels, training)

    def discriminate(self, z: Tensor) -> Tensor:
        return self.discriminator(z)

    def forward(self, x: Tensor, key: random.Key, labels: Tensor | None = None) -> tuple[Decoded, AnyPosterior]:
        """What is said of the pixels at a latent drawn from `key`, and the posterior it was drawn from."""
        posterior = self.encode(x, labels)
        return self.decode(reparameterize(key, posterior), labels), posterior


def init(spec: Spec, key: random.Key, last_bias: Tensor | None = None) -> VAE:
    """The model at the start of a run, from its initialization key. Array i of `layout.table` is drawn from
    fold_in(key, i); the decoder's last bias is `last_bias` `[pixels]`, if that is given."""
    dtype = getattr(torch, spec.training.stored)
    params = {}
    for i, parameter in enumerate(layout.table(spec.model)):
        value = torch.full(parameter.shape, parameter.fill, dtype=dtype, device=key.device)
        if parameter.bound:
            unit = random.uniform(random.fold_in(key, i), parameter.shape, dtype)
            # 2u - 1 is exact, so that the product is rounded once.
            value = (2.0 * unit - 1.0) * parameter.bound
        params[parameter.name] = value
    if last_bias is not None:
        params["decoder.logits.bias"] = last_bias
    return bind(spec.model, params)


def encode(spec: Spec, model: VAE, x: Tensor, labels: Tensor | None = None) -> AnyPosterior:
    """The posterior of images `[batch, pixels]` in the range of the configuration."""
    return model.eval().encode(x, labels)


def decode(spec: Spec, model: VAE, z: Tensor, labels: Tensor | None = None) -> Decoded:
    """What is said of the pixels `[batch, pixels]` of latents `[batch, latent]`."""
    return model.eval().decode(z, labels)


def bind(spec: ModelSpec, params: dict[str, Tensor]) -> VAE:
    """The module over a state_dict, which it takes as its own."""
    with torch.device("meta"):  # no numbers drawn that are not used
        model = VAE(spec)
    model.load_state_dict(params, assign=True)
    return model.requires_grad_()


def activate(spec: ModelSpec, x: Tensor) -> Tensor:
    """What follows a hidden layer."""
    match spec.activation:
        case "relu":
            return torch.relu(x)
        case "tanh":
            return torch.tanh(x)
        case "leaky-relu":
            return nn.functional.leaky_relu(x, 0.01)


def posterior(spec: ModelSpec, parts: list[Tensor]) -> AnyPosterior:
    """The posterior of what the encoder's heads give."""
    parts = [full(part) for part in parts]
    match spec.posterior:
        case "gaussian":
            return Posterior(*parts)
        case "relu-sigma":
            return ScalePosterior(*map(torch.relu, parts))
        case "point":
            return PointPosterior(*parts)
        case "relu-point":
            return PointPosterior(*map(torch.relu, parts))


def decoded(decoder: Decoder | ConvDecoder, h: Tensor) -> Decoded:
    """What the decoder's last layers make of what its hidden ones gave."""
    logits = full(_flat(decoder.logits(h)))  # type: ignore[operator]
    match decoder.spec.likelihood:
        case "gaussian-learned":
            return Decoded(logits, decoder.logvar)  # type: ignore[arg-type]
        case "gaussian-pixel":
            return Decoded(logits, full(_flat(decoder.logvar(h))))  # type: ignore[operator]
        case _:
            return Decoded(logits, None)


def full(x: Tensor) -> Tensor:
    """What is not to be computed in bfloat16."""
    return x.float() if x.dtype == torch.bfloat16 else x


def one_hot(spec: ModelSpec, labels: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Labels `[batch]` as `[batch, classes]`. Raises ValueError without labels."""
    if labels is None:
        raise ValueError(f"A model of {spec.classes} classes has to be told the labels of its images.")
    return (labels[:, None] == torch.arange(spec.classes, device=labels.device)).to(dtype)


def _told(spec: ModelSpec, x: Tensor, labels: Tensor | None) -> Tensor:
    """A network's input with the label beside it, where it is told."""
    return torch.cat([x, one_hot(spec, labels, x.dtype)], -1) if spec.classes else x


def _dropped(x: Tensor, training: Training | None, layer: int) -> Tensor:
    if training is None or not training.masks:
        return x
    mask = training.masks[layer]
    mask = mask.to(x.dtype)
    return x * (mask if mask.ndim == 2 else mask.permute(0, 3, 1, 2))  # drawn in height, width, channel order


def _flat(x: Tensor) -> Tensor:
    """`[batch, pixels]` in height, width, channel order."""
    return x if x.ndim == 2 else x.permute(0, 2, 3, 1).flatten(1)


class _Last(nn.Conv2d):
    """A convolution to pixels that adds its bias by itself: for a convolution's own gradient of it a CPU adds float32
    numbers one after another, and lost 8e-5 over a batch of 100,000 pixels."""

    def forward(self, input: Tensor) -> Tensor:
        y = self._conv_forward(input, self.weight, None)
        assert self.bias is not None
        return y + self.bias[:, None, None].to(y.dtype)


def _conv(layer: layout.Layer) -> nn.Conv2d | nn.ConvTranspose2d:
    given = _given(layer)
    return nn.Conv2d(*given) if layer.kind == "conv" else nn.ConvTranspose2d(*given, layer.output_padding)


def _given(layer: layout.Layer) -> tuple[int, int, int, int, int]:
    return layer.inputs, layer.outputs, layout.KERNEL, layer.stride, layout.PADDING
