"""The keys of a run: a root key, a stream for each use of randomness, and in a stream a key for each step or epoch."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, random

from jaxvae.checks import require_key
from jaxvae.compilation import program
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
    validation: Array


def root_key(seed: int) -> Array:
    """Make the root key of a run.

    It is `jax.random.key(seed)`, except that all 64 bits of the seed count with and without x64, and that the generator
    is threefry2x32 in its partitionable form whatever the defaults.

    Args:
        seed: From 0 to 2^64 - 1.

    Returns:
        The key that all of a run's randomness is derived from.

    Raises:
        InputError: If the seed has more than 64 bits, or if JAX's partitionable form is switched off.
    """
    require_seed(seed)
    if not jax.config.jax_threefry_partitionable:  # type: ignore[attr-defined]
        raise InputError(
            "jaxvae draws from partitionable threefry keys; leave JAX_THREEFRY_PARTITIONABLE at its default."
        )
    return _wrapped(np.array([seed >> 32 & 0xFFFFFFFF, seed & 0xFFFFFFFF], np.uint32))


@program()
def _wrapped(words: Array | np.ndarray) -> Array:
    return random.wrap_key_data(jnp.asarray(words), impl="threefry2x32")


def streams(key: Array) -> Streams:
    """Derive the streams of a run from its root key."""
    require_key("streams", key)
    return Streams(*(random.fold_in(key, i) for i in range(len(Streams._fields))))


def stream_key(key: Array, stream: str, t: int) -> Array:
    """Derive the key of one step or epoch.

    Args:
        key: The run's root key.
        stream: A field of `Streams`.
        t: The step, or the epoch.

    Returns:
        fold_in(stream, t).
    """
    require_key("stream_key", key)
    # As fold_in takes a whole number: one below 0 or of more than 32 bits is an OverflowError.
    return _in_stream(key, stream, np.uint32(t) if isinstance(t, int) else t)


@program(["stream"])
def _in_stream(key: Array, stream: str, t: Array | np.uint32) -> Array:
    return random.fold_in(getattr(streams(key), stream), t)


def static_key(key: Array, split: str) -> Array:
    """Derive the key from which the images of a split are binarised once.

    Args:
        key: The run's root key.
        split: `train`, `test` or `validation`.

    Returns:
        The key of the data set.
    """
    return stream_key(key, "binarization", ("train", "test", "validation").index(split))
