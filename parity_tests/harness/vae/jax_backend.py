"""jaxvae on named arrays: numpy in, numpy out. `torch_backend` has the same functions for the other package."""

import functools
from collections import OrderedDict

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import random

import jaxvae
from jaxvae import distributions, objectives
from jaxvae.nets import Params, combine, partition, statistics
from jaxvae.params import _named, _nest
from jaxvae.shared.config.spec import Spec
from jaxvae.shared.data.dataset import Dataset
from jaxvae.shared.model import optimizer_state
from jaxvae.shared.model.requirements import has_prior
from parity_tests.harness.hooks import jax_layers
from parity_tests.harness.vae.batch import Batch, averages

Arrays = dict[str, np.ndarray]
NAME = "jaxvae"
SPLITS = ("train", "test", "validation")


def use(device: str) -> str:
    """Select `cpu` or `gpu` and return its label. Raises InputError if there is no such device."""
    selected = jaxvae.prepare(device, "float64" if jax.config.jax_enable_x64 else "float32")  # type: ignore[attr-defined]
    jax.config.update("jax_default_device", selected)
    return jaxvae.device_label(selected)


def device() -> str:
    """Return the label of the device."""
    selected = jax.config.jax_default_device or jax.devices()[0]  # type: ignore[attr-defined]
    return jaxvae.device_label(selected)


def keys(spec: Spec, places: int) -> Arrays:
    """Compute the run's keys as words, draws from them as bits, and an order of `places` images."""
    root = jaxvae.root_key(spec.training.seed)
    named = {"root": root, "root of a 64-bit seed": jaxvae.root_key(2**63 + 12345), **jaxvae.streams(root)._asdict()}
    named |= {f"{s}, {t}": jaxvae.stream_key(root, s, t) for s in named if s in root_streams() for t in (1000, 0, 1)}

    def again() -> jax.Array:  # a key is used once
        return jaxvae.root_key(spec.training.seed)

    drawn = {
        "split": random.key_data(random.split(again(), 10)),
        "bits": random.bits(again(), (1000,), "uint32"),
        "uniforms": random.uniform(again(), (1000,), spec.training.dtype),
        "masks": random.bernoulli(again(), jnp.asarray(0.3, spec.training.dtype), (1000,)).astype(jnp.uint8),
        "shuffled": random.permutation(again(), places),
    }
    words = {name: np.asarray(random.key_data(key)) for name, key in named.items()}
    # Without x64 JAX has int32 indices.
    static = {f"static {split}": np.asarray(random.key_data(jaxvae.static_key(root, split))) for split in SPLITS}
    return words | static | _numpy(drawn) | {"shuffled": np.asarray(drawn["shuffled"], np.int64)}


def normals(spec: Spec, size: int) -> Arrays:
    """Draw standard normals from the run's root key."""
    return {"normals": np.asarray(random.normal(jaxvae.root_key(spec.training.seed), (size,), spec.training.dtype))}


def initial(spec: Spec, images: np.ndarray | None = None) -> Arrays:
    """Compute the initial parameters of a run; some depend on the training images."""
    return jaxvae.to_arrays(spec, jaxvae.init_state(spec, images).params)


def pixels(spec: Spec, images: np.ndarray) -> Arrays:
    """Convert uint8 images to floats, `[n, pixels]`."""
    return _numpy({"pixels": jaxvae.scale(jnp.asarray(images), spec.training.dtype)})


def prepared(spec: Spec, images: np.ndarray) -> Arrays:
    """Prepare the first training images as a step of the configuration does."""
    root, places = jaxvae.root_key(spec.training.seed), np.arange(len(images))
    keys = (jaxvae.static_key(root, "train"), random.fold_in(jaxvae.stream_key(root, "noise", 3), 0))
    static, dynamic = (jaxvae.image_keys(key, jnp.asarray(places)) for key in keys)
    return _numpy({"prepared": jaxvae.prepare_pixels(spec, jnp.asarray(images), static, dynamic)})


def draws(spec: Spec, rows: int, t: int) -> Arrays:
    """Draw the random numbers of step `t` for `rows` images."""
    key = jaxvae.stream_key(jaxvae.root_key(spec.training.seed), "noise", t)
    drawn = jaxvae.draw(spec, key, rows)
    named = {name: value for name, value in drawn._asdict().items() if name != "masks" and value is not None}
    return _numpy(named | {f"mask {i}": mask for i, mask in enumerate(drawn.masks)})


def layers(spec: Spec, arrays: Arrays, batch: Batch) -> Arrays:
    """Compute the inputs and outputs of every layer in training, in the order of the computation, and the latent.
    Images have the order height, width, channel."""
    return _numpy(_layers(spec, jaxvae.from_arrays(spec, arrays), _inputs(spec, batch)))


def forward(spec: Spec, arrays: Arrays, batch: Batch) -> Arrays:
    """Compute the outputs in evaluation, `[batch, ..]`: the posterior, the latent, the logits."""
    params, labels = jaxvae.from_arrays(spec, arrays), _optional(batch.labels)
    return _numpy(_forward(spec, params, jnp.asarray(batch.x), jnp.asarray(batch.eps), labels))


def outputs(spec: Spec, arrays: Arrays, batch: Batch) -> Arrays:
    """Compute in evaluation the posterior, the latent, what the decoder makes of it, and every term of each image."""
    return _numpy(_outputs(spec, jaxvae.from_arrays(spec, arrays), _inputs(spec, batch)))


def losses(spec: Spec, arrays: Arrays, batch: Batch) -> Arrays:
    """Compute every term of each image in evaluation, `[batch]`."""
    params, given = jaxvae.from_arrays(spec, arrays), _inputs(spec, batch)
    return _numpy(_terms(spec, params, given.x, given.draws, given.labels)._asdict())


def training(spec: Spec, arrays: Arrays, batch: Batch) -> Arrays:
    """Compute every term of the batch in training, and the running statistics after it."""
    return _numpy(_training(spec, jaxvae.from_arrays(spec, arrays), _inputs(spec, batch)))


def gradients(spec: Spec, arrays: Arrays, batch: Batch) -> Arrays:
    """Compute the gradients of each phase, by the parameters it trains; `PHASE.NAME` where there are several phases."""
    by_phase = _gradients(spec, jaxvae.from_arrays(spec, arrays), _inputs(spec, batch))
    return {
        f"{phase}.{name}" if phase else name: array
        for phase, networks in spec.phases.items()
        for name, array in _named(optimizer_state.trained(spec, networks), by_phase[phase]).items()
    }


def optimize(spec: Spec, arrays: Arrays, gradients: list[Arrays]) -> tuple[Arrays, Arrays]:
    """Compute the parameters and Adam's state after one update by each of the gradients, named as in `gradients`."""
    params = jaxvae.from_arrays(spec, arrays)
    opt_state = jaxvae.init_optimizers(spec, params)
    for gradient in gradients:
        for phase in spec.phases:
            prefix = phase and f"{phase}."
            own = {name.removeprefix(prefix): a for name, a in gradient.items() if name.startswith(prefix)}
            trained, rest = partition(spec.model, params, spec.phases[phase])
            trained, opt_state[phase] = _update(spec, trained, opt_state[phase], _nest(spec, own))
            params = combine(rest, trained)
    return jaxvae.to_arrays(spec, params), jaxvae.optimizer_to_arrays(spec, opt_state)


def steps(
    spec: Spec, arrays: Arrays, batches: list[Batch], optimizer: Arrays | None = None
) -> tuple[Arrays, Arrays, np.ndarray]:
    """Take one training step on the pixels and labels of each batch, from the given or the initial state of Adam, and
    return the parameters, Adam's state, and the terms of each step."""
    state, terms = _state(spec, arrays, optimizer), []
    for batch in batches:
        state, step = jaxvae.train_step(spec, state, jnp.asarray(batch.x), _optional(batch.labels))
        terms.append(np.asarray(jnp.stack(step)))
    return *_trained(spec, state), np.stack(terms)


def train(
    spec: Spec, arrays: Arrays, data: Dataset, optimizer: Arrays | None = None, last: int | None = None
) -> tuple[Arrays, Arrays, np.ndarray]:
    """Train from these parameters for the epochs or steps of the configuration, or up to step `last`, and return the
    parameters, Adam's state, and the terms of each step."""
    state, terms = _state(spec, arrays, optimizer), []
    on_device, labels = jnp.asarray(data.train), jnp.asarray(data.train_labels) if spec.model.classes else None
    end = spec.training.total_steps(len(data.train))
    last = end if last is None else min(end, last)  # always given: a program without it would be another one
    while (done := int(state.step)) < last:
        state, epoch = jaxvae.train_epoch(spec, state, on_device, labels, last)
        terms.append(np.asarray(epoch)[: int(state.step) - done])
    return *_trained(spec, state), np.concatenate(terms)


def evaluate(spec: Spec, arrays: Arrays, data: Dataset, t: int) -> Arrays:
    """Evaluate the test images as after epoch `t`: the terms, samples if there is a prior, and reconstructions."""
    params, root = jaxvae.from_arrays(spec, arrays), jaxvae.root_key(spec.training.seed)
    key = jaxvae.stream_key(root, "evaluation", t)
    named = dict(zip(spec.terms, jaxvae.average_terms(spec, params, data.test, key, data.test_labels), strict=True))
    if has_prior(spec):
        named["samples"] = jaxvae.sample(spec, params, jaxvae.stream_key(root, "pictures", t), 64)
    named["reconstructions"] = jaxvae.reconstruct(spec, params, data.test[:64], data.test_labels[:64])
    return _numpy(named)


def run(spec: Spec, data: Dataset) -> tuple[Arrays, Arrays, np.ndarray, np.ndarray]:
    """Train a whole run and return the final parameters, Adam's state, the terms of each step `[steps, terms]` and of
    each evaluation, on validation images first, `[evaluations, terms]`."""
    seen: list[jaxvae.Progress] = []
    state = jaxvae.fit(spec, data, seen.append)
    held = [p.validation for p in seen if p.validation is not None]
    train, test = np.concatenate([p.train for p in seen]), np.stack([*held, *(p.test for p in seen)])
    return *_trained(spec, state), train, test


def root_streams() -> tuple[str, ...]:
    """Return the names of the key streams."""
    return jaxvae.Streams._fields


def wide_bits(spec: Spec, size: int) -> Arrays:
    """Draw 64-bit words from the run's root key."""
    return {"wide bits": np.asarray(random.bits(jaxvae.root_key(spec.training.seed), (size,), "uint64"))}


@functools.partial(jax.jit, static_argnums=0)
def _layers(spec: Spec, params: Params, batch: jaxvae.Inputs) -> OrderedDict:
    model = jaxvae.bind(spec.model, params)
    with jax_layers.record(model, leaves=True) as calls:
        posterior = model.encode(batch.seen, batch.labels, batch.training)
        z = jaxvae.locate(posterior, batch.draws.eps.reshape(-1, *posterior.mean.shape)[0])
        model.decode(z, batch.labels, batch.training)
        if spec.model.discriminator:
            model.discriminate(z)
    named = {f"{name}, {kind}": value for name, call in calls.items() for kind, value in call._asdict().items()}
    # An OrderedDict, since jit returns a dict sorted by its keys.
    return OrderedDict(named, **posterior._asdict(), z=z)


@functools.partial(jax.jit, static_argnums=0)
def _forward(spec: Spec, params: Params, x: jax.Array, eps: jax.Array, labels: jax.Array | None) -> OrderedDict:
    posterior = jaxvae.encode(spec, params, x, labels)
    z = jaxvae.locate(posterior, eps.reshape(-1, *posterior.mean.shape)[0])
    return OrderedDict(posterior._asdict(), z=z, logits=jaxvae.decode(spec, params, z, labels).logits)


@functools.partial(jax.jit, static_argnums=0)
def _outputs(spec: Spec, params: Params, batch: jaxvae.Inputs) -> OrderedDict:
    posterior = jaxvae.encode(spec, params, batch.x, batch.labels)
    z = jaxvae.locate(posterior, batch.draws.eps.reshape(-1, *posterior.mean.shape)[0])
    decoded = jaxvae.decode(spec, params, z, batch.labels)
    named = OrderedDict(posterior._asdict(), z=z, logits=decoded.logits)
    if decoded.logvar is not None:
        named["pixel logvar"] = distributions.pixel_logvar(spec, decoded)
    named["pixel means"] = jaxvae.pixel_means(spec, decoded)
    return OrderedDict(named, **jaxvae.image_terms(spec, params, batch.x, batch.draws, batch.labels)._asdict())


@functools.partial(jax.jit, static_argnums=0)
def _terms(spec: Spec, params: Params, x: jax.Array, draws: jaxvae.Draws, labels: jax.Array | None) -> jaxvae.AnyTerms:
    return jaxvae.image_terms(spec, params, x, draws, labels)


@functools.partial(jax.jit, static_argnums=0)
def _training(spec: Spec, params: Params, batch: jaxvae.Inputs) -> OrderedDict:
    terms, model = {}, jaxvae.bind(spec.model, params)
    assert batch.training is not None
    for phase in jaxvae.phases(spec):
        terms |= objectives.average(spec, phase.terms(spec, model, batch), batch.training.weights, batch.step)
    running = dict(jax.tree_util.tree_leaves_with_path(statistics(model)))
    return OrderedDict(terms, **{jax.tree_util.keystr(path): value for path, value in running.items()})


@functools.partial(jax.jit, static_argnums=0)
def _gradients(spec: Spec, params: Params, batch: jaxvae.Inputs) -> dict[str, Params]:
    assert batch.training is not None
    shares, gradients = batch.training.weights, {}
    for phase in jaxvae.phases(spec):
        trained, rest = partition(spec.model, params, phase.networks)

        def loss(trained: Params, phase=phase, rest=rest) -> jax.Array:
            model = jaxvae.bind(spec.model, combine(rest, trained))
            terms = objectives.average(spec, phase.terms(spec, model, batch), shares, batch.step)
            return next(iter(terms.values())) * phase.share

        gradients[phase.name] = jax.grad(loss)(trained)
    return gradients


@functools.partial(jax.jit, static_argnums=0)
def _update(spec: Spec, params: Params, opt_state: optax.OptState, gradient: Params) -> tuple[Params, optax.OptState]:
    updates, opt_state = jaxvae.make_optimizer(spec).update(gradient, opt_state, params)
    return optax.apply_updates(params, updates), opt_state  # type: ignore[return-value]


def _inputs(spec: Spec, batch: Batch) -> jaxvae.Inputs:
    """The batch as training inputs."""
    x, prior, corruption = jnp.asarray(batch.x), _optional(batch.prior), _optional(batch.corruption)
    draws = jaxvae.Draws(jnp.asarray(batch.eps), prior, corruption, tuple(map(jnp.asarray, batch.masks)))
    shares = jnp.full(len(x), 1 / len(x), x.dtype)
    return jaxvae.inputs(spec, x, draws, _optional(batch.labels), shares, jnp.int32(batch.step))


def _optional(array: np.ndarray | None) -> jax.Array | None:
    return None if array is None else jnp.asarray(array)


def _state(spec: Spec, arrays: Arrays, optimizer: Arrays | None) -> jaxvae.TrainState:
    params, average = jaxvae.from_arrays(spec, arrays), None
    if spec.training.ema:
        average = jaxvae.from_arrays(spec, arrays if optimizer is None else averages(optimizer)[0])
    if optimizer is None:
        opt_state, step = jaxvae.init_optimizers(spec, params), 0
    else:
        opt_state = jaxvae.optimizer_from_arrays(spec, averages(optimizer)[1])
        step = next(int(array) for name, array in optimizer.items() if name.endswith("step"))
    return jaxvae.TrainState(params, opt_state, jnp.int32(step), jaxvae.root_key(spec.training.seed), average)


def _trained(spec: Spec, state: jaxvae.TrainState) -> tuple[Arrays, Arrays]:
    """The weights, and Adam's state with the average of the weights if there is one."""
    optimizer = jaxvae.optimizer_to_arrays(spec, state.opt_state)
    if state.average is not None:
        optimizer |= {f"average.{name}": array for name, array in jaxvae.to_arrays(spec, state.average).items()}
    return jaxvae.to_arrays(spec, state.params), optimizer


def _numpy(named: dict) -> Arrays:
    return {name: np.asarray(value) for name, value in named.items()}
