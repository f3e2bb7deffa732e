"""`python -m parity_tests.support.sharded_memory DEVICES` prints what XLA measures of an epoch's arguments on one of so
many devices, in bytes: the state without and with sharded parameters, and what is not the state."""

import sys
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxvae import parallel, prepare, train
from jaxvae.shared.config.choices import Shard
from jaxvae.shared.config.presets import PRESETS


def arguments(devices: int, shard: Shard | None) -> tuple[int, int]:
    """Bytes of an epoch's arguments on one device, and those that are not the parameters or Adam's moments."""
    preset = PRESETS["pytorch-examples"]
    spec = replace(preset, model=replace(preset.model, hidden=(1024, 1024), latent=64))
    prepare("cpu", "float32", devices, shard)
    state = parallel.spread(train.init_state(spec))
    images = parallel.placed(np.zeros((256, *spec.model.image), np.uint8))
    program = train.train_epoch.lower(spec, state, images, None, parallel.everywhere(jnp.int32(1)))
    measured = program.compile().memory_analysis()
    assert measured is not None
    total = measured.argument_size_in_bytes
    return total, total - sum(map(_held, jax.tree.leaves((state.params, state.opt_state))))


def _held(leaf: Array) -> int:
    return leaf.addressable_data(0).nbytes


if __name__ == "__main__":
    count = int(sys.argv[1])
    sharded, rest = arguments(count, "parameters")
    whole, _ = arguments(count, None)
    print(whole - rest, sharded, rest)
