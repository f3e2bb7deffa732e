"""The known programs whose networks are lists of layers, with convolutions or more than one activation."""

from collections.abc import Iterator, Sequence
from typing import Any

from jaxvae.shared.interop.name_mapping import Rule
from jaxvae.shared.interop.source import Source

MEAN, LOGVAR, LOGITS = "encoder.mean.*", "encoder.logvar.*", "decoder.logits.*"
PYTHAE_LOSS = "without model_config.json beside the file the loss is unknown: mse, pythae's default, is taken"
PYTHAE_SHARED = (
    "pythae's BetaVAE, DisentangledBetaVAE, BetaTCVAE, IWAE, MIWAE, INFOVAE_MMD and MSSSIM_VAE, which have other losses"
)


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
    Rule("decoder.11.*", LOGITS),
)
_BURGESS_RULES = (
    *_rules("encoder.{}.*", _ENCODER_CONV, (0, 2, 4, 6)),
    *_rules("encoder.{}.*", _ENCODER_LINEAR, (9, 11), 4),
    Rule("encoder.13.*", _HALVES),
    *_rules("decoder.{}.*", _DECODER_LINEAR, (0, 2, 4)),
    *_rules("decoder.{}.*", _DECODER_CONV, (7, 9, 11), 3),
    Rule("decoder.13.*", LOGITS),
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
            Rule("decoder.convT3.*", LOGITS),
        ),
        model=_RELU,
        encoder=_BURGESS["encoder"][less:],
        decoder=_BURGESS["decoder"][: 7 - less],
        objective=(("form", "capacity"), ("gamma", 100.0), ("capacity", 25.0)),
        loss="the tensors don't show its loss: betaB, the default, is taken, with gamma 100 and a capacity of 25 nats; "
        "give --preset pytorch-examples for VAE, and --beta for betaH; factor and btcvae are no losses here",
    )


LAYERED = (
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
            Rule("encoder.embedding.*", MEAN),
            Rule("encoder.log_var.*", LOGVAR),
            *_rules("decoder.layers.{}.*", _DECODER_LINEAR, (0,)),
            *_rules("decoder.layers.{}.0.*", _DECODER_CONV, (1, 2), 1),
            *_rules("decoder.layers.{}.1.*", "decoder.hidden.{}.norm.*", (1, 2), 1),
            Rule("decoder.layers.3.0.*", LOGITS),
        ),
        model=_RELU,
        encoder=(f"{_HALVED}+norm",) * 4,
        decoder=("linear4x4x*+plain", "up*k3s2p1+norm", "up*k3s2p1o1+norm", "up*k3s2p1o1"),
        loss=PYTHAE_LOSS,
        shared=PYTHAE_SHARED,
    ),
    Source(
        "sksq96",
        "sksq96/pytorch-vae's vae.ipynb",
        "pytorch-examples",
        (
            Rule("encoder.0.*", "encoder.hidden.0.linear.*"),
            Rule("encoder.2.*", _HALVES),
            Rule("decoder.0.*", "decoder.hidden.0.linear.*"),
            Rule("decoder.2.*", LOGITS),
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
            Rule("fc1.*", MEAN),
            Rule("fc2.*", LOGVAR),
            Rule("fc3.*", "decoder.hidden.0.linear.*"),
            *_rules("decoder.{}.*", _DECODER_CONV, (1, 3, 5), 1),
            Rule("decoder.7.*", LOGITS),
        ),
        model=_RELU,
        encoder=("conv*k4s2",) * 4,
        decoder=("linear*+plain", "up*k5s2", "up*k5s2", "up*k6s2", "up*k6s2"),
        objective=(("beta", 1 / (32 * 32)),),
        loss="its loss averages the KL divergence over latents too and sums the cross-entropy over the batch: --beta "
        "1/1024, as for its 32 latents in batches of 32, is taken",
    ),
)
