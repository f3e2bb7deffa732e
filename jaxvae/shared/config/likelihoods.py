"""The likelihoods of a pixel: everything about them that needs no framework.

The parser, the rules of compatibility, the parameter table, `describe`, the page's explorer and the evaluation read
this table. A new likelihood is one entry here, one function in `NLL` of each package's distributions.py (and in
`MEANS`, if it bounds its means in a new way), and its formula in the harness's oracle; tests hold that all of them have
the same keys.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np

LikelihoodName = Literal[
    "bernoulli", "continuous-bernoulli", "squared-error", "gaussian", "gaussian-learned", "gaussian-pixel"
]
Mean = Literal["identity", "sigmoid", "tanh", "continuous-bernoulli"]
"""How a pixel's mean follows from the decoder's logit."""
Logvar = Literal["none", "fixed", "shared", "pixel"]
"""Where a pixel's log-variance comes from: nowhere; the configuration; one parameter of the decoder that all pixels
share; or a second output of the decoder, one for each pixel."""
LOWEST_LOGVAR = -12.0
"""The bound of a learned log-variance: sigma 0.0025, below the 1/255 that tells one byte from the next."""
LogDensity = Callable[[np.ndarray, np.ndarray, np.ndarray | None], np.ndarray]


@dataclass(frozen=True)
class Likelihood:
    """What a likelihood is, in words and numbers."""

    title: str
    """Its name in a sentence, e.g. `Bernoulli`."""
    help: str
    """What the command line says of it after its name."""
    description: str
    """The line of `describe`, with the fields `{mean}`, `{variance}` and `{constant}`."""
    means: Mapping[str, Mean]
    """The pixel ranges it allows, and how a bounded output reaches each."""
    log_density: LogDensity
    """log p(x | z), `[n, points]`, of images `[n, pixels]` at the decoder's outputs, `[points, pixels]`."""
    linear: bool = False
    """Whether the output may be linear, or tanh in any range."""
    logvar: Logvar = "none"
    variance: float | None = None
    """The variance that it implies, in squared pixel units, where the configuration does not give it."""
    located_by: Literal["logits", "means"] = "means"
    """What evaluation keeps of a pixel's logit."""
    omitted: float = 0.0
    """The part of -log p that its loss omits, nats per pixel."""
    pixel_error: str = "mean pixel"
    """The loss over the number of pixels, in words."""
    log_odds: bool = False
    """Whether a logit is the log-odds of the pixel's mean, so that a bias can start at the mean image's."""

    @property
    def heads(self) -> tuple[str, ...]:
        """The names of the decoder's last layers."""
        return ("logits", "logvar") if self.logvar == "pixel" else ("logits",)

    @property
    def scalars(self) -> tuple[str, ...]:
        """The names of the decoder's scalar parameters."""
        return ("logvar",) if self.logvar == "shared" else ()


def bernoulli_log_density(x: np.ndarray, logits: np.ndarray, logvar: np.ndarray | None = None) -> np.ndarray:
    """Return log p(x | z) of Bernoulli pixels at their logits, `[n, points]`."""
    return x @ logits.T - np.logaddexp(0.0, logits).sum(1)


def continuous_bernoulli_log_density(x: np.ndarray, logits: np.ndarray, logvar: np.ndarray | None = None) -> np.ndarray:
    """Return log p(x | z) of continuous Bernoulli pixels at their logits, `[n, points]`."""
    near = np.abs(logits) < 1e-4
    safe = np.where(near, 1.0, logits)
    log_normalizer = np.where(near, math.log(2) + logits**2 / 12, np.log(safe / np.tanh(safe / 2)))
    return bernoulli_log_density(x, logits) + log_normalizer.sum(1)


def gaussian_log_density(x: np.ndarray, means: np.ndarray, logvar: np.ndarray | None) -> np.ndarray:
    """Return log p(x | z) of Gaussian pixels, `[n, points]`; logvar: `[points, pixels]`, or `[]`."""
    assert logvar is not None
    logvar = np.broadcast_to(logvar, means.shape)
    precision = np.exp(-logvar)
    squares = x**2 @ precision.T - 2 * (x @ (means * precision).T) + (means**2 * precision).sum(1)
    return -0.5 * (squares + (logvar + math.log(2 * math.pi)).sum(1))


_gaussian = partial(
    Likelihood,
    title="Gaussian",
    means={"unit": "sigmoid", "signed": "tanh"},
    log_density=gaussian_log_density,
    linear=True,
)

LIKELIHOODS: dict[LikelihoodName, Likelihood] = {
    "bernoulli": Likelihood(
        title="Bernoulli",
        help="of pixels in [0, 1]",
        description="Bernoulli from logits: a pixel's cross-entropy, natural logarithm",
        means={"unit": "sigmoid"},
        log_density=bernoulli_log_density,
        located_by="logits",
        log_odds=True,
    ),
    "continuous-bernoulli": Likelihood(
        title="continuous Bernoulli",
        help="a density on [0, 1], for grey pixels",
        description="continuous Bernoulli from logits, a density on [0, 1] with its constant; mean: 1/(1 - e^-l) - 1/l "
        "of the logit l",
        means={"unit": "continuous-bernoulli"},
        log_density=continuous_bernoulli_log_density,
        located_by="logits",
    ),
    "squared-error": _gaussian(
        title="squared-error",
        help="a Gaussian of variance 1/2 without its constant",
        description="summed squared error; mean: {mean}. Implied variance 0.5: a Gaussian's negative log-likelihood "
        "less its constant, {constant:.6g} nats per image",
        logvar="fixed",
        variance=0.5,
        omitted=0.5 * math.log(math.pi),
        pixel_error="mean squared error",
    ),
    "gaussian": _gaussian(
        help="of the given --variance",
        description="Gaussian of variance {variance:g}, with its constant; mean: {mean}",
        logvar="fixed",
    ),
    "gaussian-learned": _gaussian(
        help="with one learned variance",
        description="Gaussian of one learned variance, {variance:g} at first, with its constant; mean: {mean}",
        logvar="shared",
    ),
    "gaussian-pixel": _gaussian(
        help="with a variance for each pixel, from the decoder",
        description="Gaussian of a variance for each pixel from the decoder, with its constant; mean: {mean}",
        logvar="pixel",
    ),
}

HELP = f"The distribution of a pixel. {'; '.join(f'`{name}`: {entry.help}' for name, entry in LIKELIHOODS.items())}."


def likelihood_of(model: Any) -> Likelihood:
    """Return the entry of a model's likelihood, which for the user's own says what little is known of it.

    Args:
        model: The `ModelSpec`.
    """
    if model.parts.nll is None:
        return LIKELIHOODS[model.likelihood]
    name = model.parts.record["nll"].name
    return Likelihood(
        title=name,
        help="",
        description=f"{name}, a function of the user's own",
        means={"unit": "identity", "signed": "identity"},
        log_density=gaussian_log_density,  # not used: no quadrature is taken of it
        linear=True,
        logvar=model.parts.logvar,
    )


def mean_of(likelihood: LikelihoodName, output: str, pixel_range: str) -> Mean:
    """Return how a pixel's mean follows from its logit, for an output and a range that the likelihood allows."""
    fixed: dict[str, Mean] = {"linear": "identity", "tanh": "tanh"}
    return fixed[output] if output in fixed else LIKELIHOODS[likelihood].means[pixel_range]


def variance_of(likelihood: LikelihoodName, given: float) -> float | None:
    """Return a pixel's variance, in squared pixel units; None where it is learned, or where there is none.

    Args:
        likelihood: The likelihood's name.
        given: The variance in the configuration.
    """
    entry = LIKELIHOODS[likelihood]
    if entry.logvar != "fixed":
        return None
    return given if entry.variance is None else entry.variance
