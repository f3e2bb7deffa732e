"""Programs whose networks are lists of layers: each means here what it means there and goes back to the byte."""

import json
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

import jaxvae
import torchvae
from jaxvae.shared import cli
from jaxvae.shared.errors import InputError
from jaxvae.shared.interop.known_models import SOURCES

R, C, U, L = nn.ReLU(), nn.Conv2d, nn.ConvTranspose2d, nn.Linear
LATENT, FEATURES = 3, 4  # features that two heads take

pytestmark = pytest.mark.usefixtures("x64")


class Program(NamedTuple):
    """A program's layers by its names, and what is recognised."""

    image: tuple[int, int, int]
    encoder: list[tuple[str, nn.Module] | nn.Module]
    """The trunk, and the last layer or layers after it."""
    split: Callable[[Tensor], tuple[Tensor, Tensor]] | tuple[str, str]
    """Mean and log-variance of the encoder's output, or the names of the layers that give them."""
    decoder: list[tuple[str, nn.Module] | nn.Module]
    words: tuple[str, str]
    loss: dict[str, Any]
    network: str | None = None
    """The flag that chooses it among programs with the same names."""


def halves(h: Tensor) -> tuple[Tensor, Tensor]:
    return h[:, :LATENT], h[:, LATENT:]


def in_turn(h: Tensor) -> tuple[Tensor, Tensor]:
    return h[:, ::2], h[:, 1::2]


def named(pattern: str, places: Any, *layers: nn.Module, after: tuple[nn.Module, ...] = (R,)) -> list:
    """Layers with these places in their names, each followed by ReLU."""
    return [part for at, layer in zip(places, layers, strict=True) for part in ((pattern.format(at), layer), *after)]


def batch_norm(channels: int) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels)
    for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
        assert tensor is not None
        nn.init.uniform_(tensor, 0.5, 1.5)
    return norm


FLAT = nn.Flatten()
PROGRAMS: dict[str, Callable[[], Program]] = {
    "beta-vae-h-1": lambda: Program(
        (64, 64, 1),
        [
            *named(
                "encoder.{}",
                (0, 2, 4, 6, 8),
                C(1, 2, 4, 2, 1),
                C(2, 3, 4, 2, 1),
                C(3, 2, 4, 2, 1),
                C(2, 2, 4, 2, 1),
                C(2, 5, 4),
            ),
            FLAT,
            ("encoder.11", L(5, 2 * LATENT)),
        ],
        halves,
        [
            *named("decoder.{}", (0,), L(LATENT, 4)),
            nn.Unflatten(1, (4, 1, 1)),
            *named("decoder.{}", (3, 5, 7, 9), U(4, 2, 4), U(2, 3, 4, 2, 1), U(3, 2, 4, 2, 1), U(2, 2, 4, 2, 1)),
            ("decoder.11", U(2, 1, 4, 2, 1)),
        ],
        (
            "conv2k4s2p1 conv3k4s2p1 conv2k4s2p1 conv2k4s2p1 conv5k4",
            "linear4 up2k4 up3k4s2p1 up2k4s2p1 up2k4s2p1 up1k4s2p1",
        ),
        {"form": "elbo", "beta": 4.0, "likelihood": "bernoulli"},
    ),
    "beta-vae-b-3": lambda: Program(
        (64, 64, 3),
        [
            *named("encoder.{}", (0, 2, 4, 6), C(3, 2, 4, 2, 1), C(2, 3, 4, 2, 1), C(3, 2, 4, 2, 1), C(2, 2, 4, 2, 1)),
            FLAT,
            *named("encoder.{}", (9, 11), L(32, 5), L(5, 4)),
            ("encoder.13", L(4, 2 * LATENT)),
        ],
        halves,
        [
            *named("decoder.{}", (0, 2, 4), L(LATENT, 4), L(4, 5), L(5, 32)),
            nn.Unflatten(1, (2, 4, 4)),
            *named("decoder.{}", (7, 9, 11), U(2, 3, 4, 2, 1), U(3, 2, 4, 2, 1), U(2, 2, 4, 2, 1)),
            ("decoder.13", U(2, 3, 4, 2, 1)),
        ],
        (
            "conv2k4s2p1 conv3k4s2p1 conv2k4s2p1 conv2k4s2p1 linear5 linear4",
            "linear4 linear5 linear4x4x2 up3k4s2p1 up2k4s2p1 up2k4s2p1 up3k4s2p1",
        ),
        {"form": "capacity", "gamma": 100.0, "capacity": 20.0, "likelihood": "squared-error"},
    ),
    "disvae-32": lambda: Program(
        (32, 32, 2),
        [
            *named("encoder.conv{}", (1, 2, 3), C(2, 2, 4, 2, 1), C(2, 3, 4, 2, 1), C(3, 2, 4, 2, 1)),
            FLAT,
            *named("encoder.lin{}", (1, 2), L(32, 5), L(5, 4)),
            ("encoder.mu_logvar_gen", L(4, 2 * LATENT)),
        ],
        in_turn,
        [
            *named("decoder.lin{}", (1, 2, 3), L(LATENT, 4), L(4, 5), L(5, 32)),
            nn.Unflatten(1, (2, 4, 4)),
            *named("decoder.convT{}", (1, 2), U(2, 3, 4, 2, 1), U(3, 2, 4, 2, 1)),
            ("decoder.convT3", U(2, 2, 4, 2, 1)),
        ],
        (
            "conv2k4s2p1 conv3k4s2p1 conv2k4s2p1 linear5 linear4",
            "linear4 linear5 linear4x4x2 up3k4s2p1 up2k4s2p1 up2k4s2p1",
        ),
        {"form": "capacity", "gamma": 100.0, "capacity": 25.0, "likelihood": "bernoulli"},
    ),
    "pythae-mnist": lambda: Program(
        (28, 28, 1),
        [
            *(
                part
                for i, (a, b) in enumerate(((1, 2), (2, 3), (3, 2), (2, 4)))
                for part in (
                    (f"encoder.layers.{i}.0", C(a, b, 4, 2, 1)),
                    (f"encoder.layers.{i}.1", batch_norm(b)),
                    R,
                )
            ),
            FLAT,
        ],
        ("encoder.embedding", "encoder.log_var"),
        [
            ("decoder.layers.0", L(LATENT, 48)),
            nn.Unflatten(1, (3, 4, 4)),
            ("decoder.layers.1.0", U(3, 2, 3, 2, 1)),
            ("decoder.layers.1.1", batch_norm(2)),
            R,
            ("decoder.layers.2.0", U(2, 3, 3, 2, 1, 1)),
            ("decoder.layers.2.1", batch_norm(3)),
            R,
            ("decoder.layers.3.0", U(3, 1, 3, 2, 1, 1)),
        ],
        (
            "conv2k4s2p1+norm conv3k4s2p1+norm conv2k4s2p1+norm conv4k4s2p1+norm",
            "linear4x4x3+plain up2k3s2p1+norm up3k3s2p1o1+norm up1k3s2p1o1",
        ),
        {"form": "elbo", "beta": 1.0, "likelihood": "gaussian"},
    ),
    "sksq96": lambda: Program(
        (6, 6, 1),
        [FLAT, ("encoder.0", L(36, 5)), nn.LeakyReLU(0.2), ("encoder.2", L(5, 2 * LATENT))],
        halves,
        [*named("decoder.{}", (0,), L(LATENT, 5)), ("decoder.2", L(5, 36)), nn.Unflatten(1, (1, 6, 6))],
        ("linear5+leaky-relu-0.2", "linear5 linear36"),
        {"form": "elbo", "beta": 1.0, "likelihood": "bernoulli"},
        "layers",
    ),
    "sksq96-cnn": lambda: Program(
        (64, 64, 3),
        [*named("encoder.{}", (0, 2, 4, 6), C(3, 2, 4, 2), C(2, 3, 4, 2), C(3, 2, 4, 2), C(2, 1, 4, 2)), FLAT],
        ("fc1", "fc2"),
        [
            ("fc3", L(LATENT, 4)),
            nn.Unflatten(1, (4, 1, 1)),
            *named("decoder.{}", (1, 3, 5), U(4, 2, 5, 2), U(2, 3, 5, 2), U(3, 2, 6, 2)),
            ("decoder.7", U(2, 3, 6, 2)),
        ],
        ("conv2k4s2 conv3k4s2 conv2k4s2 conv1k4s2", "linear4+plain up2k5s2 up3k5s2 up2k6s2 up3k6s2"),
        {"form": "elbo", "beta": 1 / 1024, "likelihood": "bernoulli"},
    ),
}


class Net:
    """The program's own computation, in float64 and in evaluation mode."""

    def __init__(self, name: str) -> None:
        torch.manual_seed(0)
        self.program = PROGRAMS[name]()
        self.layers = dict(part for part in (*self.program.encoder, *self.program.decoder) if isinstance(part, tuple))
        if isinstance(self.program.split, tuple):
            self.layers |= {head: L(FEATURES, LATENT) for head in self.program.split}
        for layer in self.layers.values():
            layer.double().eval()

    def state(self) -> dict[str, Tensor]:
        return {f"{name}.{key}": t for name, layer in self.layers.items() for key, t in layer.state_dict().items()}

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self._run(self.program.encoder, x)
        if isinstance(self.program.split, tuple):
            mean, logvar = (self.layers[head](h) for head in self.program.split)
            return mean, logvar
        return self.program.split(h)

    def decode(self, z: Tensor) -> Tensor:
        return self._run(self.program.decoder, z)

    @staticmethod
    def _run(parts: list, h: Tensor) -> Tensor:
        for part in parts:
            h = part[1](h) if isinstance(part, tuple) else part(h)
        return h


@pytest.mark.parametrize("name", PROGRAMS)
@torch.no_grad()
def test_a_program_means_here_what_it_means_there(name: str, tmp_path, capsys) -> None:
    net, path = Net(name), tmp_path / "model.safetensors"
    safetensors.torch.save_file(net.state(), path, {"format": "pt"})
    height, width, channels = net.program.image
    spec, model = torchvae.load_foreign(path, network=net.program.network)
    encoder, decoder = (tuple(words.split()) for words in net.program.words)
    assert (spec.model.image, spec.model.latent, spec.model.hidden) == (net.program.image, LATENT, ())
    assert (spec.model.encoder, spec.model.decoder, spec.model.activation) == (encoder, decoder, "relu")
    given = {
        field: getattr(spec.model if field == "likelihood" else spec.objective, field) for field in net.program.loss
    }
    assert given == net.program.loss

    rng = np.random.default_rng(0)
    x, z = torch.tensor(rng.uniform(size=(2, channels, height, width))), torch.tensor(rng.normal(size=(2, LATENT)))
    posterior = torchvae.encode(spec, model, x.permute(0, 2, 3, 1).flatten(1))
    for actual, expected in zip(posterior, net.encode(x), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)
    expected = net.decode(z).permute(0, 2, 3, 1).flatten(1)
    torch.testing.assert_close(torchvae.decode(spec, model, z).logits, expected, rtol=1e-12, atol=1e-12)

    in_jax = jaxvae.to_arrays(spec, jaxvae.load_foreign(path, network=net.program.network)[1])
    for array, expected in torchvae.to_arrays(spec, model).items():
        np.testing.assert_array_equal(in_jax[array], expected, err_msg=array)
    flags = [] if net.program.network is None else ["--network", net.program.network]
    assert cli.main(jaxvae, ["import", str(path), "--out", str(tmp_path / "run"), *flags]) == 0
    printed = capsys.readouterr().out
    own = dict(next(source.objective for source in SOURCES if source.name == name))
    assert ("but for the notes below" in printed) == bool(own)
    assert f"encoder {net.program.words[0]}, decoder {net.program.words[1]}, latent {LATENT}" in printed
    assert (
        cli.main(jaxvae, ["export", str(tmp_path / "run"), "--format", "source", "--out", str(tmp_path / "back")]) == 0
    )
    assert (tmp_path / "back").read_bytes() == path.read_bytes()


def test_the_flag_that_chooses_one_of_two_programs_is_printed(tmp_path, capsys) -> None:
    safetensors.torch.save_file(Net("sksq96").state(), tmp_path / "file")
    assert cli.main(torchvae, ["import", str(tmp_path / "file"), "--out", str(tmp_path / "run")]) == 0
    assert "they fit sksq96/pytorch-vae's vae.ipynb, too (--network layers)" in capsys.readouterr().out


def test_every_layered_program_is_tested_here_or_has_the_rules_of_one_that_is() -> None:
    layered = {source.name: source for source in SOURCES if source.decoder}
    tested = {(layered[name].rules, layered[name].encoder) for name in PROGRAMS}
    assert set(PROGRAMS) <= set(layered)
    others = [name for name, source in layered.items() if (source.rules, source.encoder) not in tested]
    assert others == ["disvae-64"]  # one convolution more in each network


@pytest.mark.parametrize(
    ("drop", "says"),
    [
        (lambda state: state, "its images should have 1 channels, found 2"),
        (
            lambda state: {**state, "decoder.7.weight": torch.zeros(2, 3, 5, 5)},
            "decoder.7.weight should be [2, 3, 4, 4]",
        ),
        (
            lambda state: {**state, "encoder.0.weight": torch.zeros(2, 9, 4, 4)},
            "encoder.0.weight should be [2, 2, 4, 4]",
        ),
    ],
)
def test_what_does_not_fit_a_programs_layers_is_refused_in_a_sentence(drop, says: str, tmp_path) -> None:
    net = Net("beta-vae-b-3")
    state = net.state() | {"encoder.0.weight": torch.zeros(2, 2, 4, 4), "decoder.13.weight": torch.zeros(2, 2, 4, 4)}
    state |= {"decoder.13.bias": torch.zeros(2)}
    safetensors.torch.save_file(drop(state), tmp_path / "file")
    with pytest.raises(InputError, match=re.escape(says)):
        torchvae.load_foreign(tmp_path / "file")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["--image", "32", "32", "3"], "has images of 64 64 3, not 32 32 3; give --image 64 64 3."),
        (
            ["--encoder", "linear3"],
            "which a model with --encoder linear3 doesn't have; give --preset one of pytorch-ex",
        ),
        (["--encoder", "linear3"], "iwae, and no flag for other layers; for a model of your own"),
    ],
)
def test_flags_that_do_not_fit_a_program_are_refused_in_a_sentence(given, says: str, tmp_path, capsys) -> None:
    safetensors.torch.save_file(Net("beta-vae-b-3").state(), tmp_path / "file")
    assert cli.main(torchvae, ["import", str(tmp_path / "file"), "--out", str(tmp_path / "run"), *given]) == 2
    assert says in capsys.readouterr().err


def test_a_preset_that_does_not_go_with_the_program_that_fits_is_the_reason_told(tmp_path, capsys) -> None:
    """Not the channels of the same program's other model, with which it goes."""
    safetensors.torch.save_file(Net("beta-vae-h-1").state(), tmp_path / "file")
    out = str(tmp_path / "run")
    assert cli.main(torchvae, ["import", str(tmp_path / "file"), "--out", out, "--preset", "conv"]) == 2
    assert "a Bernoulli likelihood needs pixels in [0, 1]" in capsys.readouterr().err


TABLE = {
    "rules": {
        "down.{i}.*": "encoder.hidden.{i}.conv.*",
        "both.*": "encoder.mean.* | encoder.logvar.*",
        "up.*": "decoder.hidden.0.linear.*",
        "out.{2n}.*": "decoder.logits.*",
    },
    "network": "layers",
    "encoder": ["conv3k3s2"],
    "decoder": ["linear5", "linear98"],
    "image": [7, 7, 2],
}


@torch.no_grad()
def test_a_table_of_names_has_the_words_of_a_model_of_ones_own(tmp_path) -> None:
    torch.manual_seed(0)
    layers = {"down.0": C(2, 3, 3, 2), "both": L(27, 4), "up": L(2, 5), "out.2": L(5, 98)}
    state = {f"{name}.{key}": t for name, layer in layers.items() for key, t in layer.state_dict().items()}
    safetensors.torch.save_file(state, tmp_path / "file")
    (tmp_path / "table.json").write_text(json.dumps(TABLE))
    spec, model = torchvae.load_foreign(tmp_path / "file", table=tmp_path / "table.json")
    assert (spec.model.image, spec.model.latent, spec.model.encoder) == ((7, 7, 2), 2, ("conv3k3s2",))
    x, z = torch.rand(2, 2, 7, 7), torch.randn(2, 2)
    both = layers["both"](layers["down.0"](x).relu().flatten(1))
    posterior = torchvae.encode(spec, model, x.permute(0, 2, 3, 1).flatten(1))
    torch.testing.assert_close(posterior.mean, both[:, ::2])
    torch.testing.assert_close(posterior.logvar, both[:, 1::2])  # type: ignore[union-attr]
    out = layers["out.2"](layers["up"](z).relu()).reshape(2, 2, 7, 7).permute(0, 2, 3, 1).flatten(1)
    torch.testing.assert_close(torchvae.decode(spec, model, z).logits, out)
    state["both.weight"] = state["both.weight"].reshape(4, 3, 3, 3)  # a head that is a convolution
    safetensors.torch.save_file(state, tmp_path / "convolution")
    with pytest.raises(InputError, match=r"both.weight should have 2 axes.*\[4, 3, 3, 3\]; correct the table, or save"):
        torchvae.load_foreign(tmp_path / "convolution", table=tmp_path / "table.json")
    (tmp_path / "table.json").write_text(json.dumps(TABLE | {"rules": {"down.*": "encoder.hidden.0.*"}}))
    with pytest.raises(InputError, match=r"the model has encoder.hidden.0.conv, encoder.mean, .*, decoder.logits"):
        torchvae.load_foreign(tmp_path / "file", table=tmp_path / "table.json")
