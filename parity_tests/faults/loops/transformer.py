"""A small transformer trained with AdamW, in functional Flax and in torch; each option is a place for a fault."""

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
from flax import nnx
from torch import nn

from parity_tests.harness.loops.records import Start, Step

WORDS, LENGTH, WIDTH, HEADS, ROWS, STEPS = 11, 6, 8, 2, 4, 8


@dataclasses.dataclass(frozen=True)
class Options:
    """What a script does; the defaults are right."""

    dtype: str = "float64"
    half: str = ""  # "bfloat16", "float16": in which products are computed
    seed: int = 0
    ahead: int = 0
    targets: int = 1  # how far ahead the next token is
    micro: int = 2
    accumulated: str = "mean"  # "sum"
    reduction: str = "mean"  # "sum"
    rate: float = 1e-2
    warm_up: int = 2
    late: int = 0
    clip: float = 0.5
    clipping: str = "norm"  # "value", "torch", "each", "none"
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    eps_root: float = 0.0
    corrected: bool = True
    decay: float = 0.1
    decayed: str = "matrices"  # "all"
    coupled: bool = False
    average: float = 0.9
    average_from: int = 0
    average_of: str = "after"  # "before"
    average_warm: bool = False
    average_zero: bool = False
    average_corrected: bool = False
    padding: bool = False
    raw: bool = False  # whether gradients are yielded before clipping
    every: int = 1
    grouped: bool = False
    """Whether matrices and the rest are two groups: `vectors` times the learning rate and `vector_decay` are the
    latter's."""
    vectors: float = 4.0
    vector_decay: float = 0.02
    swapped: str = ""  # "rates", "decays": each group has the other's
    left_out: bool = False  # the vectors, of all groups
    amsgrad: str = ""  # "torch", "optax": which second moments it takes the largest of


RIGHT = Options()


def batch(options: Options, step: int) -> np.ndarray:
    """Return the tokens of a step, `[micro, rows, length + 1]`."""
    random = np.random.default_rng([options.seed, step + options.ahead])
    return random.integers(0, WORDS, (options.micro, ROWS, LENGTH + 1))


def pair(options: Options, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the tokens that the model reads and those that it predicts."""
    return tokens[:, :-1], tokens[:, options.targets :][:, :LENGTH] if options.targets else tokens[:, :-1]


def rate(options: Options, step: int) -> float:
    """Return the learning rate: a linear warm-up, then a cosine."""
    step = max(step - options.late, 0)
    if step < options.warm_up:
        return options.rate * (step + 1) / options.warm_up
    done = (step - options.warm_up) / (STEPS - options.warm_up)
    return float(options.rate * (0.1 + 0.45 * (1 + np.cos(np.pi * done))))


def groups_of(options: Options) -> tuple[list[float], list[float]]:
    """Return the factors of the learning rate and the weight decays, of matrices and of vectors."""
    if not options.grouped:
        return [1.0, 1.0], [options.decay, 0.0]
    factors, decays = [1.0, options.vectors], [options.decay, options.vector_decay]
    order = {"rates": (-1, 1), "decays": (1, -1)}.get(options.swapped, (1, 1))
    return factors[:: order[0]], decays[:: order[1]]


def decay_of_average(options: Options, step: int) -> float:
    if step < options.average_from:
        return 0.0
    return min(options.average, (1 + step) / (10 + step)) if options.average_warm else options.average


class TorchNet(nn.Module):
    def __init__(self, padding: bool = False):
        super().__init__()
        self.words = nn.Embedding(WORDS, WIDTH, padding_idx=0 if padding else None)
        self.places = nn.Embedding(LENGTH, WIDTH)
        self.norm1 = nn.LayerNorm(WIDTH)
        self.query, self.key, self.value, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.norm2 = nn.LayerNorm(WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, WORDS, bias=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.words(tokens) + self.places.weight
        y = self.norm1(x)
        q, k, v = (f(y).unflatten(-1, (HEADS, -1)).transpose(1, 2) for f in (self.query, self.key, self.value))
        scores = (q @ k.mT * q.shape[-1] ** -0.5).masked_fill(~torch.ones(LENGTH, LENGTH).tril().bool(), -torch.inf)
        y = scores.softmax(-1) @ v  # torch's own attention keeps float32 numbers for its gradient
        x = x + self.out(y.transpose(1, 2).flatten(2))
        x = x + self.down(F.gelu(self.up(self.norm2(x))))
        return self.head(x)


class FlaxNet(nnx.Module):
    def __init__(self, rngs: nnx.Rngs, half: str = ""):
        dtype = jnp.dtype(half) if half else None
        self.words, self.places = nnx.Embed(WORDS, WIDTH, rngs=rngs), nnx.Embed(LENGTH, WIDTH, rngs=rngs)
        self.norm1, self.norm2 = (nnx.LayerNorm(WIDTH, epsilon=1e-5, use_fast_variance=False, rngs=rngs) for _ in "12")
        linear = functools.partial(nnx.Linear, dtype=dtype, rngs=rngs)
        self.query, self.key, self.value, self.out = (linear(WIDTH, WIDTH) for _ in range(4))
        self.up, self.down = linear(WIDTH, 2 * WIDTH), linear(2 * WIDTH, WIDTH)
        self.head = linear(WIDTH, WORDS, use_bias=False)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        x = self.words.embedding[tokens] + self.places.embedding[None]  # the layers would cast to float32
        y = self.norm1(x)
        q, k, v = (f(y).reshape(len(y), LENGTH, HEADS, -1) for f in (self.query, self.key, self.value))
        scores = jnp.einsum("nqhd,nkhd->nhqk", q, k) * q.shape[-1] ** -0.5
        weights = jax.nn.softmax(jnp.where(np.tri(LENGTH, dtype=bool), scores, -jnp.inf))
        x = x + self.out(jnp.einsum("nhqk,nkhd->nqhd", weights, v).reshape(x.shape))
        return self.head(x + self.down(nnx.gelu(self.up(self.norm2(x)), approximate=False)))


def torch_net(options: Options) -> TorchNet:
    """Return the module with the first weights of both runs."""
    torch.manual_seed(0)
    net = TorchNet(options.padding)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape) * 0.4 + (parameter.ndim == 1) * 0.5)
    return net.to(getattr(torch, options.dtype))


def run_torch(options: Options = RIGHT, steps: int = STEPS, start: Start | None = None) -> Iterator[Step | Start]:
    """Train in torch."""
    net = torch_net(options)
    matrices = [p for p in net.parameters() if p.ndim > 1 or options.decayed == "all"]
    rest = [p for p in net.parameters() if p.ndim == 1 and options.decayed != "all"]
    factors, decays = groups_of(options)
    kind = torch.optim.Adam if options.coupled else torch.optim.AdamW
    groups = [{"params": matrices, "weight_decay": decays[0]}]
    groups += [{"params": rest, "weight_decay": decays[1]}] if rest and not options.left_out else []
    optimizer = kind(groups, betas=options.betas, eps=options.eps, amsgrad=bool(options.amsgrad))
    average = {name: p.detach() * (not options.average_zero) for name, p in net.named_parameters()}
    if start is None:
        yield Start(parameters=net, ema=average)
    else:
        net.load_state_dict(start.parameters)
        average = start.ema
        if start.optimizer_state is not None:
            optimizer.load_state_dict(start.optimizer_state)
    for step in range(start.step if start else 0, steps):
        tokens = batch(options, step)
        total = torch.zeros((), dtype=getattr(torch, options.dtype))
        optimizer.zero_grad()
        for rows in tokens:
            x, y = (torch.tensor(part) for part in pair(options, rows))
            with torch.autocast("cpu", getattr(torch, options.half or "bfloat16"), enabled=bool(options.half)):
                losses = F.cross_entropy(net(x).flatten(0, 1), y.flatten(), reduction=options.reduction)
            loss = losses / (1 if options.accumulated == "sum" else options.micro)
            loss.backward()
            total += loss.detach()
        raw = {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}
        _clip_torch(options, net)
        for group, factor in zip(optimizer.param_groups, factors, strict=False):
            group["lr"] = rate(options, step) * factor
        earlier = {name: p.detach().clone() for name, p in net.named_parameters()}
        if (step + 1) % options.every == 0:
            optimizer.step()
        d = decay_of_average(options, step)
        now = earlier if options.average_of == "before" else {name: p.detach() for name, p in net.named_parameters()}
        average = {name: d * average[name] + (1 - d) * now[name] for name in average}
        yield Step(
            batch=tokens,
            inputs=dict(zip(("tokens", "targets"), pair(options, tokens[-1]), strict=True)),
            learning_rate=rate(options, step),
            loss=total,
            gradients=raw if options.raw else net,
            optimizer_state=optimizer,
            parameters=net,
            ema=average,
        )


def _clip_torch(options: Options, net: nn.Module) -> None:
    grads = [p.grad for p in net.parameters() if p.grad is not None]
    match options.clipping:
        case "torch":
            nn.utils.clip_grad_norm_(net.parameters(), options.clip)
        case "value":
            nn.utils.clip_grad_value_(net.parameters(), options.clip / 10)
        case "norm":
            norm = torch.stack([(g**2).sum() for g in grads]).sum().sqrt()
            for g in grads:
                g.mul_((options.clip / norm).clamp(max=1.0))
        case "each":
            for g in grads:
                g.mul_((options.clip / 5 / g.norm()).clamp(max=1.0))


def flax_net(options: Options) -> FlaxNet:
    """Return the Flax module with torch's first weights."""
    source, net = torch_net(dataclasses.replace(options, padding=False)), FlaxNet(nnx.Rngs(0))
    weights: dict[str, dict[str, Any]] = {}
    for name, layer in source.named_children():
        held = {key: jnp.asarray(p.numpy(force=True)) for key, p in layer.named_parameters()}
        match layer:
            case nn.Linear():
                held["kernel"] = held.pop("weight").T
            case nn.Embedding():
                held["embedding"] = held.pop("weight")
            case nn.LayerNorm():
                held["scale"] = held.pop("weight")
        weights[name] = held
    nnx.update(net, weights)
    return net


@functools.cache
def _graph(half: str) -> Any:
    return nnx.split(FlaxNet(nnx.Rngs(0), half))[0]


@functools.partial(jax.jit, static_argnames=("reduction", "half"))
def _gradients(params: Any, x: jax.Array, y: jax.Array, reduction: str, half: str) -> tuple[jax.Array, Any]:
    def loss(params: Any) -> jax.Array:
        logits = nnx.merge(_graph(half), params)(x).astype(params["head"]["kernel"].dtype)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, y)
        return losses.sum() if reduction == "sum" else losses.mean()

    return jax.value_and_grad(loss)(params)


def _optimizer(options: Options, rates: jax.Array) -> optax.GradientTransformation:
    def decayed(params: Any) -> Any:
        return jax.tree.map(lambda p: p.ndim > 1 or options.decayed == "all", params)

    b1, b2 = options.betas
    factors, decays = groups_of(options)
    if options.grouped:
        sets = [
            optax.chain(
                optax.scale_by_adam(b1, b2, options.eps),
                optax.add_decayed_weights(decay),
                optax.scale_by_schedule(lambda count, factor=factor: -factor * rates[count]),
            )
            for factor, decay in zip(factors, decays, strict=True)
        ]
        rest = optax.set_to_zero() if options.left_out else sets[1]
        labels = functools.partial(jax.tree.map, lambda p: "matrices" if p.ndim > 1 else "vectors")
        return optax.multi_transform({"matrices": sets[0], "vectors": rest}, labels)
    decay = optax.add_decayed_weights(options.decay, decayed)
    if options.amsgrad:
        adam = optax.scale_by_amsgrad(b1, b2, options.eps) if options.amsgrad == "optax" else _amsgrad(options)
    elif options.corrected:
        adam = optax.scale_by_adam(b1, b2, options.eps, options.eps_root)
    else:
        adam = _uncorrected(b1, b2, options.eps)
    chain = [decay, adam] if options.coupled else [adam, decay]
    return optax.chain(*chain, optax.scale_by_schedule(lambda count: -rates[count]))


def _amsgrad(options: Options) -> optax.GradientTransformation:
    """Return torch's amsgrad: the largest is of the second moments, and corrected afterwards."""
    (b1, b2), eps = options.betas, options.eps
    inner = optax.scale_by_amsgrad(b1, b2, eps)

    def update(grads: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        largest = state.nu_max
        _, state = inner.update(grads, state, params)
        largest = jax.tree.map(jnp.maximum, largest, state.nu)
        c1, c2 = (1 - jnp.asarray(b, options.dtype) ** state.count for b in (b1, b2))
        scaled = jax.tree.map(lambda m, v: (m / c1) / (jnp.sqrt(v / c2) + eps), state.mu, largest)
        return scaled, state._replace(nu_max=largest)

    return optax.GradientTransformation(inner.init, update)  # type: ignore[arg-type]


def _uncorrected(b1: float, b2: float, eps: float) -> optax.GradientTransformation:
    inner = optax.scale_by_adam(b1, b2, eps)

    def update(grads: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        _, state = inner.update(grads, state, params)
        return jax.tree.map(lambda m, v: m / (jnp.sqrt(v) + eps), state.mu, state.nu), state  # type: ignore[attr-defined]

    return optax.GradientTransformation(inner.init, update)  # type: ignore[arg-type]


def run_jax(options: Options = RIGHT, steps: int = STEPS, start: Start | None = None) -> Iterator[Step | Start]:
    """Train in Flax."""
    params = nnx.to_pure_dict(nnx.state(flax_net(options)))
    rates = jnp.array([rate(options, step) for step in range(steps)], options.dtype)
    tx = _optimizer(options, rates)
    state = tx.init(params)
    average = jax.tree.map(lambda p: p * (not options.average_zero), params)
    if start is None:
        yield Start(parameters=params, ema=average)
    else:
        params, average = start.parameters, start.ema
        state = tx.init(params) if start.optimizer_state is None else start.optimizer_state
    for step in range(start.step if start else 0, steps):
        tokens = batch(options, step)
        pairs = [map(jnp.asarray, pair(options, rows)) for rows in tokens]
        parts = [_gradients(params, *one, options.reduction, options.half) for one in pairs]
        loss, gradients = jax.tree.map(lambda *each: sum(each), *parts)
        if options.accumulated == "mean":
            loss, gradients = jax.tree.map(lambda total: total / options.micro, (loss, gradients))
        raw, gradients = gradients, _clip_jax(options, gradients)
        earlier = params
        if (step + 1) % options.every == 0:
            updates, state = tx.update(gradients, state, params)
            params = optax.apply_updates(params, updates)
        average = _averaged(
            decay_of_average(options, step), average, earlier if options.average_of == "before" else params
        )
        shown = average
        if options.average_corrected:
            shown = _averaged(1 / (1 - options.average ** (step + 1)), average)
        yield Step(
            batch=tokens,
            inputs=dict(zip(("tokens", "targets"), pair(options, tokens[-1]), strict=True)),
            learning_rate=rate(options, step),
            loss=loss,
            gradients=raw if options.raw else gradients,
            optimizer_state=state,
            parameters=params,
            ema=shown,
        )


def _averaged(d: float, average: Any, params: Any = None) -> Any:
    if params is None:
        return jax.tree.map(lambda a: d * a, average)
    return jax.tree.map(lambda a, p: d * a + (1 - d) * p, average, params)


def _clip_jax(options: Options, gradients: Any) -> Any:
    match options.clipping:
        case "norm":
            norm = jnp.sqrt(sum((g**2).sum() for g in jax.tree.leaves(gradients)))
            return jax.tree.map(lambda g: g * jnp.minimum(options.clip / norm, 1.0), gradients)
        case "value":
            return jax.tree.map(lambda g: jnp.clip(g, -options.clip / 10, options.clip / 10), gradients)
        case "each":
            return jax.tree.map(
                lambda g: g * jnp.minimum(options.clip / 5 / jnp.linalg.norm(g.ravel()), 1.0), gradients
            )
    return gradients
