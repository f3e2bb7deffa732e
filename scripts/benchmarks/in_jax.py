"""jaxvae's training loops, and the products alone. Each function prepares one and returns a function of one epoch."""

import functools
from collections.abc import Callable

import jax
import numpy as np
from jax import Array

import jaxvae
from benchmarks import matmul_bound
from benchmarks.workload import Setting
from jaxvae.parallel import everywhere, placed

Epoch = Callable[[], object]


def start(device: str) -> None:
    """Raises InputError where there is no such device."""
    jaxvae.prepare(device)


def per_epoch(setting: Setting) -> Epoch:
    """Train as `jaxvae.fit` does."""
    spec, n = setting.spec, len(setting.train)
    state, images, done = everywhere(jaxvae.init_state(spec, setting.train)), placed(setting.train), 0

    def epoch() -> None:
        nonlocal state, done
        order = jaxvae.epoch_order(spec, state.key, done // setting.steps, n)
        done += setting.steps
        state, log = jaxvae.train_epoch(spec, state, images, None, done, order, n)
        np.asarray(log)
        jax.block_until_ready(state.params)

    return epoch


def per_step(setting: Setting) -> Epoch:
    """Train by `jaxvae.train_step` in a user's loop, over images on the device."""
    spec, n, batch = setting.spec, len(setting.train), setting.spec.training.batch_size
    state, images, epochs = jaxvae.init_state(spec, setting.train), placed(setting.train), 0

    @functools.partial(jax.jit, static_argnums=3)
    def pixels(images: Array, order: Array, step: int, rows: int) -> Array:
        return jaxvae.prepare_pixels(spec, images[order[step, :rows]], None, None)

    def epoch() -> None:
        nonlocal state, epochs
        order = jaxvae.epoch_order(spec, state.key, epochs, n)
        for step in range(setting.steps):
            x = pixels(images, order, step, min(batch, n - step * batch))
            state, _ = jaxvae.train_step(spec, state, x, None, epochs)
        jax.block_until_ready(state.params)
        epochs += 1

    return epoch


def products(setting: Setting) -> Epoch:
    return matmul_bound.by_jax(setting.spec, setting.steps)


def log_likelihood(setting: Setting, images: np.ndarray, samples: int) -> Epoch:
    spec, state = setting.spec, jaxvae.init_state(setting.spec, setting.train)
    return lambda: jaxvae.log_likelihood(spec, state.params, images, state.key, samples=samples)


def sample(setting: Setting, n: int) -> Epoch:
    spec, state = setting.spec, jaxvae.init_state(setting.spec, setting.train)
    return lambda: jaxvae.sample(spec, state.params, state.key, n)


def peak_bytes() -> int | None:
    """Read the maximum of the device's memory, if it has its own."""
    stats = jax.devices()[0].memory_stats()
    return None if not stats or jax.devices()[0].platform == "cpu" else int(stats["peak_bytes_in_use"])
