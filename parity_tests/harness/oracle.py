"""The plain formulas, written out once more and independently of both packages, on named arrays in PyTorch's layout.

A third opinion: it tells which of two sides departs. Each function takes the part that a known fault gets wrong as an
argument, so that what a faulty program would answer can be computed as well. `xp` is numpy or jax.numpy, the latter for
gradients.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxvae.shared import layout
from jaxvae.shared.spec import Spec

Arrays = Mapping[str, Any]


class Outputs(NamedTuple):
    """What the two networks make of images `[batch, pixels]` and standard normals `[batch, latent]`."""

    mean: Any
    logvar: Any
    z: Any
    logits: Any
    margins: Any
    """How near any hidden unit of an image comes to ReLU's kink, as a share of its layer's largest: `[batch]`."""


class Losses(NamedTuple):
    """Each `[batch]`, nats per image."""

    loss: Any
    reconstruction: Any
    kl: Any


def relu(x: Any) -> Any:
    return x * (x > 0)


def locate(mean: Any, logvar: Any, eps: Any, xp: Any) -> Any:
    return mean + xp.exp(logvar / 2) * eps


def bernoulli(logits: Any, x: Any, xp: Any) -> Any:
    # log(1 + e^l) by logaddexp, which neither package uses.
    return (xp.logaddexp(xp.zeros_like(logits), logits) - logits * x).sum(-1)


def kl(mean: Any, logvar: Any, xp: Any) -> Any:
    return (xp.expm1(logvar) - logvar + mean * mean).sum(-1) / 2


def combine(reconstruction: Any, kl: Any, beta: float) -> Any:
    return reconstruction + beta * kl


def forward(
    spec: Spec, arrays: Arrays, x: Any, eps: Any, *, xp: Any = np, locate: Callable = locate, detach: bool = False
) -> Outputs:
    """The networks; `detach` stops the gradient at the latent."""
    margins = xp.full(len(x), xp.inf, x.dtype)

    def network(name: str, h: Any) -> Any:
        nonlocal margins
        for path, *_ in layout.layers(spec.model):
            if path[0] == name and path[1] == "hidden":
                h = linear(arrays, ".".join(map(str, path)), h)
                margins = xp.minimum(margins, xp.abs(h).min(-1) / xp.maximum(xp.abs(h).max(), 1e-30))
                h = relu(h)
        return h

    h = network("encoder", x)
    mean, logvar = linear(arrays, "encoder.mean", h), linear(arrays, "encoder.logvar", h)
    z = locate(mean, logvar, eps, xp)
    h = network("decoder", jax.lax.stop_gradient(z) if detach else z)
    return Outputs(mean, logvar, z, linear(arrays, "decoder.logits", h), margins)


def linear(arrays: Arrays, name: str, x: Any) -> Any:
    return x @ arrays[f"{name}.weight"].T + arrays[f"{name}.bias"]


def losses(
    spec: Spec,
    arrays: Arrays,
    x: Any,
    eps: Any,
    *,
    xp: Any = np,
    locate: Callable = locate,
    detach: bool = False,
    bernoulli: Callable = bernoulli,
    kl: Callable = kl,
    combine: Callable = combine,
) -> Losses:
    """The negative ELBO of each image and its parts."""
    out = forward(spec, arrays, x, eps, xp=xp, locate=locate, detach=detach)
    reconstruction, divergence = bernoulli(out.logits, x, xp), kl(out.mean, out.logvar, xp)
    return Losses(combine(reconstruction, divergence, spec.objective.beta), reconstruction, divergence)


def gradients(spec: Spec, arrays: Arrays, x: np.ndarray, eps: np.ndarray, **parts: Any) -> dict[str, np.ndarray]:
    """The mean loss's gradient by every array."""

    def loss(arrays: Arrays) -> jax.Array:
        return losses(spec, arrays, jnp.asarray(x), jnp.asarray(eps), xp=jnp, **parts).loss.mean()

    grads = jax.grad(loss)({name: jnp.asarray(array) for name, array in arrays.items()})
    return {name: np.asarray(grads[name]) for name in arrays}


class Adam(NamedTuple):
    """Adam as Kingma & Ba have it (algorithm 1), and what is known to be done otherwise."""

    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    eps_in_root: bool = False
    correct: bool = True
    """Whether the moments' bias is corrected."""
    second: bool = True
    """Whether the second moment's bias is corrected, where the first's is."""
    ahead: int = 0
    """Steps the bias correction counts too many."""
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
    """The arrays and Adam's state, under PyTorch's names, after one update by each of the gradients."""
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
