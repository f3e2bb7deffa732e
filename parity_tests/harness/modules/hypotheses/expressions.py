"""Say as an expression how a place is made of the outputs of layers and of the parameters that no layer holds."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from parity_tests.harness.causes import Cause
from parity_tests.harness.modules.hypotheses.base import distance
from parity_tests.harness.modules.hypotheses.between_layers import ACTIVATIONS

EXPRESSION = Cause("it is put together otherwise", "expression", "make it {torch}")

_ENTRIES = 2**14  # of the first rows, which are looked at first
_PROBES, _NEAR = 12, 1e-6
_MOST = 300  # terms that are tried in a sum or a product
_FEW = 24  # of them with a factor
_POSITIONS = 64
_ACTIVATIONS = {name: function for name, function in ACTIVATIONS.items() if name != "no activation"}
_ACTIVATIONS["hard sigmoid"] = F.hardsigmoid
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
        bare = list(_shaped([*plain, *_halves(plain, y)], y))
        whole = [one for one in plain if one.numbers.shape == y.shape]
        dropped = [
            _Term(f"{one.shown} dropped by {name}", one.numbers * factor[rows])
            for name, factor in dropouts.items()
            for one in whole
            if factor.shape == target.shape
        ]
        simple = [*bare, *_active(bare), *dropped]
        terms = [*simple, *_joined(plain, held, y), *_side_by_side(plain, y, tolerance), *_with_held(plain, held, y)]
        return next(_fitting(terms, simple[:_MOST], held, y, tolerance), None)


def _fitting(
    terms: list[_Term], added: list[_Term], held: Mapping[str, np.ndarray], y: np.ndarray, tolerance: float
) -> Iterator[str]:
    probes = np.random.default_rng(0).integers(y.size, size=_PROBES)
    table = np.stack([term.numbers.ravel()[probes] for term in terms]) if terms else np.empty((0, _PROBES))

    def near(wanted: np.ndarray, own: str = "") -> Iterator[_Term]:
        some = wanted.ravel()[probes]
        for i in np.flatnonzero((np.abs(table - some) <= _NEAR * (1 + np.abs(some))).all(1)):
            if terms[i].shown != own:
                yield terms[i]

    def right(numbers: np.ndarray) -> bool:
        return distance(y, numbers) <= tolerance

    yield from (one.shown for one in near(y) if right(one.numbers))
    for other in added:
        yield from (
            _sum(one, other) for one in near(y - other.numbers, other.shown) if right(one.numbers + other.numbers)
        )
    for other in added[:_FEW]:
        left = (y - other.numbers).ravel()[probes]
        for i in range(min(len(terms), _FEW)):
            ratios = left / table[i]
            if np.ptp(ratios) <= _NEAR * abs(ratios[0]) and terms[i].shown != other.shown:
                scale = float(ratios.mean())
                if right(scale * terms[i].numbers + other.numbers):
                    yield f"{scale:.4g} * {_part(terms[i])} + {_part(other)}"
    for other in added:
        of = near(y / other.numbers, other.shown)
        yield from (f"{_part(one)} * {_part(other)}" for one in of if right(one.numbers * other.numbers))
    halves = [one for one in added if one.shown.startswith("the ")]
    for scale, shift in itertools.permutations(halves, 2):
        for shown, factor in ((f"(1 + {scale.shown})", 1 + scale.numbers), (scale.shown, scale.numbers)):
            for one in near((y - shift.numbers) / factor):
                if right(one.numbers * factor + shift.numbers):
                    yield f"{_part(one)} * {shown} + {shift.shown}"
    for name, p in _broadcast(held, y):
        for other in added:
            of = near(y / p - other.numbers, other.shown)
            yield from (f"({_sum(one, other)}) * {name}" for one in of if right((one.numbers + other.numbers) * p))


def _sum(one: _Term, other: _Term) -> str:
    return " + ".join(sorted((_part(one), _part(other)), key=lambda shown: shown.startswith("the input")))


def _part(term: _Term) -> str:
    """Return a term of a sum or a product, in brackets where it could be read as a function of the whole."""
    return f"({term.shown})" if any(term.shown.startswith(f"{name} of ") for name in _ACTIVATIONS) else term.shown


def _halves(plain: Sequence[_Term], y: np.ndarray) -> Iterator[_Term]:
    """Yield the halves of what has twice the target's features, as a scale and a shift of one layer."""
    features = {y.shape[1], y.shape[-1]} if y.ndim == 3 else {y.shape[min(1, y.ndim - 1)]}
    for name, x in plain:
        for own in (1, 2) if x.ndim == 3 else (1,) if x.ndim > 1 else ():
            if x.shape[own] % 2 or x.shape[own] // 2 not in features:
                continue
            for which, half in zip(("first", "second"), np.split(x, 2, own), strict=True):
                yield _Term(f"the {which} half of {name}", half)


def _shaped(sources: Sequence[_Term], y: np.ndarray) -> Iterator[_Term]:
    """Yield sources in the target's shape: themselves, transposed, broadcast, or an entry or the mean of a sequence."""
    for name, x in sources:
        if x.shape == y.shape:
            yield _Term(name, x)
        elif x.ndim == 3 and x.swapaxes(1, 2).shape == y.shape:
            yield _Term(f"{name} transposed", x.swapaxes(1, 2))
        elif x.ndim == y.ndim and all(n in (1, m) for n, m in zip(x.shape, y.shape, strict=True)):
            yield _Term(name, np.broadcast_to(x, y.shape))
        elif x.ndim == 2 and y.ndim == 4 and x.shape == y.shape[:2]:
            yield _Term(name, np.broadcast_to(x[:, :, None, None], y.shape))
        elif x.ndim == 2 and y.ndim == 3 and x.shape == (y.shape[0], y.shape[2]):
            yield _Term(name, np.broadcast_to(x[:, None], y.shape))
        elif x.ndim == y.ndim + 1 == 3 and (x.shape[0], x.shape[2]) == y.shape:
            for i in (0, -1, *range(1, min(x.shape[1] - 1, _POSITIONS))):
                yield _Term(f"{name}[:, {i}]", x[:, i])
            yield _Term(f"{name}.mean(1)", x.mean(1))
            yield _Term(f"{name}.max(1)", x.max(1))
            yield _Term(f"{name}.sum(1)", x.sum(1))


def _active(bare: Sequence[_Term]) -> Iterator[_Term]:
    for one in bare:
        if "[:, " not in one.shown and "(1)" not in one.shown:
            for name, function in _ACTIVATIONS.items():
                yield _Term(f"{name} of {one.shown}", function(torch.from_numpy(one.numbers.copy())).numpy())


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


def _side_by_side(plain: Sequence[_Term], y: np.ndarray, tolerance: float) -> Iterator[_Term]:
    """Yield two sources whose features lie side by side in the target."""
    axis = 1 if y.ndim in (2, 4) else -1

    def at(start: int | None, end: int | None) -> Iterator[_Term]:
        part = np.moveaxis(np.moveaxis(y, axis, 0)[start:end], 0, axis)
        some = [one for one in plain if one.numbers.shape == part.shape]
        for one in (*some, *_active(some)):
            if distance(part, one.numbers) <= tolerance:
                yield one

    if y.ndim > 1:
        for size in {one.numbers.shape[axis] for one in plain if one.numbers.ndim == y.ndim}:
            if (
                0 < size < y.shape[axis]
                and (first := next(at(None, size), None))
                and (last := next(at(size, None), None))
            ):
                yield _Term(f"{first.shown} before {last.shown}", np.concatenate([first.numbers, last.numbers], axis))


def _with_held(plain: Sequence[_Term], held: Mapping[str, np.ndarray], y: np.ndarray) -> Iterator[_Term]:
    for name, x in plain:
        if x.shape != y.shape:
            continue
        for at, p in _broadcast(held, y):
            for shown, function in _FUNCTIONS.items():
                yield _Term(shown.format(x=name, p=at), function(x, p))
            for activation in ("ReLU", "GELU (erf)", "GELU (tanh)", "SiLU", "tanh", "sigmoid"):
                active = ACTIVATIONS[activation](torch.from_numpy(x)).numpy()
                yield _Term(f"({activation} of {name}) * {at}", active * p)
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
