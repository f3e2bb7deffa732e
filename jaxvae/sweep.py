"""Runs that differ in their seed, beta and learning rate alone, trained together by one program: a sweep's members."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, random

from jaxvae.checks import check_params
from jaxvae.compilation import program
from jaxvae.devices import Device
from jaxvae.evaluate import average_terms
from jaxvae.keys import stream_key
from jaxvae.shared.backend import Part, Progress
from jaxvae.shared.config.spec import Spec, resolved
from jaxvae.shared.data.dataset import Dataset, as_dataset, trained_on
from jaxvae.shared.model.argument_checks import require_bytes, require_labels, require_state
from jaxvae.shared.runs.best_epoch import is_over
from jaxvae.shared.training.interval import Pace
from jaxvae.train import TrainState, epoch_order, init_state, train_epoch


def fit_together(
    specs: Sequence[Spec],
    data: Dataset,
    on_epoch: Callable[[int, Progress[TrainState]], None] = lambda member, progress: None,
    device: Device | None = None,
    starts: Sequence[tuple[TrainState, np.ndarray] | None] | None = None,
    on_part: Callable[[dict[int, Part[TrainState]]], None] | None = None,
    every: Sequence[int] = (),
    histories: Sequence[Sequence[float]] | None = None,
) -> dict[int, TrainState]:
    """Train runs that differ only in seed, beta and learning rate, as one program.

    Each is trained as `fit` trains it, except for rounding.

    Args:
        specs: The configurations.
        data: The images.
        on_epoch: Called as by `fit`, with the run's place in `specs`.
        device: Where to train.
        starts: For each run a state to resume from, with the terms of its epoch's steps; those behind catch up first.
        on_part: Called as by `fit`, with all runs that took the part.
        every: Steps at whose multiples `on_part` is called.
        histories: For each run the validation losses of the epochs before its state's.

    Returns:
        The final states by their place in `specs`. Diverged runs (NaN or infinite) are left out; `fit` says what
        happened.

    Raises:
        InputError: If the images, the labels or a state are not the configurations'.
    """
    data = trained_on(as_dataset("fit_together", data), specs[0].images)
    for images, labels in ((data.train, data.train_labels), (data.test, data.test_labels)):
        require_bytes("fit_together", images, specs[0].model.image)
        require_labels("fit_together", specs[0], labels if data.labelled else None, len(images))
    specs = [resolved(spec, len(data.train)) for spec in specs]
    for spec, start in zip(specs, starts or (), strict=False):
        if start is not None:
            require_state("fit_together", start[0], TrainState, spec.training)
            check_params("fit_together", spec.model, start[0].params, spec.training.stored)
    with jax.default_device(device):
        train, test = (jnp.asarray(images) for images in (data.train, data.test))
        validation = None if data.validation is None else jnp.asarray(data.validation)
        train_labels, test_labels, validation_labels = (
            jnp.asarray(labels) if specs[0].model.classes and labels is not None else None
            for labels in (data.train_labels, data.test_labels, data.validation_labels)
        )
        training, steps, total = (t := specs[0].training), t.epoch_steps(len(train)), t.total_steps(len(train))
        betas = np.array([spec.objective.beta for spec in specs], training.stored)
        rates = np.array([spec.training.learning_rates() for spec in specs], training.stored)
        standing, finished = {}, {}
        losses = [list(history) for history in histories or [()] * len(specs)]
        for i, spec in enumerate(specs):
            begun = None if starts is None else starts[i]
            state, terms = begun or (init_state(spec, data.train), np.zeros((0, len(spec.terms)), training.stored))
            standing[i] = Part(state, 0, int(state.step), terms)
        pace = Pace(every, on_part is not None)
        while True:
            for i, part in list(standing.items()):
                if len(part.train) and (part.step % steps == 0 or part.step == total):
                    epoch = -(-part.step // steps)
                    key = stream_key(part.state.key, "evaluation", epoch)
                    evaluated = average_terms(_tested(specs[i]), part.state.evaluated, test, key, test_labels)
                    validated = None
                    if validation is not None:
                        key, labels = stream_key(part.state.key, "validation", epoch), validation_labels
                        own = _tested(specs[i]), part.state.evaluated, validation, key, labels, "validation"
                        validated = average_terms(*own)
                        losses[i].append(float(validated[0]))
                    if not np.isfinite([evaluated, evaluated if validated is None else validated]).all():
                        del standing[i]
                        continue
                    on_epoch(i, Progress(part.state, epoch, part.step, part.train, evaluated, validated))
                    standing[i] = part._replace(train=part.train[:0])
                    if part.step == total or is_over(losses[i], specs[i].training.patience):
                        finished[i] = standing.pop(i).state
            if not standing:
                return finished
            done = min(part.step for part in standing.values())
            group = [i for i, part in standing.items() if part.step == done]
            first = done - done % steps
            ahead = [part.step for part in standing.values() if part.step > done]
            until = pace.next_stop(done, min(first + steps, total, *ahead))
            states = tuple(standing[i].state for i in group)
            of_group = jnp.asarray(betas[group]), jnp.asarray(rates[group])
            states, log, finite = _train(specs[0], states, train, train_labels, until, *of_group)
            log, finite = np.asarray(log), np.asarray(finite)
            pace.took(until - done)
            for i, state, terms, good in zip(group, states, log[:, done - first : until - first], finite, strict=True):
                before = standing.pop(i).train
                if good and np.isfinite(terms).all():
                    standing[i] = Part(state, first // steps + 1, until, np.concatenate([before, terms]))
            if on_part is not None:
                on_part({i: standing[i] for i in group if i in standing})


@program(["spec"], ["states"])
def _train(
    spec: Spec,
    states: tuple[TrainState, ...],
    images: Array,
    labels: Array | None,
    last: Array | int,
    betas: Array,
    rates: Array,
) -> tuple[tuple[TrainState, ...], Array, Array]:
    """`train_epoch` of each state, all at one step, to step `last`, with betas `[runs]` and learning rates `[runs, 1]`
    or `[runs, epochs]`: the new states, their terms `[runs, steps, terms]`, and whether each is finite, `[runs]`."""
    n, steps = len(images), spec.training.epoch_steps(len(images))

    def one(state: TrainState, beta: Array, rates: Array) -> tuple[TrainState, Array, Array]:
        order = epoch_order(spec, state.key, state.step // steps, n)
        body: Any = getattr(train_epoch, "__wrapped__")  # noqa: B009 (jit's type doesn't tell of it)
        state, log = body(_traced(spec, beta, rates), state, images, labels, last, order)
        finite = [jnp.isfinite(leaf).all() for leaf in jax.tree.leaves((state.params, state.opt_state))]
        return state, log, jnp.stack(finite).all()

    # One step for all: with a step each, the loop would copy every weight to leave it as it is where a run has ended.
    axes = TrainState(0, 0, None, 0, 0)  # type: ignore[arg-type]
    of_each = [(state.params, state.opt_state, state.average) for state in states]
    params, opt_state, average = jax.tree.map(lambda *leaves: jnp.stack(leaves), *of_each)
    words = jnp.stack([random.key_data(state.key) for state in states])  # a stack of the keys would count as their use
    stacked = TrainState(params, opt_state, states[0].step, random.wrap_key_data(words, impl="threefry2x32"), average)
    stacked, log, finite = jax.vmap(one, (axes, 0, 0), (axes, 0, 0))(stacked, betas, rates)
    trained = {"params": stacked.params, "opt_state": stacked.opt_state, "average": stacked.average}
    apart = [
        stacked._replace(**jax.tree.map(lambda leaf, i=i: leaf[i], trained), key=state.key)
        for i, state in enumerate(states)
    ]
    return tuple(apart), log, finite


def _traced(spec: Spec, beta: Array, rates: Array) -> Spec:
    """The spec with a member's beta and learning rates, numbers only when the program runs: past the validation, which
    the member's own spec has been through, and which could not look at them."""
    objective, training, whole = copy.copy(spec.objective), copy.copy(spec.training), copy.copy(spec)
    vars(objective)["beta"] = beta
    vars(training)["learning_rates"] = lambda: rates
    vars(whole).update(objective=objective, training=training)
    return whole


def _tested(spec: Spec) -> Spec:
    """The spec without what no evaluation makes anything of, so that all members of a beta share a program."""
    seed = spec.training.seed if spec.images.binarization == "static" else 0
    return replace(spec, training=replace(spec.training, learning_rate=1.0, seed=seed))
