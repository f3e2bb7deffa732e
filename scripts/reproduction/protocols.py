"""The protocols: configuration, expected results with sources, and cost."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from jaxvae.shared.config.choices import Form
from jaxvae.shared.config.parts import ObjectiveSpec
from jaxvae.shared.config.presets import preset
from jaxvae.shared.config.spec import Spec
from reproduction.expected import Band, around
from reproduction.results import SHARE, Finished, at, beside_pca, by_class, likelihood, nll, terms

SAMPLES = 5000  # of the paper's log-likelihoods
STAGES = 8  # of its learning rates
_EPOCHS = 10  # of pytorch/examples

_EXAMPLES = "pytorch/examples' own program, from the lowest to the highest of three seeds"
_YUNJEY = "one run of yunjey's program; ±0.6, as far apart as three seeds of the same model are after 10 epochs"
_TANH = "one run of such a program; ±0.6, as far apart as three seeds of a model of its size are after 10 epochs"
_LAST_BATCH = (
    "published: its last batch, of 96 images. ±3.6 is twice such a batch's standard deviation from the epoch's mean"
)
_FLAX = (
    "one run of Flax's own program, on Larochelle's file of binarised images, where ours are binarised from the run's "
    "key; ±0.8, as far apart as three seeds of a model of its size are after 5 epochs"
)
_PAPER = (
    "the higher one by Burda, Grosse & Salakhutdinov 2016, with an Adam of their own, the lower one a published "
    "reproduction's with ordinary Adam; ±0.15, three standard deviations of binarising the test images again"
)
_PART = "nothing is published for a part of the schedule; the whole schedule gives less"
_BEYOND = 0.15


class Protocol(NamedTuple):
    """A configuration and its expected results."""

    title: str
    preset: str
    """The preset, whose name selects all of its protocols."""
    spec: Spec
    """The configuration; the seed is replaced by the requested one."""
    expected: dict[str, Band]
    """The expected range of each figure, by its name."""
    cost: str
    """The approximate time of one seed."""
    read: Callable[[Finished], dict[str, float]] = terms
    seeds: tuple[int, ...] = (0,)
    on_cpu: int | None = None
    """Number of epochs on a CPU with `all`; every epoch if None."""

    @property
    def epochs(self) -> int:
        return self.spec.training.epochs

    @property
    def staged(self) -> bool:
        """Whether its learning rates come in stages."""
        return self.spec.training.schedule == "iwae"


def epochs_of(stages: int) -> int:
    """Count the epochs of the first stages of the IWAE paper: 3^i each, i = 0, 1, ..."""
    return sum(3**i for i in range(stages))


def _of(name: str, epochs: int) -> Spec:
    spec = preset(name)
    return replace(spec, data="mnist", training=replace(spec.training, epochs=epochs))


def _paper(form: Form, k: int, title: str, paper: float, adam: float, cost: str, on_cpu: int = 0) -> Protocol:
    epochs, ends = epochs_of(STAGES), f"{adam:.2f} to {paper:.2f}"
    whole = Band(round(adam - _BEYOND, 2), round(paper + _BEYOND, 2), _PAPER, f"{ends}, ± {_BEYOND:g}")
    part = Band(whole.low, math.inf, _PART, f"at least the {whole.low:g} of all {epochs:,} epochs")
    expected = ({nll(SAMPLES, on_cpu): part} if on_cpu else {}) | {nll(SAMPLES, epochs): whole}
    spec = replace(_of("iwae-paper", epochs), objective=ObjectiveSpec(form=form, samples=k))
    return Protocol(f"IWAE paper, {title}", "iwae-paper", spec, expected, cost, likelihood, on_cpu=on_cpu)


PROTOCOLS: dict[str, Protocol] = {
    "pytorch-examples": Protocol(
        "pytorch/examples' VAE: 784-400-20, Adam 1e-3, batch 128",
        "pytorch-examples",
        _of("pytorch-examples", _EPOCHS),
        {
            at("test", "loss", 1): Band(126.9, 127.5, _EXAMPLES),
            at("test", "loss", 5): Band(108.1, 108.9, _EXAMPLES),
            at("test", "loss", _EPOCHS): Band(105.3, 105.9, _EXAMPLES),
        },
        "half a minute on two cores",
        seeds=(0, 1, 2),
    ),
    "yunjey": Protocol(
        "yunjey's tutorial: the same for 15 epochs",
        "yunjey",
        _of("yunjey", 15),
        {at("train", "loss", 15): around(104.5, 0.6, _YUNJEY), at("test", "loss", 15): around(104.1, 0.6, _YUNJEY)},
        "a minute on two cores",
    ),
    "flax-example": Protocol(
        "flax/examples' VAE: 784-500-20, 50,000 images binarised once from the run's key, not Larochelle's file",
        "flax-example",
        _of("flax-example", 20),
        {
            at("test", "loss", 1): around(119.7, 0.8, _FLAX),
            at("test", "loss", 10): around(103.6, 0.8, _FLAX),
            at("test", "loss", 20): around(101.8, 0.8, _FLAX),
        },
        "a minute on two cores",
    ),
    "tanh-mse": Protocol(
        "tanh and the summed squared error on [-1, 1]",
        "tanh-mse",
        _of("tanh-mse", 100),
        {
            at("train", "loss", 20): around(66.3, 0.6, _TANH),
            **{
                at("train", "loss", epoch): around(last, 3.6, _LAST_BATCH)
                for epoch, last in ((40, 63.8), (60, 59.8), (80, 64.8), (100, 64.4))
            },
        },
        "five minutes on two cores",
    ),
    "autoencoder": Protocol(
        "784-256-64-20 without a prior, beside principal component analysis",
        "autoencoder",
        _of("autoencoder", 10),
        {SHARE: Band(-math.inf, 1, "PCA with as many components is the best linear autoencoder")},
        "a minute on two cores",
        beside_pca,
    ),
    "conditional": Protocol(
        "784-400-20, conditioned on the class label",
        "conditional",
        _of("conditional", 10),
        {at("test", "loss", 10): Band(-math.inf, 105.3, "the result of pytorch/examples' VAE, without the label")},
        "half a minute on two cores",
        by_class,
    ),
    "beta-b": Protocol(
        "AntixK's beta-VAE B: a capacity that rises to 25 nats within 10,000 steps, in epoch 11",
        "beta-b",
        _of("beta-b", 12),
        {
            at("test", "kl", epoch): around(25, 0.5, "the capacity; ±0.5, twice what a run by torchvae was off")
            for epoch in (11, 12)
        },
        "half an hour on two cores",
        on_cpu=0,
    ),
    "iwae-paper-1": _paper(
        "iwae",
        1,
        "VAE and IWAE, k = 1: one bound, trained once",
        86.76,
        86.35,
        "6 hours on two cores, 20 minutes for 121 epochs",
        epochs_of(5),
    ),
    "vae-paper-5": _paper("elbo", 5, "VAE, k = 5", 86.47, 86.10, "10 hours on two cores"),
    "vae-paper-50": _paper("elbo", 50, "VAE, k = 50", 86.35, 86.06, "2 days on two cores"),
    "iwae-paper-5": _paper("iwae", 5, "IWAE, k = 5", 85.54, 85.18, "10 hours on two cores"),
    "iwae-paper-50": _paper("iwae", 50, "IWAE, k = 50", 84.78, 84.59, "2 days on two cores"),
}
