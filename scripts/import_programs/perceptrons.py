"""The programs whose networks have linear layers only."""

import dataclasses
import math
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from import_programs.definitions import Code
from import_programs.elbo_trace import DISTRIBUTIONS, ElboTrace
from import_programs.program import Batch, Program, summed

_LOG_2PI = math.log(2 * math.pi)


def _pyro_encode(model: Any, x: Tensor, labels: list[Tensor]) -> tuple[Tensor, Tensor]:
    mean, sigma = model.encoder(x)
    return mean, 2 * sigma.log()


def _pyro_loss(code: Code, model: Any, batch: Batch) -> Tensor:
    return code["pyro"].loss(model.model, model.guide, batch.x, batch.eps) / len(batch.x)


def _yunjey_loss(code: Code, model: Any, batch: Batch) -> Tensor:
    values = {"x": batch.x, "x_reconst": batch.pixels, "mu": batch.mean, "log_var": batch.second}
    return code.evaluate(("reconst_loss", "kl_div", "loss"), **values) / len(batch.x)


def _dragen_loss(code: Code, model: Any, batch: Batch) -> Tensor:
    with mock.patch.object(torch, "randn_like", return_value=batch.eps):
        pixels, divergence = model(batch.x.reshape(-1, 1, 28, 28))
    error = model.criteon(pixels, batch.x.reshape(pixels.shape))
    return code.evaluate(("elbo", "loss"), loss=error, kld=divergence)


def _timbmg(code: Code, **kinds: Any) -> Any:
    return code["VAE"]([784, 256], 2, [256, 784], **kinds)


def pythae(loss: str) -> dict[str, Any]:
    """The fields of pythae's program with one of its losses."""

    def save(code: Code, model: Any, folder: Any) -> Any:
        model.save(str(folder))
        return folder / "model.pt"

    def encode(model: Any, x: Tensor, labels: list[Tensor]) -> tuple[Tensor, Tensor]:
        output = model.encoder(x)
        return output.embedding, output.log_covariance

    return {
        "title": f"pythae, VAE with {loss}",
        "repository": "benchmark_VAE",
        "files": tuple(
            f"src/pythae/{file}.py"
            for file in (
                *("config", "data/datasets", "models/base/base_config", "models/base/base_utils"),
                *("models/nn/base_architectures", "models/nn/default_architectures", "models/base/base_model"),
                *("models/vae/vae_config", "models/vae/vae_model"),
            )
        ),
        "build": lambda code: code["VAE"](
            code["VAEConfig"](input_dim=(1, 28, 28), latent_dim=16, reconstruction_loss=loss)
        ),
        "encode": encode,
        "decode": lambda model, z, labels: model.decoder(z)["reconstruction"],
        "loss": lambda code, model, b: model.loss_function(b.pixels, b.x, b.mean, b.second, b.z)[0],
        "save": save,
        "flat": False,
        "names": {"dataclass": dataclasses.dataclass},  # pydantic's checks the fields' types, too
    }


_EXAMPLES: dict[str, Any] = {
    "build": lambda code: code["VAE"](),
    "encode": lambda model, x, labels: model.encode(x),
    "decode": lambda model, z, labels: model.decode(z),
}
_AUTOENCODER: dict[str, Any] = {
    "encode": lambda model, x, labels: (model.encoder(x), None),
    "decode": lambda model, z, labels: model.decoder(z),
}
_DRAGEN = "lesson55-VAE实战"
_TIMBMG: dict[str, Any] = {
    "repository": "VAE-CVAE-MNIST",
    "files": ("utils.py", "models.py", "train.py"),
    "encode": lambda model, x, labels: model.encoder(x, *labels),
    "decode": lambda model, z, labels: model.inference(z, *labels),
    "loss": lambda code, model, b: code["loss_fn"](b.pixels, b.x, b.mean, b.second),
}

PROGRAMS = (
    Program("pytorch/examples, vae", "examples", ("vae/main.py",), loss=summed("loss_function"), **_EXAMPLES),
    Program(
        "L1aoXingyu/pytorch-beginner, VAE",
        "pytorch-beginner",
        ("08-AutoEncoder/Variational_autoencoder.py",),
        loss=summed("loss_function"),
        given={"likelihood": "squared-error"},
        assigned=("reconstruction_function",),
        **_EXAMPLES,
    ),
    Program(
        "yunjey/pytorch-tutorial, VAE",
        "pytorch-tutorial",
        ("tutorials/03-advanced/variational_autoencoder/main.py",),
        loss=_yunjey_loss,
        **_EXAMPLES,
    ),
    Program(
        "L1aoXingyu/pytorch-beginner, autoencoder",
        "pytorch-beginner",
        ("08-AutoEncoder/simple_autoencoder.py",),
        lambda code: code["autoencoder"](),
        loss=lambda code, model, b: code["criterion"](b.pixels, b.x),
        given={"range": "signed", "posterior": "point"},
        assigned=("criterion",),
        **_AUTOENCODER,
    ),
    Program(
        "dragen1860/Deep-Learning-with-PyTorch-Tutorials, AE",
        "Deep-Learning-with-PyTorch-Tutorials",
        (f"{_DRAGEN}/ae.py", f"{_DRAGEN}/main.py"),
        lambda code: code["AE"](),
        loss=lambda code, model, b: code["criteon"](b.pixels, b.x),
        assigned=("criteon",),
        **_AUTOENCODER,
    ),
    Program(
        "dragen1860/Deep-Learning-with-PyTorch-Tutorials, VAE",
        "Deep-Learning-with-PyTorch-Tutorials",
        (f"{_DRAGEN}/vae.py", f"{_DRAGEN}/main.py"),
        lambda code: code["VAE"](),
        lambda model, x, labels: model.encoder(x).chunk(2, dim=1),
        lambda model, z, labels: model.decoder(z),
        _dragen_loss,
        scale=True,
    ),
    Program(**pythae("mse"), constant=392 * _LOG_2PI),
    Program(**pythae("bce")),
    Program(
        "Pyro, examples/vae",
        "pyro",
        ("examples/vae/vae.py",),
        lambda code: code["VAE"](),
        _pyro_encode,
        lambda model, z, labels: model.decoder(z),
        _pyro_loss,
        objective={"form": "iwae"},
        names={"pyro": ElboTrace(), "dist": DISTRIBUTIONS},
    ),
    Program(
        "Jackson-Kang/Pytorch-VAE-tutorial",
        "Pytorch-VAE-tutorial",
        ("01_Variational_AutoEncoder.ipynb",),
        lambda code: code["Model"](code["Encoder"](784, 400, 200), code["Decoder"](200, 400, 784)),
        lambda model, x, labels: model.Encoder(x),
        lambda model, z, labels: model.Decoder(z),
        summed("loss_function", reverse=True),
    ),
    Program("timbmg/VAE-CVAE-MNIST, VAE", build=_timbmg, **_TIMBMG),
    Program(
        "timbmg/VAE-CVAE-MNIST, CVAE",
        build=lambda code: _timbmg(code, conditional=True, num_labels=10),
        classes=10,
        **_TIMBMG,
    ),
    Program(
        "lyeoni/pytorch-mnist-VAE",
        "pytorch-mnist-VAE",
        ("pytorch-mnist-VAE.ipynb",),
        lambda code: code["VAE"](784, 512, 256, 2),
        lambda model, x, labels: model.encoder(x),
        lambda model, z, labels: model.decoder(z),
        summed("loss_function"),
    ),
)
