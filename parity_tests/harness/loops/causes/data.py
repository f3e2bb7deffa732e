"""Known faults in the order of the data and in preprocessing."""

import itertools
from collections import Counter
from collections.abc import Iterator

import numpy as np

from parity_tests.harness.causes import Cause
from parity_tests.harness.loops.causes.parting import Causes, Parting, figure, sided
from parity_tests.harness.loops.history import History, keys, rows
from parity_tests.harness.loops.records import SIDES

_ORDER = "draw the order of JAX's data as PyTorch's is drawn, or pass one order to both"
_LEAST = 4  # numbers, since two lie on a line in any case
_FLIPS = {"up and down": 2, "left and right": 3}


def of_batches(p: Parting) -> Causes:
    """Name another order of the same rows."""
    quantity = p.parted.quantity
    if quantity == "inputs" and p.agrees("batch"):
        return
    left, right = (rows(record.get(quantity, {})) for record in p.at)
    if left is None or right is None or not left or not right:
        return
    if len(left) != len(right):
        short = len(left) > len(right)
        yield from _short(p, quantity, int(short), min(len(left), len(right)))
        return
    if left == right:
        return
    if Counter(left) == Counter(right):
        yield Cause(f"the {quantity} of step {p.step} holds the same rows in another order", "data-order", _ORDER)
        return
    runs = [run.rows(quantity) for run in p.runs]
    for shift, (i, run) in itertools.product(range(1, 4), enumerate(runs)):
        mine = runs[1 - i]
        pairs = [(mine[t], run[t + shift]) for t in range(p.step, len(run) - shift)]
        if len(pairs) >= 2 and all(a == b for a, b in pairs):
            # what `mine` has at t, `run` has `shift` steps later
            text = f"the batches of {SIDES[1 - i]} are {_steps(shift)} ahead from step {p.step} on"
            yield Cause(text, "batches-ahead", "start JAX's batches at the same step", *sided(i, 0, shift))
            return
    for i, run in enumerate(runs):
        repeated = [t for t in range(p.step) if run[t] == run[p.step]]
        if repeated and runs[1 - i][p.step] != runs[1 - i][repeated[0]] and p.step:
            yield Cause(
                f"{SIDES[i]} repeats the order of the data (step {p.step} has the batch of step {repeated[0]}), and "
                f"{SIDES[1 - i]} shuffles again for each pass",
                "data-order-repeated",
                "shuffle JAX's data as PyTorch's: {torch}",
                *sided(i, "one order for all passes", "again for each pass"),
            )
            return
    yield from _labels(p, quantity)
    everything = [Counter(row for rows in run for row in rows or ()) for run in runs]
    if (
        everything[0] == everything[1]
        or all(row in everything[1] for row in left)
        or all(row in everything[0] for row in right)
    ):
        yield Cause("the same data is drawn in another order: another seed, or another shuffle", "data-order", _ORDER)


def of_values(p: Parting) -> Causes:
    """Name preprocessing: another range, layout, mirrored images, moved tokens."""
    quantity = p.parted.quantity
    left, right = p.both(quantity)
    name = p.parted.name
    a, b = left[name], right[name]
    label = f"{SIDES[1]}'s {name or quantity}"
    if a.shape == b.shape and _integers(a) and _integers(b):
        offset = float((b - a).ravel()[0])
        if offset and np.array_equal(b, a + offset):
            text = f"{label} are {SIDES[0]}'s {'+' if offset > 0 else '-'} {abs(offset):g}: counted from another number"
            yield Cause(text, "labels-offset", f"add {offset:g} to JAX's", 0, offset)
            return
        for shift in (1, -1):
            if a.ndim == 2 and np.array_equal(np.roll(a, shift, 1)[:, 1:-1], b[:, 1:-1]):
                later = SIDES[int(shift > 0)]
                text = f"{label} are {SIDES[0]}'s moved by one position, later in {later}"
                yield Cause(text, "tokens-shifted", f"move JAX's by {shift:+d} position", 0, shift)
                return
    if a.shape != b.shape:
        for axes in itertools.permutations(range(a.ndim)) if a.ndim <= 4 else ():
            if a.transpose(axes).shape == b.shape and np.allclose(a.transpose(axes), b, rtol=p.tolerance, atol=0):
                text = f"{label} have {SIDES[0]}'s axes in the order {axes}"
                yield Cause(text, "axes", f"transpose JAX's by {axes}", list(range(a.ndim)), list(axes))
                return
        return
    for what, moved in _moved(a):
        fitted, text = _linear(moved, b)
        if fitted is None or not p.explained(fitted, b, a):
            continue
        words = [what.format(name or quantity)] if what else []
        if text:
            words.append(f"{label} are {text}")
        text = "; ".join(words) + ": another preprocessing"
        yield Cause(text, "preprocessing", "preprocess the data in JAX as in PyTorch")
        return
    if a.ndim == 4:
        for where, axis in _FLIPS.items():
            mirrored = np.flip(a, axis)
            chosen = np.array([np.allclose(y, m, rtol=p.tolerance) for y, m in zip(b, mirrored, strict=True)])
            made = np.where(chosen[:, None, None, None], mirrored, a)
            if chosen.any() and p.explained(made, b, a):
                text = f"other images are mirrored, {where}: those of rows {np.flatnonzero(chosen).tolist()} differ"
                yield Cause(text, "mirrored", "mirror the same images in both")
                return
    for axis, what in ((1, "channel"), (0, "row")):
        if a.ndim > 1 and a.shape[axis] > 1:
            made = np.empty_like(a)
            texts = []
            for i in range(a.shape[axis]):
                at = (slice(None),) * axis + (i,)
                fitted, text = _linear(a[at], b[at])
                made[at] = a[at] if fitted is None else fitted
                texts.append(text)
            if p.explained(made, b, a):
                yield Cause(
                    f"each {what} is scaled otherwise ({what} 0: {label} are {texts[0] or 'the same'}): another mean "
                    "or deviation",
                    "normalization",
                    f"subtract the same mean of each {what}, and divide by the same deviation",
                )
                return


def _moved(a: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    yield "", a
    if a.ndim == 4:
        yield "the channels of {} are in the other order (RGB and BGR)", np.flip(a, 1)
        for where, axis in _FLIPS.items():
            yield f"{{}} is mirrored, {where}", np.flip(a, axis)
        if a.shape[2] == a.shape[3]:
            yield "height and width of {} are exchanged", a.swapaxes(2, 3)


def _linear(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray | None, str]:
    """Return `scale * a + shift`, fitted to b, and the formula; no formula where nothing is changed."""
    if a.size < _LEAST or not np.isfinite(a).all() or not np.isfinite(b).all():
        return None, ""
    spread = a - a.mean()
    size = float((spread**2).sum())
    if not size:
        return None, ""
    scale = float((spread * (b - b.mean())).sum()) / size
    shift = float(b.mean() - scale * a.mean())
    if abs(shift) < 1e-7 * max(1.0, abs(scale)):
        shift = 0.0
    if abs(shift - round(shift, 4)) < 1e-6:
        shift = round(shift, 4)
    if abs(scale - 1) < 1e-9 and not shift:
        return a, ""
    text = f"{figure(scale)} times {SIDES[0]}'s" if abs(scale - 1) > 1e-9 else f"{SIDES[0]}'s"
    if scale and abs(scale) < 1 and abs(2 / scale - round(2 / scale)) < 1e-6 * max(1.0, 2 / scale):
        text = f"{SIDES[0]}'s over {round(2 / scale) / 2:g}"
    return scale * a + shift, text + (f" {'+' if shift > 0 else '-'} {figure(abs(shift))}" if shift else "")


def _labels(p: Parting, quantity: str) -> Causes:
    """Name labels that belong to other rows: one row has several, in one of the runs."""
    left, right = p.both(quantity)
    same = [n for n in left if left[n].ndim and left[n].shape == right[n].shape and np.array_equal(left[n], right[n])]
    wrong = [n for n in left if left[n].ndim and n not in same]
    if not same or not wrong or any(left[n].shape != right[n].shape for n in wrong):
        return
    several = [_several(run, quantity, same, wrong) for run in p.runs]
    if several[0] != several[1] or all(sorted(keys(left[n])) == sorted(keys(right[n])) for n in wrong):
        where = f" in {SIDES[several.index(True)]}" if several[0] != several[1] else ""
        text = f"{' and '.join(wrong)} of the {quantity} belong to other rows{where}: {' and '.join(same)} are the same"
        yield Cause(text, "labels-of-other-rows", "shuffle all arrays of the data by the same order")


def _several(run: History, quantity: str, same: list[str], wrong: list[str]) -> bool:
    """Return whether a row comes with different labels in the course of a run."""
    seen: dict[bytes, bytes] = {}
    for digest in run.digests:
        held = digest.rows.get(quantity, {})
        mine, labels = ([row.tobytes() for row in np.stack([held[n] for n in names], 1)] for names in (same, wrong))
        if any(seen.setdefault(row, label) != label for row, label in zip(mine, labels, strict=True)):
            return True
    return False


def _short(p: Parting, quantity: str, side: int, count: int) -> Causes:
    """Name an incomplete last batch. side: the run with fewer rows."""
    runs = [[keys or [] for keys in run.rows(quantity)] for run in p.runs]
    sizes = [{len(rows) for rows in run[: p.step]} for run in runs]
    left, right = (run[p.step] for run in runs)
    if p.step and len(sizes[0] | sizes[1]) == 1 and min(len(left), len(right)) < min(sizes[0] | sizes[1]):
        text = (
            f"{SIDES[side]} keeps the incomplete last batch of a pass, of {count} rows, and {SIDES[1 - side]} doesn't"
        )
        remedy = "keep the incomplete last batch in both or in neither (drop_last)"
        yield Cause(text, "incomplete-batch", remedy, *sided(side, True, False))
    elif not p.step or len(sizes[0] | sizes[1]) == 2:
        text = f"the batches are of another size: {len(left)} rows in {SIDES[0]} and {len(right)} in {SIDES[1]}"
        yield Cause(text, "batch-size", "take {torch} rows in JAX", len(left), len(right))


def _integers(array: np.ndarray) -> bool:
    return bool(np.isfinite(array).all() and (array == np.rint(array)).all())


def _steps(n: int) -> str:
    return f"{n} step" + "s" * (n > 1)
