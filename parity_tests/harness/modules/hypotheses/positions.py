"""Identify from which row on a table of positions is read, from numbers alone."""

from collections.abc import Mapping

import numpy as np

from parity_tests.harness.causes import Cause
from parity_tests.harness.modules.hypotheses.base import distance

POSITIONS = Cause(
    "the table of positions is read from another row",
    "positions",
    "read the table of positions from row {torch} on",
)
NO_POSITIONS = Cause(
    "the table of positions is added in one framework only",
    "positions-missing",
    "add the table of positions in both or in neither",
)

SCALED = Cause(
    "what the table of positions is added to is multiplied by another constant",
    "scaled",
    "multiply what the table of positions is added to by {torch}",
)
_ROWS = 4  # from which on a table is usually read


def cause_in_positions(
    before: tuple[np.ndarray, np.ndarray],
    target: tuple[np.ndarray, np.ndarray],
    tables: Mapping[str, np.ndarray],
    tolerance: float,
) -> str | None:
    """Return how the rows of a table differ that are added to what an earlier layer gives.

    Args:
        before: What the earlier layer gives in JAX and in torch, `[batch, length, features]`.
        target: What follows in JAX and in torch, of the same shape.
        tables: The tensors of the torch module, by name.
        tolerance: How near the numbers must come.

    Returns:
        The table and its first rows, or None if no table explains the numbers of both.
    """
    if any(x.shape != y.shape or x.ndim != 3 or y.dtype.kind != "f" for x, y in zip(before, target, strict=True)):
        return None
    bare = [distance(y, x) <= tolerance for x, y in zip(before, target, strict=True)]
    _, length, features = target[0].shape
    for name, tensor in tables.items():
        if tensor.ndim < 2 or tensor.size != np.prod(tensor.shape[-2:]) or tensor.shape[-1] != features:
            continue
        table = tensor.reshape(-1, features)
        if len(table) < length:
            continue
        ours, theirs = (_first(x, y, table, tolerance) for x, y in zip(before, target, strict=True))
        if ours is not None and theirs is not None and ours != theirs:
            text = f"{POSITIONS}: {name}, from row {ours} in JAX and row {theirs} in PyTorch"
            return POSITIONS.saying(text, ours, theirs)
        if (ours is None) != (theirs is None) and any(bare):
            framework = "JAX" if theirs is None else "PyTorch"
            return NO_POSITIONS.only(framework, f"{NO_POSITIONS}: {name}, in {framework}")
        scales = [_scale(x, y, table, tolerance) for x, y in zip(before, target, strict=True)]
        if scales[0] is not None and scales[1] is not None and abs(scales[0] - scales[1]) > 1e-6 * abs(scales[1]):
            shown = f"{scales[0]:.6g}", f"{scales[1]:.6g}"
            return SCALED.of(scales[0], scales[1], shown)
    return None


def _first(x: np.ndarray, y: np.ndarray, table: np.ndarray, tolerance: float) -> int | None:
    """Return the row from which on the table is added to x; None where it isn't."""
    length = x.shape[1]
    offsets = np.abs(table[: len(table) - length + 1] - (y - x)[0, 0]).sum(-1)
    first = int(offsets.argmin())
    return first if distance(y, x + table[first : first + length]) <= tolerance else None


def _scale(x: np.ndarray, y: np.ndarray, table: np.ndarray, tolerance: float) -> float | None:
    """Return what x is multiplied by before the table is added to it; None where that doesn't give y."""
    length, size = x.shape[1], float((x * x).sum())
    for first in range(min(_ROWS, len(table) - length + 1) if size else 0):
        rows = table[first : first + length]
        scale = float(((y - rows) * x).sum()) / size
        if distance(y, scale * x + rows) <= tolerance:
            return scale
    return None
