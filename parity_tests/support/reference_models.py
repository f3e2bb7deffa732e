"""The original program of every preset, in torch.nn and torch.distributions: its layers, and its loss in its own units.

Nothing here calls the packages.
"""

import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, distributions, nn


class Given(NamedTuple):
    """A batch, as float64 tensors."""

    x: Tensor
    eps: Tensor
    prior: Any = None
    corruption: Any = None
    labels: Any = None
    num_iter: int = 1
    """Number of training steps, this one included."""


class Sizes(NamedTuple):
    """Sizes of a model; `image` is (height, width, channels)."""

    image: tuple[int, int, int]
    hidden: tuple[int, ...]
    latent: int
    discriminator: tuple[int, ...] = ()


class Source(NamedTuple):
    """One original program."""

    sizes: Sizes
    """The sizes of the program."""
    build: Callable[[Sizes], nn.Module]
    losses: Callable[[Any, Given], tuple[Tensor, ...]]
    """The losses from which its backward passes start, in its units."""
    per: str = ""
    """`batch` if its loss is a sum over images, so the batch size times the preset's mean."""
    dropped: float = 0.0
    """The constant per pixel that its loss omits."""
    settings: tuple[float, int] = (1e-3, 128)
    """Learning rate and batch size."""
    epochs: int | None = None
    """Number of epochs, where the preset takes the program's; None for programs with other images or no number."""
    decay: float = 1.0
    eps: float = 1e-8
    clip: float = 0.0
    """The largest norm of a gradient; 0 for any."""


def body(widths: tuple[int, ...], activation: Callable[[], nn.Module]) -> nn.Sequential:
    return nn.Sequential(*(m for i, o in itertools.pairwise(widths) for m in (nn.Linear(i, o), activation())))


class Perceptron(nn.Module):
    """Linear layers as encoder and decoder; the parameters are in the order of the computation."""

    def __init__(self, sizes: Sizes, heads=2, tails=1, classes=0, activation: type[nn.Module] = nn.ReLU, scalar=False):
        super().__init__()
        pixels, hidden, latent = math.prod(sizes.image), sizes.hidden, sizes.latent
        self.encoder = body((pixels + classes, *hidden), activation)
        self.heads = nn.ModuleList(nn.Linear(hidden[-1], latent) for _ in range(heads))
        self.decoder = body((latent + classes, *reversed(hidden)), activation)
        self.tails = nn.ModuleList(nn.Linear(hidden[0], pixels) for _ in range(tails))
        self.logvar = nn.ParameterList([torch.zeros(())] if scalar else [])
        if judge := sizes.discriminator:
            self.judge = nn.Sequential(body((latent, *judge), nn.ReLU), nn.Linear(judge[-1], 1))

    def encode(self, x: Tensor) -> list[Tensor]:
        h = self.encoder(x)
        return [head(h) for head in self.heads]

    def decode(self, z: Tensor) -> Tensor:
        return self.tails[0](self.decoder(z))


class AntixK(nn.Module):
    """AntixK/PyTorch-VAE, models/vanilla_vae.py and beta_vae.py."""

    def __init__(self, sizes: Sizes):
        super().__init__()
        (height, _, channels), hidden, latent = sizes.image, sizes.hidden, sizes.latent
        self.image, self.edge = sizes.image, height // 2 ** len(hidden)

        def block(conv: nn.Module, outputs: int) -> nn.Sequential:
            return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.LeakyReLU())

        def up(i: int, o: int) -> nn.Sequential:
            return block(nn.ConvTranspose2d(i, o, kernel_size=3, stride=2, padding=1, output_padding=1), o)

        pairs = itertools.pairwise((channels, *hidden))
        self.encoder = nn.Sequential(*(block(nn.Conv2d(i, o, 3, stride=2, padding=1), o) for i, o in pairs))
        self.fc_mu, self.fc_var = (nn.Linear(hidden[-1] * self.edge**2, latent) for _ in range(2))
        self.decoder_input = nn.Linear(latent, hidden[-1] * self.edge**2)
        self.decoder = nn.Sequential(*(up(i, o) for i, o in itertools.pairwise(hidden[::-1])))
        last = nn.Conv2d(hidden[0], channels, kernel_size=3, padding=1)
        self.final_layer = nn.Sequential(*up(hidden[0], hidden[0]), last, nn.Tanh())

    def terms(self, given: Given) -> tuple[Tensor, Tensor]:
        """Return recons_loss and kld_loss, as in both programs."""
        height, width, channels = self.image
        images = given.x.reshape(-1, height, width, channels).permute(0, 3, 1, 2)
        result = torch.flatten(self.encoder(images), start_dim=1)
        mu, log_var = self.fc_mu(result), self.fc_var(result)
        z = given.eps * torch.exp(0.5 * log_var) + mu
        result = self.decoder_input(z).view(len(z), -1, self.edge, self.edge)
        recons = self.final_layer(self.decoder(result))
        kld_loss = torch.mean(-0.5 * torch.sum(1 + log_var - mu**2 - log_var.exp(), dim=1), dim=0)
        return F.mse_loss(recons, images), kld_loss


class Strided(nn.Module):
    """Convolutions without batch norm, with the parts of a Perceptron."""

    def __init__(self, sizes: Sizes):
        super().__init__()
        (height, _, channels), hidden = sizes.image, sizes.hidden
        self.image, edge = sizes.image, height // 2 ** len(hidden)
        pairs = itertools.pairwise((channels, *hidden))
        self.encoder = nn.Sequential(*(m for i, o in pairs for m in (nn.Conv2d(i, o, 3, 2, 1), nn.ELU())))
        self.heads = nn.ModuleList(nn.Linear(hidden[-1] * edge**2, sizes.latent) for _ in range(2))
        pairs = itertools.pairwise((*hidden[::-1], hidden[0]))
        ups = (m for i, o in pairs for m in (nn.ConvTranspose2d(i, o, 3, 2, 1, output_padding=1), nn.ELU()))
        first = nn.Linear(sizes.latent, hidden[-1] * edge**2)
        self.decoder = nn.Sequential(first, nn.Unflatten(1, (hidden[-1], edge, edge)), *ups)
        self.tails = nn.ModuleList([nn.Sequential(nn.Conv2d(hidden[0], channels, 3, padding=1), ToPixels())])
        self.logvar = nn.ParameterList([torch.zeros(())])

    def encode(self, x: Tensor) -> list[Tensor]:
        height, width, channels = self.image
        h = self.encoder(x.reshape(-1, height, width, channels).permute(0, 3, 1, 2)).flatten(1)
        return [head(h) for head in self.heads]


class ToPixels(nn.Module):
    """Flatten images in height, width, channel order."""

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 2, 3, 1).flatten(1)


def latent(model: Perceptron, x: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
    """Return z and the KL divergence summed over the batch, as in pytorch/examples and yunjey."""
    mu, log_var = model.encode(x)
    return mu + eps * torch.exp(log_var / 2), -0.5 * torch.sum(1 + log_var - mu.pow(2) - log_var.exp())


def yunjey(model: Perceptron, given: Given) -> tuple[Tensor]:
    z, kl_div = latent(model, given.x, given.eps)
    return (F.binary_cross_entropy(torch.sigmoid(model.decode(z)), given.x, reduction="sum") + kl_div,)


def conditional(model: Perceptron, given: Given) -> tuple[Tensor]:
    """Append the one-hot label to the inputs of the encoder and the decoder."""
    one_hot = F.one_hot(given.labels.long(), 10).double()
    z, kl_div = latent(model, torch.cat([given.x, one_hot], 1), given.eps)
    probabilities = torch.sigmoid(model.decode(torch.cat([z, one_hot], 1)))
    return (F.binary_cross_entropy(probabilities, given.x, reduction="sum") + kl_div,)


def tanh_mse(model: Perceptron, given: Given) -> tuple[Tensor]:
    z, kl_div = latent(model, given.x, given.eps)
    return (torch.sum((torch.tanh(model.decode(z)) - given.x) ** 2) + kl_div,)


def flax_example(model: Perceptron, given: Given) -> tuple[Tensor]:
    """flax/examples/vae/train.py, with torch's names for jax.numpy's."""
    mean, logvar = model.encode(given.x)
    log_p = F.logsigmoid(model.decode(mean + given.eps * torch.exp(0.5 * logvar)))
    bce_loss = -torch.sum(given.x * log_p + (1.0 - given.x) * torch.log(-torch.expm1(log_p)), -1).mean()
    return (bce_loss + (-0.5 * torch.sum(1 + logvar - mean**2 - torch.exp(logvar), -1)).mean(),)


def autoencoder(model: Perceptron, given: Given, seen: Tensor | None = None) -> tuple[Tensor]:
    code = torch.relu(model.encode(given.x if seen is None else seen)[0])
    return (nn.MSELoss()(torch.sigmoid(model.decode(code)), given.x),)


def denoising(model: Perceptron, given: Given) -> tuple[Tensor]:
    return autoencoder(model, given, given.x + 0.5 * given.corruption)


def dropout(model: Perceptron, given: Given) -> tuple[Tensor]:
    """Apply a mask as nn.Dropout(0.2) does: kept values are divided by 0.8."""
    return autoencoder(model, given, torch.where(given.corruption > 0, given.x / (1 - 0.2), 0.0))


def adversarial(model: Perceptron, given: Given) -> tuple[Tensor, Tensor, Tensor]:
    """Reconstruction, discriminator, generator."""
    criterion, code = nn.BCEWithLogitsLoss(), model.encode(given.x)[0]
    real, fake = model.judge(given.prior), model.judge(code)
    discriminator = criterion(real, torch.ones_like(real)) + criterion(fake, torch.zeros_like(fake))
    recons = nn.MSELoss()(torch.sigmoid(model.decode(code)), given.x)
    return recons, discriminator, criterion(fake, torch.ones_like(fake))


def relu_sigma(model: Perceptron, given: Given) -> tuple[Tensor]:
    mean, sigma = map(torch.relu, model.encode(given.x))
    kl = 0.5 * torch.sum(mean**2 + sigma**2 - torch.log(1e-8 + sigma**2) - 1.0) / given.x.numel()
    return (nn.MSELoss()(torch.sigmoid(model.decode(mean + sigma * given.eps)), given.x) + kl,)


def vanilla(model: AntixK, given: Given, beta: float = 1.0) -> tuple[Tensor]:
    recons_loss, kld_loss = model.terms(given)
    return (recons_loss + beta * 0.00025 * kld_loss,)


def beta_h(model: AntixK, given: Given) -> tuple[Tensor]:
    return vanilla(model, given, beta=10.0)


def beta_b(model: AntixK, given: Given) -> tuple[Tensor]:
    recons_loss, kld_loss = model.terms(given)
    c_max, c_stop_iter, gamma = torch.tensor([25.0]).double(), 1e4, 10.0
    c = torch.clamp(c_max / c_stop_iter * given.num_iter, 0, c_max.item())
    return ((recons_loss + gamma * 0.00025 * (kld_loss - c).abs()).sum(),)


def pythae(model: Perceptron, given: Given) -> tuple[Tensor]:
    """pythae's "mse": it drops log(2 pi) / 2 of every pixel."""
    z, kl_div = latent(model, given.x, given.eps)
    recon_x = torch.sigmoid(model.decode(z))
    return (0.5 * F.mse_loss(recon_x, given.x, reduction="none").sum(dim=-1).mean() + kl_div / len(given.x),)


def learned(model: Any, given: Given, bounded: Callable[[Tensor], Tensor] = torch.sigmoid) -> tuple[Tensor]:
    """Return a Gaussian's full log-density; a soft bound of our choice keeps the log-variance above -12."""
    mu, log_var = model.encode(given.x)
    posterior = distributions.Normal(mu, torch.exp(0.5 * log_var))
    h = model.decoder(mu + given.eps * posterior.stddev)
    raw = model.logvar[0] if len(model.logvar) else model.tails[1](h)
    sigma = torch.exp(0.5 * (-12 + F.softplus(raw + 12, threshold=100)))
    log_p = distributions.Normal(bounded(model.tails[0](h)), sigma).log_prob(given.x).sum(-1)
    kl = distributions.kl_divergence(posterior, distributions.Normal(0.0, 1.0)).sum(-1)
    return (torch.mean(kl - log_p),)


def pictures(model: Any, given: Given) -> tuple[Tensor]:
    """Return the same of unbounded means, for each pixel."""
    return (learned(model, given, bounded=lambda mean: mean)[0] / given.x.shape[-1],)


def iwae(model: Perceptron, given: Given) -> tuple[Tensor]:
    """Equation 8 of the paper, sample by sample."""
    mu, log_var = model.encode(given.x)
    posterior, prior = distributions.Normal(mu, torch.exp(0.5 * log_var)), distributions.Normal(0.0, 1.0)
    weights = []
    for eps in given.eps:
        z = mu + posterior.stddev * eps
        likelihood = distributions.Bernoulli(logits=model.decode(z))
        log_w = likelihood.log_prob(given.x).sum(-1) + prior.log_prob(z).sum(-1) - posterior.log_prob(z).sum(-1)
        weights.append(torch.exp(log_w))
    return (-torch.log(torch.stack(weights).mean(0)).mean(),)


MNIST, HALF_LOG_2PI = (28, 28, 1), 0.5 * math.log(2 * math.pi)
VAE, CODE, PAPER = Sizes(MNIST, (400,), 20), Sizes(MNIST, (256, 64), 20), Sizes(MNIST, (200, 200), 50)
CELEBA = Sizes((64, 64, 3), (32, 64, 128, 256, 512), 128)


def one_head(sizes: Sizes) -> Perceptron:
    return Perceptron(sizes, heads=1)


def tanh_layers(sizes: Sizes) -> Perceptron:
    return Perceptron(sizes, activation=nn.Tanh)


SMALL_BATCHES, ANTIXK = (1e-3, 32), (5e-3, 64)  # configs/vae.yaml and bhvae.yaml
SOURCES: dict[str, Source] = {
    "pytorch-examples": Source(VAE, Perceptron, yunjey, per="batch", epochs=10),
    "yunjey": Source(VAE, Perceptron, yunjey, per="batch", epochs=15),
    "tanh-mse": Source(VAE, Perceptron, tanh_mse, per="batch", epochs=100),
    "flax-example": Source(Sizes(MNIST, (500,), 20), Perceptron, flax_example),
    "autoencoder": Source(CODE, one_head, autoencoder, settings=SMALL_BATCHES),
    "denoising": Source(CODE, one_head, denoising, settings=SMALL_BATCHES),
    "dropout": Source(CODE, one_head, dropout, settings=SMALL_BATCHES),
    "adversarial": Source(Sizes(MNIST, (1000, 1000), 8, (1000, 1000)), one_head, adversarial, settings=(1e-4, 128)),
    "relu-sigma": Source(Sizes(MNIST, (256, 64), 10), Perceptron, relu_sigma, settings=SMALL_BATCHES),
    "conv": Source(CELEBA, AntixK, vanilla, settings=ANTIXK, decay=0.95),
    "beta-h": Source(CELEBA, AntixK, beta_h, settings=ANTIXK, decay=0.95),
    "beta-b": Source(CELEBA, AntixK, beta_b, settings=ANTIXK, decay=0.95),
    "pictures": Source(Sizes((64, 64, 3), (16, 32, 64, 128), 32), Strided, pictures, settings=(2e-3, 16), clip=1.0),
    "conditional": Source(VAE, lambda sizes: Perceptron(sizes, classes=10), conditional, per="batch"),
    "gaussian": Source(VAE, Perceptron, pythae, dropped=HALF_LOG_2PI),
    "gaussian-learned": Source(VAE, lambda sizes: Perceptron(sizes, scalar=True), learned),
    "gaussian-pixel": Source(VAE, lambda sizes: Perceptron(sizes, tails=2), learned),
    "iwae": Source(PAPER, tanh_layers, iwae),
    "iwae-paper": Source(PAPER, tanh_layers, iwae, settings=(1e-3, 20), epochs=3280, eps=1e-4 / 20),
}


def load(model: nn.Module, arrays: dict[str, np.ndarray]) -> dict[str, str]:
    """Copy the arrays of a weight file into a source's model, in order.

    Returns:
        The weight file's name of each of the source's parameters.
    """
    model.double()
    mine = [name for name in model.state_dict() if not name.endswith("num_batches_tracked")]
    renamed = dict(zip(mine, arrays, strict=True))
    tensors = {name: torch.tensor(arrays[stored]) for name, stored in renamed.items()}
    assert all(model.state_dict()[name].shape == tensor.shape for name, tensor in tensors.items())
    model.load_state_dict(tensors, strict=False)
    return renamed
