"""The models that `import` knows, written with their original parameter names. Nothing here calls the packages.

`encode` takes flattened images, `decode` returns the mean of each pixel, both in the program's own order.
"""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from flax import linen, serialization
from torch import Tensor, nn

from parity_tests.support.reference_models import AntixK, Sizes


class Examples(nn.Module):
    """pytorch/examples, vae/main.py."""

    def __init__(self, pixels: int, hidden: int, latent: int):
        super().__init__()
        self.fc1, self.fc21, self.fc22 = nn.Linear(pixels, hidden), nn.Linear(hidden, latent), nn.Linear(hidden, latent)
        self.fc3, self.fc4 = nn.Linear(latent, hidden), nn.Linear(hidden, pixels)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h1 = self.fc1(x).relu()
        return self.fc21(h1), self.fc22(h1)

    def decode(self, z: Tensor) -> Tensor:
        return self.fc4(self.fc3(z).relu()).sigmoid()


class Yunjey(nn.Module):
    """yunjey/pytorch-tutorial, variational_autoencoder/main.py."""

    def __init__(self, pixels: int, hidden: int, latent: int):
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(pixels, hidden), nn.Linear(hidden, latent), nn.Linear(hidden, latent)
        self.fc4, self.fc5 = nn.Linear(latent, hidden), nn.Linear(hidden, pixels)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.fc1(x).relu()
        return self.fc2(h), self.fc3(h)

    def decode(self, z: Tensor) -> Tensor:
        return self.fc5(self.fc4(z).relu()).sigmoid()


class Pair(nn.Module):
    """An nn.Sequential as encoder and one as decoder; with `halves`, the code is the mean followed by sigma."""

    def __init__(self, pixels: int, hidden: tuple[int, ...], latent: int, halves: bool = False):
        super().__init__()

        def chain(widths: tuple[int, ...], last: nn.Module) -> nn.Sequential:
            layers = [m for i, o in itertools.pairwise(widths) for m in (nn.Linear(i, o), nn.ReLU())]
            return nn.Sequential(*layers[:-1], last)

        self.halves = halves
        self.encoder = chain((pixels, *hidden, latent * (2 if halves else 1)), nn.ReLU())
        self.decoder = chain((latent, *reversed(hidden), pixels), nn.Sigmoid())

    def encode(self, x: Tensor) -> tuple[Tensor, ...]:
        return self.encoder(x).chunk(2, -1) if self.halves else (self.encoder(x),)

    def decode(self, z: Tensor) -> Tensor:
        return self.decoder(z)


class PythaeHalf(nn.Module):
    """pythae's default encoder or decoder: a ModuleList of Sequentials."""

    def __init__(self, widths: tuple[int, ...], heads: tuple[str, ...] = (), latent: int = 0):
        super().__init__()
        pairs = list(itertools.pairwise(widths))
        ends = [nn.ReLU() if heads or i < len(pairs) - 1 else nn.Sigmoid() for i in range(len(pairs))]
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(*pair), end) for pair, end in zip(pairs, ends, strict=True))
        for head in heads:
            setattr(self, head, nn.Linear(widths[-1], latent))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


class Pythae(nn.Module):
    """pythae's VAE, which creates its decoder first."""

    def __init__(self, pixels: int, hidden: tuple[int, ...], latent: int):
        super().__init__()
        self.decoder = PythaeHalf((latent, *reversed(hidden), pixels))
        self.encoder = PythaeHalf((pixels, *hidden), ("embedding", "log_var"), latent)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.encoder(x)
        return self.encoder.embedding(h), self.encoder.log_var(h)  # type: ignore[operator]

    def decode(self, z: Tensor) -> Tensor:
        return self.decoder(z)


class Convolutional(AntixK):
    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        height, width, channels = self.image
        h = self.encoder(x.reshape(-1, channels, height, width)).flatten(1)
        return self.fc_mu(h), self.fc_var(h)

    def decode(self, z: Tensor) -> Tensor:
        h = self.decoder_input(z).view(len(z), -1, self.edge, self.edge)
        return self.final_layer(self.decoder(h)).flatten(1)


class Perceptrons(nn.Module):
    """Linear layers of any names, the same activation after each hidden one: those of the encoder, of its two heads, of
    the decoder and of its output. With classes the one-hot label follows the pixels and the latents."""

    def __init__(
        self,
        widths: tuple[int, ...],
        names: tuple[str, str, str, str],
        activation: Callable[[Tensor], Tensor] = torch.relu,
        classes: int = 0,
        log_sigma: bool = False,
    ):
        super().__init__()
        self.names, self.activation, self.classes, self.log_sigma = names, activation, classes, log_sigma
        pixels, *hidden, latent = widths
        down, up = [pixels + classes, *hidden], [latent + classes, *reversed(hidden)]
        sizes = [*itertools.pairwise(down), *2 * [(down[-1], latent)], *itertools.pairwise(up), (up[-1], pixels)]
        for name, size in zip(" ".join(names).split(), sizes, strict=True):
            *folders, last = name.split(".")
            module: nn.Module = self
            for folder in folders:
                if folder not in module._modules:
                    module.add_module(folder, nn.Module())
                module = module.get_submodule(folder)
            module.add_module(last, nn.Linear(*size))

    def hidden(self, names: str, x: Tensor, labels: Tensor | None) -> Tensor:
        x = x if labels is None else torch.cat([x, nn.functional.one_hot(labels, self.classes).to(x)], -1)
        for name in names.split():
            x = self.activation(self.get_submodule(name)(x))
        return x

    def encode(self, x: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        h = self.hidden(self.names[0], x, labels)
        mean, second = (self.get_submodule(name)(h) for name in self.names[1].split())
        return mean, (second.exp() ** 2).log() if self.log_sigma else second

    def decode(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.get_submodule(self.names[3])(self.hidden(self.names[2], z, labels)).sigmoid()


PYRO = "encoder.fc1", "encoder.fc21 encoder.fc22", "decoder.fc1", "decoder.fc21"
JACKSON_KANG = (
    *("Encoder.FC_input Encoder.FC_input2", "Encoder.FC_mean Encoder.FC_var"),
    *("Decoder.FC_hidden Decoder.FC_hidden2", "Decoder.FC_output"),
)
TIMBMG = "encoder.MLP.L0", "encoder.linear_means encoder.linear_log_var", "decoder.MLP.L0", "decoder.MLP.L1"
LYEONI = "fc1 fc2", "fc31 fc32", "fc4 fc5", "fc6"


class FlaxEncoder(linen.Module):
    hidden: int
    latents: int

    @linen.compact
    def __call__(self, x: Any) -> Any:
        h = linen.relu(linen.Dense(self.hidden, name="fc1", param_dtype=x.dtype)(x))
        return tuple(linen.Dense(self.latents, name=f"fc2_{n}", param_dtype=x.dtype)(h) for n in ("mean", "logvar"))


class FlaxDecoder(linen.Module):
    hidden: int
    pixels: int

    @linen.compact
    def __call__(self, z: Any) -> Any:
        h = linen.relu(linen.Dense(self.hidden, name="fc1", param_dtype=z.dtype)(z))
        return linen.sigmoid(linen.Dense(self.pixels, name="fc2", param_dtype=z.dtype)(h))


class Known(NamedTuple):
    """A program's model at sizes other than its defaults."""

    build: Any
    """Makes the torch module; None for Flax, whose parameters are separate."""
    preset: str
    image: tuple[int, int, int]
    hidden: tuple[int, ...]
    latent: int
    classes: int = 0


KNOWN = {
    "pytorch-examples": Known(lambda: Examples(36, 7, 3), "pytorch-examples", (6, 6, 1), (7,), 3),
    "in colour": Known(lambda: Examples(75, 7, 3), "pytorch-examples", (5, 5, 3), (7,), 3),
    "yunjey": Known(lambda: Yunjey(25, 6, 2), "yunjey", (5, 5, 1), (6,), 2),
    "sequential": Known(lambda: Pair(36, (8, 5), 4), "autoencoder", (6, 6, 1), (8, 5), 4),
    "sequential of one": Known(lambda: Pair(36, (8,), 4), "autoencoder", (6, 6, 1), (8,), 4),
    "sequential-halves": Known(lambda: Pair(36, (8, 5, 6), 4, True), "relu-sigma", (6, 6, 1), (8, 5, 6), 4),
    "antixk": Known(lambda: Convolutional(Sizes((16, 16, 3), (4, 6, 5), 3)), "conv", (16, 16, 3), (4, 6, 5), 3),
    "antixk of one": Known(lambda: Convolutional(Sizes((6, 6, 1), (4,), 3)), "conv", (6, 6, 1), (4,), 3),
    "pythae": Known(lambda: Pythae(36, (7,), 3), "gaussian", (6, 6, 1), (7,), 3),
    "pythae of two": Known(lambda: Pythae(36, (7, 5), 3), "gaussian", (6, 6, 1), (7, 5), 3),
    "pyro": Known(
        lambda: Perceptrons((36, 7, 3), PYRO, nn.functional.softplus, log_sigma=True),
        *("pytorch-examples", (6, 6, 1), (7,), 3),
    ),
    "jackson-kang": Known(
        lambda: Perceptrons((36, 7, 5, 3), JACKSON_KANG, nn.LeakyReLU(0.2)),
        *("pytorch-examples", (6, 6, 1), (7, 5), 3),
    ),
    "timbmg": Known(lambda: Perceptrons((36, 7, 3), TIMBMG), "pytorch-examples", (6, 6, 1), (7,), 3),
    "timbmg conditional": Known(
        lambda: Perceptrons((36, 7, 3), TIMBMG, classes=10), "conditional", (6, 6, 1), (7,), 3, classes=10
    ),
    "lyeoni": Known(lambda: Perceptrons((36, 7, 5, 3), LYEONI), "pytorch-examples", (6, 6, 1), (7, 5), 3),
    "flax-example": Known(None, "flax-example", (5, 5, 3), (7,), 2),
}


def torch_model(name: str, dtype: str = "float32") -> Any:
    """Make a known program's module with random tensors, running statistics included."""
    model = KNOWN[name].build().to(getattr(torch, dtype)).eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for key, tensor in model.state_dict().items():
            if key.endswith("num_batches_tracked"):
                tensor.fill_(7)
            else:
                positive = key.endswith("running_var")
                drawn = torch.rand(tensor.shape, generator=generator) * (1.0 if positive else 1.2) - 0.6 * (
                    not positive
                )
                tensor.copy_(drawn + 0.5 * positive)
    return model


def flax_params(dtype: str = "float32") -> dict[str, Any]:
    """Return random Flax parameters, nested as in `VAE.init(...)["params"]`."""
    known, rng = KNOWN["flax-example"], np.random.default_rng(3)
    (hidden,), pixels, latent = known.hidden, int(np.prod(known.image)), known.latent
    shapes = {
        "encoder": {"fc1": (pixels, hidden), "fc2_mean": (hidden, latent), "fc2_logvar": (hidden, latent)},
        "decoder": {"fc1": (latent, hidden), "fc2": (hidden, pixels)},
    }

    def layer(inputs: int, outputs: int) -> dict[str, np.ndarray]:
        bias, kernel = rng.uniform(-0.6, 0.6, outputs), rng.uniform(-0.6, 0.6, (inputs, outputs))
        return {"bias": bias.astype(dtype), "kernel": kernel.astype(dtype)}

    return {half: {name: layer(*shape) for name, shape in layers.items()} for half, layers in shapes.items()}


def flax_file(params: dict[str, Any]) -> bytes:
    return serialization.to_bytes(params)


def answers(name: str, dtype: str, x: np.ndarray, z: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
    """Run the program's own model.

    Args:
        name: A key of `KNOWN`.
        dtype: "float32" or "float64".
        x: Images `[n, height, width, channels]`.
        z: Latents `[n, latent]`. A model with classes takes the label i for image and latent i.

    Returns:
        The parts of its posterior, and its pixel means as images `[n, height, width, channels]`.
    """
    known = KNOWN[name]
    if name == "flax-example":
        params = flax_params(dtype)
        encoder, decoder = FlaxEncoder(known.hidden[0], known.latent), FlaxDecoder(known.hidden[0], x[0].size)
        parts = encoder.apply({"params": params["encoder"]}, x.reshape(len(x), -1))
        means = decoder.apply({"params": params["decoder"]}, z)
        return [np.asarray(part) for part in parts], np.asarray(means).reshape(x.shape)
    model, channels_first = torch_model(name, dtype), torch.tensor(x).permute(0, 3, 1, 2)
    labels = [torch.arange(len(x))] if known.classes else []
    with torch.no_grad():
        parts = model.encode(channels_first.flatten(1), *labels)
        means = model.decode(torch.tensor(z), *labels).reshape(channels_first.shape).permute(0, 2, 3, 1)
    return [part.numpy() for part in parts], means.numpy()
