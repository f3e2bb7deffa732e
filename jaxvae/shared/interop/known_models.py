"""The known programs: how each names its tensors, and the loss it trains for.

A program is recognised by the names of its tensors, without the prefixes of wrappers; sizes come from their shapes.
"""

from jaxvae.shared.interop.layered_models import LAYERED, LOGITS, LOGVAR, MEAN, PYTHAE_LOSS, PYTHAE_SHARED
from jaxvae.shared.interop.name_mapping import Laid, Rule
from jaxvae.shared.interop.source import Source

_HIDDEN, _BACK = "encoder.hidden.0.*", "decoder.hidden.0.*"
_SEQUENTIAL = (
    Rule("encoder.{2i}.*", "encoder.hidden.{i}.*"),
    Rule("decoder.{2i}.*", "decoder.hidden.{i}.*"),
    Rule("decoder.{2n}.*", LOGITS),
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


_TIMBMG = (
    Rule("encoder.MLP.L{i}.*", "encoder.hidden.{i}.*"),
    Rule("encoder.linear_means.*", MEAN),
    Rule("encoder.linear_log_var.*", LOGVAR),
    Rule("decoder.MLP.L{i}.*", "decoder.hidden.{i}.*"),
    Rule("decoder.MLP.L{n}.*", LOGITS),
)

SOURCES = (
    Source(
        "pytorch-examples",
        "pytorch/examples' VAE",
        "pytorch-examples",
        (
            Rule("fc1.*", _HIDDEN),
            Rule("fc21.*", MEAN),
            Rule("fc22.*", LOGVAR),
            Rule("fc3.*", _BACK),
            Rule("fc4.*", LOGITS),
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
            Rule("fc2.*", MEAN),
            Rule("fc3.*", LOGVAR),
            Rule("fc4.*", _BACK),
            Rule("fc5.*", LOGITS),
        ),
    ),
    Source(
        "sequential",
        "a pair of nn.Sequential, an autoencoder",
        "autoencoder",
        (*_SEQUENTIAL, Rule("encoder.{2n}.*", MEAN)),
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
            Rule("fc_mu.*", MEAN),
            Rule("fc_var.*", LOGVAR),
            Rule("decoder_input.*", "decoder.input.*"),
            Rule("decoder.{i}.0.*", "decoder.hidden.{i}.conv.*"),
            Rule("decoder.{i}.1.*", "decoder.hidden.{i}.norm.*"),
            Rule("final_layer.0.*", "decoder.hidden.{n-1}.conv.*"),
            Rule("final_layer.1.*", "decoder.hidden.{n-1}.norm.*"),
            Rule("final_layer.3.*", LOGITS),
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
            Rule("encoder.embedding.*", MEAN),
            Rule("encoder.log_var.*", LOGVAR),
            Rule("decoder.layers.{i}.0.*", "decoder.hidden.{i}.*"),
            Rule("decoder.layers.{n}.0.*", LOGITS),
        ),
        counted="encoder.layers.{i}.0.weight",
        loss=PYTHAE_LOSS,
        shared=PYTHAE_SHARED,
    ),
    Source(
        "pyro",
        "Pyro's examples/vae",
        "pytorch-examples",
        (
            Rule("encoder.fc1.*", _HIDDEN),
            Rule("encoder.fc21.*", MEAN),
            Rule("encoder.fc22.*", "encoder.logscale.*"),
            Rule("decoder.fc1.*", _BACK),
            Rule("decoder.fc21.*", LOGITS),
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
            Rule("Encoder.FC_mean.*", MEAN),
            Rule("Encoder.FC_var.*", LOGVAR),
            Rule("Decoder.FC_hidden.*", _BACK),
            Rule("Decoder.FC_hidden2.*", "decoder.hidden.1.*"),
            Rule("Decoder.FC_output.*", LOGITS),
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
            Rule("fc31.*", MEAN),
            Rule("fc32.*", LOGVAR),
            Rule("fc4.*", _BACK),
            Rule("fc5.*", "decoder.hidden.1.*"),
            Rule("fc6.*", LOGITS),
        ),
        depth=2,
    ),
    Source(
        "flax-example",
        "Flax's examples/vae",
        "flax-example",
        (
            Rule("encoder.fc1.*", _HIDDEN, "flax"),
            Rule("encoder.fc2_mean.*", MEAN, "flax"),
            Rule("encoder.fc2_logvar.*", LOGVAR, "flax"),
            Rule("decoder.fc1.*", _BACK, "flax"),
            Rule("decoder.fc2.*", LOGITS, "flax"),
        ),
    ),
    *LAYERED,
    *(source for laid in ("flax", "torch-hwc") for source in _exported(laid)),
)
