"""A port that a script repairs: compare, read the causes in the report's JSON, change the port, until it agrees.

scripts/examples/repair_a_port.py --help"""

import os

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # or JAX leaves torch no GPU memory

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
import torch.nn.functional as F
from flax import nnx
from torch import nn

from jaxvae.shared.cli import parse
from parity_tests import compare_modules
from parity_tests.harness.modules.mapping import flattened

IMAGES = np.random.default_rng(0).normal(size=(8, 1, 12, 12))  # in torch's layout: N,C,H,W
LABELS = np.arange(8)
PORT = {
    "padding": "SAME",
    "gelu": "GELU (tanh)",
    "flattened as": "H,W,C",
    "momentum": 0.99,
    "running variance": "biased",
    "loss": "sum",
}
"""The six settings in which the port is wrong."""
REPAIRS = {
    "padding": "padding",
    "gelu-form": "gelu",
    "flatten-order": "flattened as",
    "batch-norm-momentum": "momentum",
    "biased-variance": "running variance",
    "loss-reduction": "loss",
}
"""The setting that each kind of cause is repaired by: it takes the value that the report expects."""


@dataclass(frozen=True)
class Repair:
    """Repair a port of a small classifier from PyTorch to Flax that has six mistakes, unattended: compare the two, set
    what the causes in the report's JSON name to what they expect, and so on until both agree. The exit status is 1 if
    a cause has no repair, or a round of repairs changes nothing.

    Example: python scripts/examples/repair_a_port.py --reports reports"""

    reports: Path | None = None
    """Write each round's report to this folder as HTML and JSON; it has to exist."""


class TorchNet(nn.Module):
    """What is to be ported."""

    def __init__(self):
        super().__init__()
        self.down1 = nn.Conv2d(1, 4, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.down2 = nn.Conv2d(4, 8, 3, stride=2, padding=1)
        self.head = nn.Linear(8 * 3 * 3, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.gelu(self.norm(self.down1(x)))
        x = F.gelu(self.down2(x))
        return self.head(x.flatten(1))


class UnbiasedNorm(nnx.BatchNorm):
    """Flax's, with the variance of a sample in its running variance, as PyTorch has it."""

    def __call__(self, x: jax.Array, *args, **kwargs) -> jax.Array:
        before, n = self.var[...], x.size // x.shape[-1]
        y = super().__call__(x, *args, **kwargs)
        kept = self.momentum * before
        self.var[...] = kept + (self.var[...] - kept) * n / (n - 1) if not self.use_running_average else before
        return y


class FlaxNet(nnx.Module):
    """The port."""

    def __init__(self, settings: dict[str, Any], *, rngs: nnx.Rngs):
        self.approximate = settings["gelu"] == "GELU (tanh)"
        norm = UnbiasedNorm if settings["running variance"] == "unbiased" else nnx.BatchNorm
        padding = settings["padding"]
        self.down1 = nnx.Conv(1, 4, (3, 3), strides=2, padding=padding, rngs=rngs)
        self.norm = norm(4, momentum=settings["momentum"], use_fast_variance=False, rngs=rngs)
        self.down2 = nnx.Conv(4, 8, (3, 3), strides=2, padding=padding, rngs=rngs)
        self.head = nnx.Linear(3 * 3 * 8, 10, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = nnx.gelu(self.norm(self.down1(x)), approximate=self.approximate)
        x = nnx.gelu(self.down2(x), approximate=self.approximate)
        return self.head(x.reshape(len(x), -1))


def compared(settings: dict[str, Any], torch_net: nn.Module, save: Path | None = None) -> dict[str, Any]:
    """Compare the port with these settings, and return the report's JSON."""

    def jax_loss(logits: jax.Array) -> jax.Array:
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.asarray(LABELS))
        return losses.mean() if settings["loss"] == "mean" else losses.sum()

    def torch_loss(logits: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(logits, torch.tensor(LABELS))

    head = [(r"head/kernel", "head.weight", flattened(rows=(8, 3, 3)))] if settings["flattened as"] == "C,H,W" else []
    rules = [
        *head,
        (r"(.*)/(?:kernel|scale)", r"\1.weight"),
        (r"(.*)/bias", r"\1.bias"),
        (r"(.*)/(mean|var)", r"\1.running_\2"),
    ]
    port = FlaxNet(settings, rngs=nnx.Rngs(0))
    losses = jax_loss, torch_loss
    report = compare_modules(port, None, torch_net, rules, IMAGES, weights="torch", train=True, losses=losses)
    if save is not None:
        report.save(save.with_suffix(".html"))
        report.save(save.with_suffix(".json"))
    return json.loads(json.dumps(report.to_json()))


def repaired(settings: dict[str, Any], causes: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Return the settings with every cause repaired; None if one has no repair."""
    settings, done = dict(settings), set()
    for cause in causes:
        if cause["alternative"] and cause["where"] in done:
            continue  # another cause explains the same difference
        done.add(cause["where"])
        name = REPAIRS.get(cause["kind"])
        if name is None or cause["expected"] is None:
            print(f"  There is no repair: {cause['sentence']}")
            return None
        print(f"  {cause['where']}: {cause['kind']}, found {cause['found']}, expected {cause['expected']}")
        if settings[name] != cause["expected"]:
            print(f"    repair: {name} = {cause['expected']}")
        settings[name] = cause["expected"]
    return settings


def main(options: Repair) -> int:
    torch.manual_seed(0)
    torch_net, settings, number = TorchNet(), PORT, 1
    while True:
        save = None if options.reports is None else options.reports / f"round-{number}"
        document = compared(settings, torch_net, save)
        if document["passed"]:
            print(f"Round {number}: they agree in {len(document['findings'])} levels.")
            return 0
        failed = next(finding["level"] for finding in document["findings"] if not finding["passed"])
        print(f"Round {number}: they differ in {failed}.")
        changed = repaired(settings, document["causes"])
        if changed is None or changed == settings:
            print("Nothing was changed, so the port stays wrong.")
            return 1
        settings, number = changed, number + 1


if __name__ == "__main__":
    sys.exit(main(parse(Repair)))
