"""Identify attention from numbers alone: its heads, scale, mask, softmax, rotary embeddings and which projection is
which."""

import itertools
import operator
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from parity_tests.harness.causes import Cause, joined
from parity_tests.harness.modules.hypotheses.base import Hypothesis, confirmed, distance, fitted

HEADS = Cause("the number of attention heads differs", "attention-heads", "use {torch} heads")
SCALE = Cause("attention's scores are scaled by another number", "attention-scale", "scale the scores by {torch}")
MASK = Cause("attention's masks differ", "attention-mask", "use {torch}")
MASKED = Cause("attention's masks differ", "attention-mask", "mask the keys that PyTorch masks")
AXIS = Cause("attention's softmax is over another axis", "attention-axis", "take the softmax over the {torch}")
SWAPPED = Cause("attention's query, key and value are exchanged", "attention-roles", "take the projections as {torch}")
ROTARY = Cause("attention's rotary embeddings differ", "rotary-embedding", "rotate by {torch}")
SINGLE = Cause(
    "attention's softmax is computed in float32",
    "low-precision",
    "compute attention's softmax in the precision of the comparison",
)

_MOST_HEADS = 16
_ROWS = 2  # of the batch, which attention never mixes
_ORDERS = ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))
_ROLES = ("query", "key", "value")
_MASKS = {"no mask": None, "a causal mask": 0, "a causal mask one key short": -1, "a causal mask one key long": 1}
_AXES = {"keys": -1, "queries": -2}
_BASES = (10_000, 500_000, 1_000_000, 100_000, 1_000, 100)
_ROTARY = {"none": ("", 0)} | {
    f"{kind}, base {base:,}": (kind, base) for base in _BASES for kind in ("halves", "pairs")
}
"""What is turned by an angle: the two halves of a head's features, or neighbours; and the base of the frequencies."""


class Attention(NamedTuple):
    """The settings of attention, each as it is shown; the first values are the usual ones."""

    order: tuple[int, int, int] = (0, 1, 2)
    heads: int = 1
    scale: str = "1/sqrt(head size)"
    mask: str = "no mask"
    axis: str = "keys"
    rotary: str = "none"


def attend(projections: Sequence[np.ndarray], settings: Attention, scale: float | None = None) -> np.ndarray:
    """Compute attention of three projections `[batch, length, features]`; NaN where a query has no key."""
    q, k, v = (_split(projections[i], settings.heads) for i in settings.order)
    q, k = _turned(q, settings.rotary), _turned(k, settings.rotary)
    factor = _scales(q.shape[-1], projections[0].shape[-1])[settings.scale] if scale is None else scale
    scores = factor * (q @ k.swapaxes(-1, -2))
    if (offset := _MASKS[settings.mask]) is not None:
        scores = np.where(np.tri(scores.shape[-2], scores.shape[-1], offset, dtype=bool), scores, -np.inf)
    axis = _AXES[settings.axis]
    scores = np.exp(scores - scores.max(axis, keepdims=True))
    mixed = scores / scores.sum(axis, keepdims=True) @ v
    return mixed.swapaxes(1, 2).reshape(*projections[0].shape[:2], -1)


def cause_in_attention(
    in_jax: Sequence[np.ndarray],
    in_torch: Sequence[np.ndarray],
    target: tuple[np.ndarray, np.ndarray],
    tolerance: float,
) -> str | None:
    """Return why attention of three projections differs.

    Args:
        in_jax: The three projections in JAX, in the order of their calls.
        in_torch: The three projections in torch.
        target: What attention gives in JAX and in torch.
        tolerance: How near the numbers must come.

    Returns:
        The settings that differ, or None if they can't be identified in both frameworks or are the same.
    """
    mine, other = _flat(in_jax, target[0]), _flat(in_torch, target[1])
    if mine is None or other is None or (theirs := next(_explained(*other, tolerance), None)) is None:
        return None
    ours = next(_explained(*mine, tolerance, theirs), None)
    if ours is None:
        loose = distance(mine[1], attend(mine[0], theirs))
        return SINGLE + " in JAX" if tolerance < 1e-9 and loose < 1e-5 else None
    return _differences(ours, theirs)


def changed_attention(layer: Any, x: np.ndarray, target: tuple[np.ndarray, np.ndarray], tolerance: float) -> str | None:
    """Return why self-attention of `x` differs in JAX from a `nn.MultiheadAttention`.

    Args:
        layer: The torch layer.
        x: What attention is given, in torch's layout.
        target: What it gives in JAX and in torch.
        tolerance: How near the numbers must come.

    Returns:
        The settings that differ, or None if they can't be identified.
    """
    if layer.in_proj_weight is None or target[0].ndim != 3:
        return None
    x = x if layer.batch_first else x.swapaxes(0, 1)
    numbers = {name: tensor.numpy(force=True).astype(np.float64) for name, tensor in layer.named_parameters()}
    projected = x @ numbers["in_proj_weight"].T + numbers.get("in_proj_bias", 0.0)
    parts = np.split(projected, 3, -1)
    usual = Attention(heads=layer.num_heads)

    def given(settings: Attention, scale: float | None = None) -> np.ndarray:
        with np.errstate(all="ignore"):
            mixed = attend(parts, settings, scale)
        y = mixed @ numbers["out_proj.weight"].T + numbers.get("out_proj.bias", 0.0)
        return y if layer.batch_first else y.swapaxes(0, 1)

    masked = [usual._replace(mask=mask) for mask in _MASKS]
    found = next((settings for settings in masked if distance(target[1], given(settings)) <= tolerance), None)

    def changed() -> Iterator[Hypothesis]:
        if found is None:  # or attention drops weights, or has a bias as a key
            if not (layer.training and layer.dropout) and layer.bias_k is None and not layer.add_zero_attn:
                for settings in masked:
                    other = "a mask" if settings.mask == "no mask" else "another mask"
                    sentence = f"{MASKED}: {settings.mask} in JAX, {other} in PyTorch"
                    yield Hypothesis(MASKED.saying(sentence, settings.mask), given(settings))
            return
        theirs = found
        for settings in _settings(parts, theirs):
            if settings.rotary == theirs.rotary and (cause := _differences(settings, theirs)):
                yield Hypothesis(cause, given(settings))
        scale = fitted(lambda scale: given(theirs, scale), target[0], (parts[0].shape[-1] // theirs.heads) ** -0.5)
        yield Hypothesis(SCALE.of(scale, theirs.scale, (f"{scale:.4g}", theirs.scale)), given(theirs, scale))

    return confirmed(changed(), *target, tolerance)


def _explained(
    sources: Sequence[np.ndarray], target: np.ndarray, tolerance: float, near: Attention | None = None
) -> Iterator[Attention]:
    """Yield the settings that map the projections to the target, those nearest to `near` first."""
    with np.errstate(all="ignore"):
        for settings in _settings(sources, near):
            if distance(target, attend(sources, settings)) <= tolerance:
                yield settings


def _settings(sources: Sequence[np.ndarray], near: Attention | None) -> list[Attention]:
    """Return the settings to try, those nearest to `near` first, and those with other rotary embeddings last."""
    size, usual = sources[0].shape[-1], near or Attention(heads=0)
    heads = [h for h in range(1, min(size, _MOST_HEADS) + 1) if size % h == 0]

    def changes(settings: Attention) -> int:
        return sum(map(operator.ne, settings, usual))

    def tried(rotary: str, most: int) -> list[Attention]:
        every = itertools.product(_ORDERS, heads, _scales(1, 1), _MASKS, _AXES, [rotary])
        return sorted((s for s in itertools.starmap(Attention, every) if changes(s) <= most), key=changes)

    others = [settings for rotary in _ROTARY if rotary != usual.rotary for settings in tried(rotary, 3)]
    return tried(usual.rotary, 3) + sorted(others, key=changes)


def _differences(ours: Attention, theirs: Attention) -> Cause | None:
    causes: list[Cause] = []
    if ours.order != theirs.order:
        roles = [", ".join(_ROLES[s.order.index(i)] for i in theirs.order) for s in (ours, theirs)]
        causes.append(SWAPPED.of(roles[0], roles[1]))
    for cause, name in ((HEADS, "heads"), (SCALE, "scale"), (MASK, "mask"), (AXIS, "axis"), (ROTARY, "rotary")):
        if (mine := getattr(ours, name)) != (other := getattr(theirs, name)):
            causes.append(cause.of(mine, other))
    return joined(causes) if causes else None


def _flat(sources: Sequence[np.ndarray], target: np.ndarray) -> tuple[list[np.ndarray], np.ndarray] | None:
    """Return some rows of the projections and of the target as `[batch, length, features]`; None if they are not."""
    arrays = [x[:_ROWS].reshape(*x[:_ROWS].shape[:2], -1).astype(np.float64) if x.ndim in (3, 4) else None
              for x in (*sources, target)]  # fmt: skip
    if any(x is None for x in arrays) or len({x.shape for x in arrays if x is not None}) != 1:
        return None
    return [x for x in arrays[:3] if x is not None], arrays[3]  # type: ignore[return-value]


def _split(x: np.ndarray, heads: int) -> np.ndarray:
    return x.reshape(*x.shape[:2], heads, -1).swapaxes(1, 2)


def _turned(x: np.ndarray, rotary: str) -> np.ndarray:
    """Turn the features `[..., length, features]` of each position by its angles; NaN where their number is odd."""
    kind, base = _ROTARY[rotary]
    if not kind:
        return x
    if x.shape[-1] % 2:
        return np.full(x.shape, np.nan)
    half = x.shape[-1] // 2
    angles = np.arange(x.shape[-2])[:, None] * base ** (-np.arange(half) / half)
    a, b = (x[..., :half], x[..., half:]) if kind == "halves" else (x[..., ::2], x[..., 1::2])
    turned = a * np.cos(angles) - b * np.sin(angles), b * np.cos(angles) + a * np.sin(angles)
    return np.concatenate(turned, -1) if kind == "halves" else np.stack(turned, -1).reshape(x.shape)


def _scales(head: int, size: int) -> dict[str, float]:
    return {"1/sqrt(head size)": head**-0.5, "1": 1.0, "1/sqrt(all features)": size**-0.5, "1/head size": 1 / head}
