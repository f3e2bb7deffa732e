"""One small image classifier in both frameworks, each in a file text of its own, as it is recorded alone."""

from typing import Any

import numpy as np

IMAGES = np.random.default_rng(0).normal(size=(4, 1, 8, 8))
"""In torch's layout."""

IN_TORCH = """
import torch
import torch.nn.functional as F
from torch import nn

class Net(nn.Module):
    padding, approximate = 1, "none"

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3, stride=2, padding=self.padding)
        self.norm = nn.BatchNorm2d(3)
        self.head = nn.Linear(3 * 4 * 4, 5)

    def forward(self, x):
        x = F.gelu(self.norm(self.conv(x)), approximate=self.approximate)
        return self.head(x.flatten(1))

def loss(y):
    return (y**2).mean()

def optimizer(parameters):
    return torch.optim.Adam(parameters, lr=1e-2)

def make():
    torch.manual_seed(0)
    return Net()
"""

IN_JAX = """
import jax
import jax.numpy as jnp
import optax
from flax import nnx

class Net(nnx.Module):
    padding, approximate = 1, False

    def __init__(self, rngs):
        self.conv = nnx.Conv(1, 3, (3, 3), strides=2, padding=self.padding, rngs=rngs)
        self.norm = nnx.BatchNorm(3, momentum=0.9, rngs=rngs)
        self.head = nnx.Linear(3 * 4 * 4, 5, rngs=rngs)

    def __call__(self, x):
        x = nnx.gelu(self.norm(self.conv(x)), approximate=self.approximate)
        return self.head(jnp.moveaxis(x, -1, 1).reshape(len(x), -1))

def loss(y):
    return (y**2).mean()

optimizer = optax.adam(1e-2)

def make():
    return Net(nnx.Rngs(0))
"""


def defined(text: str) -> dict[str, Any]:
    """Return what a program of the above defines."""
    names: dict[str, Any] = {"__name__": "recorded_nets"}
    exec(compile(text, "recorded_nets", "exec"), names)
    return names
