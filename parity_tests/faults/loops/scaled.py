"""A small network trained in float16 with a dynamic loss scale: torch.amp.GradScaler, and the same by hand in JAX."""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
import torch.nn.functional as F
from torch import nn

from parity_tests.harness.loops.records import Start, Step

ROWS, INPUTS, WIDTH, CLASSES, STEPS = 16, 6, 8, 4, 8
MOMENTUM = 0.9


@dataclasses.dataclass(frozen=True)
class Options:
    """What a script does; the defaults are right."""

    half: bool = True
    rate: float = 0.2
    factor: float = 1.0
    """Of the gradients."""
    init: float = 2.0**22
    """Too large, so that the first steps overflow and are left out."""
    growth: float = 2.0
    backoff: float = 0.5
    interval: int = 3
    skip: bool = True
    unscaled: bool = True
    """Whether the gradients are divided by the scale before they are yielded."""


RIGHT = Options()


def batch(step: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(step)
    return random.normal(size=(ROWS, INPUTS)).astype(np.float32), random.integers(0, CLASSES, ROWS)


def torch_net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(INPUTS, WIDTH), nn.Tanh(), nn.Linear(WIDTH, CLASSES))


def run_torch(options: Options = RIGHT, steps: int = STEPS, start: Start | None = None) -> Iterator[Step | Start]:
    """Train in torch."""
    net = torch_net()
    optimizer = torch.optim.SGD(net.parameters(), options.rate, MOMENTUM)
    scaler = torch.amp.GradScaler(
        "cpu", options.init, options.growth, options.backoff, options.interval, enabled=options.half
    )
    if start is None:
        yield Start(parameters=net)
    else:
        net.load_state_dict(start.parameters)
        if start.step:
            optimizer.load_state_dict(start.optimizer_state)
            scaler.load_state_dict(start.scaler)
    for step in range(start.step if start else 0, steps):
        x, y = map(torch.tensor, batch(step))
        with torch.autocast("cpu", torch.float16, enabled=options.half):
            loss = F.cross_entropy(net(x).float(), y)
        optimizer.zero_grad()
        scale = scaler.get_scale()
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        for p in net.parameters():
            assert p.grad is not None
            p.grad.mul_(options.factor)
        if options.skip:
            scaler.step(optimizer)
        else:
            optimizer.step()
        scaler.update()
        factor = 1 if options.unscaled else scale
        gradients = {name: p.grad * factor for name, p in net.named_parameters() if p.grad is not None}
        yield Step(
            batch=x,
            learning_rate=options.rate,
            loss_scale=scale if options.half else None,
            loss=loss,
            gradients=gradients,
            optimizer_state=optimizer,
            parameters=net,
            scaler=scaler,
        )


@functools.partial(jax.jit, static_argnames="half")
def _gradients(params: Any, x: jax.Array, y: jax.Array, scale: jax.Array, half: bool) -> tuple[jax.Array, Any]:
    def scaled(params: Any) -> tuple[jax.Array, jax.Array]:
        dtype = jnp.float16 if half else jnp.float32
        first, last = (jax.tree.map(lambda p: p.astype(dtype), params[name]) for name in "02")
        hidden = jnp.tanh(x.astype(dtype) @ first["kernel"] + first["bias"])
        logits = (hidden @ last["kernel"] + last["bias"]).astype(jnp.float32)
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()
        return loss * scale, loss

    (_, loss), gradients = jax.value_and_grad(scaled, has_aux=True)(params)
    return loss, gradients


def run_jax(options: Options = RIGHT, steps: int = STEPS, start: Start | None = None) -> Iterator[Step | Start]:
    """Train in JAX."""
    net = torch_net()
    params: Any = {
        name: {
            "kernel": jnp.asarray(layer.weight.numpy(force=True).T),
            "bias": jnp.asarray(layer.bias.numpy(force=True)),
        }
        for name, layer in net.named_children()
        if isinstance(layer, nn.Linear)
    }
    tx = optax.sgd(options.rate, MOMENTUM)
    state, scale, since = tx.init(params), jnp.float32(options.init if options.half else 1.0), 0
    if start is None:
        yield Start(parameters=params)
    else:
        params = start.parameters
        if start.step:
            state, (scale, since) = start.optimizer_state, start.scaler
    for step in range(start.step if start else 0, steps):
        x, y = map(jnp.asarray, batch(step))
        used = scale
        loss, scaled = _gradients(params, x, y, used, options.half)
        gradients = jax.tree.map(functools.partial(jnp.multiply, 1 / used), scaled)
        finite = bool(jax.tree.reduce(lambda a, g: a & jnp.isfinite(g).all(), gradients, True))
        if finite or not options.skip:
            updates, state = tx.update(gradients, state, params)
            params = optax.apply_updates(params, updates)
        since = since + 1 if finite else 0
        if options.half and not finite:
            scale = scale * options.backoff
        elif options.half and since == options.interval:
            scale, since = scale * options.growth, 0
        yield Step(
            batch=x,
            learning_rate=options.rate,
            loss_scale=used if options.half else None,
            loss=loss,
            gradients=gradients if options.unscaled else scaled,
            optimizer_state=state,
            parameters=params,
            scaler=(scale, since),
        )
