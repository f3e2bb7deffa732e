"""The known programs: how each names its tensors, and the loss it trains for.

A program is recognised by the names of its tensors, without the prefixes of wrappers; sizes come from their shapes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from jaxvae.shared.config import layer_words
from jaxvae.shared.config.choices import Output
from jaxvae.shared.config.presets import PRESETS
from jaxvae.shared.config.spec import Spec
from jaxvae.shared.interop.name_mapping import Laid, Rule


class Source(NamedTuple):
    """A known program."""

    name: str
    title: str
    preset: str
    """The preset with the program's layers and loss."""
    rules: tuple[Rule, ...]
    model: tuple[tuple[str, Any], ...] = ()
    """Fields of its model that are otherwise than the preset's, and their values."""
    encoder: tuple[str, ...] = ()
    """The words of its encoder's layers, for the network `layers`, with * for the outputs, which the shapes give."""
    decoder: tuple[str, ...] = ()
    """Those of its decoder."""
    objective: tuple[tuple[str, Any], ...] = ()
    """Fields of its objective that are otherwise than the preset's, and their values."""
    channels: int = 0
    """The channels of its images, where its loss depends on them; 0 for any."""
    counted: str = ""
    """A pattern of tensor names; their number gives that of the hidden layers. Empty where it is `depth`."""
    depth: int = 1
    """Number of hidden layers, where it is always the same."""
    uncounted: int = 0
    """Number of these tensors that belong to no hidden layer."""
    layers: str = ""
    """Assumption about the layers where names and shapes leave them open."""
    loss: str = ""
    """Assumption about the loss where names and shapes leave it open."""
    flag: str = ""
    """The flag that chooses it among programs with the same names; empty if its preset does."""
    shared: str = ""
    """Other programs with the same names, as the object of a sentence."""
    ranges: str = ""
    """Why the pixels' range has to be given, where the program has had more than one."""
    output: Output = "bounded"
    """The output that the program has in any range."""

    def over(self, base: Spec) -> Spec:
        """Return the configuration with the program's own fields of the model, and one output for each *."""
        fields = dict(self.model)
        if self.decoder:
            encoder, decoder = (tuple(w.replace("*", "1") for w in words) for words in (self.encoder, self.decoder))
            fields |= {"network": "layers", "hidden": (), "image": layer_words.image(decoder)}
            fields |= {"encoder": encoder, "decoder": decoder}
        return replace(base, model=replace(base.model, **fields))

    def trained(self) -> Spec:
        """Return the preset with the program's own fields of the objective."""
        base = PRESETS[self.preset]
        return replace(base, objective=replace(base.objective, **dict(self.objective)))


_HIDDEN, _MEAN, _LOGVAR = "encoder.hidden.0.*", "encoder.mean.*", "encoder.logvar.*"
_BACK, _LOGITS = "decoder.hidden.0.*", "decoder.logits.*"
_SEQUENTIAL = (
    Rule("encoder.{2i}.*", "encoder.hidden.{i}.*"),
    Rule("decoder.{2i}.*", "decoder.hidden.{i}.*"),
    Rule("decoder.{2n}.*", _LOGITS),
)

_PYTHAE_LOSS = "without model_config.json beside the file the loss is unknown: mse, pythae's default, is taken"
_PYTHAE_SHARED = (
    "pythae's BetaVAE, DisentangledBetaVAE, BetaTCVAE, IWAE, MIWAE, INFOVAE_MMD and MSSSIM_VAE, which have other losses"
)
_EXPORT_LOSS = "an export doesn't say its loss: that of the preset is taken; give --preset for another"
_EXPORTS = {"flax": "Flax or Orbax", "torch-hwc": "torch"}


def _exported(laid: Laid) -> list[Source]:
    """This project's own exports of a layout, which have no configuration."""

    def source(name: str, title: str, preset: str, layers: list[str], counted: str) -> Source:
        rules = tuple(Rule(f"{layer}.*", f"{layer}.*", laid) for layer in layers)
        counted = f"{counted}.{'kernel' if laid == 'flax' else 'weight'}"
        title = f"{title}, exported to {_EXPORTS[laid]}"
        return Source(f"{name}-{laid}", title, preset, rules, counted=counted, loss=_EXPORT_LOSS)

    ends, hidden = ["encoder.mean", "encoder.logvar", "decoder.logits"], ["encoder.hidden.{i}", "decoder.hidden.{i}"]
    conv = [f"{layer}.{part}" for layer in hidden for part in ("conv", "norm")]
    return [
        source("mlp", "a VAE of this project", "pytorch-examples", [*hidden, *ends], hidden[0]),
        source("conv", "a convolutional VAE of this project", "conv", [*conv, "decoder.input", *ends], conv[0]),
    ]


def _rules(source: str, target: str, places: Sequence[int | str], first: int = 0) -> tuple[Rule, ...]:
    """A rule for each of these places in the source, for the hidden layers from the first one on."""
    return tuple(Rule(source.format(place), target.format(first + i)) for i, place in enumerate(places))


_HALVED, _DOUBLED = "conv*k4s2p1", "up*k4s2p1"
_ENCODER_CONV, _ENCODER_LINEAR = "encoder.hidden.{}.conv.*", "encoder.hidden.{}.linear.*"
_DECODER_CONV, _DECODER_LINEAR = "decoder.hidden.{}.conv.*", "decoder.hidden.{}.linear.*"
_HALVES, _IN_TURN = "encoder.mean.* + encoder.logvar.*", "encoder.mean.* | encoder.logvar.*"
_RELU = (("activation", "relu"),)
_BURGESS: dict[str, Any] = {
    "encoder": (*[_HALVED] * 4, "linear*", "linear*"),
    "decoder": ("linear*", "linear*", "linear4x4x*", *[_DOUBLED] * 4),
}
_HIGGINS: dict[str, Any] = {
    "encoder": (*[_HALVED] * 4, "conv*k4"),
    "decoder": ("linear*", "up*k4", *[_DOUBLED] * 4),
}
_HIGGINS_RULES = (
    *_rules("encoder.{}.*", _ENCODER_CONV, (0, 2, 4, 6, 8)),
    Rule("encoder.11.*", _HALVES),
    *_rules("decoder.{}.*", _DECODER_LINEAR, (0,)),
    *_rules("decoder.{}.*", _DECODER_CONV, (3, 5, 7, 9), 1),
    Rule("decoder.11.*", _LOGITS),
)
_BURGESS_RULES = (
    *_rules("encoder.{}.*", _ENCODER_CONV, (0, 2, 4, 6)),
    *_rules("encoder.{}.*", _ENCODER_LINEAR, (9, 11), 4),
    Rule("encoder.13.*", _HALVES),
    *_rules("decoder.{}.*", _DECODER_LINEAR, (0, 2, 4)),
    *_rules("decoder.{}.*", _DECODER_CONV, (7, 9, 11), 3),
    Rule("decoder.13.*", _LOGITS),
)


def _konny() -> Iterator[Source]:
    """1Konny/Beta-VAE's models, whose likelihood is that of the data set: dSprites' grey images or colour."""
    objectives = {
        "H": (("beta", 4.0),),
        "B": (("form", "capacity"), ("gamma", 100.0), ("capacity", 20.0), ("capacity_steps", 100_000)),
    }
    words = {
        "H": "--beta 4, the default, with",
        "B": "gamma 100 and a capacity of 20 nats, as the repository's script, with",
    }
    pixels = {
        1: ("bernoulli", "cross-entropy of dSprites"),
        3: ("squared-error", "squared error of CelebA and 3dchairs"),
    }
    for name, networks, rules in (("H", _HIGGINS, _HIGGINS_RULES), ("B", _BURGESS, _BURGESS_RULES)):
        for channels, (likelihood, error) in pixels.items():
            yield Source(
                f"beta-vae-{name.lower()}-{channels}",
                f"1Konny/Beta-VAE's BetaVAE_{name}",
                "pytorch-examples",
                rules,
                model=(*_RELU, ("likelihood", likelihood)),
                **networks,
                objective=objectives[name],
                channels=channels,
                loss=f"the tensors don't show its objective: {words[name]} the {error}, is taken; give --preset "
                "pytorch-examples, with its own --beta and --likelihood, for another",
            )


def _disvae(edge: int) -> Source:
    """YannDubs/disentangling-vae's model for images of 64x64 or 32x32 pixels."""
    down, up = ("conv1", "conv2", "conv3", "conv_64"), ("convT_64", "convT1", "convT2")
    less = 0 if edge == 64 else 1
    return Source(
        f"disvae-{edge}",
        f"YannDubs/disentangling-vae's Burgess model of {edge}x{edge} images",
        "pytorch-examples",
        (
            *_rules("encoder.{}.*", _ENCODER_CONV, down[: 4 - less]),
            *_rules("encoder.{}.*", _ENCODER_LINEAR, ("lin1", "lin2"), 4 - less),
            Rule("encoder.mu_logvar_gen.*", _IN_TURN),
            *_rules("decoder.{}.*", _DECODER_LINEAR, ("lin1", "lin2", "lin3")),
            *_rules("decoder.{}.*", _DECODER_CONV, up[less:], 3),
            Rule("decoder.convT3.*", _LOGITS),
        ),
        model=_RELU,
        encoder=_BURGESS["encoder"][less:],
        decoder=_BURGESS["decoder"][: 7 - less],
        objective=(("form", "capacity"), ("gamma", 100.0), ("capacity", 25.0)),
        loss="the tensors don't show its loss: betaB, the default, is taken, with gamma 100 and a capacity of 25 nats; "
        "give --preset pytorch-examples for VAE, and --beta for betaH; factor and btcvae are no losses here",
    )


_LAYERED = (
    *_konny(),
    _disvae(64),
    _disvae(32),
    Source(
        "pythae-mnist",
        "pythae's VAE with Encoder_Conv_VAE_MNIST and Decoder_Conv_AE_MNIST",
        "gaussian",
        (
            *_rules("encoder.layers.{}.0.*", _ENCODER_CONV, range(4)),
            *_rules("encoder.layers.{}.1.*", "encoder.hidden.{}.norm.*", range(4)),
            Rule("encoder.embedding.*", _MEAN),
            Rule("encoder.log_var.*", _LOGVAR),
            *_rules("decoder.layers.{}.*", _DECODER_LINEAR, (0,)),
            *_rules("decoder.layers.{}.0.*", _DECODER_CONV, (1, 2), 1),
            *_rules("decoder.layers.{}.1.*", "decoder.hidden.{}.norm.*", (1, 2), 1),
            Rule("decoder.layers.3.0.*", _LOGITS),
        ),
        model=_RELU,
        encoder=(f"{_HALVED}+norm",) * 4,
        decoder=("linear4x4x*+plain", "up*k3s2p1+norm", "up*k3s2p1o1+norm", "up*k3s2p1o1"),
        loss=_PYTHAE_LOSS,
        shared=_PYTHAE_SHARED,
    ),
    Source(
        "sksq96",
        "sksq96/pytorch-vae's vae.ipynb",
        "pytorch-examples",
        (
            Rule("encoder.0.*", "encoder.hidden.0.linear.*"),
            Rule("encoder.2.*", _HALVES),
            Rule("decoder.0.*", "decoder.hidden.0.linear.*"),
            Rule("decoder.2.*", _LOGITS),
        ),
        model=_RELU,
        encoder=("linear*+leaky-relu-0.2",),
        decoder=("linear*", "linear*"),
        flag="--network layers",
    ),
    Source(
        "sksq96-cnn",
        "sksq96/pytorch-vae's vae-cnn.ipynb",
        "pytorch-examples",
        (
            *_rules("encoder.{}.*", _ENCODER_CONV, (0, 2, 4, 6)),
            Rule("fc1.*", _MEAN),
            Rule("fc2.*", _LOGVAR),
            Rule("fc3.*", "decoder.hidden.0.linear.*"),
            *_rules("decoder.{}.*", _DECODER_CONV, (1, 3, 5), 1),
            Rule("decoder.7.*", _LOGITS),
        ),
        model=_RELU,
        encoder=("conv*k4s2",) * 4,
        decoder=("linear*+plain", "up*k5s2", "up*k5s2", "up*k6s2", "up*k6s2"),
        objective=(("beta", 1 / (32 * 32)),),
        loss="its loss averages the KL divergence over latents too and sums the cross-entropy over the batch: --beta "
        "1/1024, as for its 32 latents in batches of 32, is taken",
    ),
)

_TIMBMG = (
    Rule("encoder.MLP.L{i}.*", "encoder.hidden.{i}.*"),
    Rule("encoder.linear_means.*", _MEAN),
    Rule("encoder.linear_log_var.*", _LOGVAR),
    Rule("decoder.MLP.L{i}.*", "decoder.hidden.{i}.*"),
    Rule("decoder.MLP.L{n}.*", _LOGITS),
)

SOURCES = (
    Source(
        "pytorch-examples",
        "pytorch/examples' VAE",
        "pytorch-examples",
        (
            Rule("fc1.*", _HIDDEN),
            Rule("fc21.*", _MEAN),
            Rule("fc22.*", _LOGVAR),
            Rule("fc3.*", _BACK),
            Rule("fc4.*", _LOGITS),
        ),
        shared="many other programs, such as L1aoXingyu/pytorch-beginner's VAE, whose loss is the summed squared error "
        "(--likelihood squared-error)",
    ),
    Source(
        "yunjey",
        "yunjey/pytorch-tutorial's VAE",
        "yunjey",
        (
            Rule("fc1.*", _HIDDEN),
            Rule("fc2.*", _MEAN),
            Rule("fc3.*", _LOGVAR),
            Rule("fc4.*", _BACK),
            Rule("fc5.*", _LOGITS),
        ),
    ),
    Source(
        "sequential",
        "a pair of nn.Sequential, an autoencoder",
        "autoencoder",
        (*_SEQUENTIAL, Rule("encoder.{2n}.*", _MEAN)),
        counted="encoder.{2i}.weight",
        uncounted=1,
        layers="the names don't show the activations: a ReLU after each layer, the code's too, and a sigmoid at the "
        "end are assumed",
    ),
    Source(
        "sequential-halves",
        "a pair of nn.Sequential, whose encoder gives twice the latents",
        "relu-sigma",
        (*_SEQUENTIAL, Rule("encoder.{2n}.*", "encoder.mean.* + encoder.scale.*")),
        counted="encoder.{2i}.weight",
        uncounted=1,
        layers="the names don't show what the halves are: the first is taken for the mean and the second for sigma, "
        "both after a ReLU; give --posterior gaussian if the second is the log-variance and no ReLU follows",
    ),
    Source(
        "sequential-logvar",
        "a pair of nn.Sequential, whose encoder gives mean and log-variance",
        "pytorch-examples",
        (*_SEQUENTIAL, Rule("encoder.{2n}.*", "encoder.mean.* + encoder.logvar.*")),
        counted="encoder.{2i}.weight",
        uncounted=1,
        layers="the names don't show what the halves are: the first is taken for the mean and the second for the "
        "log-variance, with no ReLU after them; give --posterior relu-sigma if the second is sigma after a ReLU",
    ),
    Source(
        "antixk",
        "AntixK/PyTorch-VAE's VanillaVAE or BetaVAE",
        "conv",
        (
            Rule("encoder.{i}.0.*", "encoder.hidden.{i}.conv.*"),
            Rule("encoder.{i}.1.*", "encoder.hidden.{i}.norm.*"),
            Rule("fc_mu.*", _MEAN),
            Rule("fc_var.*", _LOGVAR),
            Rule("decoder_input.*", "decoder.input.*"),
            Rule("decoder.{i}.0.*", "decoder.hidden.{i}.conv.*"),
            Rule("decoder.{i}.1.*", "decoder.hidden.{i}.norm.*"),
            Rule("final_layer.0.*", "decoder.hidden.{n-1}.conv.*"),
            Rule("final_layer.1.*", "decoder.hidden.{n-1}.norm.*"),
            Rule("final_layer.3.*", _LOGITS),
        ),
        counted="encoder.{i}.0.weight",
        loss="VanillaVAE and BetaVAE have the same tensors: VanillaVAE's loss is taken; give --preset beta-h or beta-b "
        "for that of BetaVAE",
        shared="the same repository's IWAE, MIWAE, InfoVAE, DIPVAE, LogCoshVAE and MSSIMVAE, which have other losses",
        ranges="AntixK/PyTorch-VAE trained on pixels in [-1, 1] until 2021-12-22 and trains on [0, 1] since, with tanh "
        "both times, which the tensors don't show",
        output="tanh",
    ),
    Source(
        "pythae",
        "pythae's VAE",
        "gaussian",
        (
            Rule("encoder.layers.{i}.0.*", "encoder.hidden.{i}.*"),
            Rule("encoder.embedding.*", _MEAN),
            Rule("encoder.log_var.*", _LOGVAR),
            Rule("decoder.layers.{i}.0.*", "decoder.hidden.{i}.*"),
            Rule("decoder.layers.{n}.0.*", _LOGITS),
        ),
        counted="encoder.layers.{i}.0.weight",
        loss=_PYTHAE_LOSS,
        shared=_PYTHAE_SHARED,
    ),
    Source(
        "pyro",
        "Pyro's examples/vae",
        "pytorch-examples",
        (
            Rule("encoder.fc1.*", _HIDDEN),
            Rule("encoder.fc21.*", _MEAN),
            Rule("encoder.fc22.*", "encoder.logscale.*"),
            Rule("decoder.fc1.*", _BACK),
            Rule("decoder.fc21.*", _LOGITS),
        ),
        model=(("activation", "softplus"), ("posterior", "log-sigma")),
        loss="Pyro's Trace_ELBO estimates the KL divergence from the sampled latents, and the loss here has it "
        "exactly; the two are equal in the mean",
    ),
    Source(
        "jackson-kang",
        "Jackson-Kang/Pytorch-VAE-tutorial's VAE",
        "pytorch-examples",
        (
            Rule("Encoder.FC_input.*", _HIDDEN),
            Rule("Encoder.FC_input2.*", "encoder.hidden.1.*"),
            Rule("Encoder.FC_mean.*", _MEAN),
            Rule("Encoder.FC_var.*", _LOGVAR),
            Rule("Decoder.FC_hidden.*", _BACK),
            Rule("Decoder.FC_hidden2.*", "decoder.hidden.1.*"),
            Rule("Decoder.FC_output.*", _LOGITS),
        ),
        model=(("activation", "leaky-relu-0.2"),),
        depth=2,
    ),
    Source(
        "timbmg",
        "timbmg/VAE-CVAE-MNIST's VAE",
        "pytorch-examples",
        _TIMBMG,
        model=(("classes", 0),),
        counted="encoder.MLP.L{i}.weight",
    ),
    Source(
        "timbmg-conditional",
        "timbmg/VAE-CVAE-MNIST's CVAE",
        "conditional",
        _TIMBMG,
        model=(("classes", 10),),
        counted="encoder.MLP.L{i}.weight",
    ),
    Source(
        "lyeoni",
        "lyeoni/pytorch-mnist-VAE",
        "pytorch-examples",
        (
            Rule("fc1.*", _HIDDEN),
            Rule("fc2.*", "encoder.hidden.1.*"),
            Rule("fc31.*", _MEAN),
            Rule("fc32.*", _LOGVAR),
            Rule("fc4.*", _BACK),
            Rule("fc5.*", "decoder.hidden.1.*"),
            Rule("fc6.*", _LOGITS),
        ),
        depth=2,
    ),
    Source(
        "flax-example",
        "Flax's examples/vae",
        "flax-example",
        (
            Rule("encoder.fc1.*", _HIDDEN, "flax"),
            Rule("encoder.fc2_mean.*", _MEAN, "flax"),
            Rule("encoder.fc2_logvar.*", _LOGVAR, "flax"),
            Rule("decoder.fc1.*", _BACK, "flax"),
            Rule("decoder.fc2.*", _LOGITS, "flax"),
        ),
    ),
    *_LAYERED,
    *(source for laid in ("flax", "torch-hwc") for source in _exported(laid)),
)
