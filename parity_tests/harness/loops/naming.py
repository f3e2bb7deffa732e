"""Give the arrays of both runs torch's names and layout."""

import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from torch import nn

from jaxvae.shared.errors import InputError
from parity_tests.harness.loops.records import SIDES, Arrays, Raw
from parity_tests.harness.modules import layouts
from parity_tests.harness.modules.joining.links import Link, joined, parted
from parity_tests.harness.modules.joining.rearranged import apart, without_frozen
from parity_tests.harness.modules.mapping import MappingLike, Pair, arrange, as_is, canonical
from parity_tests.harness.modules.torch_state import _SLICE, whole

QUANTITIES = (
    "batch",
    "inputs",
    "learning rate",
    "loss scale",
    "loss in evaluation",
    "loss",
    "terms",
    "gradients",
    "optimizer state",
    "parameters",
    "running statistics",
    "EMA",
)
"""What is compared of a step, in the order in which a step computes it."""
STATE = ("parameters", "running statistics", "optimizer state", "EMA")
FIELDS = {
    "batch": "batch",
    "inputs": "inputs",
    "learning_rate": "learning rate",
    "loss_scale": "loss scale",
    "evaluation": "loss in evaluation",
    "loss": "loss",
    "terms": "terms",
    "gradients": "gradients",
    "optimizer_state": "optimizer state",
    "parameters": "parameters",
    "ema": "EMA",
}
_NAMED = ("gradients", "parameters", "ema")
_TRAINED = (*_NAMED, "optimizer_state")
_SLOTS = {
    **dict.fromkeys(("mu", "exp_avg"), "first moment"),
    **dict.fromkeys(("nu", "exp_avg_sq", "square_avg"), "second moment"),
    **dict.fromkeys(("trace", "momentum_buffer"), "momentum"),
    **dict.fromkeys(("nu_max", "max_exp_avg_sq"), "largest second moment"),
    **dict.fromkeys(("sum", "sum_of_squares"), "summed squares"),
    "acc_grads": "accumulated gradient",
}
_MANY = 32  # numbers, of which not all end in zeros by chance
_STATISTICS = ("running_mean", "running_var", "mean", "var")

Record = dict[str, Arrays]
"""The arrays of a step by quantity, and in it by torch's name."""


class Names(NamedTuple):
    """Which array of the JAX run is which of the torch run."""

    pairs: tuple[Pair, ...]
    statistics: frozenset[str]
    """Torch's names of what is no parameter."""
    links: tuple[Link, ...] = ()
    """What the JAX run has in parts in the torch run, or the reverse."""

    def record(self, raw: Raw, side: str) -> Record:
        """Return the arrays of a step by quantity and torch's name, in torch's layout."""
        found: Record = {}
        for field, snapshot in raw.items():
            if field not in FIELDS:
                continue
            quantity = FIELDS[field]
            if field in _NAMED:
                found[quantity] = self._named(snapshot.arrays, side)
                if self.pairs and not found[quantity] and snapshot.arrays:
                    own = self.pairs[0].path if side == SIDES[0] else self.pairs[0].name
                    raise InputError(
                        f"The {side} run: none of the names in its {field} is a parameter's, as {own!r} is: found "
                        f"{next(iter(snapshot.arrays))!r}; yield {field} as the parameters are yielded."
                    )
            elif field == "optimizer_state":
                found[quantity] = self._state(snapshot.arrays, side)
            else:
                found[quantity] = dict(snapshot.arrays)
        apart = {name: array for name, array in found.get("parameters", {}).items() if name in self.statistics}
        if apart:
            found["parameters"] = {n: a for n, a in found["parameters"].items() if n not in apart}
            found["running statistics"] = apart
        return {quantity: arrays for quantity, arrays in found.items() if arrays}

    def written(self, raw: Raw, record: Record, side: str) -> dict[str, object]:
        """Return the state in `raw` in its own structure, with the numbers of a record in all arrays that it has."""
        state: dict[str, object] = {}
        if "scaler" in raw:
            state["scaler"] = raw["scaler"].written({})
        for field in ("parameters", "optimizer_state", "ema"):
            if field not in raw:
                continue
            given = {
                name: array
                for quantity in STATE
                if _holds(field, quantity)
                for name, array in record.get(quantity, {}).items()
            }
            snapshot = raw[field]
            state[field] = snapshot.written(self._back(snapshot.arrays, given, side, field == "optimizer_state"))
        return state

    def _named(self, arrays: Arrays, side: str) -> Arrays:
        if side == SIDES[0]:
            arrays = parted(arrays, self.links)
            return {p.name: p.transform.to_torch(arrays[p.path]) for p in self.pairs if p.path in arrays}
        return {p.name: part(arrays[whole(p.name)], p.name) for p in self.pairs if whole(p.name) in arrays}

    def _state(self, arrays: Arrays, side: str) -> Arrays:
        arrays = parted(arrays, self.links) if side == SIDES[0] else arrays
        places = _places(self.pairs, tuple(arrays), side)
        if side == SIDES[0]:
            return {name: pair.transform.to_torch(arrays[path]) for name, (path, pair) in places.items()}
        return {name: part(arrays[path], pair.name) for name, (path, pair) in places.items()}

    def _back(self, arrays: Arrays, given: Arrays, side: str, optimizer: bool) -> Arrays:
        jax = side == SIDES[0]
        arrays = parted(arrays, self.links) if jax else arrays
        places = (
            _places(self.pairs, tuple(arrays), side)
            if optimizer
            else {pair.name: (pair.path if jax else whole(pair.name), pair) for pair in self.pairs}
        )
        result: Arrays = {}
        for name, (path, pair) in places.items():
            if name not in given or path not in arrays:
                continue
            if jax:
                result[path] = pair.transform.to_jax(given[name])
            elif (rows := _SLICE.fullmatch(pair.name)) is None:
                result[path] = given[name]
            else:
                result[path] = result.get(path, arrays[path].copy())
                result[path][int(rows[2]) : int(rows[3])] = given[name]
        return joined({**arrays, **result}, self.links) if jax and self.links else result


def names(
    in_jax: Sequence[Raw], in_torch: Sequence[Raw], module: nn.Module | None, mapping: MappingLike
) -> Names | None:
    """Pair the arrays of both runs' parameters.

    Args:
        in_jax: The start of the JAX run, if it yields one, and a step.
        in_torch: Those of the torch run.
        module: The torch module that is trained.
        mapping: Which JAX array is which torch tensor.

    Returns:
        The names; None where a run has neither parameters, gradients nor averages there.

    Raises:
        InputError: If they can't be paired.
    """
    shapes, held = _shapes(in_jax), _shapes(in_torch)
    if not shapes or not held:
        return None
    if module is None:
        return _same_names(shapes, held)
    gradients = next((raw["gradients"].arrays for raw in in_jax if "gradients" in raw), None)
    state = {path for path in shapes if path.rpartition("/")[2] in ("mean", "var")}
    if gradients is not None and set(gradients) < set(shapes):
        state = set(shapes) - set(gradients)
    found = without_frozen(arrange(shapes, module, mapping, state), module)
    if other := apart(found, module):
        raise InputError(
            f"The two runs train other arrays: {'; '.join(other)}: make the models the same, or freeze at 0 what "
            "PyTorch adds."
        )
    buffers = {name for name, _ in module.named_buffers()}
    statistics = frozenset(pair.name for pair in found.pairs if whole(pair.name) in buffers)
    return Names(found.pairs, statistics, found.links)


Seen = dict[str, tuple[str, ...]]
"""The fields that a run yields, with the paths of the first arrays of floats in each."""


def seen(raw: Raw) -> Seen:
    """Return the fields of a step."""
    return {
        field: tuple(path for path, array in snapshot.arrays.items() if array.dtype.kind in "fc")
        for field, snapshot in raw.items()
    }


def uncovered(names: Names, in_jax: Seen, in_torch: Seen) -> list[str]:
    """Return, as clauses, the fields that only one run yields, and the arrays that are in no pair."""
    found: dict[str, None] = {}
    for field, quantity in FIELDS.items():
        first = [run.get(field) for run in (in_jax, in_torch)]
        if (first[0] is None) != (first[1] is None):
            found[f"{quantity}, which only the {SIDES[first[0] is None]} run yields"] = None
        for i, paths in enumerate(first if None not in first else []):
            if field == "optimizer_state" and paths and names.pairs and not _places(names.pairs, paths, SIDES[i]):
                found[f"{quantity} of the {SIDES[i]} run, which has no parameter's path in its own: {paths[0]}"] = None
            if field not in _NAMED:
                continue
            paired = {pair.path if not i else whole(pair.name) for pair in names.pairs}
            paired |= {path for link in names.links if not i for path in link.paths}
            for path in paths or ():
                if path not in paired:
                    found[f"{path} of the {quantity} of the {SIDES[i]} run, which is in no pair"] = None
    return list(found)


def part(array: np.ndarray, name: str) -> np.ndarray:
    """Return the rows of an array that a name such as `weight[0:8]` means."""
    match = _SLICE.fullmatch(name)
    return array[int(match[2]) : int(match[3])] if match else array


def aligned(mine: Record, other: Record) -> tuple[list[str], Record]:
    """Give what isn't named by the model, batches and terms, the same names and layout in both.

    Args:
        mine: A step of the JAX run.
        other: The same step of the torch run.

    Returns:
        What can't be compared, as clauses; and the JAX run's step in torch's names and layout.
    """
    missing: list[str] = []
    record = dict(mine)
    for quantity in QUANTITIES:
        a, b = mine.get(quantity), other.get(quantity)
        if a is None or b is None:
            if (a is None) != (b is None):
                missing.append(f"{quantity}, which only the {SIDES[a is None]} run yields")
            if quantity != "optimizer state":  # which shows what the optimizer is
                record.pop(quantity, None)
            continue
        if set(a) != set(b) and len(a) == len(b) and quantity not in (*STATE, "gradients", "terms"):
            a = dict(zip(b, a.values(), strict=True))
        if quantity in ("batch", "inputs"):
            a = {name: _laid_out(array, b[name]) if name in b else array for name, array in a.items()}
        for i, rest in enumerate((set(a) - set(b), set(b) - set(a))):
            if rest:
                more = f"{len(rest)} arrays, such as " if len(rest) > 2 else ""
                names = " and ".join(sorted(rest)[: 1 if more else None])
                missing.append(f"{more}{names} of the {quantity}, which only the {SIDES[i]} run yields")
        own = sorted(set(a) - set(b)) if quantity == "optimizer state" else []  # they show what the optimizer is
        record[quantity] = {name: a[name] for name in (*(name for name in b if name in a), *own)}
        if not record[quantity]:
            del record[quantity]
    return missing, record


def dtype(steps: Iterable[Raw]) -> str | None:
    """Return the precision of the runs: that of half precision in which any array is, or all gradients' numbers are.

    It is float32 if any array of the model or its optimizer is, or of the rest where they yield neither, else float64;
    None if there are no numbers but some, as 1.0, that float32 has as well.
    """
    found: dict[bool, set[str]] = {True: set(), False: set()}
    scalars: list[float] = []
    for raw in steps:
        for field, snapshot in raw.items():
            if field in ("batch", "inputs", "learning_rate", "loss_scale"):
                continue
            if snapshot.half:
                return snapshot.half
            trained = field in _TRAINED
            for array in snapshot.arrays.values():
                if array.dtype == np.float64 and array.ndim == 0 and not trained:
                    scalars += [float(array)] * (field in ("loss", "terms", "evaluation"))
                elif array.dtype.kind == "f":
                    found[trained].add(str(array.dtype))
        if "gradients" in raw and _cut(raw["gradients"].arrays):
            return "mixed"
    if held := found[True] or found[False]:
        return "float32" if "float32" in held else "float64"
    with np.errstate(over="ignore"):
        return None if all(float(np.float32(x)) == x or x != x for x in scalars) else "float64"


def beside_float64(first: Sequence[tuple[Raw, Raw]]) -> str | None:
    """Return, as a clause, which array of a model or its optimizer is float32 where others are float64."""
    held = [
        (path, FIELDS[field], side, str(array.dtype))
        for pair in first
        for side, raw in zip(SIDES, pair, strict=True)
        for field in _TRAINED
        for path, array in (raw[field].arrays if field in raw else {}).items()
    ]
    single = next((one for one in held if one[3] == "float32"), None)
    if single is None or all(one[3] != "float64" for one in held):
        return None
    path, quantity, side, _ = single
    return f"what float32 doesn't show, since {path} of the {quantity} of the {side} run is float32 beside float64"


def _cut(arrays: Arrays) -> bool:
    """Return whether arrays of float32 hold numbers of half precision alone, and many: those of products in it."""
    if not all(array.dtype == np.float32 for array in arrays.values()):
        return False
    bits = [np.ascontiguousarray(array).view(np.uint32).ravel() for array in arrays.values()]
    return not any((part & 0x1FFF).any() for part in bits) and len(np.unique(np.concatenate(bits))) > _MANY


def _shapes(run: Iterable[Raw]) -> dict[str, tuple[int, ...]]:
    for field in ("parameters", "gradients", "ema"):
        for raw in run:
            if field in raw:
                return {path: a.shape for path, a in raw[field].arrays.items() if a.dtype.kind in "fc"}
    return {}


def _same_names(shapes: Mapping[str, tuple[int, ...]], held: Mapping[str, tuple[int, ...]]) -> Names:
    pairs = []
    spelled = {canonical(name): name for name in held}
    for path, shape in shapes.items():
        name = spelled.get(path, "")
        if held.get(name) != shape:
            raise InputError(
                f"The JAX run's parameter {path!r}, {list(shape)}, has no namesake of this shape in the torch run: "
                "pass the torch module as module=, whose layers say which is which and how each is laid out."
            )
        pairs.append(Pair(path, name, as_is))
    if extra := [name for name in held if name not in {pair.name for pair in pairs}]:
        raise InputError(
            f"The torch run's parameter {extra[0]!r} has no namesake in the JAX run: pass the torch module as module=."
        )
    return Names(tuple(pairs), frozenset(p.name for p in pairs if p.name.rpartition(".")[2] in _STATISTICS))


@functools.lru_cache(maxsize=8)
def _places(pairs: tuple[Pair, ...], paths: tuple[str, ...], side: str) -> dict[str, tuple[str, Pair]]:
    """Return the array of an optimizer's state that is each slot of each pair, by the slot's name."""
    found: dict[str, tuple[str, Pair]] = {}
    own = {pair: pair.path if side == SIDES[0] else whole(pair.name) for pair in pairs}
    for path in paths:
        slots = {pair: slot for pair, name in own.items() if (slot := _slot(path, name)) is not None}
        if not slots:
            slots = {pair: slot for pair, name in own.items() if (slot := _slot_between(path, name)) is not None}
        longest = max((len(_words(own[pair])) for pair in slots), default=0)
        for pair, slot in slots.items():
            if len(_words(own[pair])) == longest:  # the path of fc/kernel also ends that of up/fc/kernel
                found.setdefault(f"{slot} of {pair.name}", (path, pair))
    return found


def _slot(path: str, parameter: str) -> str | None:
    """Return the name of what `path`, of an optimizer's state, holds of a parameter; None if it holds nothing of it."""
    words, own = _words(path), _words(parameter)
    n = len(own)
    for i in range(len(words) - n + 1):
        if words[i : i + n] == own:
            return _named((*words[:i], *words[i + n :]))
    return None


def _slot_between(path: str, parameter: str) -> str | None:
    """Return the same of one of several optimizers, whose state has the first part of the parameter's path outside, as
    `generator/0/mu/fc/kernel` of `generator/fc/kernel`."""
    words, own = _words(path), _words(parameter)
    for k in range(1, min(len(own), len(words))):
        if words[:k] == own[:k] and (slot := _slot("/".join(words[k:]), "/".join(own[k:]))) is not None:
            return slot
    return None


def _named(words: Sequence[str]) -> str:
    """Return the name of a slot from what its path has beside the parameter's."""
    rest = [word for word in words if word not in ("value", "params")]
    slot = next((word for word in reversed(rest) if word in _SLOTS), rest[-1] if rest else "state")
    return _SLOTS.get(slot, slot)


@functools.lru_cache(maxsize=100_000)
def _words(path: str) -> tuple[str, ...]:
    return tuple(re.split(r"[/.]", path))


def _holds(field: str, quantity: str) -> bool:
    return FIELDS[field] == quantity or (field, quantity) == ("parameters", "running statistics")


def _laid_out(mine: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return JAX's array in torch's layout."""
    if mine.ndim == other.ndim == 4:
        layout = layouts.of_output(None, 0, "", mine, other, True, "float64")
        mine = layouts.to_torch(mine, layout)
    if mine.ndim != other.ndim and mine.size == other.size and mine.shape[:1] == other.shape[:1]:
        return mine.reshape(other.shape)
    return mine
