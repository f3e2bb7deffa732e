"""The keys of a run: a root key, a stream for each use of randomness, and in a stream a key for each step or epoch."""

from typing import NamedTuple

import torch

from jaxvae.shared.config.choices import require_seed
from torchvae import random
from torchvae.checks import require_key
from torchvae.random import Key


class Streams(NamedTuple):
    """One key for each use of randomness; what step or epoch t draws in a stream comes from fold_in(stream, t)."""

    init: Key
    order: Key
    noise: Key
    evaluation: Key
    pictures: Key
    binarization: Key
    validation: Key


def root_key(seed: int, device: torch.device | str = "cpu") -> Key:
    """Make the root key of a run.

    Args:
        seed: From 0 to 2^64 - 1.
        device: Where the numbers are drawn.

    Returns:
        The key that all of a run's randomness is derived from.

    Raises:
        InputError: If the seed has more than 64 bits.
    """
    require_seed(seed)
    return random.key(seed, device)


def streams(key: Key) -> Streams:
    """Derive the streams of a run from its root key."""
    require_key("streams", key)
    return Streams(*random.fold_in(key, torch.arange(len(Streams._fields), device=key.device)))


def stream_key(key: Key, stream: str, t: int) -> Key:
    """Derive the key of one step or epoch.

    Args:
        key: The run's root key.
        stream: A field of `Streams`.
        t: The step, or the epoch.

    Returns:
        fold_in(stream, t).
    """
    require_key("stream_key", key)
    return random.fold_in(getattr(streams(key), stream), t)


def static_key(key: Key, split: str) -> Key:
    """Derive the key from which the images of a split are binarised once.

    Args:
        key: The run's root key.
        split: `train`, `test` or `validation`.

    Returns:
        The key of the data set.
    """
    return stream_key(key, "binarization", ("train", "test", "validation").index(split))
