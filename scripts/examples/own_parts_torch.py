"""A likelihood and an optimizer of one's own with PyTorch, as a run folder: python scripts/examples/own_parts_torch.py

Then: torchvae sample runs/laplace --parts scripts/examples/own_parts_torch.py:PARTS --out samples.png
"""

import math

import numpy as np
import torch

import torchvae


def laplace(decoded, x):
    """-log p(x | z) of Laplace pixels whose scale is learned: `[batch]`, nats per image."""
    distance = (location(decoded) - x).abs()
    return (distance * torch.exp(-decoded.logvar) + decoded.logvar + math.log(2)).sum(-1)


def location(decoded):
    """The mean of each pixel."""
    return torch.sigmoid(decoded.logits)


PARTS = torchvae.Parts(nll=laplace, mean=location, logvar="shared")


def main() -> None:
    data, log = torchvae.digits(), []
    spec = torchvae.preset("pytorch-examples", hidden=(64,), latent=2, epochs=3, parts=PARTS)

    def on_epoch(progress: torchvae.Progress) -> None:
        log.append(progress.train)
        print(f"epoch {progress.epoch}: test loss {progress.test[0]:.1f} nats per image")

    state = torchvae.fit(spec, data, on_epoch, optimizer=lambda parameters: torch.optim.AdamW(parameters, 3e-3))
    torchvae.save_run("runs/laplace", spec, state, data, terms=np.concatenate(log))
    spec, model = torchvae.load("runs/laplace", parts=PARTS)
    torchvae.plot_reconstructions(spec, model, data).savefig("runs/laplace/images/reconstructions.png")


if __name__ == "__main__":
    main()
