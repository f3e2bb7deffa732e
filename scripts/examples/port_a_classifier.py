"""A worked example: port a classifier from PyTorch to Flax and find the mistake.

scripts/examples/port_a_classifier.py --help"""

import os

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # or JAX leaves torch no GPU memory

import sys
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
import torch.nn.functional as F
from flax import nnx
from torch import nn

from jaxvae.shared.cli import parse
from parity_tests.harness.modules.compare import ParityError, assert_parity
from parity_tests.harness.modules.mapping import flattened

IMAGES = np.random.default_rng(0).normal(size=(8, 1, 28, 28))  # in torch's layout: N,C,H,W
LABELS = np.arange(8)


@dataclass(frozen=True)
class Port:
    """Compare a small convolutional classifier with its port to Flax, which keeps one of Flax's defaults that is not
    PyTorch's: the comparison names the layer and the mistake, and the exit status is 1. With --fixed the port is
    right, and agrees in its outputs, its loss, every gradient and five steps of Adam.

    Example: python scripts/examples/port_a_classifier.py --fixed"""

    fixed: bool = False
    """Correct the mistake."""


class TorchClassifier(nn.Module):
    """What is to be ported."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 16, 3, stride=2, padding=1)
        self.head = nn.Linear(16 * 7 * 7, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.gelu(self.norm(self.conv1(x)))
        x = F.gelu(self.conv2(x))
        return self.head(x.flatten(1))


class BatchNorm(nnx.BatchNorm):
    """Flax's, with the variance of a sample in its running variance, as PyTorch has it."""

    def __call__(self, x: jax.Array, *args, **kwargs) -> jax.Array:
        before, n = self.var[...], x.size // x.shape[-1]
        y = super().__call__(x, *args, **kwargs)
        kept = self.momentum * before
        self.var[...] = kept + (self.var[...] - kept) * n / (n - 1) if not self.use_running_average else before
        return y


class FlaxClassifier(nnx.Module):
    """The port."""

    def __init__(self, padding: int | str, *, rngs: nnx.Rngs):
        self.conv1 = nnx.Conv(1, 8, (3, 3), strides=2, padding=padding, rngs=rngs)
        # Flax keeps 0.9 of the running statistics where PyTorch takes 0.1 of the batch's, and its default is 0.99.
        self.norm = BatchNorm(8, momentum=0.9, use_fast_variance=False, rngs=rngs)
        self.conv2 = nnx.Conv(8, 16, (3, 3), strides=2, padding=1, rngs=rngs)
        self.head = nnx.Linear(7 * 7 * 16, 10, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = nnx.gelu(self.norm(self.conv1(x)), approximate=False)
        x = nnx.gelu(self.conv2(x), approximate=False)
        return self.head(x.reshape(len(x), -1))  # in H,W,C order: see MAPPING


MAPPING = [  # which array is which tensor: of these rules the first that matches a whole path
    (r"head/kernel", "head.weight", flattened(rows=(16, 7, 7))),
    (r"(.*)/(?:kernel|scale)", r"\1.weight"),
    (r"(.*)/bias", r"\1.bias"),
    (r"(.*)/(mean|var)", r"\1.running_\2"),
]


def jax_loss(logits: jax.Array) -> jax.Array:
    return optax.softmax_cross_entropy_with_integer_labels(logits, jnp.asarray(LABELS)).mean()


def torch_loss(logits: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(logits, torch.tensor(LABELS))


def main(options: Port) -> int:
    torch.manual_seed(0)
    port = FlaxClassifier(padding=1 if options.fixed else "SAME", rngs=nnx.Rngs(0))
    try:
        report = assert_parity(
            port,
            None,  # the module holds its own parameters
            TorchClassifier(),
            MAPPING,
            IMAGES,
            weights="torch",  # carried to a copy of the port
            train=True,
            losses=(jax_loss, torch_loss),
            optimizers=(optax.adam(1e-3), lambda parameters: torch.optim.Adam(parameters, 1e-3)),
        )
    except ParityError as error:
        print(error)
        return 1
    print(report)
    return 0


if __name__ == "__main__":
    sys.exit(main(parse(Port)))
