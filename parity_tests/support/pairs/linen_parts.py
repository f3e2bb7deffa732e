"""Build a part as a Flax Linen module, parameter or variable."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen

from parity_tests.support.pairs import parts
from parity_tests.support.pairs.changes import CHANGES
from parity_tests.support.pairs.formulas import padded, running, standardised


def add(module: Any, name: str, part: parts.Part) -> None:
    """Give the part to a module inside its setup."""
    match part:
        case parts.Weight():
            start = linen.initializers.normal(1.0)
            if part.start is not None:
                start = linen.initializers.constant(part.start)
            setattr(module, name, module.param(name, start, part.shape))
        case parts.State():
            kind = jnp.int32 if part.whole else jnp.float32
            setattr(module, name, module.variable("batch_stats", name, lambda: jnp.zeros(part.shape, kind)))
        case parts.Constant():
            pass
        case parts.Cell():
            width = {"gru": 3, "lstm": 4, "rnn": 1}[part.kind] * part.n_out
            setattr(module, name, Pair(names=("ih", "hh"), widths=(width, width)))
        case parts.InProjection():
            setattr(module, name, Pair(names=("in_proj", "out_proj"), widths=(3 * part.features, part.features)))
        case _:
            kind, options = _layer(part)
            setattr(module, name, _altered(kind, part.change)(**options) if part.change else kind(**options))


def _layer(part: parts.Part) -> tuple[Any, dict[str, Any]]:
    start = {"kernel_init": linen.initializers.zeros} if getattr(part, "zero", False) else {}
    match part:
        case parts.ConvTranspose():
            edge = part.size[0] - 1 - part.padding
            kind: Any = linen.ConvTranspose
            if part.shift:
                kind = type("ConvTranspose", (_Moved, kind), {"shift": part.shift})
            return kind, dict(
                features=part.n_out, kernel_size=part.size, strides=(part.stride,) * len(part.size),
                padding=((edge, edge),) * len(part.size), use_bias=part.bias, transpose_kernel=True, **start,
            )  # fmt: skip
        case parts.Conv():
            kind, pads = linen.Conv, part.padding
            if part.mode != "zeros":
                kind, pads = type("Conv", (_Bordered, kind), {"part": part}), "VALID"
            return kind, dict(
                features=part.n_out, kernel_size=part.size, strides=part.strides, padding=pads,
                kernel_dilation=part.dilation, feature_group_count=part.groups, use_bias=part.bias, **start,
            )  # fmt: skip
        case parts.Linear():
            return linen.Dense, dict(features=part.n_out, use_bias=part.bias, **start)
        case parts.LayerNorm() | parts.RMSNorm():
            if part.variant:
                return OddNorm, {"part": part}
            kind = linen.LayerNorm if isinstance(part, parts.LayerNorm) else linen.RMSNorm
            return kind, {"epsilon": part.eps, "use_fast_variance": False}
        case parts.GroupNorm():
            return linen.GroupNorm, {"num_groups": part.groups, "epsilon": part.eps, "use_fast_variance": False}
        case parts.BatchNorm():
            return BatchNorm, {"part": part}
        case parts.Embed():
            return linen.Embed, {"num_embeddings": part.entries, "features": part.features}
        case parts.Dropout():
            return linen.Dropout, {"rate": part.rate, "deterministic": not part.on}
    raise NotImplementedError(part)


def _altered(kind: Any, name: str) -> Any:
    change = CHANGES[name]

    def param(self: Any, leaf: str, *args: Any, **options: Any) -> Any:
        value = kind.param(self, leaf, *args, **options)
        return change.in_jax(value) if leaf == change.leaf else value

    return type(kind.__name__, (kind,), {"param": param})


class Pair(linen.Module):
    """Two named layers."""

    names: tuple[str, ...]
    widths: tuple[int, ...]

    def setup(self) -> None:
        for name, width in zip(self.names, self.widths, strict=True):
            setattr(self, name, linen.Dense(width))


class _Moved:
    shift: int

    def __call__(self, inputs: jax.Array) -> jax.Array:
        y = super().__call__(inputs)  # type: ignore[misc]
        return jnp.roll(y, self.shift, tuple(range(1, y.ndim - 1)))


class _Bordered:
    part: parts.Conv

    def __call__(self, inputs: jax.Array) -> jax.Array:
        return super().__call__(padded(inputs, self.part))  # type: ignore[misc]


class OddNorm(linen.Module):
    """A layer norm or RMS norm with another formula."""

    part: parts.Norm

    @linen.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = standardised(x, self.part) * self.param("scale", linen.initializers.ones, x.shape[-1:])
        centred = isinstance(self.part, parts.LayerNorm)
        return y + self.param("bias", linen.initializers.zeros, x.shape[-1:]) if centred else y


class BatchNorm(linen.Module):
    """A batch norm whose running variance is unbiased, as torch's is."""

    part: parts.BatchNorm

    @linen.compact
    def __call__(self, x: jax.Array, use_running_average: bool) -> jax.Array:
        part, size = self.part, x.shape[-1:]
        mean = self.variable("batch_stats", "mean", lambda: jnp.zeros(size))
        var = self.variable("batch_stats", "var", lambda: jnp.ones(size))
        scale = self.param("scale", linen.initializers.ones, size)
        bias = self.param("bias", linen.initializers.zeros, size)
        batch = {"batch": True, "running": False, "mode": not use_running_average}[part.reads]
        axes = tuple(range(x.ndim - 1))
        read = (x.mean(axes), x.var(axes)) if batch else (mean.value, var.value)
        if batch and not use_running_average and not self.is_initializing():
            mean.value, var.value = running((mean.value, var.value), x, part)
        return (x - read[0]) / jnp.sqrt(read[1] + part.eps) * scale + bias
