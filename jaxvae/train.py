"""Training: one step, one epoch."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, lax, random

from jaxvae.augmentation import augment, viewed, views_key
from jaxvae.checks import check_params, check_pixels, names_tensors, require_key, require_own
from jaxvae.compilation import program
from jaxvae.devices import has_gpu, require
from jaxvae.draws import Draws, draw, image_keys
from jaxvae.keys import root_key, static_key, streams
from jaxvae.nets import Params, combine, init, partition
from jaxvae.objectives import AnyTerms, Inputs, Phase, collect, inputs, minimized, phases, training_loss
from jaxvae.packed import pack, packs, unpack
from jaxvae.parallel import complete, is_sharded, kept, scattered, shares, split, whole
from jaxvae.pixels import prepare_pixels
from jaxvae.shared.config.spec import Spec, require_spec, resolved
from jaxvae.shared.data.mean_image import last_bias
from jaxvae.shared.model.argument_checks import require_bytes, require_labels, require_state
from jaxvae.shared.model.noise_blocks import steps_at_once
from jaxvae.shared.model.optimizer_state import other_optimizer, require_kind_of_optimizer, require_plain_training
from jaxvae.shared.model.requirements import require_batches, require_drawn_anew, require_images
from jaxvae.updates import averaged, clipped, learning_rate

_LARGE = 2_048  # images of a batch on a device


class TrainState(NamedTuple):
    """All that resuming a run needs.

    `key` is the run's root key and never changes: step t draws from fold_in(noise stream, t), epoch e shuffles by
    fold_in(order stream, e).
    """

    params: Params
    opt_state: dict[str, optax.OptState]
    """The optimizer state of each `objectives.Phase`, by its name, which is empty if there is one phase."""
    step: Array
    key: Array
    average: Params | None = None
    """The moving average of the parameters, if the configuration has an `ema`."""

    @property
    def evaluated(self) -> Params:
        """What is evaluated, drawn and saved: the average, if there is one, or else the weights."""
        return self.params if self.average is None else self.average


def make_optimizer(spec: Spec, learning_rate: Array | float | None = None) -> optax.GradientTransformation:
    """Make Adam with eps outside the root, whose state is that of `optax.adam`'s inner transformation, or AdamW.

    A gradient is clipped first if the configuration says so.

    `optax.adam` itself computes 1 - 0.999^t in float32, where it is off by 1e-5 at the first steps.

    Args:
        spec: The configuration.
        learning_rate: The step size; by default the first epoch's, without a schedule by step.

    Returns:
        The gradient transformation.

    References:
        Kingma & Ba 2015, algorithm 1. Loshchilov & Hutter 2019, algorithm 2, for the decay of the weights.
    """
    require_spec(spec)
    rate = spec.training.learning_rates()[0] if learning_rate is None else learning_rate
    return _adam(spec, lambda t: _sizes(spec, rate, t))


class _Sizes(NamedTuple):
    """What a step of Adam is made of, beside the moments."""

    step: Array
    small: Array
    shrink: Array | float


def _sizes(spec: Spec, rate: Array | float, t: Array) -> _Sizes:
    """Those of step t, from 1, with the corrections of the moments' bias, which so are taken out of the division that
    each weight needs."""
    root = jnp.sqrt(-_power_less_one(spec.training.beta2, t))
    step = rate * root / -_power_less_one(spec.training.beta1, t)
    return _Sizes(step, spec.training.eps * root, rate * spec.training.weight_decay)


def _adam(spec: Spec, sizes_of: Callable[[Array], _Sizes]) -> optax.GradientTransformation:
    b1, b2 = spec.training.beta1, spec.training.beta2

    def start(params: Params) -> optax.ScaleByAdamState:
        zeros = jax.tree.map(jnp.zeros_like, params)
        return optax.ScaleByAdamState(jnp.zeros((), jnp.int32), zeros, jax.tree.map(jnp.copy, zeros))

    def update(grads, state, params=None):
        count, grads = state.count + 1, clipped(spec, grads)
        sizes = sizes_of(count.astype(jax.tree.leaves(grads)[0].dtype))
        mu = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, state.mu, grads)
        nu = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g**2, state.nu, grads)
        updates = jax.tree.map(lambda m, v: -sizes.step * m / (jnp.sqrt(v) + sizes.small), mu, nu)
        if spec.training.weight_decay:
            updates = jax.tree.map(lambda u, w: u - sizes.shrink * w, updates, params)
        return updates, optax.ScaleByAdamState(count, mu, nu)

    return optax.GradientTransformation(start, update)  # type: ignore[arg-type]


@program(["spec", "optimizer"])
def init_optimizers(
    spec: Spec, params: Params, optimizer: optax.GradientTransformation | None = None
) -> dict[str, optax.OptState]:
    """Make the optimizer state of each phase of a step.

    Args:
        spec: The configuration.
        params: The parameters.
        optimizer: Another optimizer than the configuration's Adam.

    Returns:
        The states by the names of `Spec.phases`.

    Raises:
        InputError: If the parameters are not the configuration's, or if the configuration has settings of Adam's that
            another optimizer would not follow.
    """
    require_spec(spec)
    check_params("init_optimizers", spec.model, params)
    if optimizer is not None:
        require_kind_of_optimizer("init_optimizers", optimizer, optax.GradientTransformation, "an optax transformation")
        require_plain_training("init_optimizers", spec)
    adam = make_optimizer(spec) if optimizer is None else optimizer
    return {name: adam.init(partition(spec.model, params, networks)[0]) for name, networks in spec.phases.items()}


def require_optimizer(function: str, spec: Spec, state: TrainState, optimizer: Any) -> None:
    """Check that a state was made for an optimizer.

    Args:
        function: The function's name, for the message.
        spec: The configuration.
        state: The state.
        optimizer: The optimizer; None for the configuration's Adam.

    Raises:
        InputError: If it is another one's, or if the configuration has settings of Adam's that it would not follow.
    """
    if optimizer is not None:
        require_plain_training(function, spec)
    for phase, networks in spec.phases.items():
        made = state.opt_state[phase]
        trained = partition(spec.model, state.params, networks)[0]
        if not is_adam(made) if optimizer is None else not _alike(made, jax.eval_shape(optimizer.init, trained)):
            raise other_optimizer(function, optimizer is not None)


def is_adam(optimizer: Any) -> bool:
    """Whether a phase's optimizer is the configuration's Adam."""
    return isinstance(optimizer, optax.ScaleByAdamState)


def init_state(
    spec: Spec, images: np.ndarray | None = None, *, optimizer: optax.GradientTransformation | None = None
) -> TrainState:
    """Make the state before the first step.

    Args:
        spec: The configuration.
        images: The training images, uint8 `[n, height, width, channels]`; only `glorot-data` needs them.
        optimizer: Another optimizer than the configuration's Adam, for the functions that train to be given too.

    Returns:
        The state.

    Raises:
        InputError: If `spec` is not a Spec, if the images are needed and missing, or not the model's, if the
            configuration has settings that the optimizer would not follow, or for float64 without JAX's 64-bit mode.
    """
    require_spec(spec)
    require(spec.training.dtype)
    key = root_key(spec.training.seed)
    if images is not None:
        require_bytes("init_state", images, spec.model.image)
    return _first_state(spec, key, last_bias(spec, images), optimizer)


@program(["spec", "optimizer"])
def _first_state(
    spec: Spec, key: Array, bias: np.ndarray | None, optimizer: optax.GradientTransformation | None
) -> TrainState:
    params = init(spec, streams(key).init, None if bias is None else jnp.asarray(bias))
    average = jax.tree.map(jnp.copy, params) if spec.training.ema else None
    return TrainState(params, init_optimizers(spec, params, optimizer), jnp.zeros((), jnp.int32), key, average)


@names_tensors
@functools.partial(jax.jit, static_argnames=("spec", "optimizer"), donate_argnums=1)
def train_step(
    spec: Spec,
    state: TrainState,
    x: Array,
    labels: Array | None = None,
    epoch: Array | int = 0,
    *,
    optimizer: optax.GradientTransformation | None = None,
) -> tuple[TrainState, AnyTerms]:
    """Take one training step.

    Args:
        spec: The configuration.
        state: The state, which is donated; do not use the argument again.
        x: Pixels in the configuration's range, `[batch, pixels]`, which are seen as they are: `augment` is for images.
        labels: Classes, `[batch]`, for a model with classes.
        epoch: From 0, for the learning rate.
        optimizer: The optimizer that `init_state` was given, if it was given one.

    Returns:
        The new state, and the mean terms, nats per image.

    Raises:
        InputError: If the state's model, the pixels or the labels are not the configuration's, or if the state is
            another optimizer's.
    """
    require_spec(spec)
    require_state("train_step", state, TrainState, spec.training)
    check_pixels("train_step", spec, state.params, x, labels)
    require_optimizer("train_step", spec, state, optimizer)
    draws = draw(spec, random.fold_in(streams(state.key).noise, state.step), len(x))
    weights = jnp.full(len(x), 1 / len(x), x.dtype)
    rate = learning_rate(spec, epoch, state.step)
    return _update(spec, state, inputs(spec, x, draws, labels, weights, state.step), rate, optimizer)


def loss(
    spec: Spec,
    params: Params,
    images: Array,
    key: Array,
    labels: Array | None = None,
    step: Array | int = 0,
    phase: Phase | None = None,
) -> tuple[Array, tuple[dict[str, Array], Params]]:
    """Compute what a training step minimizes on a batch of images, with all that it draws from one key.

    It is all that a training loop of one's own needs of the package, beside an optimizer.

    Args:
        spec: The configuration.
        params: The model's parameters.
        images: uint8, `[batch, height, width, channels]`.
        key: The key of the step; use it once.
        labels: Classes, `[batch]`, for a model with classes.
        step: The step, from 0, for an objective that changes while it trains.
        phase: One of `phases`; by default the only one.

    Returns:
        What `training_loss` returns.

    Raises:
        InputError: If the model, the images or the labels are not the configuration's, if the objective has several
            phases and none is given, or if each image is to be binarised once for a whole run.
    """
    require_spec(spec)
    require_key("loss", key)
    check_params("loss", spec.model, params, spec.training.stored)
    require_bytes("loss", images, spec.model.image)
    require_own("loss", images=images, labels=labels)
    require_labels("loss", spec, labels, len(images))
    require_drawn_anew(spec)
    n = len(images)
    if spec.images.augments:
        images = augment(spec, images, key)
    x = prepare_pixels(spec, images, None, image_keys(random.fold_in(key, 0), jnp.arange(n)))
    weights = jnp.full(n, 1 / n, x.dtype)
    return training_loss(spec, params, inputs(spec, x, draw(spec, key, n), labels, weights, jnp.asarray(step)), phase)


@program(["spec", "n"])
def epoch_order(spec: Spec, key: Array, epoch: Array | int, n: int) -> Array:
    """Shuffle the images of an epoch.

    Args:
        spec: The configuration.
        key: The run's root key.
        epoch: From 0.
        n: Number of training images.

    Returns:
        The images' indices step by step, `[steps, batch]`. The last batch is filled up with the first image, whose
        weight is 0 there.
    """
    batch, steps = min(spec.training.batch_size, n), spec.training.epoch_steps(n)
    order = random.permutation(random.fold_in(streams(key).order, epoch), n)
    return jnp.pad(order, (0, steps * batch - n)).reshape(steps, batch)


def _large(given: Mapping[str, Any]) -> bool:
    """Whether each device has so many images of a batch that its products are faster without YNN's fusions: as fast on
    an AMD EPYC with 2,048 images and a tenth faster with 4,096, and on an Intel Xeon with 2,048."""
    spec = given["spec"]
    return isinstance(spec, Spec) and spec.training.batch_size // shares() >= _LARGE


@names_tensors
@program(["spec", "n", "optimizer"], large=_large)
def train_epoch(
    spec: Spec,
    state: TrainState,
    images: Array,
    labels: Array | None = None,
    last: Array | int | None = None,
    order: Array | None = None,
    n: int | None = None,
    places: Array | None = None,
    *,
    optimizer: optax.GradientTransformation | None = None,
) -> tuple[TrainState, Array]:
    """Train from `state` to the end of its epoch.

    It stops earlier at step `last` or at the configuration's `max_steps`.

    Args:
        spec: The configuration.
        state: The state to start from; its step says where in the epoch it is.
        images: uint8, `[n, height, width, channels]`.
        labels: Classes, `[n]`, for a model with classes.
        last: Stop after this step, counted from the run's beginning.
        order: The epoch's `epoch_order`, if it is known.
        n: Number of training images, where `images` holds more or fewer.
        places: If `images` holds only part of the data: the index in it of each image of `order`, `[steps, batch]`.
        optimizer: The optimizer that `init_state` was given, if it was given one.

    Returns:
        The new state, and the mean terms of each step in nats per image, `[steps, terms]`. Rows of steps that were not
        taken here are 0.

    Raises:
        InputError: If there are no images, if the state's model, the images or the labels are not the configuration's,
            if the state is another optimizer's, or if batch norm would see a batch of one number.
    """
    require_spec(spec)
    require_state("train_epoch", state, TrainState, spec.training)
    check_params("train_epoch", spec.model, state.params, spec.training.stored)
    require_bytes("train_epoch", images, spec.model.image)
    require_images(tuple(images.shape))
    require_labels("train_epoch", spec, labels, len(images) if n is None else n, more=n is not None)
    n, dtype = len(images) if n is None else n, spec.training.stored
    batch, steps = min(spec.training.batch_size, n), spec.training.epoch_steps(n)
    require_batches(spec, n)
    require_optimizer("train_epoch", spec, state, optimizer)
    keys, epoch = streams(state.key), state.step // steps
    order = epoch_order(spec, state.key, epoch, n) if order is None else order
    real = (jnp.arange(steps * batch) < n).reshape(steps, batch).astype(dtype)
    weights = real / real.sum(1, keepdims=True)
    static, spec = static_key(state.key, "train"), resolved(spec, n)
    end, size = (epoch + 1) * steps, min(steps, steps_at_once(spec, batch, has_gpu() and places is None))
    for sooner in (spec.training.max_steps, last):
        end = end if sooner is None else jnp.minimum(end, sooner)

    def block(carry: tuple[TrainState, Array]) -> tuple[TrainState, Array]:
        """The steps that draw their numbers together."""
        first = carry[0].step
        steps_ahead = first + jnp.arange(size, dtype=jnp.int32)
        own = jax.vmap(lambda at: random.fold_in(keys.noise, at))(steps_ahead)
        of_steps = jax.vmap(lambda key: (views_key(key), random.fold_in(key, 0)))(own)
        drawn = jax.vmap(lambda key: draw(spec, key, batch))(own)
        stop = jnp.minimum(end, first + size)
        given: tuple[Array, Array | None] | None = None
        if not jax.typeof(images).sharding.mesh.empty:
            # Each device gets its rows of all these steps at once, so that no step asks another device for some.
            ahead = jnp.minimum(steps_ahead - epoch * steps, steps - 1)
            rows = order[ahead]
            taken = images[rows if places is None else places[ahead]]
            given = split(taken, 1), None if labels is None else labels[rows]

        def part(ahead: _Ahead, carry: tuple[TrainState, Array]) -> tuple[TrainState, Array]:
            return lax.while_loop(lambda c: c[0].step < stop, functools.partial(step, first, ahead), carry)

        def on_gpu(carry: tuple[TrainState, Array]) -> tuple[TrainState, Array]:
            """The same in fewer kernels, and with known numbers of steps: the host asks a GPU before each step of a
            loop whose bound it doesn't know."""
            ahead, change = _Ahead(drawn, of_steps, given), optimizer is None and packs(spec) and not is_sharded(images)
            if change:
                carry = _changed(pack, spec, carry[0]), carry[1]
                pixels = jax.vmap(pixels_of)(steps_ahead, of_steps, given)
                sizes = {phase: sizes_of(steps_ahead, adam) for phase, adam in carry[0].opt_state.items()}
                ahead = _Ahead(drawn, of_steps, None, pixels, sizes)
            one = jax.jit(functools.partial(step, first, ahead))  # traced once for all loops
            known = lambda count: lambda carry: lax.fori_loop(0, count, lambda _, c: one(c), carry)  # noqa: E731
            counts = sorted({size, steps % size} - {0})
            which = sum(jnp.where(stop - first == count, i, 0) for i, count in enumerate(counts, 1))
            loops = [functools.partial(part, ahead), *map(known, counts)]
            state, log = lax.switch(which, loops, carry)
            return _changed(unpack, spec, state) if change else state, log

        def sizes_of(steps_ahead: Array, adam: Any) -> _Sizes:
            ts = (adam.count + 1 + jnp.arange(size, dtype=jnp.int32)).astype(dtype)
            return jax.vmap(lambda at, t: _sizes(spec, learning_rate(spec, epoch, at), t))(steps_ahead, ts)

        plain = functools.partial(part, _Ahead(drawn, of_steps, given))
        return lax.platform_dependent(carry, cpu=plain, tpu=plain, default=on_gpu) if has_gpu() else plain(carry)

    def pixels_of(
        at: Array, own: tuple[Array, Array], given: tuple[Array, Array | None] | None
    ) -> tuple[Array, Array | None]:
        """The pixels and the labels of a step."""
        place, (views, seen) = jnp.minimum(at - epoch * steps, steps - 1), own
        rows = order[place]
        chosen = images[rows if places is None else places[place]] if given is None else given[0]
        row_labels = (None if labels is None else labels[rows]) if given is None else given[1]
        if spec.images.augments:
            chosen = viewed(spec, chosen, views)
        dynamic = image_keys(seen, jnp.arange(batch))
        return prepare_pixels(spec, chosen, image_keys(static, rows), dynamic), row_labels

    def step(first: Array, ahead: _Ahead, carry: tuple[TrainState, Array]) -> tuple[TrainState, Array]:
        state, log = carry
        at = state.step - epoch * steps
        mine = jax.tree.map(lambda a: a[state.step - first], ahead)
        x, row_labels = pixels_of(state.step, mine.keys, mine.given) if mine.pixels is None else mine.pixels
        rate = learning_rate(spec, epoch, state.step)
        batch_inputs = inputs(spec, x, mine.draws, row_labels, weights[at], state.step)
        state, terms = _update(spec, state, batch_inputs, mine.sizes or rate, optimizer)
        return state, lax.dynamic_update_index_in_dim(log, jnp.stack(terms), at, 0)

    # A bound that is no constant: one program for any part of an epoch, so that a run in parts is the run in one.
    return lax.while_loop(lambda c: c[0].step < end, block, (state, jnp.zeros((steps, len(spec.terms)), dtype)))


def gathered(spec: Spec, state: TrainState) -> TrainState:
    """Return a state of which this process has all, for what not all processes do: to save, evaluate and draw it.

    Args:
        spec: The configuration.
        state: A TrainState as `Part` has it. All processes have to call this with theirs.

    Returns:
        The state, which may be the argument itself. Of sharded parameters in several processes it is on the CPU.

    Raises:
        InputError: If the state's model is not the configuration's.
    """
    require_spec(spec)
    require_state("gathered", state, TrainState, spec.training)
    check_params("gathered", spec.model, state.params, spec.training.stored)
    return complete(state)


class _Ahead(NamedTuple):
    """What the steps of a block are given, of all of them: `[steps, ...]`."""

    draws: Draws
    keys: tuple[Array, Array]
    """Those that the steps' images are moved by, and binarised from. Each is a hundred operations on two numbers,
    which a TPU computes one by one within a step."""
    given: tuple[Array, Array | None] | None
    """Images and labels, where no step takes them from all."""
    pixels: tuple[Array, Array | None] | None = None
    """Or their pixels, and labels."""
    sizes: dict[str, _Sizes] | None = None
    """Each phase's, where no step computes them."""


def _update(
    spec: Spec,
    state: TrainState,
    batch: Inputs,
    rate: Array | float | dict[str, _Sizes],
    optimizer: optax.GradientTransformation | None,
) -> tuple[TrainState, AnyTerms]:
    """One step: each phase's update of its optimizer, on its terms averaged with the batch's weights."""
    params, opt_state, reported = state.params, dict(state.opt_state), {}
    batch = batch._replace(x=split(batch.x), seen=split(batch.seen))

    for phase in phases(spec):
        trained, rest = partition(spec.model, params, phase.networks)

        def loss(trained: Params, phase=phase, rest=rest) -> tuple[Array, tuple[dict[str, Array], Params]]:
            return minimized(spec, combine(rest, trained), batch, phase)

        grads, (terms, params) = jax.grad(loss, has_aux=True)(trained)
        if optimizer is not None:
            adam = optimizer
        elif isinstance(rate, dict):
            adam = _adam(spec, lambda _, sizes=rate[phase.name]: sizes)
        else:
            adam = make_optimizer(spec, rate)
        updates, opt_state[phase.name] = adam.update(scattered(grads), opt_state[phase.name], trained)
        params = combine(params, optax.apply_updates(trained, updates))  # type: ignore[arg-type]
        reported |= terms
    average = averaged(spec, state.average, params, state.step + 1)
    params, opt_state, average = kept((params, opt_state, average))
    reported = whole(reported)
    return TrainState(params, opt_state, state.step + 1, state.key, average), collect(spec, reported)


def _changed(change: Callable[..., Params], spec: Spec, state: TrainState) -> TrainState:
    """The state with its parameters, and all that is kept for each of them, changed by `pack` or `unpack`."""
    opt_state: dict[str, Any] = dict(state.opt_state)
    for phase, adam in opt_state.items():
        opt_state[phase] = adam._replace(mu=change(spec.model, adam.mu), nu=change(spec.model, adam.nu))
    average = None if state.average is None else change(spec.model, state.average)
    return state._replace(params=change(spec.model, state.params), opt_state=opt_state, average=average)


def _alike(tree: Any, other: Any) -> bool:
    return jax.tree.structure(tree) == jax.tree.structure(other)


def _power_less_one(base: float, t: Array) -> Array:
    """base^t - 1, without the digits lost by base^t near 1."""
    return jnp.expm1(t * np.log(base).astype(t.dtype)) if base else jnp.full_like(t, -1.0)
