"""Training: one step, one epoch, one run."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, lax, random

from jaxvae.devices import Device, require
from jaxvae.evaluate import average_terms
from jaxvae.keys import root_key, stream_key, streams
from jaxvae.nets import Params, init
from jaxvae.objectives import Terms, negative_elbo
from jaxvae.pixels import scale
from jaxvae.shared.data import Dataset
from jaxvae.shared.metrics import require_finite
from jaxvae.shared.spec import Spec


class TrainState(NamedTuple):
    """All that a resumed run needs. `key` is the run's root key and never changes: step t draws from fold_in of its
    noise stream with t, epoch e shuffles by fold_in of its order stream with e."""

    params: Params
    opt_state: optax.OptState
    step: Array
    key: Array


class Progress(NamedTuple):
    """What `fit` reports after each epoch, and after the last step."""

    state: TrainState
    """Good until the callback returns: the next epoch takes it over."""
    epoch: int
    """From 1."""
    step: int
    """Steps taken so far."""
    train: np.ndarray
    """The epoch's steps, each with its mean terms: `[steps, 3]`, nats per image."""
    test: np.ndarray
    """The terms over the test images: `[3]`, float64, nats per image."""


def make_optimizer(spec: Spec) -> optax.GradientTransformation:
    """Adam (Kingma & Ba 2015) with eps outside the root, state and updates as `optax.adam`'s inner transformation has
    them. Its own because `optax.adam` takes 1 - 0.999^t in float32, where it is off by 1e-5 at the first steps."""
    b1, b2, eps = 0.9, 0.999, 1e-8

    def start(params: Params) -> optax.ScaleByAdamState:
        zeros = jax.tree.map(jnp.zeros_like, params)
        return optax.ScaleByAdamState(jnp.zeros((), jnp.int32), zeros, jax.tree.map(jnp.copy, zeros))

    def update(grads, state, params=None):
        count = state.count + 1
        dtype = jax.tree.leaves(grads)[0].dtype
        t = count.astype(dtype)
        step_size = spec.training.learning_rate / -jnp.expm1(t * np.log(b1).astype(dtype))
        root = jnp.sqrt(-jnp.expm1(t * np.log(b2).astype(dtype)))
        mu = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, state.mu, grads)
        nu = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g**2, state.nu, grads)
        updates = jax.tree.map(lambda m, v: -step_size * m / (jnp.sqrt(v) / root + eps), mu, nu)
        return updates, optax.ScaleByAdamState(count, mu, nu)

    return optax.GradientTransformation(start, update)  # type: ignore[arg-type]


def init_state(spec: Spec) -> TrainState:
    """The state before the first step. Raises InputError for float64 without JAX's 64-bit mode."""
    require(spec.training.dtype)
    key = root_key(spec.training.seed)
    params = init(spec, streams(key).init)
    return TrainState(params, make_optimizer(spec).init(params), jnp.zeros((), jnp.int32), key)


@functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
def train_step(spec: Spec, state: TrainState, x: Array) -> tuple[TrainState, Terms]:
    """One step on images `[batch, pixels]` in [0, 1], for loops of your own: the new state and the mean terms. `state`
    is donated: do not use the argument again."""
    key = random.fold_in(streams(state.key).noise, state.step)
    eps = random.normal(key, (len(x), spec.model.latent), x.dtype)
    return _update(spec, state, x, eps, jnp.full(len(x), 1 / len(x), x.dtype))


@functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
def train_epoch(spec: Spec, state: TrainState, images: Array) -> tuple[TrainState, Array]:
    """One epoch over uint8 images `[n, height, width, channels]`, starting where `state` stands, at an epoch's first
    step, and ending with the epoch or at `max_steps`. The new state and the mean terms of each step, `[steps, 3]`
    (steps past `max_steps` hold nothing). `state` is donated."""
    n, dtype, last = len(images), spec.training.dtype, spec.training.max_steps
    batch, steps = min(spec.training.batch_size, n), spec.training.epoch_steps(n)
    keys = streams(state.key)
    order = random.permutation(random.fold_in(keys.order, state.step // steps), n)
    # The last batch is filled up with the first image, which then counts for nothing.
    order = jnp.pad(order, (0, steps * batch - n)).reshape(steps, batch)
    real = (jnp.arange(steps * batch) < n).reshape(steps, batch).astype(dtype)
    weights = real / real.sum(1, keepdims=True)
    at = state.step + jnp.arange(steps, dtype=jnp.int32)
    eps = jax.vmap(lambda t: random.normal(random.fold_in(keys.noise, t), (batch, spec.model.latent), dtype))(at)

    def step(state: TrainState, inputs: tuple[Array, ...]) -> tuple[TrainState, Array]:
        rows, weights, eps = inputs
        state, terms = _update(spec, state, scale(images[rows], dtype), eps, weights)
        return state, jnp.stack(terms)

    def step_until(last: int, state: TrainState, inputs: tuple[Array, ...]) -> tuple[TrainState, Array]:
        stop = state, jnp.zeros(len(Terms._fields), dtype)
        return lax.cond(state.step < last, lambda: step(state, inputs), lambda: stop)

    # Only a run with a last step asks at each one: on an accelerator the host would have to look at the answer.
    body = step if last is None else functools.partial(step_until, last)
    return lax.scan(body, state, (order, weights, eps))


def fit(
    spec: Spec,
    data: Dataset,
    on_epoch: Callable[[Progress], None] = lambda progress: None,
    device: Device | None = None,
) -> TrainState:
    """Trains for the configured epochs or steps and returns the final state. After each epoch the model is evaluated on
    the test images and `on_epoch` is called. Raises NonFiniteError when a term leaves the finite numbers."""
    with jax.default_device(device):
        state = init_state(spec)
        train, test = jnp.asarray(data.train), jnp.asarray(data.test)
        per_epoch, total = spec.training.epoch_steps(len(train)), spec.training.total_steps(len(train))
        for done in range(0, total, per_epoch):
            epoch, step = done // per_epoch + 1, min(done + per_epoch, total)
            state, terms = train_epoch(spec, state, train)
            terms = np.asarray(terms)[: step - done]
            require_finite(terms, done)
            key = stream_key(state.key, "evaluation", epoch)
            evaluated = average_terms(spec, state.params, test, key)
            require_finite(evaluated[None], step - 1)
            on_epoch(Progress(state, epoch, step, terms, evaluated))
        return state


def _update(spec: Spec, state: TrainState, x: Array, eps: Array, weights: Array) -> tuple[TrainState, Terms]:
    """One step of Adam on the terms averaged with `weights` `[batch]`."""

    def loss(params: Params) -> tuple[Array, Terms]:
        terms = Terms(*((term * weights).sum() for term in negative_elbo(spec, params, x, eps)))
        return terms.loss, terms

    grads, terms = jax.grad(loss, has_aux=True)(state.params)
    updates, opt_state = make_optimizer(spec).update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    return TrainState(params, opt_state, state.step + 1, state.key), terms  # type: ignore[arg-type]
