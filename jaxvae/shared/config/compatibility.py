"""Which parts of a configuration exclude each other, and why."""

from collections.abc import Iterator

from jaxvae.shared.config.likelihoods import LIKELIHOODS
from jaxvae.shared.config.networks import NETWORKS
from jaxvae.shared.config.parts import ImagesSpec, ModelSpec, ObjectiveSpec


def conflicts(model: ModelSpec, objective: ObjectiveSpec, images: ImagesSpec) -> Iterator[str]:
    """Why these parts don't go together, reason by reason; nothing if they do."""
    form, posterior, plain = objective.form, model.posterior, ObjectiveSpec()
    likelihood, spatial = LIKELIHOODS[model.likelihood], NETWORKS[model.network].spatial
    distribution = model.samples_latents
    if images.range not in likelihood.means:
        allowed = " or ".join(_PIXELS[name] for name in likelihood.means)
        yield (
            f"a {likelihood.title} likelihood is of pixels in {allowed}; for pixels in {_PIXELS[images.range]} take "
            "squared-error or a Gaussian"
        )
    if model.output == "linear" and not likelihood.linear:
        yield f"a {likelihood.title} likelihood's probability is always bounded; give --output bounded"
    if model.variance != 1 and not (likelihood.logvar == "fixed" and likelihood.variance is None):
        yield "only the gaussian likelihood has a given variance; give --variance 1"
    if model.init == "glorot-data" and not likelihood.log_odds:
        yield "glorot-data starts the last bias at log-odds, which only a Bernoulli likelihood has; take glorot"
    if model.init == "glorot-data" and spatial:
        yield "glorot-data starts a bias for each pixel, where a conv decoder has one for each channel; take glorot"
    if spatial and not model.hidden:
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
            f"a discriminator judges for the adversarial objective alone, and {form} has no use for it; give "
            "--discriminator with no widths"
        )
    if objective.samples > 1 and not distribution:
        yield f"several samples of a {posterior} code are all the same; give --samples 1"
    if objective.samples > 1 and form == "adversarial":
        yield "adversarial judges one latent of each image; give --samples 1"
    if form != "elbo" and objective.beta != 1:
        yield f"beta weighs the KL divergence of the elbo, and {form} has none to weigh; give --beta 1"
    if form != "elbo" and objective.warmup:
        yield f"warmup raises beta, which {form} doesn't have; give --warmup 0"
    if form != "capacity" and any(getattr(objective, n) != getattr(plain, n) for n in _CAPACITY):
        given = " ".join(f"--{n.replace('_', '-')} {getattr(plain, n):g}" for n in _CAPACITY)
        yield f"{', '.join(_CAPACITY)} belong to the capacity objective, and {form} has no use for them; give {given}"
    if objective.units == "mixed" and form not in ("elbo", "capacity"):
        yield f"mixed units weigh a KL divergence beside a mean pixel's error, and {form} has no such divergence"
    if images.corruption == "dropout" and images.range == "signed":
        yield "dropout makes pixels 0, which is grey in [-1, 1]; give --range unit, or gaussian noise"
    if not model.hidden and model.activation != ModelSpec().activation:
        yield f"{model.activation} follows hidden layers, and hidden is empty; give --activation relu"
    if images.corruption == "hidden-dropout" and not model.hidden:
        yield "hidden-dropout needs hidden layers, and hidden is empty"


_PIXELS = {"unit": "[0, 1]", "signed": "[-1, 1]"}
_CAPACITY = ("gamma", "capacity", "capacity_steps")
