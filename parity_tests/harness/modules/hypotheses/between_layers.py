"""Identify the operations between two layers from numbers alone.

For each framework, the activation, pooling, order of flattening and dropout are those that map the output of one layer
to the input of the next.
"""

import itertools
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from parity_tests.harness.causes import Cause, joined
from parity_tests.harness.modules.hypotheses.base import distance, fitted, near

GELU = Cause(
    "GELU's tanh form against its erf form",
    "gelu-form",
    "use {torch}: nnx.gelu's approximate=False is erf, approximate=True tanh",
)
LEAKY_SLOPE = Cause("LeakyReLU's slope differs", "activation-parameter", "use {torch}")
ELU_ALPHA = Cause("ELU's alpha differs", "activation-parameter", "use {torch}")
SOFTPLUS = Cause(
    "PyTorch's softplus gives numbers over its threshold of 20 as they are",
    "softplus-threshold",
    "use {torch}",
)
SOFTMAX = Cause("softmax or log_softmax is missing, or over another axis", "softmax", "use {torch}")
ACTIVATION = Cause("the activations differ", "activation", "use {torch}")
POOL_KIND = Cause("the poolings differ", "pooling", "use {torch}")
POOL_PADDING = Cause("the pooling's window, stride or padding differs", "pooling-window", "use {torch}")
FLATTEN = Cause(
    "the image is flattened as H,W,C in JAX and C,H,W in PyTorch, and the kernel is not permuted",
    "flatten-order",
    "move the channels first before flattening, or give the kernel's pair the transform flattened(rows=(C, H, W))",
)
UNFLATTEN = Cause(
    "the image is unflattened as H,W,C in JAX and C,H,W in PyTorch, and the kernel's columns are not permuted",
    "unflatten-order",
    "unflatten to C,H,W and move the channels last, or give the pairs of kernel and bias the transform "
    "flattened(columns=(C, H, W))",
)
SCALE = Cause("the numbers are multiplied by a constant", "scaled", "multiply them by {torch} in JAX")
DROPOUT = Cause("dropout is left on", "dropout-on", "drop the same in both: {torch}")
OTHER_RATE = Cause("the rates of a dropout differ", "dropout-rate", "use {torch}")
OTHER_MASK = Cause(
    "dropout is on in both, and drops other units in each",
    "dropout-masks",
    "pass share_dropout=True, or compare with a rate of 0",
)
ORDER = Cause("activation and pooling are in the other order", "pooling-order", "apply {torch}")

ACTIVATIONS = {
    "no activation": lambda x: x,
    "ReLU": F.relu,
    "GELU (erf)": F.gelu,
    "GELU (tanh)": partial(F.gelu, approximate="tanh"),
    "SiLU": F.silu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "softplus": lambda x: torch.logaddexp(x, torch.zeros_like(x)),
    "softplus (threshold 20)": F.softplus,
    "ReLU6": F.relu6,
    "SELU": F.selu,
    "Mish": F.mish,
    "hard swish": F.hardswish,
}


class Between(NamedTuple):
    """The operations between two layers."""

    activation: str
    pool: str
    window: str
    order: str
    flatten: str
    scale: str = ""
    dropout: str = ""


def cause_between(
    in_jax: tuple[np.ndarray, np.ndarray], in_torch: tuple[np.ndarray, np.ndarray], tolerance: float
) -> str | None:
    """Return why the inputs of a layer differ in JAX and torch.

    `in_jax` and `in_torch` are (the output of the previous layer, the input of the next) in torch's layout. If several
    explanations reproduce the numbers, those with the fewest differences count; None if these name different causes.
    """
    if not all(array.ndim for array in (*in_jax, *in_torch)):
        return None  # a single number proves nothing
    if not (torch_explanations := list(_explanations(*in_torch, tolerance))):
        return None
    jax_explanations = list(_explanations(*in_jax, tolerance))
    if not jax_explanations or any(not same.dropout for same in {*jax_explanations} & {*torch_explanations}):
        return None  # the same operations explain both
    torch_explanations = [one for one in torch_explanations if not one.dropout or not _one_mask(in_jax, in_torch)]
    if not torch_explanations:
        return None
    pairs = [(_differences(*pair), pair) for pair in itertools.product(jax_explanations, torch_explanations)]
    fewest = min(pairs)[0]
    causes = [_cause(*pair) for differences, pair in pairs if differences == fewest]
    kinds = {cause.partition(":")[0] for cause in causes}
    return causes[0] if len(kinds) == 1 and causes[0] else None  # of ReLU and ReLU6, say, the more common one


def _one_mask(in_jax: tuple[np.ndarray, np.ndarray], in_torch: tuple[np.ndarray, np.ndarray]) -> bool:
    """Return whether both drop the same units of what is positive in both, which no activation makes zero."""
    if len({x.shape for x in (*in_jax, *in_torch)}) > 1:
        return False
    positive = (in_jax[0] > 0) & (in_torch[0] > 0)
    return bool(positive.any() and np.array_equal((in_jax[1] == 0)[positive], (in_torch[1] == 0)[positive]))


def _differences(in_jax: Between, in_torch: Between) -> int:
    return sum(a != b for a, b in zip(in_jax, in_torch, strict=True))


def _cause(in_jax: Between, in_torch: Between) -> Cause:
    causes: list[Cause] = []
    if in_jax.dropout and in_torch.dropout and in_jax.dropout != in_torch.dropout:
        ours, theirs = (float(one.dropout.removeprefix("rate ")) for one in (in_jax, in_torch))
        causes.append(OTHER_RATE.of(ours, theirs))
    elif in_jax.dropout != in_torch.dropout:
        causes.append(_one_sided(DROPOUT, "dropout", in_jax, in_torch, "no dropout"))
    elif in_jax.dropout:  # and the numbers differ
        causes.append(OTHER_MASK + f": {in_jax.dropout} in both")
    if in_jax.scale != in_torch.scale:
        causes.append(_one_sided(SCALE, "scale", in_jax, in_torch, "1"))
    if in_jax.flatten != in_torch.flatten and "to" in in_jax.flatten:
        advice = "or give the pairs of kernel and bias the transform flattened(columns=(C, H, W))"
        text = f"{UNFLATTEN}: unflatten to C,H,W and move the channels last, {advice}"
        causes.append(UNFLATTEN.saying(text, *_orders(in_jax.flatten, in_torch.flatten)))
    elif in_jax.flatten != in_torch.flatten:
        advice = "move the channels first, or give the kernel's pair the transform flattened(rows=(C, H, W))"
        causes.append(FLATTEN.saying(f"{FLATTEN}: {advice}", *_orders(in_jax.flatten, in_torch.flatten)))
    if in_jax.pool != in_torch.pool:
        causes.append(POOL_KIND.of(in_jax.pool, in_torch.pool))
    elif in_jax.window != in_torch.window:
        causes.append(POOL_PADDING.of(in_jax.window, in_torch.window))
    if in_jax.activation != in_torch.activation:
        names = in_jax.activation, in_torch.activation
        kinds = {name.partition("(")[0].strip() for name in names}
        soft = any("softmax" in name for name in names)
        of: Cause | None = (
            {"GELU": GELU, "softplus": SOFTPLUS, "LeakyReLU": LEAKY_SLOPE, "ELU": ELU_ALPHA}.get(next(iter(kinds)))
            if len(kinds) == 1
            else None
        )
        causes.append((SOFTMAX if soft else of or ACTIVATION).of(*names))
    if in_jax.order != in_torch.order and in_jax.pool == in_torch.pool:
        causes.append(ORDER.of(in_jax.order, in_torch.order))
    return joined(causes)


def _one_sided(cause: Cause, field: str, in_jax: Between, in_torch: Between, none: str) -> Cause:
    """Name what one framework has alone, or each otherwise."""
    values = {"JAX": getattr(in_jax, field), "PyTorch": getattr(in_torch, field)}
    text = " and ".join(f"{value} in {framework}" for framework, value in values.items() if value)
    return cause.saying(f"{cause}: {text}", *(value or none for value in values.values()))


def _orders(in_jax: str, in_torch: str) -> tuple[str, str]:
    return in_jax.removeprefix("to "), in_torch.removeprefix("to ")


def _explanations(output: np.ndarray, following: np.ndarray, tolerance: float) -> Iterator[Between]:
    """Yield the known operations from an output to the following input; with dropout only if none without fits."""
    few = slice(max(1, 2**16 // max(1, output[0].size)))  # images: these operations nearly always act on each alone
    x, target = torch.tensor(output[few].astype(np.float64)), following[few].astype(np.float64)
    steps = list(_steps(x, target))
    plain = [operations for operations, numbers in steps if near(target, numbers, tolerance)]
    yield from plain
    if plain:
        return
    for operations, numbers in steps:
        if numbers.shape != target.shape or not numbers.any():
            continue
        scale = float((numbers * target).sum() / (numbers * numbers).sum())
        if scale and near(target, scale * numbers, tolerance):
            yield operations._replace(scale=f"{scale:.4g}")
        elif rate := _dropped(numbers, target, tolerance):
            yield operations._replace(dropout=f"rate {rate:.2g}")


def _dropped(numbers: np.ndarray, target: np.ndarray, tolerance: float) -> float:
    """Return the rate of the dropout that turns the numbers into the target, or 0.

    Some numbers of either sign become zero, since ReLU makes zeros too; the others are scaled by one factor.
    """
    kept, scale = target != 0, 0.0
    if kept.all():
        return 0.0
    for some in (numbers > 0, numbers < 0):
        if some.any() and not ((some & kept).any() and (some & ~kept).any()):
            return 0.0
    if kept.any() and (numbers[kept] != 0).all():
        scale = float(np.median(target[kept] / numbers[kept]))
    return 1 - 1 / scale if scale >= 1 and distance(target[kept], scale * numbers[kept]) <= tolerance else 0.0


def _steps(x: Tensor, target: np.ndarray) -> Iterator[tuple[Between, np.ndarray]]:
    for (pool, window), pooled in _pooled(x, target):
        for activation, y in _activated(pooled, target):
            for flatten, z in _reordered(y, target):
                yield Between(activation, pool, window, "pooling first" if pool else "", flatten), z
    for activation, active in _activated(x, np.empty(0)):
        for (pool, window), y in _pooled(active, target):
            for flatten, z in _reordered(y, target) if pool else ():
                yield Between(activation, pool, window, "activation first", flatten), z


def _activated(x: Tensor, target: np.ndarray) -> Iterator[tuple[str, Tensor]]:
    yield from ((name, activation(x)) for name, activation in ACTIVATIONS.items())
    for axis in range(1, x.ndim):
        for softmax in (F.softmax, F.log_softmax):
            yield f"{softmax.__name__}({axis=})", softmax(x, axis)
    for softmax in (F.softmax, F.log_softmax):
        yield f"{softmax.__name__}(axis=0)", softmax(x, 0)
    for name, function, guess in (("LeakyReLU", F.leaky_relu, 0.01), ("ELU", F.elu, 1.0)):
        for _, ordered in _reordered(x, target):  # the slope is fitted in the target's order
            positive = ordered > 0
            if ordered.shape != target.shape or not np.allclose(ordered[positive], target[positive], atol=1e-4):
                continue
            inputs = torch.tensor(ordered)
            number = fitted(lambda number, f=function, x=inputs: f(x, number).numpy(), target, guess)
            if abs(number) > 1e-9 and (name == "ELU" or abs(number - 1) > 1e-9):  # else ReLU, or no activation
                yield f"{name}({number:.4g})", function(x, number)
        if not target.size:
            yield f"{name}({guess:.4g})", function(x, guess)
            if name == "LeakyReLU":
                yield "LeakyReLU(0.2)", function(x, 0.2)


def _reordered(x: Tensor, target: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Yield x in the target's shape: unchanged, or flattened or unflattened in either order of the image's axes."""
    if x.ndim == target.ndim:
        yield "", x.numpy()
    elif x.numel() == target.size and x.ndim > target.ndim == 2:
        yield "C,H,W", x.flatten(1).numpy()
        yield "H,W,C", x.movedim(1, -1).flatten(1).numpy()
    elif x.numel() == target.size and target.ndim > x.ndim == 2:
        yield "to C,H,W", x.numpy().reshape(target.shape)
        last = np.moveaxis(target, 1, -1).shape
        yield "to H,W,C", np.moveaxis(x.numpy().reshape(last), -1, 1)


def _pooled(x: Tensor, target: np.ndarray) -> Iterator[tuple[tuple[str, str], Tensor]]:
    """Yield every pooling that gives the shape of the target, and no pooling."""
    if x.numel() == target.size or not target.size:
        yield ("", ""), x
    if x.ndim < 3:
        return
    axes = tuple(range(2, x.ndim))
    for name, function in (("mean over the image", torch.mean), ("maximum over the image", torch.amax)):
        pooled = function(x, axes)
        if pooled.numel() == target.size:
            yield (name, ""), pooled if target.ndim == 2 else pooled.reshape(target.shape)
    if x.ndim != 4:
        return
    for size, stride in itertools.product((2, 3, 4), (1, 2, 3, 4)):
        for name, pads in _window_pads(x.shape[2:], size, stride):
            outs = [(n + a + b - size) // stride + 1 for n, (a, b) in zip(x.shape[2:], pads, strict=True)]
            if min(outs) < 1 or x.shape[0] * x.shape[1] * outs[0] * outs[1] != target.size:
                continue
            border = [n for pair in reversed(pads) for n in pair]
            window = f"window {size}, stride {stride}, padding {name}"
            yield ("max pooling", window), F.max_pool2d(F.pad(x, border, value=-torch.inf), size, stride)
            mean = F.avg_pool2d(F.pad(x, border), size, stride)
            yield ("average pooling", window), mean
            if any(border):
                share = F.avg_pool2d(F.pad(torch.ones_like(x), border), size, stride)
                yield ("average pooling", f"{window} left out of the mean"), mean / share


def _window_pads(lengths, size: int, stride: int):
    seen = []
    for pad in range(size // 2 + 1):
        seen.append([(pad, pad)] * len(lengths))
        yield str(pad), seen[-1]
    totals = [max((-(-n // stride) - 1) * stride + size - n, 0) for n in lengths]
    same = [(total // 2, total - total // 2) for total in totals]
    if same not in seen:
        yield f"'SAME' {tuple(same)}", same
