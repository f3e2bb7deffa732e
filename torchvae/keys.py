"""The key streams of a run: one root key, a stream of it for each use, in a stream a key for each step or epoch."""

from typing import NamedTuple

import torch

from jaxvae.shared.config.choices import require_seed
from torchvae import random
from torchvae.random import Key


class Streams(NamedTuple):
    """One key for each use of randomness; what step or epoch t draws in a stream comes from fold_in(stream, t)."""

    init: Key
    order: Key
    noise: Key
    evaluation: Key
    pictures: Key
    binarization: Key


def root_key(seed: int, device: torch.device | str = "cpu") -> Key:
    """The root key of a run; what is drawn from it is drawn on `device`. Raises InputError for a seed of more than 64
    bits."""
    require_seed(seed)
    return random.key(seed, device)


def streams(key: Key) -> Streams:
    """The streams of a root key."""
    return Streams(*random.fold_in(key, torch.arange(len(Streams._fields))))


def stream_key(key: Key, stream: str, t: int) -> Key:
    """The key of step or epoch `t` in the named stream of a root key."""
    return random.fold_in(getattr(streams(key), stream), t)


def static_key(key: Key, split: str) -> Key:
    """The key of a root key from which the images of a split, `train` or `test`, are binarised once and for all."""
    return stream_key(key, "binarization", ("train", "test").index(split))
