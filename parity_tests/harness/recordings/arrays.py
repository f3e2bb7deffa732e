"""Arrays of any framework as numpy's, and some entries of a large one."""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

Arrays = dict[str, np.ndarray]
_HALF = ("float16", "bfloat16", "float8")


def numbers(leaf: Any) -> np.ndarray | None:
    """Convert an array of any framework, or a number, to numpy; half precision to float32; None for anything else."""
    if hasattr(leaf, "full_tensor"):  # of a DTensor, whose parts other processes have
        leaf = leaf.full_tensor()
    if hasattr(leaf, "detach") and hasattr(leaf, "numpy"):
        leaf = leaf.detach().resolve_conj().resolve_neg()
        leaf = leaf.to_dense() if str(leaf.layout) != "torch.strided" else leaf
        leaf = leaf.float() if str(leaf.dtype).removeprefix("torch.").startswith(_HALF) else leaf
        leaf = leaf.numpy(force=True)
    elif not (isinstance(leaf, bool | int | float | complex) or hasattr(leaf, "__array__")):
        return None
    try:
        array = np.asarray(leaf)
    except TypeError:  # a random key
        return None
    return single(array) if array.dtype.kind in "fciub" or array.dtype.name.startswith(_HALF) else None


def single(array: np.ndarray) -> np.ndarray:
    """Return an array of half precision in float32, which holds each of its numbers; others as they are."""
    return array.astype(np.float32) if array.dtype.name.startswith(_HALF) else array


def cast(array: np.ndarray, dtype: str) -> np.ndarray:
    """Return the array in its own memory with its floats in `dtype`, its complex numbers in two of them."""
    kinds = {"f": np.dtype(dtype), "c": np.result_type(dtype, np.complex64)}
    return np.array(array, kinds.get(array.dtype.kind, array.dtype), order="C")


def digest(array: np.ndarray) -> str:
    """Return the SHA-256 digest of an array's dtype, shape and numbers."""
    array = np.asarray(array, order="C")
    head = f"{array.dtype.str} {list(array.shape)} ".encode()
    return hashlib.sha256(head + array.tobytes()).hexdigest()


def places(shape: Sequence[int], most: int | None, key: int) -> np.ndarray | None:
    """Choose entries of a large array by a key; which of an axis are chosen depends on its length and the key alone.

    The entries are where the chosen rows, columns and so on cross. Two arrays of the same axes in another order, as
    two frameworks hold them, are thus sampled at the same entries.

    Args:
        shape: The array's shape.
        most: The largest number of entries; None for all.
        key: Of the choice.

    Returns:
        The indices of the flattened array in rising order, or None if all are kept.
    """
    if most is None or np.prod(shape, dtype=object) <= most:
        return None
    length = 1
    while np.prod([min(n, length + 1) for n in shape], dtype=object) <= most:
        length += 1
    chosen = [np.sort(np.random.default_rng([key, n]).permutation(n)[:length]) for n in shape]
    return np.ravel_multi_index(np.ix_(*chosen), tuple(shape)).ravel()


def totals(array: np.ndarray, key: int) -> np.ndarray:
    """Return of a whole array the sum, the root of the sum of squares and the largest size, of its finite entries, and
    how many are not finite: whatever the order of its axes is; and a sum in which each row, column and so on has a
    weight of its own, drawn by the key and the axis's length as in `places`, so that entries which changed places
    show."""
    wide = array.astype(np.complex128 if array.dtype.kind == "c" else np.float64)
    finite = np.isfinite(wide)
    weighted = np.where(finite, wide, 0)
    for n in reversed(array.shape):
        weighted = weighted @ np.random.default_rng([key, n, 1]).uniform(-1, 1, n) * 3**0.5  # of variance 1
    wide = wide[finite]
    sizes = np.abs(wide)
    total = wide.sum()
    norm = np.sqrt((sizes**2).sum())
    several = [norm, sizes.max(initial=0.0), np.sum(~finite), np.real(weighted), np.imag(weighted)]
    return np.array([total.real, total.imag, *several])
