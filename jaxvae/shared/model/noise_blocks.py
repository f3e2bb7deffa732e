"""The number of steps whose noise is drawn in one call."""

import math

from jaxvae.shared.config.spec import Spec
from jaxvae.shared.model import layout

_BLOCK = 64  # steps: enough to share the cost of a call, few enough for the processor's cache
_NUMBERS = 1_000_000  # the most numbers drawn in one call, about
_NUMBERS_ON_GPU = 32_000_000


def steps_at_once(spec: Spec, batch: int, on_gpu: bool = False) -> int:
    """Compute how many steps draw their noise in one call.

    Args:
        spec: The configuration.
        batch: Images per step.
        on_gpu: Whether they may do so on a GPU, where a loop over fewer steps costs more than memory; not for streamed
            images, whose blocks are made for the number on a CPU.

    Returns:
        The number of steps, at least 1.
    """
    corrupted = {"none": 0, "hidden-dropout": sum(map(math.prod, layout.hidden_units(spec.model)))}
    latents = spec.model.latent * spec.objective.samples
    numbers = batch * (latents + corrupted.get(spec.images.corruption, spec.model.pixels))
    return max(1, min(_BLOCK, (_NUMBERS_ON_GPU if on_gpu else _NUMBERS) // numbers))
