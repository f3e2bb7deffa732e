"""Compute the output of a torch layer under each known fault; the fault that reproduces JAX's output is the cause."""

import copy
import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from parity_tests.harness.causes import Cause, each, joined
from parity_tests.harness.modules.hypotheses.attention import changed_attention
from parity_tests.harness.modules.hypotheses.base import Hypothesis, confirmed, distance, fitted, in_bfloat16, in_single

SAME_PADDING = Cause("'SAME' pads the end more than the start", "padding", "set the Flax layer's padding to {torch}")
PADDING = Cause("the padding differs", "padding", "set the Flax layer's padding to {torch}")
SWAPPED = Cause(
    "the kernel's height and width are swapped",
    "kernel-axes",
    "permute the kernel's height and width in the mapping or in the port",
    found="width, height",
    expected="height, width",
)
TRANSPOSED = Cause(
    "the kernel's inputs and outputs are swapped",
    "kernel-transposed",
    "permute the kernel's inputs and outputs in the mapping or in the port",
    found="transposed",
    expected="given",
)
UNFLIPPED = Cause(
    "the transposed convolution's kernel is not flipped (transpose_kernel=False)",
    "kernel-flipped",
    "give nnx.ConvTranspose transpose_kernel=True, or its pair the transform flipped_kernel",
    found="not flipped",
    expected="flipped",
)
FLIPPED = Cause(
    "the convolution's kernel is flipped",
    "kernel-flipped",
    "flip the kernel along height and width once more",
    found="flipped",
    expected="not flipped",
)
TRANSPOSED_SAME = Cause(
    "'SAME' pads a transposed convolution otherwise than PyTorch's padding and output_padding do",
    "transposed-padding",
    "set the padding of nnx.ConvTranspose to {torch}",
)
TRANSPOSED_PADDING = Cause(
    "the transposed convolution's padding differs",
    "transposed-padding",
    "set the padding of nnx.ConvTranspose to {torch}",
)
BIAS_MISSING = Cause(
    "the bias is left out", "bias-missing", "give the Flax layer use_bias=True and add its bias", "missing", "added"
)
SCALE_MISSING = Cause(
    "the scale is left out",
    "scale-missing",
    "give the Flax layer use_scale=True and multiply by its scale",
)
SCALE_OFFSET = Cause("the norm scales by another function of its weights", "scale-offset", "scale by {torch}")
OUTPUT_BIAS = Cause(
    "the bias is not permuted from H,W,C to C,H,W while the kernel's columns are",
    "bias-order",
    "give the bias's pair the transform flattened(columns=(C, H, W))",
)
EPS = Cause("the normalization's eps differs", "norm-epsilon", "give the Flax layer epsilon={torch}")
GROUPS = Cause("the number of groups differs", "groups", "give the Flax layer num_groups={torch}")
FAST_VARIANCE = Cause(
    "the variance is E[x^2]-E[x]^2 (use_fast_variance=True), which cancels where the mean is large",
    "fast-variance",
    "give the Flax layer use_fast_variance=False",
    found=True,
    expected=False,
)
BATCH_STATISTICS = Cause(
    "batch normalization uses the batch's statistics in evaluation",
    "statistics-mode",
    "normalize by the running statistics in evaluation (use_running_average=True)",
    found="the batch's statistics",
    expected="its running statistics",
)
RUNNING_STATISTICS = Cause(
    "batch normalization uses the running statistics in training",
    "statistics-mode",
    "normalize by the batch's statistics in training (use_running_average=False)",
    found="its running statistics",
    expected="the batch's statistics",
)
TF32 = Cause(
    "the product's inputs are rounded to TF32's 10 bits",
    "low-precision",
    "compute the product in full precision (precision='highest')",
)
BFLOAT16 = Cause(
    "the numbers are rounded to bfloat16",
    "low-precision",
    "compute the layer in the precision of the comparison (dtype and param_dtype)",
)
FLOAT32 = Cause(
    "float32 slipped into float64",
    "low-precision",
    "keep the numbers in the precision of the comparison: remove a cast or a float32 constant",
    found="float32",
    expected="float64",
)
DILATION = Cause("the dilation differs", "dilation", "give the Flax layer kernel_dilation={torch}")
SCALED = Cause("the layer's output is multiplied by a constant", "scaled", "take the constant factor out")

_NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm)
_CANCELLED = 64  # roundings of a mean's square that a short sum may be off by
_CHOSEN = 1e-6  # of an eps that is fitted
_LEAST = 1e-30  # eps that PyTorch's norms take
_ROUNDED = 2e-6  # float32 sums after rounded inputs


def cause_in_layer(
    layer: nn.Module,
    x: np.ndarray,
    in_jax: np.ndarray,
    in_torch: np.ndarray,
    tolerance: float,
    arrays: Mapping[str, np.ndarray] = {},
) -> str | None:
    """Return why the outputs `in_jax` and `in_torch` of a layer differ for the input `x`, all in torch's layout.

    `arrays` are those that attention may be given besides, by name.
    """
    if isinstance(layer, nn.MultiheadAttention):
        target = in_jax, in_torch
        return rounded(*target) or changed_attention(layer, x.astype(np.float64), target, tolerance, arrays)
    if not isinstance(layer, (nn.Linear, nn.modules.conv._ConvNd, nn.Embedding, *_NORMS)):
        return (
            rounded(in_jax, in_torch)
            or scaled(in_jax, in_torch, tolerance)
            or _of_mean_square(layer, x.astype(np.float64), in_jax, in_torch, tolerance)
        )
    layer = copy.deepcopy(layer).cpu()
    inputs = torch.tensor(x if x.dtype.kind in "iub" else x.astype(np.float64))
    with torch.no_grad():
        plain = _numbers(_changed(layer)(inputs))
        at_fault = distance(in_jax, plain) <= tolerance  # torch's output is not that of its layer
        actual = in_torch if at_fault else in_jax
        cause = rounded(in_jax, in_torch) or confirmed(
            _hypotheses(layer, inputs, plain, actual), actual, plain, tolerance
        )
    return each(cause).at_torch() if cause and at_fault else cause


def _of_mean_square(
    layer: nn.Module, x: np.ndarray, in_jax: np.ndarray, in_torch: np.ndarray, tolerance: float
) -> str | None:
    """Return which eps, and which scale, two norms by the root of the mean square have, which many modules write for
    themselves."""
    weights = [p.numpy(force=True).astype(np.float64) for p in layer.parameters()]
    if len(weights) != 1 or weights[0].shape != x.shape[-1:] or in_jax.shape != x.shape:
        return None
    square = (x**2).mean(-1, keepdims=True)
    scales = {"the weights": weights[0], "1 + the weights": 1 + weights[0], "no weights": np.ones_like(weights[0])}
    found = []
    for y in (in_jax, in_torch):
        for shown, scale in scales.items():
            with np.errstate(all="ignore"):
                eps = max(0.0, float(np.median((x * scale / y) ** 2 - square)))
                if distance(y, x * scale / np.sqrt(square + eps)) <= tolerance:
                    found.append((shown, eps))
                    break
    if len(found) < 2:
        return None
    (mine, eps), (other, expected) = found
    causes = [SCALE_OFFSET.of(mine, other)] if mine != other else []
    shown = f"{eps:.3g}", f"{expected:.3g}"
    if shown[0] != shown[1] and distance(in_jax, x * scales[mine] / np.sqrt(square + expected)) > tolerance:
        causes.append(EPS.of(_chosen(eps), _chosen(expected), shown))
    return joined(causes) if causes else None


def _chosen(eps: float) -> float:
    """Return the number of few digits that somebody chose and a fit came near to."""
    return short if abs((short := float(f"{eps:.3g}")) - eps) <= _CHOSEN * eps else eps


def scaled(in_jax: np.ndarray, in_torch: np.ndarray, tolerance: float) -> str | None:
    """Return the constant that maps torch's output to JAX's, if there is one."""
    if in_jax.shape != in_torch.shape or in_torch.dtype.kind != "f" or not in_torch.any():
        return None
    return confirmed([_scaled(in_jax, in_torch)], in_jax, in_torch, tolerance)


def _scaled(actual: np.ndarray, plain: np.ndarray) -> Hypothesis:
    scale = float((plain * actual).sum() / (plain * plain).sum())
    return Hypothesis(SCALED.saying(f"{SCALED}: by {scale:.4g}", scale, 1.0), scale * plain)


def rounded(in_jax: np.ndarray, in_torch: np.ndarray) -> str | None:
    """Return the lower precision that one framework rounds to, if that explains the whole difference."""
    for actual, plain, framework in ((in_jax, in_torch, "JAX"), (in_torch, in_jax, "PyTorch")):
        for coarse, nearness, cause in ((in_bfloat16, 3e-2, BFLOAT16), (in_single, 1e-5, FLOAT32)):
            if coarse(actual) and not coarse(plain) and distance(actual, plain) <= nearness:
                return cause + " in JAX" if framework == "JAX" else cause.at_torch()
    return None


def _hypotheses(layer: nn.Module, x: Tensor, plain: np.ndarray, actual: np.ndarray) -> Iterator[Hypothesis]:
    if isinstance(layer, nn.Linear):
        yield from _linear(layer, x, plain, actual)
    elif isinstance(layer, nn.modules.conv._ConvNd):
        yield from (_transposed if layer.transposed else _convolution)(layer, x, actual)
    elif isinstance(layer, _NORMS):
        yield from _norm(layer, x, actual)
    if isinstance(layer, nn.Linear | nn.modules.conv._ConvNd):
        for cause, coarse in {TF32: _tf32, BFLOAT16: _bfloat16}.items():
            yield Hypothesis(cause, _numbers(_changed(layer, weight=coarse(layer.weight))(coarse(x))), _ROUNDED)
    if isinstance(bias := getattr(layer, "bias", None), Tensor):
        yield Hypothesis(BIAS_MISSING, _numbers(_changed(layer, bias=torch.zeros_like(bias))(x)))
    if actual.shape == plain.shape and plain.any():
        yield _scaled(actual, plain)


def _linear(layer: nn.Linear, x: Tensor, plain: np.ndarray, actual: np.ndarray) -> Iterator[Hypothesis]:
    if layer.in_features == layer.out_features:
        yield Hypothesis(TRANSPOSED, _numbers(_changed(layer, weight=layer.weight.T)(x)))
    if layer.bias is not None and actual.shape == plain.shape:
        bias = _numbers(layer.bias)
        for order in orders(layer.out_features):
            for permuted in (bias[order], bias[np.argsort(order)]):
                yield Hypothesis(OUTPUT_BIAS, plain - bias + permuted)


def orders(size: int) -> Iterator[np.ndarray]:
    """Yield the permutation from H,W,C to C,H,W order for every image with `size` numbers."""
    for channels, height in itertools.product(range(2, size // 2 + 1), range(1, size // 2 + 1)):
        if size % (channels * height) == 0:
            yield np.arange(size).reshape(height, -1, channels).transpose(2, 0, 1).ravel()


def _convolution(layer: Any, x: Tensor, actual: np.ndarray) -> Iterator[Hypothesis]:
    sizes, weight = layer.kernel_size, layer.weight
    same = []
    for length, size, stride, dilation in zip(x.shape[2:], sizes, layer.stride, layer.dilation, strict=True):
        total = max((-(-length // stride) - 1) * stride + (size - 1) * dilation + 1 - length, 0)
        same.append((total // 2, total - total // 2))
    if any(start != end for start, end in same):
        stride = layer.stride[0] if len(set(layer.stride)) == 1 else layer.stride
        cause = SAME_PADDING + f" at stride {stride}, where PyTorch pads both alike"
        yield Hypothesis(_pads(cause, layer, same), _convolved(layer, x, same))
    if len(sizes) == 2 and sizes[0] == sizes[1]:
        yield Hypothesis(SWAPPED, _numbers(_changed(layer, weight=weight.transpose(2, 3))(x)))
    if weight.shape[0] == weight.shape[1]:
        yield Hypothesis(TRANSPOSED, _numbers(_changed(layer, weight=weight.transpose(0, 1))(x)))
    yield Hypothesis(FLIPPED, _numbers(_changed(layer, weight=weight.flip(tuple(range(2, weight.ndim))))(x)))
    for start, end in itertools.product(range(max(sizes) + 1), repeat=2):
        pads = start, end
        if _fits(x, sizes, layer.stride, layer.dilation, pads, actual):
            every = [pads] * len(sizes)
            yield Hypothesis(_pads(PADDING, layer, every), _convolved(layer, x, every))
    for dilation in range(1, 4):  # with padding that keeps the shape
        pads = dilation * (sizes[0] - 1) // 2
        if dilation != layer.dilation[0] and _fits(
            x, sizes, layer.stride, (dilation,) * len(sizes), (pads,) * 2, actual
        ):
            dilated = _changed(layer, dilation=(dilation,) * len(sizes), padding=(pads,) * len(sizes))
            yield Hypothesis(DILATION.of(dilation, layer.dilation[0]), _numbers(dilated(x)))


def _fits(x: Tensor, sizes: Any, strides: Any, dilations: Any, pads: tuple[int, int], actual: np.ndarray) -> bool:
    """Return whether the padding gives the actual output shape."""
    spans = [(size - 1) * dilation + 1 for size, dilation in zip(sizes, dilations, strict=True)]
    lengths = [length + sum(pads) - span for length, span in zip(x.shape[2:], spans, strict=True)]
    return min(lengths) >= 0 and actual.shape[2:] == tuple(n // s + 1 for n, s in zip(lengths, strides, strict=True))


def _pads(cause: Cause, layer: Any, pads: list[tuple[int, int]]) -> Cause:
    return cause.of([list(pair) for pair in pads], _plain(layer.padding), (tuple(pads), layer.padding))


def _plain(setting: Any) -> Any:
    return list(setting) if isinstance(setting, tuple) else setting


def _convolved(layer: Any, x: Tensor, pads: list[tuple[int, int]]) -> np.ndarray:
    padded = F.pad(x, [n for pair in reversed(pads) for n in pair])
    return _numbers(_changed(layer, padding=(0,) * len(pads))(padded))


def _transposed(layer: Any, x: Tensor, actual: np.ndarray) -> Iterator[Hypothesis]:
    """A transposed convolution is a convolution of the input spread out by the stride, with the flipped kernel."""
    if layer.groups != 1 or any(d != 1 for d in layer.dilation):
        return
    weight, spatial = layer.weight.double(), tuple(range(2, layer.weight.ndim))
    right = weight.flip(spatial).transpose(0, 1)
    settings = list(zip(layer.kernel_size, layer.stride, layer.padding, layer.output_padding, strict=True))
    torchs = [(size - 1 - pad, size - 1 - pad + more) for size, _, pad, more in settings]
    kernels = [(UNFLIPPED, weight.transpose(0, 1))]
    if weight.shape[0] == weight.shape[1]:  # without transpose_kernel Flax's kernel is [.., in, out] too
        kernels += [(UNFLIPPED, weight), (TRANSPOSED, right.transpose(0, 1))]
    for cause, kernel in kernels:
        yield Hypothesis(cause, _spread(layer, x, kernel, torchs))
    same, valid = [], []
    for size, stride, *_ in settings:  # as jax.lax.conv_transpose has it
        total = size + stride - 2
        start = size - 1 if stride > size - 1 else -(-total // 2)
        same.append((start, total - start))
        valid.append((size - 1, total + max(size - stride, 0) - size + 1))
    for suffix, kernel in (("", right), *((f", and {cause}", kernel) for cause, kernel in kernels)):
        values = [[list(pair) for pair in pads] for pads in (same, torchs, valid)]
        cause = TRANSPOSED_SAME.saying(f"{TRANSPOSED_SAME}, which is {tuple(torchs)} in Flax{suffix}", *values[:2])
        yield Hypothesis(cause, _spread(layer, x, kernel, same))
        cause = TRANSPOSED_PADDING.saying(f"{TRANSPOSED_PADDING}: 'VALID' in JAX{suffix}", values[2], values[1])
        yield Hypothesis(cause, _spread(layer, x, kernel, valid))
    size, stride = settings[0][:2]
    for start in range(size + stride):
        end = actual.shape[2] - 1 - (x.shape[2] - 1) * stride - start + size - 1
        pads = [(start, end)] * len(settings)
        if end >= 0:
            text = f"{TRANSPOSED_PADDING}: {tuple(pads)} in JAX, where PyTorch's {layer.padding} is {tuple(torchs)}"
            cause = TRANSPOSED_PADDING.saying(text, [list(pair) for pair in pads], [list(pair) for pair in torchs])
            yield Hypothesis(cause, _spread(layer, x, right, pads))


def _spread(layer: Any, x: Tensor, weight: Tensor, pads: list[tuple[int, int]]) -> np.ndarray:
    lengths = [(length - 1) * stride + 1 for length, stride in zip(x.shape[2:], layer.stride, strict=True)]
    spread = x.new_zeros(*x.shape[:2], *lengths)
    spread[(slice(None), slice(None), *(slice(None, None, stride) for stride in layer.stride))] = x
    padded = F.pad(spread, [n for pair in reversed(pads) for n in pair])
    if any(length < size for length, size in zip(padded.shape[2:], layer.kernel_size, strict=True)):
        return np.empty(0)
    convolve = (F.conv1d, F.conv2d, F.conv3d)[len(pads) - 1]
    return _numbers(convolve(padded, weight, None if layer.bias is None else layer.bias.double()))


def _norm(layer: Any, x: Tensor, actual: np.ndarray) -> Iterator[Hypothesis]:
    def with_eps(eps: float) -> np.ndarray:
        return _numbers(_changed(layer, eps=max(_LEAST, eps))(x))

    for guess in (layer.eps, layer.eps / 1000):  # a step from a large one may end below zero
        eps = max(_LEAST, fitted(with_eps, actual, guess))
        shown = eps if eps > _LEAST else 0.0
        cause = EPS.of(_chosen(shown), layer.eps, (f"{shown:.3g}", f"{layer.eps:.3g}"))
        yield Hypothesis(cause, with_eps(eps))
    if isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.track_running_stats:
        cause = RUNNING_STATISTICS if layer.training else BATCH_STATISTICS
        yield Hypothesis(cause, _numbers(_changed(layer, training=not layer.training)(x)))
    if isinstance(layer, nn.GroupNorm):
        for groups in range(1, layer.num_channels + 1):
            if layer.num_channels % groups == 0 and groups != layer.num_groups:
                cause = GROUPS.of(groups, layer.num_groups)
                yield Hypothesis(cause, _numbers(_changed(layer, num_groups=groups)(x)))
    if layer.weight is not None:
        yield Hypothesis(SCALE_MISSING, _numbers(_changed(layer, weight=torch.ones_like(layer.weight))(x)))
    if layer.training or not isinstance(layer, nn.modules.batchnorm._BatchNorm):
        yield _fast_variance(_changed(layer), x, actual)


def _fast_variance(layer: Any, x: Tensor, actual: np.ndarray) -> Hypothesis:
    """Compute the output with each variance as far from the right one as makes it nearest to `actual`.

    The rounding of a cancellation depends on the order of its sums, so its size is checked: one number for all that is
    normalised together, no larger than the rounding of the mean's square.
    """
    plain, given = _numbers(layer(x)), _numbers(x)
    if plain.shape != actual.shape:
        return Hypothesis(FAST_VARIANCE, np.empty(0))
    bias = np.zeros(()) if layer.bias is None else _numbers(layer.bias)
    split: tuple[int, ...] = x.shape
    axes: tuple[int, ...] = tuple(range(2, x.ndim))  # an instance norm
    if isinstance(layer, nn.LayerNorm):
        axes = tuple(range(-len(layer.normalized_shape), 0))
    else:
        bias = bias.reshape(-1, *[1] * (x.ndim - 2))
        if isinstance(layer, nn.GroupNorm):
            split, axes = (len(x), layer.num_groups, -1, *x.shape[2:]), tuple(range(2, x.ndim + 1))
        elif isinstance(layer, nn.modules.batchnorm._BatchNorm):
            axes = (0, *axes)
    held, right, wrong = (y.reshape(split) for y in (given, plain - bias, actual - bias))
    factor = np.sum(right * wrong, axes, keepdims=True) / np.sum(right * right, axes, keepdims=True)
    mean, variance = np.mean(held, axes, keepdims=True), np.var(held, axes, keepdims=True)
    error = (variance + layer.eps) * np.abs(1 / factor**2 - 1)
    rounding = (_CANCELLED + 8 * (held.size / mean.size) ** 0.5) * float(np.finfo(actual.dtype).eps)
    if not (error <= rounding * (mean**2 + variance)).all():
        return Hypothesis(FAST_VARIANCE, np.empty(0))
    shift = rounding * float((np.abs(mean) / np.sqrt(variance + layer.eps)).max())  # the mean is rounded too
    return Hypothesis(FAST_VARIANCE, (factor * right).reshape(plain.shape) + bias, shift)


def _changed(layer: nn.Module, **attributes: Any) -> Any:
    """Return a copy of the layer in float64 with these attributes changed."""
    layer = copy.deepcopy(layer)
    for name, value in attributes.items():
        setattr(layer, name, nn.Parameter(value.detach()) if isinstance(value, Tensor) else value)
    layer._forward_hooks.clear()
    return layer.double()


def _tf32(x: Tensor) -> Tensor:
    bits = x.detach().float().contiguous().view(torch.int32)
    return ((bits + 0x0FFF + ((bits >> 13) & 1)) & ~0x1FFF).view(torch.float32).double()


def _bfloat16(x: Tensor) -> Tensor:
    return x.detach().bfloat16().double()


def _numbers(x: Tensor) -> np.ndarray:
    return x.numpy(force=True)
