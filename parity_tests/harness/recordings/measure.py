"""Compute what is recorded of a model, and how far rounding moves each of its entries."""

import contextlib
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxvae.shared.errors import InputError
from parity_tests.harness.modules.common.draws import draw, hides
from parity_tests.harness.modules.common.effects import changes, differ, reach
from parity_tests.harness.modules.rounding import SAMPLES, jitter, spread, unit
from parity_tests.harness.recordings.arguments import Call, to_json
from parity_tests.harness.recordings.arrays import Arrays, digest, places, single, totals
from parity_tests.harness.recordings.model import Model, Numbers, Options, parts_of
from parity_tests.harness.recordings.recording import BACKWARD, LAYERS, ROUNDING, WHOLE, Recording

_CLEAR = 1e-8  # of the outputs: what a tensor surely moves by its slope, which may also be the rounding of zero
_SAME = 1e-9  # of the largest: a second call gives the same numbers, up to sums in another order


def measured(model: Model, call: Call, options: Options) -> Recording:
    """Record a model in memory.

    Each entry's rounding error is measured as a comparison of two live models measures it: inputs and weights are moved
    by a unit in the last place, in float64 also where float32 is recorded; a run in float32 holds the rounding within
    layers; and the inputs of layers are moved, since what stands behind a clip sees none of the other units.
    """
    dtype = options.dtype
    drawn = _drawn(model) if options.draw else []
    base = model.numbers(dtype)
    arrays, shapes, digests = _kept(base, options)
    double = base if dtype == "float64" else model.numbers("float64")
    exact = arrays if double is base else _kept(double, options)[0]
    repeats = _repeats(_kept(model.numbers("float64"), options)[0], exact)
    floors: Arrays = {}

    def sampled(numbers: Numbers, scale: float) -> None:
        moved = _kept(numbers, options)[0]
        for name, array in spread(moved, {n: a for n, a in exact.items() if n in moved}).items():
            floors[name] = np.maximum(floors.get(name, 0.0), array * scale)

    if repeats:
        scale = unit(dtype) / unit("float64")
        if dtype == "float64":
            with contextlib.suppress(Exception):  # a model that can't compute in float32
                sampled(model.numbers("float32", layers=False), unit("float64") / unit("float32"))
        for seed in range(SAMPLES // 2):
            sampled(model.numbers("float64", jitter(seed)), scale)
        with contextlib.suppress(Exception):  # a layer that takes no other numbers
            sampled(model.numbers("float64", within=jitter(SAMPLES), layers=False), scale)
    weights = model.weights()
    given = {f"inputs/{name}": array for name, array in zip(call.names, call.arrays, strict=True)}
    stored = given | {f"weights/{name}": array for name, array in weights.items()} | arrays
    if options.loss is not None:
        with contextlib.suppress(Exception):  # they only help to say how two losses differ
            slopes = {f"slopes/{place}": single(slope) for place, slope in model.loss_slopes(dtype).items()}
            stored |= {
                name: slope for name, slope in slopes.items() if not options.sample or slope.size <= options.sample
            }
    _check_layers(base.calls, options.layers)
    about = {
        **model.about(),
        "framework": model.framework,
        "dtype": dtype,
        "mode": "training" if options.train else "evaluation",
        "method": options.method,
        "steps": options.steps if options.optimizer is not None else 0,
        "layers": None if options.layers is None else list(options.layers),
        "sample": options.sample,
        "key": options.key,
        "arguments": to_json(call.tree),
        "outputs": base.outputs,
        "calls": base.calls,
        "unmoved": _unmoved(model, call, weights, parts_of(double.arrays, "outputs")),
        "repeats": repeats,
        "drawn": drawn,
        "order": list(stored),
        "shapes": shapes,
        "whole digests": digests,
        "digests of": {
            "weights": _together(weights),
            "inputs": _together(dict(zip(call.names, call.arrays, strict=True))),
        },
    }
    stored |= {ROUNDING + name: _as_single(array) for name, array in floors.items() if name in stored}
    return Recording.of(about, stored)


def _drawn(model: Model) -> list[str]:
    """Replace every weight of few distinct values by drawn numbers, positive ones if others give no finite output; the
    names of those that were replaced."""

    def finite() -> bool:
        with contextlib.suppress(Exception):  # the recording itself says what is wrong
            return all(np.isfinite(array).any() for array in model.outputs({}, "float64").values())
        return False

    constant = {name: array.copy() for name, array in model.weights().items() if hides(array)}
    before = not constant or finite()
    for positive in (False, True) if constant else ():
        model.fill({name: draw(name, array, positive) for name, array in constant.items()})
        if not before or finite():
            return list(constant)
    model.fill(constant)
    return []


def _kept(numbers: Numbers, options: Options) -> tuple[Arrays, dict[str, list[int]], dict[str, str]]:
    """Return the arrays that are kept, large ones as some of their entries, with the shapes and digests of those."""
    arrays: Arrays = {}
    shapes: dict[str, list[int]] = {}
    digests: dict[str, str] = {}
    for name, array in numbers.arrays.items():
        kind, _, rest = name.partition("/")
        if kind in (LAYERS, BACKWARD) and not _asked(rest.rpartition("/")[0].partition("#")[0], options.layers):
            continue
        array = single(array)
        some = places(array.shape, options.sample, options.key)
        if some is None:
            arrays[name] = np.array(array, order="C")
            continue
        shapes[name], digests[name] = list(array.shape), digest(array)
        arrays[name] = np.ascontiguousarray(array).reshape(-1)[some]
        arrays[WHOLE + name] = totals(array, options.key)
    return arrays, shapes, digests


def _check_layers(calls: Sequence[str], patterns: Sequence[str] | None) -> None:
    """Raise InputError if a pattern matches no layer that is called."""
    layers = list(dict.fromkeys(call.partition("#")[0] for call in calls))
    for pattern in patterns or ():
        if not any(_asked(layer, [pattern]) for layer in layers):
            raise InputError(
                f"layers: {pattern!r} matches no whole name of a layer that is called; there are "
                f"{', '.join(map(repr, layers)) or 'none'}: correct it."
            )


def _asked(layer: str, patterns: Sequence[str] | None) -> bool:
    return patterns is None or any(re.fullmatch(pattern, layer) for pattern in patterns)


def _repeats(again: Arrays, before: Arrays) -> bool:
    def same(one: np.ndarray, other: np.ndarray) -> bool:
        if one.shape != other.shape:
            return False
        finite = other[np.isfinite(other)]
        largest = np.abs(finite.astype(complex)).max(initial=0.0) if finite.size else 0.0
        return bool(np.allclose(one, other, rtol=0.0, atol=_SAME * float(largest), equal_nan=True))

    compared = {name for name in before if not name.startswith("steps/")}  # where a sum in another order may grow
    return all(name in again and same(again[name], before[name]) for name in compared)


def _unmoved(model: Model, call: Call, weights: Arrays, base: Arrays) -> list[str]:
    """Return the weights and inputs that move no output; those without a slope are moved together, then by halves."""
    every = {f"weights/{name}": array for name, array in weights.items()}
    every |= {f"inputs/{name}": array for name, array in zip(call.names, call.arrays, strict=True)}
    dtype = "float64"
    size = sum(float(np.abs(array[np.isfinite(array)]).sum()) for array in base.values() if array.dtype.kind in "fc")
    slopes: Any = {}
    with contextlib.suppress(Exception):  # what has no gradient is moved
        slopes = model.slopes(dtype)
    clear = {name for name, slope in slopes.items() if _CLEAR * size < reach(slope, every[name]) < np.inf}
    doubtful = [name for name in every if name not in clear]

    def moves(names: Sequence[str]) -> bool:
        for changed in zip(*(changes(every[name]) for name in names), strict=False):
            with contextlib.suppress(Exception):  # a model may not take such numbers
                if differ(model.outputs(dict(zip(names, changed, strict=True)), dtype), base, dtype):
                    return True
        return False

    def still(names: list[str]) -> list[str]:
        if not names or not moves(names):
            return names
        middle = len(names) // 2
        return still(names[:middle]) + still(names[middle:]) if middle else []

    floats = [name for name in doubtful if every[name].dtype.kind in "fc"]
    return still(floats) + [name for name in doubtful if name not in floats and not moves([name])]


def _as_single(floor: np.ndarray) -> np.ndarray:
    """Return rounding errors in float32: their size takes no more digits. What is beyond its range is cut off there."""
    return np.minimum(floor, np.finfo(np.float32).max).astype(np.float32)


def _together(arrays: Arrays) -> str:
    return digest(np.frombuffer("".join(f"{n} {digest(a)} " for n, a in arrays.items()).encode(), np.uint8))
