"""Training by its plain formulas: gradients, Adam and whole steps."""

import math
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


def gradients(spec: Spec, arrays: Arrays, batch: Batch, phase: str | None = None, **parts: Any) -> Arrays:
    """Compute the gradients of each optimizer, or of one phase's, by the arrays it trains; `PHASE.NAME` where there are
    several phases."""
    phases = tuple(spec.phases) if phase is None else (phase,)
    # A formula that is tried once is not worth a compilation, unless a convolution's many slices are.
    once = parts and not NETWORKS[spec.model.network].spatial
    compute = _gradients if once else _compiled_gradients
    grads = compute(spec, phases, tuple(parts.items()), dict(arrays), batch)
    return {name: np.asarray(grad) for name, grad in grads.items()}


def _gradients(
    spec: Spec, phases: tuple[str, ...], parts: tuple[tuple[str, Any], ...], arrays: Arrays, batch: Batch
) -> dict[str, jax.Array]:
    given = jax.tree.map(jnp.asarray, batch)
    gradients: dict[str, jax.Array] = {}
    for phase in phases:

        def loss(arrays: Arrays, phase: str = phase) -> jax.Array:
            terms = averaged(spec, losses(spec, arrays, given, xp=jnp, training=True, **dict(parts)), given, jnp)
            return terms[phase or "loss"] * (spec.minimized if phase in ("", "reconstruction") else 1.0)

        grads = jax.grad(loss)({name: jnp.asarray(array) for name, array in arrays.items()})
        names = [p.name for p in layout.table(spec.model) if p.trained and p.network in spec.phases[phase]]
        gradients |= {f"{phase}.{name}" if phase else name: grads[name] for name in names}
    return gradients


# LLVM's optimisation would take longer than all that is computed here.
_compiled_gradients = jax.jit(
    _gradients, static_argnums=(0, 1, 2), compiler_options={"xla_backend_optimization_level": 0}
)


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
    clip_eps: float = 0.0
    """What is added to the norm that a larger one is divided by."""
    largest: bool = False
    """Whether it divides by the largest second moment so far, as AMSGrad."""
    ema: float = 0.0
    """Decay of the average of the weights; 0 for none."""
    ema_rises: bool = True
    """Whether the first steps' decay is smaller."""
    ema_ahead: int = 0
    """Number of extra steps in that decay."""


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
            g = grad[name] * min(1.0, how.clip / max(norm + how.clip_eps, 1e-30)) + how.l2 * w
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
    training = spec.training
    own = Adam(training.beta1, training.beta2, training.eps, decay=training.weight_decay, ema=training.ema)
    if not training.clip:
        return own
    return own._replace(clip=training.clip, clip_eps=1e-6 if training.clip_rule == "torch" else 0.0)


def learning_rate(spec: Spec, epoch: int, t: int) -> float:
    """Compute the learning rate of step `t`, of epoch `epoch`, both from 0."""
    training, rates = spec.training, spec.training.learning_rates()
    share = 1.0
    if t < training.rate_warmup:
        share = (t + 1) / training.rate_warmup
    elif training.schedule == "cosine":
        share = math.cos(min((t - training.rate_warmup) / training.stretch, 1.0) * math.pi / 2) ** 2
    elif training.schedule == "steps":
        share = training.decay ** ((t - training.rate_warmup) // training.stretch)
    return share * rates[min(epoch, len(rates) - 1)]


def step(
    spec: Spec,
    arrays: Arrays,
    batch: Batch,
    learning_rate: float,
    state: Arrays,
    how: Adam,
    first: Arrays | None = None,
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Compute the arrays and the optimizers' state after one training step, phase by phase; `first` is `gradients` of
    the first phase, where they are known. Running statistics are not updated, the weights' average is."""
    new, moments = dict(arrays), dict(state)
    for phase in spec.phases:
        prefix = phase and f"{phase}."
        grads = gradients(spec, new, batch, phase) if first is None else first
        own = {name.removeprefix(prefix): g for name, g in grads.items()}
        mine = {name.removeprefix(prefix): a for name, a in moments.items() if name.startswith(prefix)}
        moved, after = adam({name: new[name] for name in own}, [own], learning_rate, mine, how)
        new |= moved
        moments |= {f"{prefix}{name}": a for name, a in after.items()}
        first = None
    if how.ema:
        t = next(int(array) for name, array in moments.items() if name.endswith("step")) + how.ema_ahead
        d = min(how.ema, (1 + t) / (10 + t)) if how.ema_rises else how.ema
        moments |= {f"average.{name}": d * moments[f"average.{name}"] + (1 - d) * w for name, w in new.items()}
    return new, moments


def first_gradients(spec: Spec, arrays: Arrays, batch: Batch) -> Arrays:
    """Compute the gradients of a step's first phase."""
    return gradients(spec, arrays, batch, next(iter(spec.phases)))
