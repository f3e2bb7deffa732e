"""Replace weights that hide what stands behind them, the same in both networks."""

import zlib
from collections.abc import Iterable

import jax.numpy as jnp
import numpy as np
import torch

from parity_tests.harness.modules import torch_state
from parity_tests.harness.modules.common.draws import draw, hides
from parity_tests.harness.modules.mapping import Pair
from parity_tests.harness.modules.outputs import leaves
from parity_tests.harness.modules.pair import Both
from parity_tests.harness.modules.rounding import scaled, tile

_LARGER = 8.0
_FACTORS = (
    ((-8.0, -0.25, 0.25, 8.0), (-2.0, -0.25, 0.25, 2.0), (0.5, 1.5)),
    ((-40.0, -1.0, 1.0, 40.0), (-1.0, 1.0), (0.5, 1.5)),
    ((-0.1, 0.1), (-0.1, 0.1), (0.05, 0.15)),
)
"""What biases, which choose a branch, and kernels are multiplied by at each of the other weights, and the range of the
factors of tensors of one sign, such as scales."""


def drawn(both: Both) -> tuple[Both, tuple[str, ...]]:
    """Replace every tensor of a few distinct values, as initial weights often are, by drawn numbers of a fitting size.

    What stands behind a kernel of zeros, a scale of zero or a gate is otherwise never compared, nor is a bias that
    starts at zero, nor which axis of an identity matrix is which.

    Args:
        both: Both networks, at the same numbers.

    Returns:
        Both networks at the same numbers, and the names of the tensors that were drawn. A draw that makes an output
        NaN or infinite is tried with positive numbers, and is then left out.
    """
    constant = {name: array for name, array in both.tensors(both.module).items() if hides(array)}
    if not constant:
        return both, ()
    finite = _finite(both)
    for positive in (False, True):
        filled = _filled(both, ((name, draw(name, array, positive)) for name, array in constant.items()))
        if not finite or _finite(filled):
            return filled, tuple(constant)
    return _filled(both, constant.items()), ()


def scattered(both: Both, point: int) -> Both:
    """Return both networks at other numbers, under which other branches are taken: each number of a tensor has its sign
    and its size drawn, or only its size where all have one sign.

    The torch module's numbers are changed in place, since they are those of the JAX model, which keeps them.

    What a maximum over an image passes on is negative only if the whole image is: some biases are therefore far below 0
    whatever is drawn, and an input of both signs has none but negative numbers in its first row."""
    given = both.named(both.arrays()).items()
    numbers = (
        (name, _scattered(name, array, point)) for name, array in given if array.dtype.kind in "fc" and array.size
    )
    return _filled(both, numbers)._replace(inputs=[_below_and_above(x, point) for x in both.inputs])


def enlarged(both: Both) -> Both | None:
    """Return both networks with larger inputs, but for those of few values, such as masks; None if all are such."""
    inputs = [x if x.dtype.kind not in "fc" or hides(x) else x * x.dtype.type(_LARGER) for x in both.inputs]
    return both._replace(inputs=inputs) if any(a is not b for a, b in zip(inputs, both.inputs, strict=True)) else None


def _scattered(name: str, array: np.ndarray, point: int) -> np.ndarray:
    rng = np.random.default_rng(zlib.crc32(f"{point} {name}".encode()))
    one_sign = array.dtype.kind == "f" and bool((array >= 0).all() or (array <= 0).all())
    biases, kernels, positive = _FACTORS[point]
    size = tile(array.size)
    if one_sign or array.ndim > 1:
        factors = rng.uniform(*positive, size) if one_sign else rng.choice(kernels, size)
        return scaled(array, factors)
    farthest = sorted(biases, key=lambda factor: (-abs(factor), factor * (-1) ** point))
    return np.abs(array) * rng.permutation(np.resize(farthest, array.shape)).astype(array.dtype)


def _below_and_above(x: np.ndarray, point: int) -> np.ndarray:
    """Return an input of both signs with its first row negative and its second positive; one row is one or the other by
    turns."""
    if x.dtype.kind != "f" or not x.ndim or not x.min(initial=0.0) < 0 < x.max(initial=0.0):
        return x
    moved = x.copy()
    for row, sign in ((0, -1), (1, 1)) if len(x) > 1 else ((0, -1 if point % 2 else 1),):
        moved[row] = sign * np.abs(x[row])
    return moved


def _filled(both: Both, numbers: Iterable[tuple[str, np.ndarray]]) -> Both:
    """Put numbers, by name, into both; one after another, since they may be as many as both hold."""
    every, arrays = torch_state.entries(both.module), {}
    pairs: dict[str, list[Pair]] = {}
    for pair in both.pairs:
        pairs.setdefault(pair.name, []).append(pair)
    with torch.no_grad():
        for name, array in numbers:
            torch_state.entry(both.module, name, every).value.copy_(torch.as_tensor(array))
            arrays |= {pair.path: jnp.array(pair.transform.to_jax(array)) for pair in pairs[name]}
    return both.holding(arrays)


def _finite(both: Both) -> bool:
    try:
        outputs = torch_state.called(torch_state.copied(both.module), both.torch_arguments)
        return all(not array.size or np.isfinite(array).any() for array in leaves(both.chosen(outputs, False)).values())
    except Exception:
        return False  # the comparison itself says what is wrong
