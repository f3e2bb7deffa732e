"""The size of the gradient that a run follows."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, random

from jaxvae.augmentation import augment
from jaxvae.checks import check_images
from jaxvae.compilation import program
from jaxvae.draws import draw, image_keys
from jaxvae.keys import static_key, streams
from jaxvae.nets import Params, combine, partition
from jaxvae.objectives import Phase, inputs, minimized, phases
from jaxvae.pixels import prepare_pixels
from jaxvae.shared.config.spec import Spec, require_spec
from jaxvae.shared.model.argument_checks import require_state
from jaxvae.train import TrainState


def gradient_norm(
    spec: Spec, state: TrainState, images: Array | np.ndarray, labels: Array | np.ndarray | None = None
) -> float:
    """Compute the norm of the gradient that a step from `state` on these images would follow.

    It is taken over all tensors of all phases together, before clipping. The state stays as it is.

    Args:
        spec: The configuration.
        state: The state; the step draws from its key.
        images: uint8, `[batch, height, width, channels]`: the first training images.
        labels: Classes, `[batch]`, for a model with classes.

    Returns:
        The Euclidean norm of the gradient of what the optimizer minimizes.

    Raises:
        InputError: If the state, the images or the labels are not the configuration's.
    """
    require_spec(spec)
    require_state("gradient_norm", state, TrainState, spec.training)
    check_images("gradient_norm", spec, state.params, images, labels)
    return float(_norm(spec, state, jnp.asarray(images), None if labels is None else jnp.asarray(labels)))


@program(["spec"])
def _norm(spec: Spec, state: TrainState, images: Array, labels: Array | None) -> Array:
    n, key = len(images), random.fold_in(streams(state.key).noise, state.step)
    if spec.images.augments:
        images = augment(spec, images, key)
    static, dynamic = (image_keys(k, jnp.arange(n)) for k in (static_key(state.key, "train"), random.fold_in(key, 0)))
    x = prepare_pixels(spec, images, static, dynamic)
    batch = inputs(spec, x, draw(spec, key, n), labels, jnp.full(n, 1 / n, x.dtype), state.step)

    def loss(trained: Params, rest: Params, phase: Phase) -> Array:
        return minimized(spec, combine(rest, trained), batch, phase)[0]

    parts = [(*partition(spec.model, state.params, phase.networks), phase) for phase in phases(spec)]
    norms = [optax.tree.norm(jax.grad(loss)(trained, rest, phase)) for trained, rest, phase in parts]
    return jnp.linalg.norm(jnp.stack(norms))
