"""Identify residual connections, resizing, padding and wiring between layers from numbers alone."""

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from parity_tests.harness.causes import Cause, joined
from parity_tests.harness.modules.hypotheses.base import distance
from parity_tests.harness.modules.hypotheses.between_layers import ACTIVATION, ACTIVATIONS

RESIDUAL_MISSING = Cause(
    "the residual connection is left out",
    "residual-missing",
    "add the residual connection in both or in neither",
)
RESIDUAL_SCALE = Cause(
    "the residual connection is scaled",
    "residual-scale",
    "multiply the residual connection by {torch}",
)
RESIDUAL_SOURCE = Cause(
    "the residual connection starts at another place",
    "residual-source",
    "start the residual connection at {torch}",
)
BEFORE_ADDITION = Cause(
    "the activation is applied before the addition on one side and after it on the other",
    "activation-order",
    "apply the activation {torch} the addition",
)
WIRING = Cause("the layers are connected otherwise", "wiring", "give the layer {torch}")
INTERPOLATION = Cause("the images are resized by another method", "interpolation", "resize by {torch}")
PADDING = Cause("the images are padded otherwise", "image-padding", "pad by {torch}")
INDEX = Cause("the indices are shifted", "index-shift", "take the indices as PyTorch does")
JOINED = Cause(
    "two parts are side by side in the other order",
    "joined-order",
    "join the two parts in the other order, so that PyTorch's entries are {torch}",
)

Source = tuple[str, np.ndarray, np.ndarray]
"""A place, and its numbers in JAX and in torch."""

_FEW = 2**14
_COMMON = ("no activation", "ReLU", "GELU (erf)", "GELU (tanh)", "SiLU", "tanh", "sigmoid")
_ACTIVATIONS = {name: ACTIVATIONS[name] for name in _COMMON}
_MODES = {
    "nearest": {"mode": "nearest"},
    "bilinear": {"mode": "bilinear", "align_corners": False},
    "bilinear with aligned corners": {"mode": "bilinear", "align_corners": True},
    "bicubic": {"mode": "bicubic", "align_corners": False},
    "bicubic with aligned corners": {"mode": "bicubic", "align_corners": True},
}


class Branch(NamedTuple):
    """The target as `after(before(last) + scale * source)`."""

    before: str
    source: str
    scale: str
    after: str


def cause_in_joining(in_jax: np.ndarray, in_torch: np.ndarray, tolerance: float) -> str | None:
    """Return which two parts of a place are in the other order, as of a concatenation, or sine and cosine."""
    if in_jax.shape != in_torch.shape or in_jax.ndim < 2 or in_jax.dtype.kind != "f":
        return None
    for axis in dict.fromkeys((1 if in_jax.ndim == 4 else in_jax.ndim - 1, 1)):
        size = in_jax.shape[axis]
        ours, theirs = (np.moveaxis(x, axis, 0) for x in (in_jax, in_torch))
        for i in range(1, size):
            if distance(ours[0], theirs[i]) <= tolerance and distance(ours, np.roll(theirs, -i, 0)) <= tolerance:
                what = "positions" if in_jax.ndim == 3 and axis == 1 else "features"
                text = f"{JOINED}: PyTorch's first {i} of {size} {what} come last in JAX"
                return JOINED.saying(text, f"[{i}:{size}], [0:{i}]", f"[0:{i}], [{i}:{size}]")
    return None


def cause_in_branch(
    last: Source, recent: Sequence[Source], target: tuple[np.ndarray, np.ndarray], tolerance: float
) -> str | None:
    """Return how the residual connections or the wiring before a place differ.

    Args:
        last: The previous place.
        recent: Other places, the nearest first.
        target: What follows, in JAX and in torch.
        tolerance: How near the numbers must come.

    Returns:
        The cause, or None if the numbers are not explained in both frameworks or are explained in the same way.
    """
    in_jax, in_torch = target
    if in_jax.dtype.kind in "iu" and in_torch.dtype.kind in "iu" and in_jax.shape == in_torch.shape:
        shift = np.unique(in_jax.astype(np.int64) - in_torch)
        return INDEX.saying(f"{INDEX}: by {shift[0]:+d} in JAX", int(shift[0]), 0) if len(shift) == 1 else None
    if in_torch.dtype.kind != "f" or in_jax.dtype.kind != "f":
        return None
    sides = [
        list(_branches(last[1:][i], [(name, (a, b)[i]) for name, a, b in recent], target[i], tolerance)) for i in (0, 1)
    ]
    ours, theirs = sides
    if not ours or not theirs:
        return None
    pairs = list(itertools.product(ours, theirs))
    fewest = min(_apart(*pair) for pair in pairs)
    return next((_named(a, b) for a, b in pairs if _apart(a, b) == fewest), None) if fewest else None


def cause_in_wiring(
    places: Sequence[Source], target: tuple[np.ndarray, np.ndarray], tolerance: float, verb: str = "it is given"
) -> str | None:
    """Return the places whose output a layer is given, or a model gives, in JAX and in torch, if these are others."""
    given = [
        {
            name
            for name, *sides in places
            if sides[i].shape == target[i].shape and distance(target[i], sides[i]) <= tolerance
        }
        for i in (0, 1)
    ]
    if not all(given) or given[0] & given[1]:
        return None
    ours, theirs = (min(names) for names in given)
    return WIRING.saying(f"{WIRING}: {verb} {ours} in JAX and {theirs} in PyTorch", ours, theirs)


def cause_in_image(last: Source, target: tuple[np.ndarray, np.ndarray], tolerance: float) -> str | None:
    """Return how the resizing or the padding of images `[batch, channels, height, width]` differs."""
    if any(array.ndim != 4 or array.dtype.kind != "f" for array in (*last[1:], *target)):
        return None
    for cause, changes in ((INTERPOLATION, _resized), (PADDING, _padded)):
        ours, theirs = (
            next((n for n, y in changes(last[1:][i], target[i].shape) if distance(target[i], y) <= tolerance), None)
            for i in (0, 1)
        )
        if ours is not None and theirs is not None and ours != theirs:
            return cause.of(ours, theirs)
    return None


def _branches(
    last: np.ndarray, recent: Sequence[tuple[str, np.ndarray]], target: np.ndarray, tolerance: float
) -> Iterator[Branch]:
    few = slice(max(1, _FEW // max(1, last[0].size if last.ndim else 1)))
    if last.shape != target.shape or not last.ndim:
        return
    x, y = torch.tensor(last[few].astype(np.float64)), target[few].astype(np.float64)
    for (before, f), (after, g) in itertools.product(_ACTIVATIONS.items(), _ACTIVATIONS.items()):
        if _COMMON[0] in (before, after) and distance(y, g(f(x)).numpy()) <= tolerance:
            yield Branch(before, "", "0", after)
    for name, array in recent:
        if array.shape != target.shape:
            continue
        other = torch.tensor(array[few].astype(np.float64))
        for (before, f), (after, g) in itertools.product(_ACTIVATIONS.items(), _ACTIVATIONS.items()):
            part = f(x)
            if distance(y, g(part + other).numpy()) <= tolerance:
                yield Branch(before, name, "1", after)
            elif after == _COMMON[0] and float((other * other).sum()):
                rest = torch.tensor(y) - part
                scale = float((rest * other).sum() / (other * other).sum())
                if abs(scale) > 1e-6 and distance(y, (part + scale * other).numpy()) <= tolerance:
                    yield Branch(before, name, f"{scale:.4g}", after)


def _apart(ours: Branch, theirs: Branch) -> int:
    return sum(a != b for a, b in zip(ours, theirs, strict=True))


def _named(ours: Branch, theirs: Branch) -> Cause:
    causes: list[Cause] = []
    if bool(ours.source) != bool(theirs.source):
        where, name = ("PyTorch", ours.source) if ours.source else ("JAX", theirs.source)
        added = ours.source or None, theirs.source or None
        causes.append(RESIDUAL_MISSING.saying(f"{RESIDUAL_MISSING}: {name} is not added in {where}", *added))
    elif ours.source != theirs.source:
        causes.append(RESIDUAL_SOURCE.of(ours.source, theirs.source))
    elif ours.scale != theirs.scale:
        text = f"{RESIDUAL_SCALE}: by {ours.scale} in JAX and {theirs.scale} in PyTorch"
        causes.append(RESIDUAL_SCALE.saying(text, float(ours.scale), float(theirs.scale)))
    if (ours.before, ours.after) == (theirs.after, theirs.before) != (theirs.before, theirs.after):
        where = "JAX" if ours.after == _COMMON[0] else "PyTorch"
        order = ("before", "after") if where == "JAX" else ("after", "before")
        causes.append(BEFORE_ADDITION.saying(f"{BEFORE_ADDITION}: before it in {where}", *order))
    elif (ours.before, ours.after) != (theirs.before, theirs.after):
        shown = [" and ".join(dict.fromkeys((b.before, b.after))) for b in (ours, theirs)]
        causes.append(ACTIVATION.of(shown[0], shown[1]))
    return joined(causes)


def _resized(x: np.ndarray, shape: tuple[int, ...]) -> Iterator[tuple[str, np.ndarray]]:
    if x.shape[:2] == shape[:2] and x.shape[2:] != shape[2:]:
        for name, options in _MODES.items():
            yield name, F.interpolate(torch.tensor(x), size=shape[2:], **options).numpy()  # type: ignore[arg-type]


def _padded(x: np.ndarray, shape: tuple[int, ...]) -> Iterator[tuple[str, np.ndarray]]:
    more = [n - m for n, m in zip(shape[2:], x.shape[2:], strict=True)]
    if x.shape[:2] != shape[:2] or min(more) < 0 or not any(more) or max(more) > 6:
        return
    for starts in itertools.product(*(range(n + 1) for n in more)):
        pads = [(start, n - start) for start, n in zip(starts, more, strict=True)]
        for mode in ("constant", "reflect", "edge", "wrap"):
            if mode != "reflect" or all(max(pair) < n for pair, n in zip(pads, x.shape[2:], strict=True)):
                yield f"{tuple(pads)}, {mode}", np.pad(x, [(0, 0), (0, 0), *pads], mode=mode)  # type: ignore[call-overload]
