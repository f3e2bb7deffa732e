"""The key streams of a run: one root key, a stream of it for each use, in a stream a key for each step or epoch."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, random

from jaxvae.shared.config.choices import require_seed
from jaxvae.shared.errors import InputError


class Streams(NamedTuple):
    """One key for each use of randomness; what step or epoch t draws in a stream comes from fold_in(stream, t)."""

    init: Array
    order: Array
    noise: Array
    evaluation: Array
    pictures: Array
    binarization: Array


def root_key(seed: int) -> Array:
    """The root key of a run. `jax.random.key(seed)`, but all 64 bits of the seed count with and without x64, and the
    generator is threefry2x32 in its partitionable form, whatever the defaults. Raises InputError where that is off, and
    for a seed of more than 64 bits."""
    require_seed(seed)
    if not jax.config.jax_threefry_partitionable:  # type: ignore[attr-defined]
        raise InputError(
            "jaxvae draws from partitionable threefry keys; leave JAX_THREEFRY_PARTITIONABLE at its default."
        )
    words = jnp.asarray(np.array([seed >> 32 & 0xFFFFFFFF, seed & 0xFFFFFFFF], np.uint32))
    return random.wrap_key_data(words, impl="threefry2x32")


def streams(key: Array) -> Streams:
    """The streams of a root key."""
    return Streams(*(random.fold_in(key, i) for i in range(len(Streams._fields))))


def stream_key(key: Array, stream: str, t: int) -> Array:
    """The key of step or epoch `t` in the named stream of a root key."""
    return random.fold_in(getattr(streams(key), stream), t)


def static_key(key: Array, split: str) -> Array:
    """The key of a root key from which the images of a split, `train` or `test`, are binarised once and for all."""
    return stream_key(key, "binarization", ("train", "test").index(split))
