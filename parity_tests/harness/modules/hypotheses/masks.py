"""The masks that attention may have, made of the arrays that a network is given and holds."""

from collections.abc import Iterator, Mapping

import numpy as np

_FAR = -1e4  # what is added to a score is below, where it hides a key
_MOST = 40  # masks that are tried

INVERSE = "the inverse of "

Mask = np.ndarray | int | None
"""True where a query may attend `[batch, heads, queries, keys]`, each axis of that length or 1; or a causal mask's
offset."""

USUAL: dict[str, Mask] = {
    "no mask": None,
    "a causal mask": 0,
    "a causal mask one key short": -1,
    "a causal mask one key long": 1,
}


def given(arrays: Mapping[str, np.ndarray], batch: int, heads: int, queries: int, keys: int) -> dict[str, Mask]:
    """Return the usual masks and those that arrays may stand for, by how they are shown.

    Args:
        arrays: The arrays that a network is given, and holds, by name.
        batch: The number of rows.
        heads: The number of heads.
        queries: The number of queries.
        keys: The number of keys.
    """
    masks = USUAL | {f"{INVERSE}a causal mask": ~np.tri(queries, keys, dtype=bool)[None, None]}
    for name, array in arrays.items():
        for shown, attended in _seen(name, array, keys):
            for i, mask in enumerate(_placed(attended, batch, heads, queries, keys)):
                own = shown if not i else f"{shown} (of each key)"
                if mask.all() or not mask.any() or len(masks) > _MOST:
                    continue
                masks |= {own: mask, f"{INVERSE}{own}": ~mask}
                if queries == keys:
                    causal = np.tri(queries, dtype=bool)
                    masks |= {
                        f"{own} and a causal mask": mask & causal,
                        f"a causal mask and {INVERSE}{own}": ~mask & causal,
                    }
                    if mask.shape[2] == 1:
                        masks[f"{own} of queries and keys"] = mask & mask.swapaxes(2, 3)
                        masks[f"{own} (of each query)"] = mask.swapaxes(2, 3)
    return masks


def _seen(name: str, array: np.ndarray, keys: int) -> Iterator[tuple[str, np.ndarray]]:
    """Yield what an array may say of the keys: true where one is attended."""
    if array.dtype == bool:
        yield name, array
    elif array.dtype.kind in "iu" and array.size:
        if array.ndim == 1 and array.max() <= keys:
            yield f"the lengths {name}", np.arange(keys) < array[:, None]
        elif array.min() == 0:
            yield name if array.max() == 1 else f"{name} other than 0", array != 0
    elif array.dtype.kind == "f" and array.ndim > 1 and array.size:
        if np.isin(array, (0.0, 1.0)).all():
            yield name, array != 0
        elif ((array == 0) | (array < _FAR)).all():
            yield name, array == 0


def _placed(mask: np.ndarray, batch: int, heads: int, queries: int, keys: int) -> Iterator[np.ndarray]:
    """Yield a mask with the axes of the scores, in each way that its shape allows."""
    if mask.ndim == 2 and mask.shape == (queries, keys):
        yield mask[None, None]
    elif mask.ndim >= 2 and mask.shape[-1] == mask.shape[-2] > keys and mask.size == mask.shape[-1] ** 2:
        yield mask.reshape(mask.shape[-2:])[None, None, :queries, :keys]  # a table for the longest sequence
    if mask.ndim == 2 and mask.shape == (batch, keys):
        yield mask[:, None, None]
    if mask.ndim == 3 and mask.shape[1] in (1, queries) and mask.shape[2] == keys:
        if mask.shape[0] in (1, batch):
            yield mask[:, None]
        elif mask.shape[0] == batch * heads:
            yield mask.reshape(batch, heads, *mask.shape[1:])
    sizes = (batch, heads, queries, keys)
    if mask.ndim == 4 and mask.shape[3] == keys and all(n in (1, m) for n, m in zip(mask.shape, sizes, strict=True)):
        yield mask
