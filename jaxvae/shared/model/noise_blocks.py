"""How many steps of noise are drawn in one call."""

import math

from jaxvae.shared.config.spec import Spec
from jaxvae.shared.model import layout

_BLOCK = 64  # steps whose noise is drawn in one go: enough to share the cost of the calls, few enough for the cache
_NUMBERS = 1_000_000  # and no more of them than draw about so many numbers


def steps_at_once(spec: Spec, batch: int) -> int:
    """How many steps draw their numbers in one go, in batches of so many images."""
    corrupted = {"none": 0, "hidden-dropout": sum(map(math.prod, layout.hidden_units(spec.model)))}
    latents = spec.model.latent * spec.objective.samples
    numbers = batch * (latents + corrupted.get(spec.images.corruption, spec.model.pixels))
    return max(1, min(_BLOCK, _NUMBERS // numbers))
