"""jaxvae on named arrays: numpy in, numpy out."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxvae
from jaxvae.shared.data import Dataset
from jaxvae.shared.spec import Spec

Arrays = dict[str, np.ndarray]


def initial(spec: Spec) -> Arrays:
    """The parameters a run starts from."""
    key = jaxvae.streams(jaxvae.root_key(spec.training.seed)).init
    return jaxvae.to_arrays(spec, jaxvae.init(spec, key))


def forward(spec: Spec, arrays: Arrays, x: np.ndarray, eps: np.ndarray) -> Arrays:
    """Every layer's output, `[batch, ..]`: the posterior, the latent, the logits."""
    params = jaxvae.from_arrays(spec, arrays)
    posterior = jaxvae.encode(spec, params, jnp.asarray(x))
    z = jaxvae.locate(posterior, jnp.asarray(eps))
    named = {"mean": posterior.mean, "logvar": posterior.logvar, "z": z, "logits": jaxvae.decode(spec, params, z)}
    return {name: np.asarray(value) for name, value in named.items()}


def losses(spec: Spec, arrays: Arrays, x: np.ndarray, eps: np.ndarray) -> Arrays:
    """Every term for each image, `[batch]`."""
    terms = jaxvae.negative_elbo(spec, jaxvae.from_arrays(spec, arrays), jnp.asarray(x), jnp.asarray(eps))
    return {name: np.asarray(value) for name, value in terms._asdict().items()}


def gradients(spec: Spec, arrays: Arrays, x: np.ndarray, eps: np.ndarray) -> Arrays:
    """The mean loss's gradient by every parameter, through the sampled latent."""

    def loss(params):
        return jaxvae.negative_elbo(spec, params, jnp.asarray(x), jnp.asarray(eps)).loss.mean()

    return jaxvae.to_arrays(spec, jax.grad(loss)(jaxvae.from_arrays(spec, arrays)))


def optimize(spec: Spec, arrays: Arrays, gradients: list[Arrays]) -> tuple[Arrays, Arrays]:
    """The parameters and Adam's state after one update by each of the gradients."""
    params, optimizer = jaxvae.from_arrays(spec, arrays), jaxvae.make_optimizer(spec)
    opt_state = optimizer.init(params)
    for gradient in gradients:
        updates, opt_state = optimizer.update(jaxvae.from_arrays(spec, gradient), opt_state, params)
        params = optax.apply_updates(params, updates)
    return jaxvae.to_arrays(spec, params), jaxvae.optimizer_to_arrays(spec, opt_state)  # type: ignore[arg-type]


def steps(
    spec: Spec, arrays: Arrays, batches: list[np.ndarray], optimizer: Arrays | None = None
) -> tuple[Arrays, Arrays, np.ndarray]:
    """After one step of training on each batch, from Adam's state as given or at its start: the parameters, Adam's
    state, and the terms of each step."""
    state = jaxvae.init_state(spec)
    state = state._replace(params=jaxvae.from_arrays(spec, arrays))
    if optimizer is not None:
        opt_state = jaxvae.optimizer_from_arrays(spec, optimizer)
        state = state._replace(opt_state=opt_state, step=jnp.int32(optimizer["step"]))
    terms = []
    for batch in batches:
        state, step = jaxvae.train_step(spec, state, jnp.asarray(batch))
        terms.append(np.asarray(jnp.stack(step)))
    optimizer = jaxvae.optimizer_to_arrays(spec, state.opt_state)
    return jaxvae.to_arrays(spec, state.params), optimizer, np.stack(terms)


def epoch(spec: Spec, images: np.ndarray) -> tuple[Arrays, np.ndarray]:
    """One epoch from the run's start over uint8 images: the parameters after it, and the terms of each step."""
    state, terms = jaxvae.train_epoch(spec, jaxvae.init_state(spec), jnp.asarray(images))
    return jaxvae.to_arrays(spec, state.params), np.asarray(terms)[: int(state.step)]


def run(spec: Spec, data: Dataset) -> tuple[Arrays, np.ndarray, np.ndarray]:
    """A whole run: the final parameters, the terms of each step `[steps, 3]` and of each evaluation `[epochs, 3]`."""
    seen: list[jaxvae.Progress] = []
    state = jaxvae.fit(spec, data, seen.append)
    train, test = np.concatenate([p.train for p in seen]), np.stack([p.test for p in seen])
    return jaxvae.to_arrays(spec, state.params), train, test
