"""Draws the README's figure: the losses of one run in both packages, and how far they are apart.

Example: python scripts/docs/figures/two_losses.py --out scripts/docs/images/two-losses.png
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from matplotlib import rc_context
from matplotlib.figure import Figure

import jaxvae
import torchvae
from jaxvae.shared.cli import parse

TOLERANCE = 1e-12  # parity_tests' for the losses of a float64 run
ROUNDING = np.finfo(np.float64).eps / 2


@dataclass(frozen=True)
class TwoLosses:
    """Train the same configuration in float64 by both packages, each drawing from its own key, and draw their losses
    over the steps above the relative difference of the two.

    Example: python scripts/docs/figures/two_losses.py --epochs 10"""

    epochs: int = 10
    """Epochs of MNIST."""
    out: Path = Path("scripts/docs/images/two-losses.png")
    """The figure to write."""
    losses: Path | None = None
    """An .npz file for the losses: drawn without training if it exists, else written."""


def main(options: TwoLosses) -> None:
    if options.losses is not None and options.losses.is_file():
        losses = dict(np.load(options.losses))
    else:
        losses = both_trained(options.epochs)
        if options.losses is not None:
            np.savez(options.losses, jaxvae=losses["jaxvae"], torchvae=losses["torchvae"])
    gaps = np.abs(losses["jaxvae"] - losses["torchvae"]) / losses["torchvae"]
    equal = f"{(gaps == 0).mean():.0%} of the losses are equal to the bit"
    print(f"{len(gaps):,} steps; {equal}, and the largest relative difference is {gaps.max():.1e}")
    draw(losses, gaps).savefig(options.out, dpi=200)


def both_trained(epochs: int) -> dict[str, np.ndarray]:
    """The losses of each package: `[steps]`."""
    jax.config.update("jax_enable_x64", True)
    spec = jaxvae.Spec(data="mnist", training=jaxvae.TrainingSpec(dtype="float64", epochs=epochs))
    images = jaxvae.mnist().train
    return {
        "jaxvae": trained(jaxvae, spec, jnp.asarray(images)),
        "torchvae": trained(torchvae, spec, torch.tensor(images)),
    }


def trained(package: Any, spec: jaxvae.Spec, images: Any) -> np.ndarray:
    """The loss of each step, nats per image: `[steps]`."""
    state, losses = package.init_state(spec), []
    for _ in range(spec.training.epochs):
        state, terms = package.train_epoch(spec, state, images)
        losses.append(np.asarray(terms)[:, 0])
    return np.concatenate(losses)


def draw(losses: dict[str, np.ndarray], gaps: np.ndarray) -> Figure:
    """The losses, and below them their relative differences on a logarithmic scale; equal losses have no dot."""
    steps = np.arange(1, len(gaps) + 1)
    with rc_context({"font.size": 8, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(6.8, 3.6), layout="constrained")
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
        above.plot(steps, losses["jaxvae"], color="#8ebfe6", linewidth=3.5, label="jaxvae (Flax)")
        above.plot(steps, losses["torchvae"], color="#b3470b", linewidth=0.6, label="torchvae (PyTorch)")
        above.set_ylabel("training loss,\nnats per image")
        above.set_ylim(90, 200)
        above.legend(frameon=False, loc="upper right")
        below.semilogy(steps[gaps > 0], gaps[gaps > 0], ".", color="#444444", markersize=2, markeredgewidth=0)
        for height, text in ((TOLERANCE, "tolerance of the parity tests"), (ROUNDING, "one rounding in float64")):
            below.axhline(height, color="#888888", linewidth=0.8, linestyle="--")
            below.text(steps[-1], height * 0.6, text, ha="right", va="top", color="#444444")
        below.set_ylim(ROUNDING / 20, TOLERANCE * 10)
        below.set_yticks([1e-16, 1e-14, 1e-12])
        below.set_ylabel("relative\ndifference")
        below.set_xlabel(f"step (batches of 128 MNIST images, {len(steps):,} in all)")
        below.set_xlim(0, steps[-1])
    return figure


if __name__ == "__main__":
    main(parse(TwoLosses))
