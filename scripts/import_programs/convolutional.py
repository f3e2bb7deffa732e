"""The programs with convolutions."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from import_programs.definitions import Code
from import_programs.program import Batch, Program

_CAPACITY_STEPS = 10_000


def _lightning(code: Code, experiment: Any, folder: Path) -> Path:
    """Save the experiment as Lightning's trainer does."""
    optimizer = torch.optim.Adam(experiment.parameters(), 0.005)
    checkpoint = {"epoch": 9, "global_step": 10, "pytorch-lightning_version": "1.5.6", "callbacks": {}}
    checkpoint |= {"state_dict": experiment.state_dict(), "optimizer_states": [optimizer.state_dict()]}
    torch.save(checkpoint, folder / "last.ckpt")
    return folder / "last.ckpt"


def _antixk_loss(code: Code, experiment: Any, batch: Batch) -> Tensor:
    """The loss with the capacity that training ends with, which BetaVAE holds in float32 whatever its module is in."""
    if hasattr(experiment.model, "C_max"):
        experiment.model.C_max = experiment.model.C_max.double()
        experiment.model.num_iter = _CAPACITY_STEPS
    arguments = batch.pixels, batch.x, batch.mean, batch.second
    return experiment.model.loss_function(*arguments, M_N=experiment.params["kld_weight"])["loss"].sum()


def _antixk(title: str, model: str, given: dict[str, str], **arguments: Any) -> Program:
    """The program with the sizes and weights of its `configs`."""

    def build(code: Code) -> Any:
        vae = code[model](in_channels=3, latent_dim=128, **arguments)
        return code["VAEXperiment"](vae, {"kld_weight": 0.00025})

    return Program(
        f"AntixK/PyTorch-VAE, {title}",
        "PyTorch-VAE",
        ("models/base.py", "models/vanilla_vae.py", "models/beta_vae.py", "experiment.py"),
        build,
        lambda experiment, x, labels: experiment.model.encode(x),
        lambda experiment, z, labels: experiment.model.decode(z),
        _antixk_loss,
        _lightning,
        image=(64, 64, 3),
        flat=False,
        given=given,
        names={"pl": SimpleNamespace(LightningModule=nn.Module)},
    )


_BURGESS = {"loss_type": "B", "gamma": 10.0, "max_capacity": 25, "Capacity_max_iter": _CAPACITY_STEPS}

PROGRAMS = tuple(
    program
    for given in ({"range": "signed"}, {"range": "unit"})
    for program in (
        _antixk("VanillaVAE", "VanillaVAE", given),
        _antixk("BetaVAE H", "BetaVAE", given | {"preset": "beta-h"}, loss_type="H", beta=10.0),
        _antixk("BetaVAE B", "BetaVAE", given | {"preset": "beta-b"}, **_BURGESS),
    )
)
