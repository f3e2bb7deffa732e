"""What Pyro computes of a model and a guide, without Pyro: its Trace_ELBO of one sample."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, distributions


class _Event:
    """What Pyro adds to PyTorch's distributions."""

    def to_event(self: Any, axes: int) -> distributions.Independent:
        return distributions.Independent(self, axes)


class _Normal(_Event, distributions.Normal):
    pass


class _Bernoulli(_Event, distributions.Bernoulli):
    pass


DISTRIBUTIONS = SimpleNamespace(Normal=_Normal, Bernoulli=_Bernoulli)


class ElboTrace:
    """Stands for the module `pyro`, as far as a model and a guide call it."""

    def module(self, name: str, module: torch.nn.Module) -> None:
        """Pyro would register the parameters."""

    @contextmanager
    def plate(self, name: str, size: int) -> Iterator[None]:
        """Pyro would note that images are independent, which changes no sum."""
        yield

    def sample(self, name: str, distribution: Any, obs: Tensor | None = None) -> Tensor:
        """Add the log-probability of an observation, of the guide's sample, or in the guide of a new one."""
        if obs is None and name not in self.samples:
            normal = distribution.base_dist
            self.samples[name] = normal.loc + normal.scale * self.eps
        value = self.samples[name] if obs is None else obs
        self.log_probability = self.log_probability + distribution.log_prob(value).sum()
        return value

    def loss(self, model: Any, guide: Any, x: Tensor, eps: Tensor) -> Tensor:
        """Compute -log p(x, z) + log q(z | x), summed over images.

        Args:
            model: The program's function that samples latents and observes images.
            guide: The program's function that samples latents.
            x: The images.
            eps: Standard normals of the guide's one sample.
        """
        self.eps, self.samples, self.log_probability = eps, {}, torch.zeros(())
        guide(x)
        guides, self.log_probability = self.log_probability, torch.zeros(())
        model(x)
        return guides - self.log_probability
