"""Other views of the training images: mirrored, and moved by some pixels."""

import jax
import jax.numpy as jnp
from jax import Array, random

from jaxvae.draws import image_keys
from jaxvae.shared.config.spec import Spec, require_spec
from jaxvae.shared.model.argument_checks import require_bytes

_VIEWS = 2**30  # folded into a step's key: what else is drawn from it takes the smaller numbers


def augment(spec: Spec, images: Array, key: Array) -> Array:
    """Mirror and move a step's images.

    Args:
        spec: The configuration.
        images: uint8, `[batch, height, width, channels]`.
        key: The key of the step.

    Returns:
        The images, of the same shape. What comes in from beyond an edge repeats the edge.

    Raises:
        InputError: If the images are not uint8, or not of the model's size.
    """
    require_spec(spec)
    require_bytes("augment", images, spec.model.image)
    return viewed(spec, images, views_key(key))


def views_key(key: Array) -> Array:
    """Derive the key of a step's views from the step's own."""
    return random.fold_in(key, _VIEWS)


def viewed(spec: Spec, images: Array, key: Array) -> Array:
    """Do what `augment` does, from the key of a step's views."""
    n, height, width = images.shape[:3]
    keys, most = image_keys(key, jnp.arange(n)), spec.images.shift
    # In float32 always, so that a float64 run sees the same images.
    uniforms = jax.vmap(lambda key: random.uniform(key, (3,), "float32"))(keys)
    if spec.images.flip:
        images = jnp.where(uniforms[:, 0, None, None, None] < 0.5, images[:, :, ::-1], images)
    if not most:
        return images
    by = jnp.floor(uniforms[:, 1:] * (2 * most + 1)).astype("int32") - most
    rows = jnp.clip(jnp.arange(height, dtype="int32")[None] - by[:, :1], 0, height - 1)
    columns = jnp.clip(jnp.arange(width, dtype="int32")[None] - by[:, 1:], 0, width - 1)
    return images[jnp.arange(n, dtype="int32")[:, None, None], rows[:, :, None], columns[:, None]]
