"""Build a part as a Flax NNX module or variable."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from parity_tests.support.pairs import parts
from parity_tests.support.pairs.changes import CHANGES
from parity_tests.support.pairs.formulas import padded, running, standardised


def build(part: parts.Part, rngs: nnx.Rngs) -> Any:
    """Build the part with Flax's own initial values, or those that the part asks for."""
    match part:
        case parts.Weight():
            if part.start is None:
                return nnx.Param(jax.random.normal(rngs.params(), part.shape))
            return nnx.Param(jnp.full(part.shape, part.start))
        case parts.State():
            return nnx.BatchStat(jnp.zeros(part.shape, jnp.int32 if part.whole else jnp.float32))
        case parts.Constant():
            return None
        case parts.Cell():
            width = {"gru": 3, "lstm": 4, "rnn": 1}[part.kind] * part.n_out
            return Pair(ih=nnx.Linear(part.n_in, width, rngs=rngs), hh=nnx.Linear(part.n_out, width, rngs=rngs))
        case parts.Heads():
            return nnx.MultiHeadAttention(part.heads, part.features, decode=False, rngs=rngs)
        case parts.InProjection():
            width = part.features
            return Pair(in_proj=nnx.Linear(width, 3 * width, rngs=rngs), out_proj=nnx.Linear(width, width, rngs=rngs))
    kind, options = _layer(part)
    if part.change:
        kind = altered(kind, part.change)
    return kind(**options, rngs=rngs)


def _layer(part: parts.Part) -> tuple[Any, dict[str, Any]]:
    start = {"kernel_init": nnx.initializers.zeros} if getattr(part, "zero", False) else {}
    match part:
        case parts.ConvTranspose():
            kind: Any = nnx.ConvTranspose
            if part.shift:
                kind = type("ConvTranspose", (_Moved, nnx.ConvTranspose), {"shift": part.shift})
            edge = part.size[0] - 1 - part.padding
            return kind, dict(
                in_features=part.n_in, out_features=part.n_out, kernel_size=part.size,
                strides=(part.stride,) * len(part.size), padding=((edge, edge),) * len(part.size),
                use_bias=part.bias, transpose_kernel=True, **start,
            )  # fmt: skip
        case parts.Conv():
            kind = nnx.Conv
            pads: Any = part.padding
            if part.mode != "zeros":
                kind, pads = type("Conv", (_Bordered, nnx.Conv), {"part": part}), "VALID"
            return kind, dict(
                in_features=part.n_in, out_features=part.n_out, kernel_size=part.size, strides=part.strides,
                padding=pads, kernel_dilation=part.dilation, feature_group_count=part.groups, use_bias=part.bias,
                **start,
            )  # fmt: skip
        case parts.Linear():
            return nnx.Linear, dict(in_features=part.n_in, out_features=part.n_out, use_bias=part.bias, **start)
        case parts.LayerNorm() | parts.RMSNorm():
            kind = nnx.LayerNorm if isinstance(part, parts.LayerNorm) else nnx.RMSNorm
            if part.variant:
                kind = type(kind.__name__, (_OddNorm, kind), {"part": part})
            return kind, {"num_features": part.features, "epsilon": part.eps, "use_fast_variance": False}
        case parts.GroupNorm():
            return nnx.GroupNorm, {
                "num_features": part.features,
                "num_groups": part.groups,
                "epsilon": part.eps,
                "use_fast_variance": False,
            }
        case parts.BatchNorm():
            kind = type("BatchNorm", (_BatchNorm, nnx.BatchNorm), {"part": part})
            return kind, {
                "num_features": part.features,
                "epsilon": part.eps,
                "momentum": 1 - part.momentum,
                "use_fast_variance": False,
            }
        case parts.Embed():
            return nnx.Embed, {"num_embeddings": part.entries, "features": part.features}
        case parts.Dropout():
            return (_DropoutOn if part.on else nnx.Dropout), {"rate": part.rate}
    raise NotImplementedError(part)


def altered(kind: Any, name: str) -> Any:
    """Make a layer's class that reads a changed weight."""
    change = CHANGES[name]

    def call(self: Any, *args: Any, **options: Any) -> Any:
        kept = getattr(self, change.leaf)
        setattr(self, change.leaf, nnx.Param(change.in_jax(kept[...])))
        y = kind.__call__(self, *args, **options)
        setattr(self, change.leaf, kept)
        return y

    return type(kind.__name__, (kind,), {"__call__": call})


class Pair(nnx.Module):
    """Two named layers."""

    def __init__(self, **named: nnx.Module):
        for name, layer in named.items():
            setattr(self, name, layer)


class _Moved(nnx.Module):
    shift: int

    def __call__(self, inputs: jax.Array) -> jax.Array:
        y = super().__call__(inputs)  # type: ignore[misc]
        return jnp.roll(y, self.shift, tuple(range(1, y.ndim - 1)))


class _Bordered(nnx.Module):
    part: parts.Conv

    def __call__(self, inputs: jax.Array) -> jax.Array:
        return super().__call__(padded(inputs, self.part))  # type: ignore[misc]


class _OddNorm(nnx.Module):
    part: parts.Norm
    scale: Any
    bias: Any

    def __call__(self, x: jax.Array) -> jax.Array:
        bias = self.bias[...] if isinstance(self.part, parts.LayerNorm) else 0
        return standardised(x, self.part) * self.scale[...] + bias


class _BatchNorm(nnx.Module):
    """A batch norm whose running variance is unbiased, as torch's is."""

    part: parts.BatchNorm
    use_running_average: bool
    mean: Any
    var: Any

    def __call__(self, x: jax.Array, **_: Any) -> jax.Array:
        held, mode = (self.mean[...], self.var[...]), not self.use_running_average
        batch = {"batch": True, "running": False, "mode": mode}[self.part.reads]
        y = super().__call__(x, use_running_average=not batch)  # type: ignore[misc]
        new = running(held, x, self.part) if mode and batch else held
        self.mean[...], self.var[...] = new
        return y


class _DropoutOn(nnx.Dropout):
    """Dropout that is on in evaluation too."""

    def __call__(self, inputs: jax.Array) -> jax.Array:
        keep = jax.random.bernoulli(jax.random.key(0), 1 - self.rate, inputs.shape)
        return jnp.where(keep, inputs / (1 - self.rate), 0)
