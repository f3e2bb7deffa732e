"""Which options of a configuration are incompatible, and why."""

import math
from collections.abc import Iterator

from jaxvae.shared.config import layer_words
from jaxvae.shared.config.likelihoods import LOWEST_LOGVAR, likelihood_of
from jaxvae.shared.config.networks import NETWORKS
from jaxvae.shared.config.parts import ImagesSpec, ModelSpec, ObjectiveSpec


def conflicts(model: ModelSpec, objective: ObjectiveSpec, images: ImagesSpec) -> Iterator[str]:
    """List the incompatible options of a configuration.

    Args:
        model: The networks, the posterior and the likelihood.
        objective: What is minimized.
        images: How images are prepared.

    Yields:
        One reason for each conflict, with the flags that resolve it; none if the parts are compatible.
    """
    form, posterior, plain = objective.form, model.posterior, ObjectiveSpec()
    likelihood, spatial = likelihood_of(model), NETWORKS[model.network].spatial
    distribution = model.samples_latents
    if images.range not in likelihood.means:
        allowed = " or ".join(_PIXELS[name] for name in likelihood.means)
        yield (
            f"a {likelihood.title} likelihood needs pixels in {allowed}; for pixels in {_PIXELS[images.range]} take "
            "squared-error or a Gaussian"
        )
    if model.output != "bounded" and not likelihood.linear:
        yield f"a {likelihood.title} likelihood's probability is always bounded; give --output bounded"
    if model.output == "tanh" and images.range == "signed":
        yield "tanh is the bounded output of pixels in [-1, 1]; give --output bounded"
    if model.variance != 1 and (likelihood.variance is not None or likelihood.logvar not in ("fixed", "shared")):
        yield "only the gaussian likelihood has a given variance, and gaussian-learned a first one; give --variance 1"
    if likelihood.logvar == "shared" and model.variance < 2 * math.exp(LOWEST_LOGVAR):
        yield f"a learned variance stays above {math.exp(LOWEST_LOGVAR):.3g}; give a --variance twice as large or more"
    if model.init == "glorot-data" and not likelihood.log_odds:
        yield "glorot-data sets the last bias to log-odds, which only a Bernoulli likelihood has; take glorot"
    if model.init == "glorot-data" and spatial:
        yield f"glorot-data sets one bias per pixel, and a {model.network} decoder has one per channel; take glorot"
    if model.network == "layers" and model.hidden:
        yield "the network layers has its layers in encoder and decoder, not in hidden; give --hidden with no widths"
    if model.network != "layers" and (model.encoder or model.decoder):
        yield (
            f"only the network layers has layers in encoder and decoder, and {model.network} does not; give "
            "--network layers, or --encoder and --decoder with no words"
        )
    if model.network == "conv" and not model.hidden:
        yield "a conv network needs the channels of at least one convolution in hidden"
    if form in ("elbo", "capacity", "iwae") and not distribution:
        yield f"{form} needs a distribution of latents, which a {posterior} code is not; take the form reconstruction"
    if form == "reconstruction" and distribution:
        yield f"reconstruction alone would shrink a {posterior} posterior to a point; take the posterior point, or elbo"
    if distribution and form in ("elbo", "capacity") and not (objective.beta and objective.gamma):
        name = "beta" if form == "elbo" else "gamma"
        yield f"a {name} of 0 would shrink a {posterior} posterior to a point; give a --{name}, or --posterior point"
    if form == "iwae" and posterior == "relu-sigma":
        yield "iwae needs the posterior's density, which is infinite where relu-sigma's sigma is 0; take gaussian"
    if form == "adversarial" and posterior == "relu-point":
        yield "adversarial matches codes to N(0, I), which a code that is never negative can't follow; take point"
    if form == "adversarial" and not model.discriminator:
        yield "adversarial needs a discriminator; give the widths of its hidden layers"
    if form != "adversarial" and model.discriminator:
        yield (
            f"only the adversarial objective uses a discriminator, and {form} does not; give "
            "--discriminator with no widths"
        )
    if objective.samples > 1 and not distribution:
        yield f"all samples of a {posterior} code are the same; give --samples 1"
    if objective.samples > 1 and form == "adversarial":
        yield "adversarial uses one latent per image; give --samples 1"
    if form != "elbo" and objective.beta != 1:
        yield f"only the elbo uses beta, and {form} does not; give --beta 1"
    if form != "elbo" and objective.warmup:
        yield f"warmup raises beta, which {form} does not use; give --warmup 0"
    if form != "capacity" and any(getattr(objective, n) != getattr(plain, n) for n in _CAPACITY):
        given = " ".join(f"--{n.replace('_', '-')} {getattr(plain, n):g}" for n in _CAPACITY)
        named = ", ".join(f"--{n.replace('_', '-')}" for n in _CAPACITY)
        yield f"only the capacity objective uses {named}, and {form} does not; give {given}"
    if objective.units == "mixed" and form not in ("elbo", "capacity"):
        yield f"mixed units need a KL divergence beside a mean pixel's error, and {form} has none"
    if images.shift >= min(model.image[:2]):
        height, width, _ = model.image
        yield (
            f"a shift of {images.shift} pixels moves an image of height {height} and width {width} out of itself; "
            f"give a --shift of at most {min(height, width) - 1}"
        )
    if images.corruption == "dropout" and images.range == "signed":
        yield "dropout sets pixels to 0, which is grey in [-1, 1]; give --range unit, or gaussian noise"
    words = [*layer_words.words(model.encoder, "encoder"), *layer_words.words(model.decoder[:-1], "decoder")]
    followed = model.hidden or any(not word.plain and word.activation is None for word in words)
    if model.activation != ModelSpec.activation and not followed:
        none = "every word ends in +plain or in an activation" if words else "hidden is empty"
        yield f"the activation {model.activation} needs hidden layers, and {none}; give --activation relu"
    leaky = "leaky-relu" in (model.activation, *(word.activation for word in words))
    if model.slope != ModelSpec.slope and not leaky:
        yield f"only leaky-relu has a slope, and the activation is {model.activation}; give --slope {ModelSpec.slope:g}"
    if model.norm != ModelSpec.norm and model.network == "layers":
        yield f"the network layers has its norms in its words, as +norm; give --norm {ModelSpec.norm}"
    if model.parts.objective is not None and form != "elbo":
        yield f"an objective of your own takes the place of the form, which is {form}; give the form elbo"
    if model.parts.decoder is not None and model.init == "glorot-data":
        yield "glorot-data sets the last bias of the package's decoders, and the decoder is your own; take glorot"
    if model.parts.networks and images.corruption == "hidden-dropout":
        yield "hidden-dropout drops units of the package's networks, and one is your own; drop them in it instead"
    if images.corruption == "hidden-dropout" and not (model.hidden or words):
        yield "hidden-dropout needs hidden layers, and hidden is empty"


_PIXELS = {"unit": "[0, 1]", "signed": "[-1, 1]"}
_CAPACITY = ("gamma", "capacity", "capacity_steps")
