"""jaxvae on named arrays: numpy in, numpy out. Every function asks the package one question; the same function of
`torch_side` asks the other."""

import functools
from collections import OrderedDict

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import random

import jaxvae
from jaxvae.nets import Params
from jaxvae.shared.data import Dataset
from jaxvae.shared.spec import Spec
from parity_tests.harness import jax_layers

Arrays = dict[str, np.ndarray]
NAME = "jaxvae"


def use(device: str) -> str:
    """Computes on `cpu` or `gpu` from now on, and says what that is. Raises InputError where there is none."""
    found = jaxvae.prepare(device, "float64" if jax.config.jax_enable_x64 else "float32")  # type: ignore[attr-defined]
    jax.config.update("jax_default_device", found)
    return jaxvae.device_label(found)


def device() -> str:
    """What it computes on."""
    found = jax.config.jax_default_device or jax.devices()[0]  # type: ignore[attr-defined]
    return jaxvae.device_label(found)


def keys(spec: Spec, places: int) -> Arrays:
    """The run's keys as words, what is drawn from them as bits, and an order of so many places."""
    root = jaxvae.root_key(spec.training.seed)
    named = {"root": root, "root of a 64-bit seed": jaxvae.root_key(2**63 + 12345), **jaxvae.streams(root)._asdict()}
    named |= {f"{s}, {t}": jaxvae.stream_key(root, s, t) for s in named if s in root_streams() for t in (1000, 0, 1)}

    def again() -> jax.Array:  # a key is used once, here too
        return jaxvae.root_key(spec.training.seed)

    drawn = {
        "split": random.key_data(random.split(again(), 10)),
        "bits": random.bits(again(), (1000,), "uint32"),
        "uniforms": random.uniform(again(), (1000,), spec.training.dtype),
        "masks": random.bernoulli(again(), jnp.asarray(0.3, spec.training.dtype), (1000,)).astype(jnp.uint8),
        "shuffled": random.permutation(again(), places),
    }
    words = {name: np.asarray(random.key_data(key)) for name, key in named.items()}
    # Without x64 JAX counts places in int32.
    return words | _numpy(drawn) | {"shuffled": np.asarray(drawn["shuffled"], np.int64)}


def normals(spec: Spec, size: int) -> Arrays:
    """Standard normals from the run's root key."""
    return {"normals": np.asarray(random.normal(jaxvae.root_key(spec.training.seed), (size,), spec.training.dtype))}


def initial(spec: Spec) -> Arrays:
    """The parameters a run starts from."""
    key = jaxvae.streams(jaxvae.root_key(spec.training.seed)).init
    return jaxvae.to_arrays(spec, jaxvae.init(spec, key))


def pixels(spec: Spec, images: np.ndarray) -> Arrays:
    """uint8 images as the network sees them: `[n, pixels]`."""
    return {"pixels": np.asarray(jaxvae.scale(jnp.asarray(images), spec.training.dtype))}


def layers(spec: Spec, arrays: Arrays, x: np.ndarray, eps: np.ndarray) -> Arrays:
    """What every layer is given and gives, in the order of the computation, and the latent between the networks."""
    return _numpy(_layers(spec, jaxvae.from_arrays(spec, arrays), jnp.asarray(x), jnp.asarray(eps)))


def forward(spec: Spec, arrays: Arrays, x: np.ndarray, eps: np.ndarray) -> Arrays:
    """The outputs, `[batch, ..]`: the posterior, the latent, the logits."""
    params = jaxvae.from_arrays(spec, arrays)
    posterior = jaxvae.encode(spec, params, jnp.asarray(x))
    z = jaxvae.locate(posterior, jnp.asarray(eps))
    return _numpy({**posterior._asdict(), "z": z, "logits": jaxvae.decode(spec, params, z)})


def losses(spec: Spec, arrays: Arrays, x: np.ndarray, eps: np.ndarray) -> Arrays:
    """Every term for each image, `[batch]`."""
    return _numpy(_losses(spec, jaxvae.from_arrays(spec, arrays), jnp.asarray(x), jnp.asarray(eps))._asdict())


def gradients(spec: Spec, arrays: Arrays, x: np.ndarray, eps: np.ndarray) -> Arrays:
    """The mean loss's gradient by every parameter, through the sampled latent."""
    params = jaxvae.from_arrays(spec, arrays)
    return jaxvae.to_arrays(spec, _gradients(spec, params, jnp.asarray(x), jnp.asarray(eps)))


def optimize(spec: Spec, arrays: Arrays, gradients: list[Arrays]) -> tuple[Arrays, Arrays]:
    """The parameters and Adam's state after one update by each of the gradients."""
    params = jaxvae.from_arrays(spec, arrays)
    opt_state = jaxvae.make_optimizer(spec).init(params)
    for gradient in gradients:
        params, opt_state = _update(spec, params, opt_state, jaxvae.from_arrays(spec, gradient))
    return jaxvae.to_arrays(spec, params), jaxvae.optimizer_to_arrays(spec, opt_state)


def steps(
    spec: Spec, arrays: Arrays, batches: list[np.ndarray], optimizer: Arrays | None = None
) -> tuple[Arrays, Arrays, np.ndarray]:
    """After one step of training on each batch, from Adam's state as given or at its start: the parameters, Adam's
    state, and the terms of each step."""
    state, terms = _state(spec, arrays, optimizer), []
    for batch in batches:
        state, step = jaxvae.train_step(spec, state, jnp.asarray(batch))
        terms.append(np.asarray(jnp.stack(step)))
    return *_trained(spec, state), np.stack(terms)


def train(
    spec: Spec, arrays: Arrays, images: np.ndarray, optimizer: Arrays | None = None
) -> tuple[Arrays, Arrays, np.ndarray]:
    """After the epochs or steps of the configuration over uint8 images, from these parameters: the parameters, Adam's
    state, and the terms of each step."""
    state, on_device, terms = _state(spec, arrays, optimizer), jnp.asarray(images), []
    while (done := int(state.step)) < spec.training.total_steps(len(images)):
        state, epoch = jaxvae.train_epoch(spec, state, on_device)
        terms.append(np.asarray(epoch)[: int(state.step) - done])
    return *_trained(spec, state), np.concatenate(terms)


def epoch(spec: Spec, images: np.ndarray) -> tuple[Arrays, np.ndarray]:
    """One epoch from the run's start over uint8 images: the parameters after it, and the terms of each step."""
    state, terms = jaxvae.train_epoch(spec, jaxvae.init_state(spec), jnp.asarray(images))
    return jaxvae.to_arrays(spec, state.params), np.asarray(terms)[: int(state.step)]


def evaluate(spec: Spec, arrays: Arrays, images: np.ndarray, t: int) -> Arrays:
    """The terms over test images as epoch `t` measures them, and that epoch's pictures: samples, reconstructions."""
    params, root = jaxvae.from_arrays(spec, arrays), jaxvae.root_key(spec.training.seed)
    terms = jaxvae.average_terms(spec, params, images, jaxvae.stream_key(root, "evaluation", t))
    named = dict(zip(jaxvae.Terms._fields, terms, strict=True))
    named["samples"] = jaxvae.sample(spec, params, jaxvae.stream_key(root, "pictures", t), 64)
    named["reconstructions"] = jaxvae.reconstruct(spec, params, images[:64])
    return _numpy(named)


def run(spec: Spec, data: Dataset) -> tuple[Arrays, np.ndarray, np.ndarray]:
    """A whole run: the final parameters, the terms of each step `[steps, 3]` and of each evaluation `[epochs, 3]`."""
    seen: list[jaxvae.Progress] = []
    state = jaxvae.fit(spec, data, seen.append)
    train, test = np.concatenate([p.train for p in seen]), np.stack([p.test for p in seen])
    return jaxvae.to_arrays(spec, state.params), train, test


def root_streams() -> tuple[str, ...]:
    """The names of the key streams."""
    return jaxvae.Streams._fields


def wide_bits(spec: Spec, size: int) -> Arrays:
    """64-bit words from the run's root key."""
    return {"wide bits": np.asarray(random.bits(jaxvae.root_key(spec.training.seed), (size,), "uint64"))}


@functools.partial(jax.jit, static_argnums=0)
def _layers(spec: Spec, params: Params, x: jax.Array, eps: jax.Array) -> OrderedDict:
    model = jaxvae.bind(spec.model, params)
    with jax_layers.record(model) as calls:
        posterior = model.encode(x)
        z = jaxvae.locate(posterior, eps)
        model.decode(z)
    named = {f"{name}, {kind}": value for name, call in calls.items() for kind, value in call._asdict().items()}
    # An OrderedDict, since jit returns a dict sorted by its keys.
    return OrderedDict(named, mean=posterior.mean, logvar=posterior.logvar, z=z)


@functools.partial(jax.jit, static_argnums=0)
def _losses(spec: Spec, params: Params, x: jax.Array, eps: jax.Array) -> jaxvae.Terms:
    return jaxvae.negative_elbo(spec, params, x, eps)


@functools.partial(jax.jit, static_argnums=0)
def _gradients(spec: Spec, params: Params, x: jax.Array, eps: jax.Array) -> Params:
    return jax.grad(lambda params: jaxvae.negative_elbo(spec, params, x, eps).loss.mean())(params)


@functools.partial(jax.jit, static_argnums=0)
def _update(spec: Spec, params: Params, opt_state: optax.OptState, gradient: Params) -> tuple[Params, optax.OptState]:
    updates, opt_state = jaxvae.make_optimizer(spec).update(gradient, opt_state, params)
    return optax.apply_updates(params, updates), opt_state  # type: ignore[return-value]


def _state(spec: Spec, arrays: Arrays, optimizer: Arrays | None) -> jaxvae.TrainState:
    params = jaxvae.from_arrays(spec, arrays)
    if optimizer is None:
        opt_state = jaxvae.make_optimizer(spec).init(params)
    else:
        opt_state = jaxvae.optimizer_from_arrays(spec, optimizer)
    step = jnp.int32(0 if optimizer is None else optimizer["step"])
    return jaxvae.TrainState(params, opt_state, step, jaxvae.root_key(spec.training.seed))


def _trained(spec: Spec, state: jaxvae.TrainState) -> tuple[Arrays, Arrays]:
    return jaxvae.to_arrays(spec, state.params), jaxvae.optimizer_to_arrays(spec, state.opt_state)


def _numpy(named: dict) -> Arrays:
    return {name: np.asarray(value) for name, value in named.items()}
