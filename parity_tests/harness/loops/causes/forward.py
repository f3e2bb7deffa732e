"""Known faults in the loss and in its gradient."""

import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from parity_tests.harness.causes import Cause
from parity_tests.harness.loops import judging
from parity_tests.harness.loops.causes.parting import Causes, Parting, each_way, factor, figure, joined, several, sided
from parity_tests.harness.loops.records import SIDES, Arrays

_LARGEST_SUM = 1_000_000
CLIP = "clip the gradients in JAX as in PyTorch"
_PLAIN = 0.1
_LEAST_CLASSES, _MOST_CLASSES = 3, 100_000
_CERTAIN, _FEW = 10.0, 5.0  # standard errors: what a factor has to be that is there, and what one may be off
_FITTED = {"float64": 1e-6, "float32": 1e-4}  # of a norm that is seen in what an optimizer does
_DECAY = "decay the same tensors by {torch} in JAX"


def of_loss(p: Parting) -> Causes:
    """Name a mode of evaluation, a factor of the loss, a penalty of the weights, a term."""
    pair = p.scalar("loss")
    if pair is None or not np.isfinite(pair).all():
        if pair is not None and np.isfinite(pair).any():
            text = f"the loss is NaN or infinite in {SIDES[int(np.isfinite(pair[0]))]} alone"
            yield Cause(text, "not-finite")
        return
    yield from _evaluation_mode(p, pair)
    yield from _penalty(p, pair)
    yield from _scaled_loss(p, pair)
    yield from _one_term(p, pair)
    yield from _smoothed(p)
    yield from _training_alone(p)


def of_evaluation(p: Parting) -> Causes:
    """Name a factor that the loss has in evaluation and in training."""
    evaluation, loss = p.scalar("loss in evaluation"), p.scalar("loss")
    if evaluation and loss and evaluation[0] and loss[0]:
        ratios = evaluation[1] / evaluation[0], loss[1] / loss[0]
        if abs(ratios[0] - ratios[1]) <= 10 * p.tolerance * abs(ratios[0]):
            yield from _scaled_loss(p, loss)


def of_terms(p: Parting) -> Causes:
    """Name a term that has a factor, where the loss is the same."""
    a, b = (arrays[p.parted.name] for arrays in p.both("terms"))
    if a.ndim or not a or not np.isfinite([a, b]).all():
        return
    if (known := _known_factor(p, float(b / a))) is not None:
        text = f"the term {p.parted.name} is {known} in {SIDES[1]}{_same_loss(p)}"
        yield Cause(text, "term-scaled", f"multiply the term in JAX by {figure(float(b / a))}", 1.0, float(b / a))


def of_gradients(p: Parting) -> Causes:
    """Name clipping, a factor, gradients that pile up, a penalty, a gradient that is cut off."""
    left, right = p.both("gradients")
    yield from _piled_up(p)
    yield from _clipped(p, left, right)
    if (found := penalty(p, "gradients")) is not None:
        side, size, where = found
        text = (
            f"{figure(size)} times the weights of {where} is added to the gradient in {SIDES[side]} only: weight decay"
        )
        yield Cause(text, "weight-decay", _DECAY, *sided(side, size, 0.0))
    yield from _missing(p)
    yield from _clipped_apart(p)


def clipping(p: Parting, raw: Arrays, used: Arrays) -> str | None:
    """Say by which rule gradients were clipped from `raw` to `used`, None where no rule does it."""
    if p.explains(raw, used, {n: np.zeros_like(a) for n, a in raw.items()}):
        return None
    ratio = factor(joined(used), joined(raw))
    norm, limit = (float(np.sqrt((joined(a) ** 2).sum())) for a in (raw, used))
    scaled = {name: ratio * array for name, array in raw.items()}
    if 0 < ratio < 1 and p.explains(scaled, used, raw) and (bound := bound_of(limit, norm)) is not None:
        return f"to a norm of {bound:.4g} (from {norm:.4g})"
    bound = max(judging.peak(array) for array in used.values())
    if p.explains({name: np.clip(array, -bound, bound) for name, array in raw.items()}, used, raw):
        return f"value by value to {bound:.4g}"
    norms = {n: (float(np.linalg.norm(raw[n])), float(np.linalg.norm(used[n]))) for n in raw}
    least = 1e-6 * max((before for before, _ in norms.values()), default=0.0)
    apart = p.wrong("gradients") if p.half else list(norms)
    limits = [b for n, (a, b) in norms.items() if n in apart and a > least and b < a * (1 - 1e-6)]
    if limits and np.ptp(limits) <= 1e-5 * max(limits):
        made = {n: raw[n] * min(1.0, limits[0] / norms[n][0]) if norms[n][0] else raw[n] for n in raw}
        if p.explains(made, used, raw):
            return f"tensor by tensor to a norm of {limits[0]:.4g} each"
    return None


def clipped_to(p: Parting, side: int, share: float, gradients: Arrays) -> Cause | None:
    """Name clipping in a run that used a share of its gradients, the other all of them, where the bound is round."""
    norm = float(np.sqrt((joined(gradients) ** 2).sum()))
    if not 0 < share < 1 or (bound := bound_of(share * norm, norm, _FITTED[p.precision])) is None:
        return None
    text = f"the gradients are clipped to a norm of {bound:.4g} (from {norm:.4g}) in {SIDES[side]} only"
    return Cause(text, "clipping", CLIP, *sided(side, bound, None))


def penalty(p: Parting, quantity: str) -> tuple[int, float, str] | None:
    """Find a multiple of the weights that one run has more than the other in some arrays: run, factor, which."""
    weights = p.state("parameters")[0]
    left, right = p.both(quantity)
    names = [name for name in left if name in weights]
    for i, (a, b) in enumerate(((left, right), (right, left))):
        factors, made = {}, {}
        for name in names:
            c = factor((b[name] - a[name]).ravel(), weights[name].ravel())
            wrong = name in p.wrong(quantity) if p.half else not p.explained(a[name], b[name], weights[name])
            factors[name] = c if wrong and np.isfinite(c) else 0.0
            made[name] = a[name] + factors[name] * weights[name]
        found = {name: c for name, c in factors.items() if c}
        sizes = list(found.values())
        several_numbers = sum(weights[name].size for name in found) > 1  # one is a multiple of anything
        alike = several_numbers and min(sizes) > 0 and np.ptp(sizes) <= p.spread * max(sizes)
        if alike and p.explains(made, b, a):
            return 1 - i, float(np.median(sizes)), _which(found, [name for name in names if weights[name].any()])
    return None


def _evaluation_mode(p: Parting, loss: tuple[float, float]) -> Causes:
    evaluation = p.scalar("loss in evaluation")
    if evaluation is None or not p.agrees("loss in evaluation"):
        return
    same = [abs(a - b) <= p.tolerance * max(abs(a), abs(b)) for a, b in zip(loss, evaluation, strict=True)]
    if same[0] != same[1]:
        side = same.index(True)
        yield Cause(
            f"the loss of {SIDES[side]} is its loss in evaluation: it trains in evaluation mode (dropout off, running "
            f"statistics for the batch's), and {SIDES[1 - side]} in training mode",
            "mode",
            "run JAX's model in {torch} mode",
            *sided(side, "evaluation", "training"),
        )


def _smoothed(p: Parting) -> Causes:
    """Name a smoothing of labels that one run alone has or has more of.

    With a softmax over K classes, it adds to the gradient of the last bias its share times the frequency of each class
    in the batch, less 1 / K.
    """
    left, right = p.both("gradients")
    counts = [np.bincount(a.astype(int)) for a in p.both("batch")[0].values() if a.ndim == 1 and _labels(a)]
    for name, count in itertools.product(left, counts):
        classes = len(left[name])
        if left[name].ndim != 1 or not classes >= _LEAST_CLASSES or len(count) > classes:
            continue
        share = np.pad(count, (0, classes - len(count))) / count.sum() - 1 / classes
        added = right[name] - left[name]
        size = factor(added, share)
        if not size or not p.explained(left[name] + size * share, right[name], left[name]):
            continue
        text = f"the smoothing of labels is {abs(float(f'{size:.4g}')):g} more in {SIDES[int(size > 0)]}"
        yield Cause(f"{text}: {name} shows it", "label-smoothing", "smooth the labels of both alike")
        return


def _labels(array: np.ndarray) -> bool:
    return bool(len(array) and array.min() >= 0 and array.max() < _MOST_CLASSES and (array == np.rint(array)).all())


def _training_alone(p: Parting) -> Causes:
    if not p.agrees("loss in evaluation") or not p.stands_out("loss in evaluation"):
        return
    statistics = p.both("running statistics")[0]
    if not statistics or p.agrees("running statistics"):
        yield Cause(
            "the losses in evaluation agree and those in training don't: what only training does differs, as dropout, "
            "which drops other units or at another rate, or the smoothing of labels",
            "dropout-masks",
            "draw dropout's masks of both from one key, or set its rate to 0",
        )
    else:
        text = "batch norm in training: the losses in evaluation agree, and the statistics of the batch don't"
        yield Cause(text, "batch-norm-in-training")


def _penalty(p: Parting, loss: tuple[float, float]) -> Causes:
    """Half of lambda times the squared weights in the loss of one run, as its gradient confirms."""
    weights = p.state("parameters")[0]
    gradients = p.both("gradients")
    names = [n for n in gradients[0] if n in weights]
    if not names:
        return
    for i, (a, b) in enumerate((gradients, gradients[::-1])):
        added = {n: b[n] - a[n] for n in names}
        found, unclear = _in_rounding(p, added, weights) if p.half else (_added(p, a, b, weights), [])
        squares = sum(c * float((weights[n] ** 2).sum()) for n, c in found.items()) / 2
        if not found or abs(squares - (loss[1 - i] - loss[i])) > max(1e-3, p.spread) * abs(squares):
            continue
        where = several(found) if unclear else _which(found, [n for n in names if weights[n].any()])
        share = float(np.median(list(found.values())))
        share = float(f"{share:.2g}") if p.half else share
        text = f"the loss has {figure(share)} / 2 times the squared weights of {where} in {SIDES[1 - i]} only"
        text += f" (whether of {several(unclear)} too, {p.dtype} precision doesn't show)" if unclear else ""
        remedy = "add {torch} / 2 times the squared weights to JAX's loss"
        yield Cause(text, "weight-penalty", remedy, *sided(i, 0.0, share))
        return


def _added(p: Parting, a: Arrays, b: Arrays, weights: Arrays) -> dict[str, float]:
    """Return the positive factors of the weights that `b` has more than `a`, by array, if these are all it has more."""
    factors = {n: factor((b[n] - a[n]).ravel(), weights[n].ravel()) for n in a if n in weights}
    made = {n: a[n] + (c if np.isfinite(c) else 0.0) * weights[n] for n, c in factors.items()}
    real = {n: c for n, c in factors.items() if np.isfinite(c) and not p.explained(a[n], b[n], weights[n])}
    return real if real and min(real.values()) > 0 and p.explains(made, b, a) else {}


def _in_rounding(p: Parting, added: Arrays, weights: Arrays) -> tuple[dict[str, float], list[str]]:
    """Return the same in half precision, where one factor of many numbers stands out of the rounding of each, and the
    arrays that are too small or too much rounded to tell."""
    single = {n: _estimate(added[n].ravel(), weights[n].ravel()) for n in added if weights[n].any()}
    sure = [n for n, (c, error) in single.items() if c > _CERTAIN * error]
    if not sure:
        return {}, []
    share, error = _estimate(joined({n: added[n] for n in sure}), joined({n: weights[n] for n in sure}))
    if share < _CERTAIN * error or any(abs(single[n][0] - share) > p.spread * share for n in sure):
        return {}, []
    rest = {n: single[n] for n in single if n not in sure}
    without = [n for n, (c, error) in rest.items() if abs(c - share) > _FEW * error]
    if any(abs(rest[n][0]) > _FEW * rest[n][1] for n in without):
        return {}, []
    return dict.fromkeys(sure, share), [n for n in rest if n not in without]


def _estimate(target: np.ndarray, column: np.ndarray) -> tuple[float, float]:
    """Return the factor of a column in a target, and its standard error."""
    share = factor(target, column)
    left = target - share * column
    return share, float(np.sqrt((left @ left) / max(len(left) - 1, 1) / (column @ column)))


def _scaled_loss(p: Parting, loss: tuple[float, float]) -> Causes:
    if not loss[0]:
        return
    ratio = loss[1] / loss[0]
    left, right = p.both("gradients")
    known, remedy = _known_factor(p, ratio), f"multiply JAX's loss by {figure(ratio)}"
    if not left:
        if known:
            yield Cause(f"the loss is {known} in {SIDES[1]}", "loss-reduction", remedy, 1.0, ratio)
        return
    if p.explains({name: ratio * array for name, array in left.items()}, right, left):
        text = f"the loss and every gradient are {known or f'{figure(ratio)} times as large'} in {SIDES[1]}"
        yield Cause(text, "loss-reduction" if known else "loss-scaled", remedy, 1.0, ratio)
    elif p.agrees("gradients") and (known or not p.half or abs(ratio - 1) > _PLAIN):  # half precision hides small ones
        yield Cause(
            f"the loss is {known or f'{figure(ratio)} times as large'} in {SIDES[1]} and the gradients are the same: "
            "clipped to one norm, or the loss is only reported otherwise",
            "loss-scaled",
            remedy,
            *(1.0, ratio),
        )
    elif p.half and known:  # its gradients may leave the range of float16
        yield Cause(f"the loss is {known} in {SIDES[1]}", "loss-reduction", remedy, 1.0, ratio)


def _one_term(p: Parting, loss: tuple[float, float]) -> Causes:
    left, right = p.both("terms")
    wrong = p.wrong("terms")
    if len(wrong) != 1:
        return
    a, b = float(left[wrong[0]]), float(right[wrong[0]])
    if abs((b - a) - (loss[1] - loss[0])) <= 1e-3 * abs(b - a):
        known = _known_factor(p, b / a) if a else None
        text = f"the term {wrong[0]} of the loss differs, and no other"
        if not known and not (a and any(_round(c, max(p.tolerance, 1e-9)) for c in (b / a, a / b))):
            yield Cause(text, "term-differs")
            return
        text += f": it is {known or figure(b / a) + ' times as large'} in {SIDES[1]}"
        yield Cause(text, "term-scaled", f"multiply the term in JAX by {figure(b / a)}", 1.0, b / a)


def _piled_up(p: Parting) -> Causes:
    """A gradient to which the previous step's was added: nothing set it to zero."""
    if p.step < 1:
        return
    for i, (this, other, mine, theirs) in enumerate(each_way(p, "gradients")):
        earlier = (p.runs[i].get(p.step - 1) or {}).get("gradients", {})
        if mine and earlier and p.explains({n: theirs[n] + earlier[n] for n in mine}, mine, theirs):
            text = (
                f"the gradients of {this} are added to those of the step before: they are never set to zero (zero_grad)"
            )
            yield Cause(text, "zero-grad", "set the gradients to zero before each step", *sided(i, True, False))
            return
        del other


def _clipped(p: Parting, left: Arrays, right: Arrays) -> Causes:
    a, b = joined(left), joined(right)
    if not a.any() or not b.any() or not np.isfinite(a).all() or not np.isfinite(b).all():
        return
    ratio = factor(b, a)
    remedy = f"multiply JAX's gradients by {figure(ratio)}"
    if p.explains({name: ratio * array for name, array in left.items()}, right, left):
        norms = tuple(float(np.sqrt((x**2).sum())) for x in (a, b))
        if 0 < 1 - min(ratio, 1 / ratio) < 1e-4:
            side = int(ratio < 1)
            if _round(norms[1 - side]) or _near(_longest(p, 1 - side), norms[1 - side]):
                yield Cause(
                    f"the gradients are clipped to a norm of {norms[1 - side]:.4g} in both, and {SIDES[side]} divides "
                    "by the norm plus a small number, as PyTorch's clipping does by 1e-6",
                    "clip-epsilon",
                    "scale by c / (norm + 1e-6), as torch.nn.utils.clip_grad_norm_ does",
                )
                return
        known = _known_factor(p, ratio)
        side = int(norms[1] < norms[0])
        bound = bound_of(norms[side], norms[1 - side])
        if bound is None and not known and _near(_longest(p, side), norms[side]) and _varies(p, 1 - side):
            bound = norms[side]
        if known and bound is None:
            yield Cause(
                f"every gradient is {known} in {SIDES[1]}{_same_loss(p)}", "gradient-scaled", remedy, 1.0, ratio
            )
            return
        if bound is not None:
            if (other := _longest(p, 1 - side)) is not None:
                values: tuple[float | None, float | None] = sided(side, bound, other)
                text = (
                    f"the gradients are clipped to a norm of {values[0]:.4g} in {SIDES[0]} and of {values[1]:.4g} in "
                    f"{SIDES[1]}"
                )
            else:
                values = sided(side, bound, None)
                text = (
                    f"the gradients are clipped to a norm of {bound:.4g} (from {norms[1 - side]:.4g}) in {SIDES[side]} "
                    "only"
                )
            yield Cause(text, "clipping", CLIP, *values)
            return
        text = f"every gradient is {figure(ratio)} times as large in {SIDES[1]}{_same_loss(p)}"
        yield Cause(text, "gradient-scaled", remedy, 1.0, ratio)
        return
    for this, other, mine, theirs in each_way(p, "gradients"):
        if (rule := clipping(p, theirs, mine)) is not None:
            yield Cause(f"the gradients are clipped {rule} in {this} only", "clipping", CLIP)
            return
        del other
    bounds = [float(np.sqrt((x**2).sum())) for x in (a, b)]
    largest = [float(np.abs(x).max()) for x in (a, b)]
    for i in (0, 1):
        if (
            _round(bounds[i])
            and _round(largest[1 - i])
            and (np.abs((a, b)[1 - i]) >= largest[1 - i] * (1 - 1e-9)).sum() > 1
        ):
            yield Cause(
                f"the gradients are clipped to a norm of {bounds[i]:.4g} in {SIDES[i]} and value by value to "
                f"{largest[1 - i]:.4g} in {SIDES[1 - i]}",
                "clipping",
                CLIP,
            )
            return


def _norms(p: Parting, side: int) -> list[float]:
    return [norm for digest in p.runs[side].digests if np.isfinite(norm := digest.norm or 0.0)]


def _longest(p: Parting, side: int) -> float | None:
    """Return the norm that several gradients of a run have and none exceeds: that to which it clips them."""
    longest = max(norms := _norms(p, side), default=0.0)
    return longest if longest and sum(_near(longest, norm) for norm in norms) > 1 else None


def _varies(p: Parting, side: int) -> bool:
    """Return whether no two gradients of a run have one norm."""
    norms = sorted(_norms(p, side))
    return not any(_near(a, b) for a, b in itertools.pairwise(norms))


def _near(norm: float | None, other: float) -> bool:
    return norm is not None and abs(norm - other) <= 1e-5 * other


def _missing(p: Parting) -> Causes:
    """Tensors to which no gradient comes in one run, a row of an embedding, a transposed one."""
    left, right = p.both("gradients")
    wrong = p.wrong("gradients")
    for i, arrays in enumerate((left, right)):
        none = [name for name in arrays if not arrays[name].any() and (left, right)[1 - i][name].any()]
        if wrong and (set(wrong) <= set(none) or (none and _of_one_norm(p, none))):
            text = f"no gradient comes to {several(none)} in {SIDES[i]}: frozen, detached or stopped"
            yield Cause(text, "gradient-stopped", "let the same tensors be trained in both")
            return
    if len(wrong) != 1:
        return
    (name,) = wrong
    a, b = left[name], right[name]
    if a.ndim == 2 and a.shape == b.shape:
        rows = np.flatnonzero(np.abs(a - b).max(1) > p.tolerance * judging.peak(a))
        for i, x in enumerate((a, b)):
            if len(rows) == 1 and not x[rows[0]].any():
                text = f"no gradient comes to row {rows[0]} of {name} in {SIDES[i]}: a padding index"
                yield Cause(text, "padding-index", "stop the gradient of the same row in both")
                return
        if p.explained(a.T, b, a):
            yield Cause(f"{name} is transposed in {SIDES[1]}", "kernel-transposed", f"transpose {name} in JAX")


def _of_one_norm(p: Parting, without: Sequence[str]) -> bool:
    """Return whether both runs' gradients have one norm, as after clipping, and the same direction but for some."""
    left, right = p.both("gradients")
    rest = [{n: a for n, a in arrays.items() if n not in without} for arrays in (left, right)]
    norms = [float(np.linalg.norm(joined(arrays))) for arrays in (left, right)]
    ratio = factor(joined(rest[1]), joined(rest[0])) if joined(rest[0]).any() else 0.0
    scaled = {n: ratio * a for n, a in rest[0].items()}
    return _near(norms[0], norms[1]) and bool(ratio) and p.explains(scaled, rest[1], rest[0])


def _clipped_apart(p: Parting) -> Causes:
    """Name tensors that one run leaves out of the norm to which both clip."""
    for i, (this, _, mine, theirs) in enumerate(each_way(p, "gradients")):
        ratios = {n: factor(mine[n].ravel(), theirs[n].ravel()) for n in mine if mine[n].any() and theirs[n].any()}
        if len(ratios) < 2:
            return
        usual = float(np.median([*ratios.values()]))
        out = [n for n, ratio in ratios.items() if not _near(ratio, usual)]
        rest = {n: a for n, a in mine.items() if n not in out}
        norm, other = (float(np.linalg.norm(joined(arrays))) for arrays in (rest, theirs))
        if out and _near(norm, other) and p.explains({n: usual * theirs[n] for n in rest}, rest, theirs):
            text = f"the gradients are clipped to a norm of {norm:.4g} in both, which is of all tensors but"
            values: tuple[list[str], list[str]] = sided(i, out, [])
            yield Cause(f"{text} {several(out)} in {this}", "clipping", "clip the same tensors in both", *values)
            return


def _known_factor(p: Parting, ratio: float) -> str | None:
    """Say which count of the batch a factor is: a sum for a mean."""
    for inverse, value in ((False, ratio), (True, 1 / ratio if ratio else 0.0)):
        n = round(value)
        if p.half and value >= 1024 and abs(2 ** round(np.log2(value)) - value) <= 0.01 * value:
            n = value = 2 ** round(np.log2(value))
        if not 2 <= n <= _LARGEST_SUM or abs(value - n) > max(1e-6, 10 * p.tolerance) * n:
            continue
        what = next((text for count, text in _counts(p) if count == n), None)
        if what is None and n & (n - 1) == 0 and n >= 1024:
            what = "a loss scale of mixed precision"
        if what is not None:
            return f"{'1 / ' if inverse else ''}{n} times as large ({what})"
    return None


def _counts(p: Parting) -> Iterator[tuple[int, str]]:
    for quantity in ("batch", "inputs"):
        arrays = p.both(quantity)[0]
        for name, array in arrays.items():
            if array.ndim:
                yield len(array), "rows of the batch: a sum for a mean"
            if array.ndim == 2:
                tokens = bool((array == np.rint(array)).all())
                yield array.size, f"entries of {name or quantity}: a sum for a mean"
                if tokens:
                    yield array.shape[0] * (array.shape[1] - 1), "tokens that are predicted: a sum for a mean"
                yield array.shape[1], f"columns of {name or quantity}: a sum for a mean"
                if tokens:
                    yield array.shape[1] - 1, "tokens of a row that are predicted: a sum for a mean"


def _same_loss(p: Parting) -> str:
    return ", and the loss is the same" if p.agrees("loss") else ""


def bound_of(norm: float, before: float, near: float = 1e-6) -> float | None:
    """Return the bound to which clipping brought a norm from what it was before, None where it is no round number.

    optax multiplies by the bound over the norm, torch by the bound over the norm plus 1e-6.
    """
    bounds = norm, norm * (1 + 1e-6 / before) if before else 0.0
    return next((float(f"{bound:.2g}") for bound in bounds if _round(bound, near)), None)


def _round(value: float, near: float = 1e-6) -> bool:
    """Return whether a number has at most two digits, as a limit that someone chose."""
    return value > 0 and abs(float(f"{value:.2g}") - value) <= near * value


def _which(found: object, every: list[str]) -> str:
    names = list(found)  # type: ignore[call-overload]
    rest = [name for name in every if name not in names]
    return "all of them" if not rest else f"{several(names)}, not of {several(rest)}"
