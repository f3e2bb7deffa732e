"""Identify attention from numbers alone: its heads, scale, mask, softmax, rotary embeddings and which projection is
which."""

import itertools
import operator
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from parity_tests.harness.causes import Cause, joined
from parity_tests.harness.modules.hypotheses import masks as mask_of
from parity_tests.harness.modules.hypotheses.base import Hypothesis, confirmed, distance, fitted
from parity_tests.harness.modules.hypotheses.masks import INVERSE, USUAL, Mask

HEADS = Cause("the number of attention heads differs", "attention-heads", "use {torch} heads")
SCALE = Cause("attention's scores are scaled by another number", "attention-scale", "scale the scores by {torch}")
MASK = Cause("attention's masks differ", "attention-mask", "use {torch}")
MASKED = Cause("attention's masks differ", "attention-mask", "mask the keys that PyTorch masks")
INVERTED = Cause(
    "attention's mask is inverted",
    "attention-mask-inverted",
    "pass the inverse of the mask: where it is true JAX attends, as does torch's scaled_dot_product_attention, and "
    "nn.MultiheadAttention does not",
)
NO_KEY = Cause(
    "a query that may attend to no key gets the mean of all values in JAX, and none in PyTorch",
    "attention-no-key",
    "leave such queries out of what is compared, or let each attend to some key in both",
)
MEMORY = Cause("attention's keys and values are of another place", "wiring", "attend to {torch}")
AXIS = Cause("attention's softmax is over another axis", "attention-axis", "take the softmax over the {torch}")
SWAPPED = Cause("attention's query, key and value are exchanged", "attention-roles", "take the projections as {torch}")
ROTARY = Cause("attention's rotary embeddings differ", "rotary-embedding", "rotate by {torch}")
GROUPS = Cause(
    "attention's heads share keys and values otherwise",
    "attention-groups",
    "let {torch}: jnp.repeat, as torch's repeat_interleave, gives neighbours the same, and jnp.tile every n-th head",
)
SINGLE = Cause(
    "attention's softmax is computed in float32",
    "low-precision",
    "compute attention's softmax in the precision of the comparison",
)

_MOST_HEADS = 16
_KNOWN = 0.1  # of the entries, at least, that an explanation gives
_ORDERS = ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))
_ROLES = ("query", "key", "value")
_AXES = {"keys": -1, "queries": -2}
_GROUPS = {
    "neighbouring heads share them": np.repeat,
    "every n-th head shares them": lambda x, n, _: np.tile(x, (n, 1, 1)),
}
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
    groups: str = "neighbouring heads share them"
    """Which heads have the same key and value, where these are of fewer heads than queries."""


Masks = Mapping[str, Mask]


def attend(
    projections: Sequence[np.ndarray], settings: Attention, scale: float | None = None, masks: Masks = USUAL
) -> np.ndarray:
    """Compute attention of three projections `[batch, length, features]`; NaN where a query has no key, and all over
    where the settings don't fit their shapes."""
    parts = [projections[i] for i in settings.order]
    size = parts[0].shape[-1] // settings.heads
    queries, keys, values = (part.shape[1] for part in parts)
    mask = masks[settings.mask]
    fits = mask is None or isinstance(mask, int) or (mask.shape[2] in (1, queries) and mask.shape[3] in (1, keys))
    grouped = all(not part.shape[-1] % size and not settings.heads % (part.shape[-1] // size) for part in parts)
    if keys != values or not fits or not grouped:
        return np.full(parts[0].shape, np.nan)
    q, k, v = (_split(part, settings.heads, size, settings.groups) for part in parts)
    q, k = _turned(q, settings.rotary), _turned(k, settings.rotary)
    factor = _scales(q.shape[-1], parts[0].shape[-1])[settings.scale] if scale is None else scale
    scores = factor * (q @ k.swapaxes(-1, -2))
    if mask is not None:
        mask = np.tri(scores.shape[-2], scores.shape[-1], mask, dtype=bool) if isinstance(mask, int) else mask
        scores = np.where(mask, scores, -np.inf)
    axis = _AXES[settings.axis]
    scores = np.exp(scores - scores.max(axis, keepdims=True))
    mixed = (scores / scores.sum(axis, keepdims=True) @ v).swapaxes(1, 2)
    return mixed.reshape(*mixed.shape[:2], -1)


def cause_in_attention(
    in_jax: Sequence[np.ndarray],
    in_torch: Sequence[np.ndarray],
    target: tuple[np.ndarray, np.ndarray],
    tolerance: float,
    arrays: Mapping[str, np.ndarray] = {},
) -> str | None:
    """Return why attention of three projections differs.

    Args:
        in_jax: The three projections in JAX, in the order of their calls.
        in_torch: The three projections in torch.
        target: What attention gives in JAX and in torch.
        tolerance: How near the numbers must come.
        arrays: The arrays that the network is given, and holds, by name; each may be a mask.

    Returns:
        The settings that differ, or None if they can't be identified in both frameworks or are the same.
    """
    every = _flat(in_jax, target[0]), _flat(in_torch, target[1])
    if every[0] is None or every[1] is None:
        return None
    rows = _telling(every[0][1], every[1][1])
    few = [([x[rows] for x in sources], y[rows]) for sources, y in (every[0], every[1])]
    queries, keys = target[1].shape[1], max((x.shape[1] for x in every[1][0]), key=lambda n: n != target[1].shape[1])
    masks = mask_of.given(arrays, len(every[1][1]), 0, queries, keys)
    fewer = {
        name: mask[rows] if isinstance(mask, np.ndarray) and len(mask) > 1 else mask for name, mask in masks.items()
    }
    theirs = next(
        (s for s in _explained(*few[1], tolerance, None, fewer) if _fits(*every[1], s, tolerance, masks)), None
    )
    if theirs is None:
        return None
    ours = next(
        (s for s in _explained(*few[0], tolerance, theirs, fewer) if _fits(*every[0], s, tolerance, masks)), None
    )
    if ours is None:
        loose = distance(every[0][1], attend(every[0][0], theirs, None, masks))
        return SINGLE + " in JAX" if tolerance < 1e-9 and loose < 1e-5 else None
    if (cause := _differences(ours, theirs)) is not None:
        return cause
    with np.errstate(all="ignore"):
        numbers = attend(every[1][0], theirs, None, masks)
    return _of_no_key(numbers, every[0][1], every[1][1], tolerance)


def changed_attention(
    layer: Any,
    x: np.ndarray,
    target: tuple[np.ndarray, np.ndarray],
    tolerance: float,
    arrays: Mapping[str, np.ndarray] = {},
) -> str | None:
    """Return why attention of `x` differs in JAX from a `nn.MultiheadAttention`.

    Args:
        layer: The torch layer.
        x: The query, in torch's layout.
        target: What attention gives in JAX and in torch.
        tolerance: How near the numbers must come.
        arrays: The arrays that the network is given, holds, and has computed before, by name: each may be what is
            attended to, or a mask.

    Returns:
        The settings that differ, or None if they can't be identified.
    """
    if layer.in_proj_weight is None or target[0].ndim != 3:
        return None
    x = x if layer.batch_first else x.swapaxes(0, 1)
    batch, queries, size = x.shape
    numbers = {name: tensor.numpy(force=True).astype(np.float64) for name, tensor in layer.named_parameters()}
    kernels, biases = (
        np.split(numbers["in_proj_weight"], 3),
        np.split(numbers.get("in_proj_bias", np.zeros(3 * size)), 3),
    )
    memories = {"": x}
    for name, array in arrays.items():
        if array.dtype.kind == "f" and array.ndim == 3:
            turned = array if layer.batch_first else array.swapaxes(0, 1)
            if turned.shape[0] == batch and turned.shape[2] == size:
                memories[name] = turned.astype(np.float64)

    def projected(memory: np.ndarray) -> list[np.ndarray]:
        return [y @ kernel.T + bias for y, kernel, bias in zip((x, memory, memory), kernels, biases, strict=True)]

    usual = Attention(heads=layer.num_heads)

    def given(parts: Sequence[np.ndarray], settings: Attention, masks: Masks, scale: float | None = None) -> np.ndarray:
        with np.errstate(all="ignore"):
            mixed = attend(parts, settings, scale, masks)
        y = mixed @ numbers["out_proj.weight"].T + numbers.get("out_proj.bias", 0.0)
        return y if layer.batch_first else y.swapaxes(0, 1)

    def fits(actual: np.ndarray, predicted: np.ndarray) -> bool:
        return _near(actual, predicted, tolerance)

    def of(memory: np.ndarray) -> tuple[list[np.ndarray], dict[str, Mask]]:
        return projected(memory), mask_of.given(arrays, batch, layer.num_heads, queries, memory.shape[1])

    def changed() -> Iterator[Hypothesis]:
        found = None
        for place, memory in memories.items():
            parts, masks = of(memory)
            fitting = (
                usual._replace(mask=m) for m in masks if fits(target[1], given(parts, usual._replace(mask=m), masks))
            )
            if (theirs := next(fitting, None)) is not None:
                found = place, theirs
                break
        if found is None:  # or attention drops weights, or has a bias as a key
            if not (layer.training and layer.dropout) and layer.bias_k is None and not layer.add_zero_attn:
                parts, masks = of(x)
                for settings in (usual._replace(mask=mask) for mask in masks):
                    other = "a mask" if settings.mask == "no mask" else "another mask"
                    sentence = f"{MASKED}: {settings.mask} in JAX, {other} in PyTorch"
                    yield Hypothesis(MASKED.saying(sentence, settings.mask), given(parts, settings, masks))
            return
        place, theirs = found
        parts, masks = of(memories[place])
        if (cause := _of_no_key(given(parts, theirs, masks), *target, tolerance)) is not None:
            yield Hypothesis(cause, target[0])
        for settings in _settings(parts, theirs, masks):
            if settings.rotary == theirs.rotary and (cause := _differences(settings, theirs)):
                yield Hypothesis(cause, _filled(given(parts, settings, masks), *target))
        for other, memory in memories.items():
            if other != place:
                ours, own = of(memory)
                names = other or "the query", place or "the query"
                if theirs.mask in own:
                    yield Hypothesis(MEMORY.of(*names), _filled(given(ours, theirs, own), *target))
        head = size // theirs.heads
        scale = fitted(lambda scale: given(parts, theirs, masks, scale), target[0], head**-0.5)
        cause = SCALE.of(scale, theirs.scale, (f"{scale:.4g}", theirs.scale))
        yield Hypothesis(cause, given(parts, theirs, masks, scale))

    return confirmed(changed(), *target, tolerance)


def _explained(
    sources: Sequence[np.ndarray], target: np.ndarray, tolerance: float, near: Attention | None, masks: Masks
) -> Iterator[Attention]:
    """Yield the settings that map the projections to the target, those nearest to `near` first."""
    for settings in _settings(sources, near, masks):
        if _fits(sources, target, settings, tolerance, masks):
            yield settings


def _fits(
    sources: Sequence[np.ndarray], target: np.ndarray, settings: Attention, tolerance: float, masks: Masks
) -> bool:
    lengths = [sources[i].shape[1] for i in settings.order]
    if lengths[1] != lengths[2] or lengths[0] != target.shape[1]:
        return False
    with np.errstate(all="ignore"):
        return _near(target, attend(sources, settings, None, masks), tolerance)


def _near(target: np.ndarray, numbers: np.ndarray, tolerance: float) -> bool:
    """Return whether numbers are the target's; nothing is known of those of a query without a key, which are NaN."""
    known = ~np.isnan(numbers)
    told = numbers.shape == target.shape and known.mean() >= _KNOWN
    return bool(told) and distance(target[known], numbers[known]) <= tolerance


def _filled(numbers: np.ndarray, in_jax: np.ndarray, in_torch: np.ndarray) -> np.ndarray:
    """Return numbers with JAX's where nothing is known of them, if the two differ elsewhere too."""
    known = ~np.isnan(numbers)
    if numbers.shape != in_jax.shape or known.mean() < _KNOWN or np.array_equal(in_jax[known], in_torch[known]):
        return numbers
    return np.where(known, numbers, in_jax)


def _of_no_key(numbers: np.ndarray, in_jax: np.ndarray, in_torch: np.ndarray, tolerance: float) -> Cause | None:
    """Return whether JAX's numbers of the queries without a key are all that differs."""
    none = np.isnan(numbers)
    empty = none.any() and bool((np.isnan(in_torch[none]) | (in_torch[none] == 0)).all())
    return NO_KEY if empty and np.isfinite(in_jax).all() and _near(in_jax, numbers, tolerance) else None


def _settings(sources: Sequence[np.ndarray], near: Attention | None, masks: Masks) -> list[Attention]:
    """Return the settings to try, those nearest to `near` first, and those with other rotary embeddings last."""
    size, usual = sources[0].shape[-1], near or Attention(heads=0)
    heads = [h for h in range(1, min(size, _MOST_HEADS) + 1) if size % h == 0]

    shared = sources[1].shape[-1] < size
    orders = [order for order in _ORDERS if not (shared and order[0])]

    def changes(settings: Attention) -> int:
        return sum(map(operator.ne, settings[:-1], usual))

    def tried(rotary: str, most: int, masks: Sequence[str]) -> list[Attention]:
        every = itertools.product(orders, heads, _scales(1, 1), masks, _AXES, [rotary], [*_GROUPS][: 1 + shared])
        return sorted((s for s in itertools.starmap(Attention, every) if changes(s) <= most), key=changes)

    others = [
        s
        for rotary, (_, base) in _ROTARY.items()
        if rotary != usual.rotary
        for s in tried(rotary, 3, [*masks] if base == _BASES[0] and near is None else [*USUAL, usual.mask])
    ]
    return tried(usual.rotary, 3, [*masks]) + sorted(others, key=changes)


def _differences(ours: Attention, theirs: Attention) -> Cause | None:
    causes: list[Cause] = []
    if ours.order != theirs.order:
        roles = [", ".join(_ROLES[s.order.index(i)] for i in theirs.order) for s in (ours, theirs)]
        causes.append(SWAPPED.of(roles[0], roles[1]))
    if INVERSE + ours.mask == theirs.mask or ours.mask == INVERSE + theirs.mask:
        name, (one, other) = min(ours.mask, theirs.mask, key=len), ("JAX", "PyTorch")
        one, other = (one, other) if name == ours.mask else (other, one)
        sentence = f"{INVERTED}: where {name} is true {one} attends, and where it is false {other}"
        causes.append(INVERTED.saying(sentence, ours.mask, theirs.mask))
        ours = ours._replace(mask=theirs.mask)
    named = {"heads": HEADS, "scale": SCALE, "mask": MASK, "axis": AXIS, "rotary": ROTARY, "groups": GROUPS}
    for name, cause in named.items():
        if (mine := getattr(ours, name)) != (other := getattr(theirs, name)):
            causes.append(cause.of(mine, other))
    return joined(causes) if causes else None


def _flat(sources: Sequence[np.ndarray], target: np.ndarray) -> tuple[list[np.ndarray], np.ndarray] | None:
    """Return the projections and the target as `[batch, length, features]`; None if they are not.

    Keys and values may have fewer features than queries, of heads that share them.
    """
    if any(x.ndim not in (3, 4) or x.dtype.kind != "f" for x in (*sources, target)):
        return None
    arrays = [x.reshape(*x.shape[:2], -1).astype(np.float64) for x in (*sources, target)]
    query, key, value, mixed = ((len(x), x.shape[2]) for x in arrays)
    alike = query == mixed and key == value and key[0] == query[0] and not query[1] % key[1]
    return (arrays[:3], arrays[3]) if alike else None


def _telling(in_jax: np.ndarray, in_torch: np.ndarray) -> list[int]:
    """Return two rows of the batch, which attention never mixes: those in which the two differ most and least."""
    if in_jax.shape != in_torch.shape:
        return [0, len(in_torch) - 1]
    gaps = np.nan_to_num(np.abs(in_jax - in_torch), nan=np.inf).reshape(len(in_torch), -1).max(1)
    return [int(gaps.argmax()), int(gaps.argmin())]


def _split(x: np.ndarray, heads: int, size: int, groups: str) -> np.ndarray:
    split = x.reshape(*x.shape[:2], -1, size).swapaxes(1, 2)
    return split if split.shape[1] == heads else _GROUPS[groups](split, heads // split.shape[1], 1)


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
