"""The models and loops that PyTorch users write, as baselines; they use neither package.

Losses are what their sources minimize: nats summed over the batch, or for the convolutions mean squared error and a
weighted KL."""

import itertools
import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

KLD_WEIGHT = 0.00025  # beside the mean squared error, in AntixK's configurations
Loss = Callable[..., Tensor]  # of a model and images


class PlainVAE(nn.Module):
    """pytorch/examples' model: images `[batch, pixels]` in [0, 1], decoded to logits."""

    def __init__(self, pixels: int = 784, hidden: int = 400, latent: int = 20):
        super().__init__()
        self.inner = nn.Linear(pixels, hidden)
        self.mean, self.logvar = nn.Linear(hidden, latent), nn.Linear(hidden, latent)
        self.outer = nn.Linear(latent, hidden)
        self.logits = nn.Linear(hidden, pixels)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = F.relu(self.inner(x))
        return self.mean(h), self.logvar(h)

    def decode(self, z: Tensor) -> Tensor:
        return self.logits(F.relu(self.outer(z)))

    def forward(self, x: Tensor, eps: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        mean, logvar = self.encode(x)
        return self.decode(drawn(mean, logvar, eps)), mean, logvar


class ConvVAE(nn.Module):
    """AntixK/PyTorch-VAE's model for square grey images `[batch, 1, size, size]` in [-1, 1], decoded to the same."""

    def __init__(self, channels: tuple[int, ...] = (32, 64, 128, 256, 512), latent: int = 128, size: int = 28):
        super().__init__()
        sizes, down, up = [size], (1, *channels), (*reversed(channels), channels[0])
        for _ in channels:
            sizes.append((sizes[-1] + 1) // 2)
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(down):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.BatchNorm2d(after), nn.LeakyReLU()]
        self.inner = nn.Sequential(*layers)
        self.corner = (channels[-1], sizes[-1], sizes[-1])
        flat = math.prod(self.corner)
        self.mean, self.logvar = nn.Linear(flat, latent), nn.Linear(flat, latent)
        self.outer = nn.Linear(latent, flat)
        layers = []
        for i, (before, after) in enumerate(itertools.pairwise(up)):
            more = sizes[-2 - i] - 2 * sizes[-1 - i] + 1  # an odd size would come back even
            conv = nn.ConvTranspose2d(before, after, 3, stride=2, padding=1, output_padding=more)
            layers += [conv, nn.BatchNorm2d(after), nn.LeakyReLU()]
        self.image = nn.Sequential(*layers, nn.Conv2d(up[-1], 1, 3, padding=1), nn.Tanh())

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.inner(x).flatten(1)
        return self.mean(h), self.logvar(h)

    def decode(self, z: Tensor) -> Tensor:
        return self.image(self.outer(z).unflatten(1, self.corner))

    def forward(self, x: Tensor, eps: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        mean, logvar = self.encode(x)
        return self.decode(drawn(mean, logvar, eps)), mean, logvar


def drawn(mean: Tensor, logvar: Tensor, eps: Tensor | None = None) -> Tensor:
    std = torch.exp(0.5 * logvar)
    return mean + std * (torch.randn_like(std) if eps is None else eps)


def divergence(mean: Tensor, logvar: Tensor) -> Tensor:
    return -0.5 * (1 + logvar - mean.pow(2) - logvar.exp()).sum()


def tutorial_loss(model: nn.Module, x: Tensor, eps: Tensor | None = None) -> Tensor:
    """The loss of pytorch/examples, computed from probabilities."""
    logits, mean, logvar = model(x, eps)
    return F.binary_cross_entropy(torch.sigmoid(logits), x, reduction="sum") + divergence(mean, logvar)


def elbo_loss(model: nn.Module, x: Tensor, eps: Tensor | None = None) -> Tensor:
    logits, mean, logvar = model(x, eps)
    return F.binary_cross_entropy_with_logits(logits, x, reduction="sum") + divergence(mean, logvar)


def iwae_loss(model: PlainVAE, x: Tensor, eps: Tensor | None = None, samples: int = 1) -> Tensor:
    """The importance-weighted bound; eps: `[samples, batch, latent]`."""
    mean, logvar = model.encode(x)
    eps = torch.randn(samples, *mean.shape, device=x.device) if eps is None else eps
    z = drawn(mean, logvar, eps)
    log_w = log_weights(z, eps, logvar) - bernoulli_nll(model.decode(z), x)
    return (math.log(samples) - log_w.logsumexp(0)).sum()


def conv_loss(model: nn.Module, x: Tensor, eps: Tensor | None = None) -> Tensor:
    """The loss of AntixK/PyTorch-VAE."""
    image, mean, logvar = model(x, eps)
    return F.mse_loss(image, x) + KLD_WEIGHT * divergence(mean, logvar) / len(x)


def log_weights(z: Tensor, eps: Tensor, logvar: Tensor) -> Tensor:
    """log p(z) - log q(z | x)"""
    return 0.5 * (eps**2 + logvar - z**2).sum(-1)


def bernoulli_nll(logits: Tensor, x: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, x.expand_as(logits), reduction="none").sum(-1)


def squared_nll(image: Tensor, x: Tensor) -> Tensor:
    """Negative log-likelihood of a Gaussian of variance 1/2."""
    return ((image - x) ** 2).sum((-1, -2, -3)) + x[0].numel() / 2 * math.log(math.pi)


class Pictures(Dataset):
    """A data set like torchvision's MNIST: each image passes through PIL."""

    def __init__(self, images: np.ndarray, transform: Callable[[Image.Image], Tensor]):
        self.images, self.transform = images, transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images[i])), 0


def loader(images: np.ndarray, batch: int, signed: bool, cuda: bool) -> DataLoader:
    """Make the loader of the tutorials. images: uint8 `[n, height, width]`."""
    from torchvision import transforms

    steps = [transforms.ToTensor(), *([transforms.Normalize((0.5,), (0.5,))] if signed else [])]
    more = {"num_workers": 1, "pin_memory": True} if cuda else {}
    return DataLoader(Pictures(images, transforms.Compose(steps)), batch_size=batch, shuffle=True, **more)


def tutorial_epoch(loss: Loss, model: nn.Module, optimizer: torch.optim.Optimizer, batches: DataLoader) -> float:
    """pytorch/examples' loop; the sum of the losses."""
    device, flat = next(model.parameters()).device, isinstance(model, PlainVAE)
    model.train()
    total = 0.0
    for x, _ in batches:
        x = x.to(device)
        optimizer.zero_grad()
        value = loss(model, x.flatten(1) if flat else x)
        value.backward()
        total += value.item()
        optimizer.step()
    return total


def memory_epoch(loss: Loss, model: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, batch: int) -> float:
    """The same on images in memory, reading the loss only at the end; the sum of the losses."""
    model.train()
    total = torch.zeros((), device=images.device)
    for rows in torch.randperm(len(images), device=images.device).split(batch):
        value = loss(model, images[rows])
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        total += value.detach()
    return total.item()


@torch.no_grad()
def log_likelihood(
    nll: Callable[[Tensor, Tensor], Tensor],
    model: PlainVAE | ConvVAE,
    images: Tensor,
    samples: int,
    batch: int = 50,
    chunk: int = 100,
) -> Tensor:
    """The importance-weighted estimate for each image, a batch of images and a chunk of samples at a time: `[n]`."""
    model.eval()
    estimates = []
    for x in images.split(batch):
        mean, logvar = model.encode(x)
        log_w = []
        for start in range(0, samples, chunk):
            eps = torch.randn(min(chunk, samples - start), *mean.shape, device=x.device)
            z = drawn(mean, logvar, eps)
            decoded = model.decode(z.flatten(0, 1)).unflatten(0, z.shape[:2])
            log_w.append(log_weights(z, eps, logvar) - nll(decoded, x))
        estimates.append(torch.cat(log_w).logsumexp(0) - math.log(samples))
    return torch.cat(estimates)


@torch.no_grad()
def sample(model: PlainVAE | ConvVAE, n: int, latent: int) -> np.ndarray:
    """Sample `n` images from the prior, as numpy arrays."""
    model.eval()
    decoded = model.decode(torch.randn(n, latent, device=next(model.parameters()).device))
    return (torch.sigmoid(decoded) if isinstance(model, PlainVAE) else (decoded + 1) / 2).cpu().numpy()
