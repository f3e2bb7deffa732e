"""An image classifier trained with SGD, in Flax NNX and in torch; each option is a place for a fault."""

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

IMAGES, SIZE, CLASSES, BATCH, STEPS, RATE = 26, 8, 5, 8, 10, 0.25


@dataclasses.dataclass(frozen=True)
class Options:
    """What a script does; the defaults are right."""

    dtype: str = "float64"
    half: str = ""  # "bfloat16", "float16": in which products are computed
    seed: int = 0
    shuffle: str = "each epoch"  # "once"
    drop_last: bool = True
    labels: str = "with their images"  # "in the file's order", "from 1"
    scale: str = "signed"  # "unit", "255"
    channels: str = "RGB"  # "BGR"
    mean: tuple[float, ...] = (0.1, 0.0, -0.1)
    flips: int = 1  # the seed of the augmentation
    rate: float = 0.1
    warm_up: int = 3
    period: int = STEPS
    late: int = 0
    per_epoch: bool = False
    reduction: str = "mean"  # "sum"
    penalty: float = 0.0
    dropout: int = 2  # the seed of the masks
    mode: str = "training"  # "evaluation"
    statistics: float = 0.1  # torch's momentum
    unbiased: bool = False
    decay: float = 5e-3
    decayed: str = "all"  # "matrices"
    decoupled: bool = False
    momentum: float = 0.9
    dampening: float = 0.0
    nesterov: bool = False
    zero_grad: bool = True
    frozen: bool = False
    skip: tuple[int, ...] = ()
    clip_value: float = 0.0


RIGHT = Options()


@functools.cache
def _data() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(7)
    return random.integers(0, 256, (IMAGES, 3, SIZE, SIZE)), random.integers(0, CLASSES, IMAGES)


def batch(options: Options, step: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the images `[batch, channels, height, width]`, uint8 numbers, and labels of a step."""
    images, labels = _data()
    per_epoch = IMAGES // BATCH if options.drop_last else -(-IMAGES // BATCH)
    epoch, place = divmod(step, per_epoch)
    order = np.random.default_rng([options.seed, epoch if options.shuffle == "each epoch" else 0]).permutation(IMAGES)
    rows = order[place * BATCH : (place + 1) * BATCH]
    given = labels[np.arange(len(rows)) if options.labels == "in the file's order" else rows]
    return images[rows], given + (options.labels == "from 1")


def prepared(options: Options, images: np.ndarray, step: int) -> np.ndarray:
    """Return what the model receives: mirrored, scaled and normalised images."""
    flipped = np.random.default_rng([options.flips, step]).random(len(images)) < 0.5
    x = np.where(flipped[:, None, None, None], images[..., ::-1], images)
    x = {"signed": x / 127.5 - 1, "unit": x / 255, "255": x * 1.0}[options.scale]
    x = x[:, ::-1] if options.channels == "BGR" else x
    return (x - np.array(options.mean)[:, None, None]).astype(options.dtype)


def mask(options: Options, rows: int, step: int) -> np.ndarray:
    kept = np.random.default_rng([options.dropout, step]).random((rows, 4 * (SIZE // 2) ** 2)) >= RATE
    return (kept / (1 - RATE)).astype(options.dtype)


def rate(options: Options, step: int) -> float:
    """Return the learning rate: a linear warm-up, then a cosine."""
    step = max(step - options.late, 0)
    if options.per_epoch:
        step = step // (IMAGES // BATCH) * (IMAGES // BATCH)
    if step < options.warm_up:
        return options.rate * (step + 1) / options.warm_up
    done = (step - options.warm_up) / (options.period - options.warm_up)
    return float(options.rate * 0.5 * (1 + np.cos(np.pi * min(done, 1.0))))


class TorchNorm(nn.BatchNorm2d):
    """Batch norm whose running variance is the batch's own, as Flax has it."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        input = input.to(self.weight.dtype)
        y = F.batch_norm(input, None, None, self.weight, self.bias, True, 0.0, self.eps)
        with torch.no_grad():
            assert self.running_mean is not None
            assert self.running_var is not None
            self.running_mean.lerp_(input.mean((0, 2, 3)), self.momentum or 0.0)
            self.running_var.lerp_(input.var((0, 2, 3), unbiased=False), self.momentum or 0.0)
        return y


class TorchNet(nn.Module):
    def __init__(self, options: Options):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.norm = (nn.BatchNorm2d if options.unbiased else TorchNorm)(4, momentum=options.statistics)
        self.head = nn.Linear(4 * (SIZE // 2) ** 2, CLASSES)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None, training: bool) -> torch.Tensor:
        x = self.conv(x)
        norm = self.norm
        y = (
            norm(x)
            if training
            else F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, False, 0, norm.eps)
        )
        y = F.relu(y).flatten(1)
        return self.head(y if mask is None else y * mask)


class FlaxNet(nnx.Module):
    def __init__(self, statistics: float, half: str, rngs: nnx.Rngs):
        dtype = jnp.dtype(half) if half else None
        self.conv = nnx.Conv(3, 4, (3, 3), strides=2, padding=1, dtype=dtype, rngs=rngs)
        self.norm = nnx.BatchNorm(4, momentum=1 - statistics, epsilon=1e-5, use_fast_variance=False, rngs=rngs)
        self.head = nnx.Linear(4 * (SIZE // 2) ** 2, CLASSES, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array, mask: jax.Array | None, training: bool) -> jax.Array:
        y = nnx.relu(self.norm(self.conv(x), use_running_average=not training))
        y = y.transpose(0, 3, 1, 2).reshape(len(y), -1)
        return self.head(y if mask is None else y * mask)


def torch_net(options: Options) -> TorchNet:
    """Return the module with the first weights of both runs."""
    torch.manual_seed(0)
    net = TorchNet(options)
    with torch.no_grad():
        net.norm.weight.uniform_(0.5, 1.5)
        net.norm.bias.uniform_(-0.5, 0.5)
    return net.to(getattr(torch, options.dtype))


def run_torch(options: Options = RIGHT, steps: int = STEPS, start: Start | None = None) -> Iterator[Step | Start]:
    """Train in torch."""
    net, dtype = torch_net(options), getattr(torch, options.dtype)
    if options.frozen:
        net.conv.requires_grad_(False)
    matrices = [p for p in net.parameters() if p.ndim > 1 or options.decayed == "all"]
    rest = [p for p in net.parameters() if p.ndim == 1 and options.decayed != "all"]
    groups = [{"params": matrices, "weight_decay": 0.0 if options.decoupled else options.decay}]
    groups += [{"params": rest, "weight_decay": 0.0}] if rest else []
    optimizer = torch.optim.SGD(
        groups, lr=0.1, momentum=options.momentum, dampening=options.dampening, nesterov=options.nesterov
    )
    if start is None:
        yield Start(parameters=net)
    else:
        net.load_state_dict(start.parameters)
        if start.optimizer_state is not None:
            optimizer.load_state_dict(start.optimizer_state)
    for step in range(start.step if start else 0, steps):
        images, labels = batch(options, step)
        x, y = torch.tensor(prepared(options, images, step)), torch.tensor(labels)
        drop = torch.tensor(mask(options, len(images), step), dtype=dtype)
        training, half = options.mode == "training", options.half
        with torch.autocast("cpu", getattr(torch, half or "bfloat16"), enabled=bool(half)):
            with torch.no_grad():
                evaluation = F.cross_entropy(net(x, None, False), y).item()
            loss = F.cross_entropy(net(x, drop if training else None, training), y, reduction=options.reduction)
        if options.penalty:
            loss = loss + options.penalty / 2 * sum((p**2).sum() for p in net.parameters())
        if options.zero_grad:
            optimizer.zero_grad()
        loss.backward()
        if options.clip_value:
            nn.utils.clip_grad_value_(net.parameters(), options.clip_value)
        for group in optimizer.param_groups:
            group["lr"] = rate(options, step)
        if options.decoupled:
            with torch.no_grad():
                for p in net.parameters():
                    p.mul_(1 - rate(options, step) * options.decay)
        if step not in options.skip:
            optimizer.step()
        yield Step(
            batch={"images": images, "labels": labels},
            inputs=x,
            learning_rate=rate(options, step),
            evaluation=evaluation,
            loss=loss,
            gradients=net,
            optimizer_state=optimizer,
            parameters=net,
        )


def flax_net(options: Options) -> FlaxNet:
    """Return the Flax module with torch's first weights."""
    source = torch_net(dataclasses.replace(RIGHT, dtype=options.dtype))
    net = FlaxNet(options.statistics, options.half, nnx.Rngs(0))
    conv, norm, head = source.conv, source.norm, source.head
    weights = {
        "conv": {"kernel": conv.weight.permute(2, 3, 1, 0), "bias": conv.bias},
        "norm": {"scale": norm.weight, "bias": norm.bias, "mean": norm.running_mean, "var": norm.running_var},
        "head": {"kernel": head.weight.T, "bias": head.bias},
    }
    nnx.update(net, jax.tree.map(lambda tensor: jnp.asarray(tensor.numpy(force=True)), weights))
    return net


@nnx.jit(static_argnames=("reduction", "training"))
def _gradients(
    net: FlaxNet, x: jax.Array, y: jax.Array, drop: jax.Array, penalty: float, reduction: str, training: bool
) -> tuple[jax.Array, jax.Array, Any]:
    def of(net: FlaxNet, drop: jax.Array | None, training: bool) -> jax.Array:
        logits = net(x, drop, training).astype(net.head.kernel[...].dtype)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, y)
        return losses.sum() if reduction == "sum" else losses.mean()

    def loss(net: FlaxNet) -> jax.Array:
        squares = sum((p**2).sum() for p in jax.tree.leaves(nnx.state(net, nnx.Param)))
        return of(net, drop if training else None, training) + penalty / 2 * squares

    evaluation = of(net, None, False)
    return evaluation, *nnx.value_and_grad(loss)(net)


def run_jax(options: Options = RIGHT, steps: int = STEPS, start: Start | None = None) -> Iterator[Step | Start]:
    """Train in Flax."""
    net = flax_net(options)

    def matrices(params: Any) -> Any:
        return jax.tree.map(lambda p: p.ndim > 1 or options.decayed == "all", params)

    decay = optax.add_decayed_weights(options.decay, matrices)
    momentum = optax.trace(options.momentum, options.nesterov)
    chain = [momentum, decay] if options.decoupled else [decay, momentum]
    tx = optax.chain(*chain, optax.scale_by_schedule(lambda count: -rates[count]))
    rates = jnp.array([rate(options, step) for step in range(steps)], options.dtype)
    optimizer = nnx.Optimizer(net, tx, wrt=nnx.Param)
    if start is None:
        yield Start(parameters=net)
    else:
        nnx.update(net, start.parameters)
        if start.optimizer_state is not None:
            nnx.update(optimizer, start.optimizer_state)
    for step in range(start.step if start else 0, steps):
        images, labels = batch(options, step)
        x = prepared(options, images, step).transpose(0, 2, 3, 1)
        drop = jnp.asarray(mask(options, len(images), step))
        evaluation, loss, gradients = _gradients(
            net,
            jnp.asarray(x),
            jnp.asarray(labels),
            drop,
            options.penalty,
            options.reduction,
            options.mode == "training",
        )
        if options.clip_value:
            gradients = jax.tree.map(lambda g: jnp.clip(g, -options.clip_value, options.clip_value), gradients)
        if step not in options.skip:
            optimizer.update(net, gradients)
        yield Step(
            batch={"images": images, "labels": labels},
            inputs=x,
            learning_rate=rate(options, step),
            evaluation=evaluation,
            loss=loss,
            gradients=gradients,
            optimizer_state=optimizer,
            parameters=net,
        )
