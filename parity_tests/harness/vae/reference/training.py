"""Training by its plain formulas: gradients, Adam and whole steps."""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxvae.shared.config.networks import NETWORKS
from jaxvae.shared.config.spec import Spec
from jaxvae.shared.model import layout
from parity_tests.harness.vae.batch import Batch
from parity_tests.harness.vae.reference.networks import Arrays
from parity_tests.harness.vae.reference.objectives import averaged, losses


def gradients(spec: Spec, arrays: Arrays, batch: Batch, **parts: Any) -> dict[str, np.ndarray]:
    """Compute the gradients of each optimizer, by the arrays it trains; `PHASE.NAME` where there are several phases."""
    return {name: np.asarray(grad) for name, grad in _gradients(spec, arrays, batch, **parts).items()}


def _gradients(spec: Spec, arrays: Arrays, batch: Batch, **parts: Any) -> dict[str, jax.Array]:
    given = jax.tree.map(jnp.asarray, batch)
    gradients: dict[str, jax.Array] = {}
    for phase, networks in spec.phases.items():

        def loss(arrays: Arrays, phase: str = phase) -> jax.Array:
            terms = averaged(spec, losses(spec, arrays, given, xp=jnp, training=True, **parts), given, jnp)
            return terms[phase or "loss"] * (spec.minimized if phase in ("", "reconstruction") else 1.0)

        grads = jax.grad(loss)({name: jnp.asarray(array) for name, array in arrays.items()})
        names = [p.name for p in layout.table(spec.model) if p.trained and p.network in networks]
        gradients |= {f"{phase}.{name}" if phase else name: grads[name] for name in names}
    return gradients


def plain_gradients(spec: Spec, arrays: Arrays, batch: Batch) -> dict[str, np.ndarray]:
    """Compute the same in a compiled program, for the hypotheses that use one gradient."""
    if NETWORKS[spec.model.network].spatial:  # its many slices take longer to compile than to add up
        return gradients(spec, arrays, batch)
    compiled = _plain_gradients(spec, dict(arrays), batch)
    return {name: np.asarray(grad) for name, grad in compiled.items()}


@functools.partial(jax.jit, static_argnums=0)
def _plain_gradients(spec: Spec, arrays: dict[str, jax.Array], batch: Batch) -> dict[str, jax.Array]:
    return _gradients(spec, arrays, batch)


class Adam(NamedTuple):
    """Adam by Kingma & Ba (algorithm 1), and known variants of it."""

    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    eps_in_root: bool = False
    correct: bool = True
    """Whether the moments' bias is corrected."""
    second: bool = True
    """Whether the second moment's bias is corrected, if the first's is."""
    ahead: int = 0
    """Number of extra steps in the bias correction."""
    decay: float = 0.0
    """Decoupled weight decay, as AdamW."""
    l2: float = 0.0
    """Weight decay added to the gradient."""
    clip: float = math.inf
    """The gradient's largest global norm."""
    largest: bool = False
    """Whether it divides by the largest second moment so far, as AMSGrad."""


def adam(
    arrays: Arrays,
    grads: list[dict[str, np.ndarray]],
    learning_rate: float,
    state: Arrays | None = None,
    how: Adam = Adam(),  # noqa: B008 (it is immutable)
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Compute the arrays and Adam's state, under PyTorch's names, after one update by each of the gradients."""
    new = {name: np.array(array) for name, array in arrays.items()}
    m, v = (
        {name: np.zeros_like(a) if state is None else np.array(state[f"{moment}.{name}"]) for name, a in arrays.items()}
        for moment in ("exp_avg", "exp_avg_sq")
    )
    top = {name: array.copy() for name, array in v.items()}
    count = 0 if state is None else int(state["step"])
    for grad in grads:
        count += 1
        norm = math.sqrt(sum(float((g.astype(np.float64) ** 2).sum()) for g in grad.values()))
        for name, w in new.items():
            g = grad[name] * min(1.0, how.clip / max(norm, 1e-30)) + how.l2 * w
            m[name] = how.b1 * m[name] + (1 - how.b1) * g
            v[name] = how.b2 * v[name] + (1 - how.b2) * g * g
            top[name] = np.maximum(top[name], v[name])
            c1, c2 = ((1 - b ** (count + how.ahead) if how.correct else 1.0) for b in (how.b1, how.b2))
            c2 = c2 if how.second else 1.0
            second = (top if how.largest else v)[name] / c2
            root = np.sqrt(second + how.eps) if how.eps_in_root else np.sqrt(second) + how.eps
            new[name] = (w - learning_rate * how.decay * w - learning_rate * (m[name] / c1) / root).astype(w.dtype)
    moments = {f"exp_avg.{n}": a for n, a in m.items()} | {f"exp_avg_sq.{n}": a for n, a in v.items()}
    return new, {**moments, "step": np.asarray(count, np.int32)}


def usual(spec: Spec) -> Adam:
    """Make Adam's settings from the configuration."""
    return Adam(spec.training.beta1, spec.training.beta2, spec.training.eps)


def step(
    spec: Spec,
    arrays: Arrays,
    batch: Batch,
    learning_rate: float,
    state: Arrays,
    how: Adam,
    change: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]] = lambda grads: grads,
    **parts: Any,
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Compute the arrays and the optimizers' state after one training step, phase by phase; `change` is applied to the
    gradients of each phase. Running statistics are not updated."""
    new, moments = dict(arrays), dict(state)
    for phase in spec.phases:
        prefix = phase and f"{phase}."
        grads = gradients(spec, new, batch, **parts) if parts else plain_gradients(spec, new, batch)
        own = change({name.removeprefix(prefix): g for name, g in grads.items() if name.startswith(prefix)})
        mine = {name.removeprefix(prefix): a for name, a in moments.items() if name.startswith(prefix)}
        moved, after = adam({name: new[name] for name in own}, [own], learning_rate, mine, how)
        new |= moved
        moments |= {f"{prefix}{name}": a for name, a in after.items()}
    return new, moments
