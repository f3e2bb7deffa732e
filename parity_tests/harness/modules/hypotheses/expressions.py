"""Say as an expression how a place is made of the outputs of layers and of the parameters that no layer holds."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch

from parity_tests.harness.causes import Cause
from parity_tests.harness.modules.hypotheses.base import distance
from parity_tests.harness.modules.hypotheses.between_layers import ACTIVATIONS

EXPRESSION = Cause("it is put together otherwise", "expression", "make it {torch}")

_ENTRIES = 2**14  # of the first rows, which are looked at first
_PROBES = 12
_FUNCTIONS = {
    "{x} * {p}": lambda x, p: x * p,
    "{x} + {p}": lambda x, p: x + p,
    "{x} * (1 + {p})": lambda x, p: x * (1 + p),
    "{x} * tanh({p})": lambda x, p: x * np.tanh(p),
    "{x} * sigmoid({p})": lambda x, p: x / (1 + np.exp(-p)),
    "{x} * exp({p})": lambda x, p: x * np.exp(p),
    "{x} - {p}": lambda x, p: x - p,
    "{x} / {p}": lambda x, p: x / p,
}

Source = tuple[str, np.ndarray]


class _Term(NamedTuple):
    shown: str
    numbers: np.ndarray
    """Of the first rows."""


def expression(
    sources: Sequence[Source],
    held: Mapping[str, np.ndarray],
    target: np.ndarray,
    tolerance: float,
    dropouts: Mapping[str, np.ndarray] = {},
) -> str | None:
    """Return how a place is made.

    Args:
        sources: The inputs and outputs of layers before it in one framework, the nearest first.
        held: The parameters that no layer holds, by name.
        target: The numbers of the place.
        tolerance: How near the expression's numbers must come.
        dropouts: What shared masks of dropout multiply by, by their names.

    Returns:
        The simplest expression that gives the numbers, such as `b * gamma + the input of a`; None if none is known.
    """
    if target.dtype.kind != "f" or not target.ndim or not target.size:
        return None
    rows = slice(max(1, _ENTRIES // max(1, target[0].size)))
    y = target[rows].astype(np.float64)
    plain: list[_Term] = []
    for name, array in sources:
        few = array[rows].astype(np.float64) if array.ndim and array.dtype.kind == "f" else np.empty(0)
        if not any(few.shape == other.numbers.shape and np.array_equal(few, other.numbers) for other in plain):
            plain.append(_Term(name, few))
    with np.errstate(all="ignore"):
        terms = [*_reduced(plain, y), *_joined(plain, held, y), *_with_held(plain, held, y)]
        whole = [one for one in plain if one.numbers.shape == y.shape]
        dropped = [
            _Term(f"{one.shown} dropped by {name}", one.numbers * factor[rows])
            for name, factor in dropouts.items()
            for one in whole
            if factor.shape == target.shape
        ]
        return next(_fitting([*terms, *dropped], [*whole, *dropped], held, y, tolerance), None)


def _fitting(
    terms: list[_Term], added: list[_Term], held: Mapping[str, np.ndarray], y: np.ndarray, tolerance: float
) -> Iterator[str]:
    probes = np.random.default_rng(0).integers(y.size, size=_PROBES)
    table = np.stack([term.numbers.ravel()[probes] for term in terms]) if terms else np.empty((0, _PROBES))

    def near(wanted: np.ndarray, terms_of: list[_Term] = terms) -> Iterator[_Term]:
        some = wanted.ravel()[probes]
        close = np.abs(table - some).max(1, initial=0) <= 1e-6 * (1 + np.abs(some).max())
        for i in np.flatnonzero(close):
            if distance(wanted, terms_of[i].numbers) <= max(tolerance, 1e-9):
                yield terms_of[i]

    for term in near(y):
        if distance(y, term.numbers) <= tolerance:
            yield term.shown
    for other in added:
        for term in near(y - other.numbers):
            if term.shown != other.shown and distance(y, term.numbers + other.numbers) <= tolerance:
                yield _sum(term, other)
    for name, p in _broadcast(held, y):
        for other in added:
            for term in near(y / p - other.numbers):
                if term.shown != other.shown and distance(y, (term.numbers + other.numbers) * p) <= tolerance:
                    yield f"({_sum(term, other)}) * {name}"


def _sum(one: _Term, other: _Term) -> str:
    return " + ".join(sorted((one.shown, other.shown), key=lambda shown: shown.startswith("the input")))


def _reduced(plain: Sequence[_Term], y: np.ndarray) -> Iterator[_Term]:
    """Yield what has the target's shape: a source, perhaps through an activation, or an entry or mean of a sequence."""
    for name, x in plain:
        if x.shape == y.shape:
            yield _Term(name, x)
    for name, x in plain:
        if x.shape == y.shape:
            for activation, function in ACTIVATIONS.items():
                if activation != "no activation":
                    yield _Term(f"{activation} of {name}", function(torch.from_numpy(x)).numpy())
        elif x.ndim == y.ndim + 1 > 2 and (x.shape[0], *x.shape[2:]) == y.shape:
            yield _Term(f"{name}[:, 0]", x[:, 0])
            yield _Term(f"{name}[:, -1]", x[:, -1])
            yield from (_Term(f"{name}[:, {i}]", x[:, i]) for i in range(1, min(x.shape[1] - 1, 64)))
            yield _Term(f"{name}.mean(1)", x.mean(1))
            yield _Term(f"{name}.max(1)", x.max(1))
            yield _Term(f"{name}.sum(1)", x.sum(1))


def _joined(plain: Sequence[_Term], held: Mapping[str, np.ndarray], y: np.ndarray) -> Iterator[_Term]:
    """Yield a parameter side by side with a source, as a token of the class is."""
    for name, x in plain:
        if x.ndim != 3 or y.ndim != 3 or x.shape[1] >= y.shape[1] or x.shape[::2] != y.shape[::2]:
            continue
        more = (y.shape[0], y.shape[1] - x.shape[1], y.shape[2])
        for at, p in held.items():
            if p.size and p.shape[-1] == more[2] and p.size == more[1] * more[2]:
                token = np.broadcast_to(p.reshape(1, *more[1:]), more)
                yield _Term(f"{at} before {name}", np.concatenate([token, x], 1))
                yield _Term(f"{name} before {at}", np.concatenate([x, token], 1))


def _with_held(plain: Sequence[_Term], held: Mapping[str, np.ndarray], y: np.ndarray) -> Iterator[_Term]:
    for name, x in plain:
        if x.shape != y.shape:
            continue
        for at, p in _broadcast(held, y):
            for shown, function in _FUNCTIONS.items():
                yield _Term(shown.format(x=name, p=at), function(x, p))
            for activation in ("ReLU", "GELU (erf)", "GELU (tanh)", "SiLU", "tanh", "sigmoid"):
                active = ACTIVATIONS[activation](torch.from_numpy(x)).numpy()
                yield _Term(f"{activation} of {name} * {at}", active * p)
            left, size = y - x, np.broadcast_to(p, y.shape)
            scale = float((left * size).sum() / (size * size).sum()) if size.any() else 0.0
            if scale:
                yield _Term(f"{name} + {scale:.4g} * {at}", x + scale * p)


def _broadcast(held: Mapping[str, np.ndarray], y: np.ndarray) -> Iterator[Source]:
    """Yield the parameters in a shape that goes with the target's: along its last axes, or along its channels."""
    for name, p in held.items():
        p = p.astype(np.float64)
        squeezed = p.reshape(p.shape[next((i for i, n in enumerate(p.shape) if n > 1), p.ndim) :])
        if squeezed.shape == y.shape[y.ndim - squeezed.ndim :] or not squeezed.ndim:
            yield name, squeezed
        elif y.ndim > 2 and p.size == y.shape[1] == max(p.shape):
            yield name, p.reshape(-1, *[1] * (y.ndim - 2))
        elif all(n in (1, m) for n, m in zip(p.shape[::-1], y.shape[::-1], strict=False)) and p.ndim <= y.ndim:
            yield name, p
