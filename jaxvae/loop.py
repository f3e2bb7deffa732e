"""A run: its epochs, in parts that are looked at as they end."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxvae.devices import Device
from jaxvae.evaluate import average_terms
from jaxvae.keys import stream_key
from jaxvae.parallel import agreed, everywhere, local, placed, shares
from jaxvae.params import optimizer_to_arrays, to_arrays
from jaxvae.shared.data import Dataset
from jaxvae.shared.metrics import first_bad, require_finite, stopped
from jaxvae.shared.needs import require_shares
from jaxvae.shared.pace import Pace
from jaxvae.shared.spec import Spec
from jaxvae.train import TrainState, epoch_order, init_state, train_epoch


class Part(NamedTuple):
    """Where a run stands within an epoch, or at its end before it is evaluated."""

    state: TrainState
    """Good until the callback returns: training goes on in it."""
    epoch: int
    """From 1."""
    step: int
    """Steps taken so far."""
    train: np.ndarray
    """The epoch's steps so far, each with its mean terms: `[steps, terms]`, nats per image."""


class Progress(NamedTuple):
    """Where a run stands after an epoch, or after its last step."""

    state: TrainState
    """Good until the callback returns: training goes on in it."""
    epoch: int
    """From 1."""
    step: int
    """Steps taken so far."""
    train: np.ndarray
    """The epoch's steps, each with its mean terms: `[steps, terms]`, nats per image."""
    test: np.ndarray
    """The terms over the test images: `[terms]`, float64, nats per image."""


def fit(
    spec: Spec,
    data: Dataset,
    on_epoch: Callable[[Progress], None] = lambda progress: None,
    device: Device | None = None,
    start: tuple[TrainState, np.ndarray] | None = None,
    on_part: Callable[[Part], None] | None = None,
    every: Sequence[int] = (),
) -> TrainState:
    """Trains for the configured epochs or steps and returns the final state. After each epoch the model is evaluated on
    the test images and `on_epoch` is called. Raises NonFiniteError when a term, a gradient or what comes of it leaves
    the finite numbers.

    start: a state to go on from, with the terms of its epoch's steps, as a Part has them; else the run's start.
    on_part: called about once a second, at every multiple of the steps in `every`, and at an epoch's end before its
    evaluation; how an epoch is cut changes none of its numbers."""
    with jax.default_device(device):
        now, before = (init_state(spec, data.train), None) if start is None else start
        now, n = everywhere(now), len(data.train)
        require_shares(spec, n, shares())
        train, test = placed(data.train), jnp.asarray(data.test)
        told = (placed(data.train_labels), jnp.asarray(data.test_labels)) if spec.model.classes else (None, None)
        steps, total = spec.training.epoch_steps(n), spec.training.total_steps(n)
        done, terms = int(now.step), np.zeros((steps, len(spec.terms)), spec.training.stored)
        begun = 0 if before is None else len(before)
        terms[:begun] = before
        pace = Pace(every, on_part is not None)
        for first in range(done - begun, total, steps):
            epoch, end = first // steps + 1, min(first + steps, total)
            order = epoch_order(spec, now.key, epoch - 1, n)
            while done < end:
                was, since = now, done
                done = agreed(pace.next_stop(since, end))
                now, log = train_epoch(spec, was, train, told[0], done, order, n)
                part = slice(since - first, done - first)
                terms[part] = np.asarray(log)[part]
                pace.took(done - since)
                if not np.isfinite(terms[part]).all() or not _finite(now):
                    _stop(spec, was, train, told[0], order, done, n)
                if on_part is not None:
                    on_part(Part(local(now), epoch, done, terms[: done - first].copy()))
            own = local(now)
            key = stream_key(own.key, "evaluation", epoch)
            evaluated = average_terms(spec, own.params, test, key, told[1])
            require_finite(spec, evaluated, done)
            on_epoch(Progress(own, epoch, done, terms[: done - first].copy(), evaluated))
        return local(now)


def _stop(
    spec: Spec, state: TrainState, images: Array, labels: Array | None, order: Array, until: int, n: int
) -> NoReturn:
    """Takes the steps of a part that went wrong one by one, and raises NonFiniteError naming what did first."""
    steps, since = spec.training.epoch_steps(n), int(state.step)
    for step in range(since, until):
        state, log = train_epoch(spec, state, images, labels, step + 1, order, n)
        arrays = {**to_arrays(spec, state.params), **optimizer_to_arrays(spec, state.opt_state)}
        if (bad := first_bad(spec, np.asarray(log)[step % steps], arrays)) is not None:
            raise stopped(bad, step + 1, since, until)
    # Some devices add in another order each time.
    raise stopped("a number became infinite, and did not when the steps were taken again,", until, since, until)


@jax.jit
def _finite(state: TrainState) -> Array:
    leaves = jax.tree.leaves((state.params, state.opt_state))
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in leaves]).all()
