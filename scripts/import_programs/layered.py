"""The programs with convolutions of other kernels, strides and paddings than batch norm's of AntixK."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor

from import_programs.definitions import Code
from import_programs.perceptrons import pythae
from import_programs.program import Batch, Program, summed


def _konny(name: str, channels: int, weigh: Any) -> Program:
    """1Konny/Beta-VAE's model of dSprites or of images in colour, with the loss of its solver."""
    distribution = "bernoulli" if channels == 1 else "gaussian"

    def loss(code: Code, model: Any, batch: Batch) -> Tensor:
        reconstruction = code["reconstruction_loss"](batch.x, model._decode(batch.z), distribution)
        return weigh(reconstruction, code["kl_divergence"](batch.mean, batch.second)[0].sum())

    def save(code: Code, model: Any, folder: Path) -> Path:
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
        windows = dict.fromkeys(("recon", "kld", "mu", "var"))
        states = {"iter": 1000, "win_states": windows, "model_states": {"net": model.state_dict()}}
        torch.save({**states, "optim_states": {"optim": optimizer.state_dict()}}, folder / "last")
        return folder / "last"

    return Program(
        f"1Konny/Beta-VAE, BetaVAE_{name}, {channels} channel{'s' if channels > 1 else ''}",
        "Beta-VAE",
        ("model.py", "solver.py"),
        lambda code: code[f"BetaVAE_{name}"](z_dim=10, nc=channels),
        lambda model, x, labels: model._encode(x).chunk(2, 1),
        lambda model, z, labels: model._decode(z).sigmoid(),
        loss,
        save,
        image=(64, 64, channels),
        flat=False,
    )


def _higgins(reconstruction: Tensor, divergence: Tensor) -> Tensor:
    return reconstruction + 4 * divergence


def _burgess(reconstruction: Tensor, divergence: Tensor) -> Tensor:
    return reconstruction + 100 * (divergence - 20).abs()


def _disvae(edge: int, channels: int) -> Program:
    """YannDubs/disentangling-vae's model with its default loss."""

    def build(code: Code) -> Any:
        with mock.patch.object(np, "product", np.prod, create=True):  # which NumPy had when this was written
            return code["init_specific_model"]("Burgess", (channels, edge, edge), 10)

    def loss(code: Code, model: Any, batch: Batch) -> Tensor:
        given = {"rec_dist": "bernoulli", "reg_anneal": 10_000, "betaB_initC": 0, "betaB_finC": 25, "betaB_G": 100}
        function = code["get_loss_f"]("betaB", **given)
        return function(batch.x, batch.pixels, (batch.mean, batch.second), is_train=False, storer=None)

    return Program(
        f"YannDubs/disentangling-vae, {edge}x{edge}x{channels}",
        "disentangling-vae",
        tuple(
            f"disvae/{file}.py"
            for file in ("utils/initialization", "models/encoders", "models/decoders", "models/vae", "models/losses")
        ),
        build,
        lambda model, x, labels: model.encoder(x),
        lambda model, z, labels: model.decoder(z),
        loss,
        image=(edge, edge, channels),
        flat=False,
        assigned=("MODELS", "LOSSES", "RECON_DIST"),
    )


def _pythae_mnist() -> Program:
    """pythae's VAE with its convolutional networks for MNIST, and the default loss."""
    fields = pythae("mse")

    def build(code: Code) -> Any:
        config = code["VAEConfig"](input_dim=(1, 28, 28), latent_dim=16)
        return code["VAE"](config, code["Encoder_Conv_VAE_MNIST"](config), code["Decoder_Conv_AE_MNIST"](config))

    pickled = SimpleNamespace(register_pickle_by_value=lambda module: None, dump=lambda network, file: None)
    fields |= {"title": "pythae, VAE with its networks for MNIST", "build": build, "constant": _MSE_CONSTANT}
    fields["files"] += ("src/pythae/models/nn/benchmarks/mnist/convnets.py",)
    fields["names"] |= {"cloudpickle": pickled}  # of the networks' classes, which no import reads
    return Program(**fields)


_MSE_CONSTANT = 392 * float(np.log(2 * np.pi))


def _sksq96_loss(code: Code, model: Any, batch: Batch) -> Tensor:
    """Of two batches, its own 32 images."""
    assert batch.second is not None
    twice = (torch.cat([tensor, tensor]) for tensor in (batch.pixels, batch.x, batch.mean, batch.second))
    return code["loss_fn"](*twice)[0] / 32


PROGRAMS = (
    _konny("H", 1, _higgins),
    _konny("H", 3, _higgins),
    _konny("B", 1, _burgess),
    _konny("B", 3, _burgess),
    _disvae(64, 3),
    _disvae(64, 1),
    _disvae(32, 1),
    _pythae_mnist(),
    Program(
        "sksq96/pytorch-vae, vae.ipynb",
        "pytorch-vae",
        ("vae.ipynb",),
        lambda code: code["VAE"](),
        lambda model, x, labels: model.encoder(x).chunk(2, 1),
        lambda model, z, labels: model.decoder(z),
        summed("loss_fn"),
        given={"network": "layers"},
    ),
    Program(
        "sksq96/pytorch-vae, vae-cnn",
        "pytorch-vae",
        ("vae-cnn.ipynb",),
        lambda code: code["VAE"](),
        lambda model, x, labels: model.encode(x)[1:],
        lambda model, z, labels: model.decode(z),
        _sksq96_loss,
        image=(64, 64, 3),
        flat=False,
    ),
)
