"""Say in which settings two optimizers differ whose rules are known."""

from collections.abc import Sequence

import numpy as np

from parity_tests.harness.causes import Cause
from parity_tests.harness.causes import joined as together
from parity_tests.harness.loops.causes.fitting import SAME
from parity_tests.harness.loops.causes.forward import clipped_to
from parity_tests.harness.loops.causes.parting import Causes, Parting, several, sided
from parity_tests.harness.loops.causes.rules import Rule
from parity_tests.harness.loops.records import SIDES

_GROUPS = 4  # at most, whose learning rates are listed
_MASK = "decay the same tensors in both: give optax's weight decay a mask that is true of {torch} alone"


def differences(p: Parting, left: Rule, right: Rule) -> Causes:
    """Name the parts in which two rules differ, in the order in which a step uses them."""
    found: list[Cause] = []

    def numbers(name: str, kind: str, a: float | None, b: float | None) -> None:
        if a is not None and b is not None and abs(a - b) > SAME[p.precision] * max(abs(a), abs(b), 1e-3):
            values = float(_rounded(a)), float(_rounded(b))
            text = f"{name} is {_rounded(a)} in {SIDES[0]} and {_rounded(b)} in {SIDES[1]}"
            found.append(Cause(text, kind, f"set {name} to {{torch}} in JAX", *values))

    numbers("the factor of the gradient in the optimizer", "gradient-scaled", left.gradient, right.gradient)
    known = left.decoupled is not None and right.decoupled is not None
    moved = known and left.coupled and right.decoupled and not left.decoupled and not right.coupled
    other = known and right.coupled and left.decoupled and not right.decoupled and not left.coupled
    if moved or other:
        side = int(bool(moved))
        text = (
            f"the weight decay is decoupled (AdamW) in {SIDES[side]} and added to the gradient (L2) in "
            f"{SIDES[1 - side]}"
        )
        remedy = "let JAX's weight decay be {torch}: optax.adamw decouples it, optax.add_decayed_weights adds it"
        found.append(Cause(text, "weight-decay-coupling", remedy, *sided(side, "decoupled", "added to the gradient")))
    else:
        for a, b, how in (
            (left.coupled, right.coupled, "added to the gradient"),
            (left.decoupled, right.decoupled, "decoupled"),
        ):
            if a is not None and b is not None:
                known_of = [{n for n, rate in rule.rates if rate} for rule in (left, right) if rule.rates]
                mine, other = ({n: c for n, c in d if all(n in names for names in known_of)} for d in (a, b))
                found += _decays(mine, other, how, p)
    adam = left.beta2 is not None or right.beta2 is not None  # without a second moment it may be Lion's beta2
    numbers("beta1" if adam else "the decay of the first moment", "betas", left.beta1, right.beta1)
    numbers("beta2", "betas", left.beta2, right.beta2)
    numbers("the momentum", "momentum", left.momentum, right.momentum)
    if (left.momentum is None) != (right.momentum is None) and left.beta1 is None and right.beta1 is None:
        values = left.momentum or 0.0, right.momentum or 0.0
        side = int(left.momentum is None)
        text = f"there is a momentum of {_rounded(max(values))} in {SIDES[side]} and none in {SIDES[1 - side]}"
        found.append(Cause(text, "momentum", "set the momentum to {torch} in JAX", *values))
    numbers("the dampening", "dampening", left.dampening, right.dampening)
    if left.nesterov is not None and right.nesterov is not None and left.nesterov != right.nesterov:
        text = f"Nesterov's momentum in {SIDES[int(right.nesterov)]} only"
        found.append(Cause(text, "nesterov", "pass nesterov={torch} to optax", left.nesterov, right.nesterov))
    if left.corrected is not None and right.corrected is not None and left.corrected != right.corrected:
        text, remedy = f"Adam's bias correction is missing in {SIDES[int(left.corrected)]}", "correct the bias in both"
        found.append(Cause(text, "bias-correction", remedy, left.corrected, right.corrected))
    if left.eps is not None and right.eps is not None and left.eps != right.eps:
        shown = [f"{eps:g} {place}" for place, eps in (left.eps, right.eps)]
        text = f"the optimizer's eps is {shown[0]} in {SIDES[0]} and {shown[1]} in {SIDES[1]}"
        found.append(Cause(text, "optimizer-eps", "pass optax an eps of {torch}", *shown))
    if not found:
        found += _rounded_rate(p, (left, right))
    if not found:
        found += _rates(p, left, right)
    if found:
        yield together(found)


def _rates(p: Parting, left: Rule, right: Rule) -> list[Cause]:
    """Name the learning rates that two rules use, of all arrays or of groups of them."""
    at = max(p.step, 1)
    if left.rate and right.rate and left.beta1 is None:  # Adam's steps are as long for a gradient that is clipped
        side = int(right.rate < left.rate)
        gradients = (p.runs[side].get(at) or {}).get("gradients", {})
        if cause := clipped_to(p, side, min(left.rate, right.rate) / max(left.rate, right.rate), gradients):
            return [cause]
    names = [n for n, _ in left.rates or right.rates]
    both = [dict(rule.rates) or dict.fromkeys(names, rule.rate) for rule in (left, right)]
    if not names:
        both = [{"": rule.rate} for rule in (left, right)]
    if any(rate is None for rates in both for rate in rates.values()):
        return []
    for side, rates in enumerate(both):
        lengths = {f"{rate:.3g}" for rate in rates.values() if rate}
        if len(lengths) > max(_GROUPS, len(rates) / 2):
            text = f"each tensor's step has a length of its own in {SIDES[side]}, as LARS and LAMB make it by its norm"
            return [Cause(text, "optimizer-kind", "train both with the same optimizer")]
    both = [{n: rate for n, rate in rates.items() if all(b.get(n) for b in both)} for rates in both]
    return _by_group(p, f"the learning rate that step {at} uses", "learning-rate", *both)  # type: ignore[arg-type]


def _by_group(p: Parting, what: str, kind: str, left: dict[str, float], right: dict[str, float]) -> list[Cause]:
    """Name a setting that differs in a group of arrays, or is exchanged between two groups."""
    near = 10 * SAME[p.precision]

    def same(a: float, b: float) -> bool:
        return abs(a - b) <= near * max(abs(a), abs(b))

    wrong = [n for n in left if n in right and not same(left[n], right[n])]
    if not wrong:
        return []
    groups: dict[tuple[str, str], list[str]] = {}
    for n in wrong:
        groups.setdefault((f"{left[n]:.3g}", f"{right[n]:.3g}"), []).append(n)
    shown = [f"{a} in {SIDES[0]} and {b} in {SIDES[1]}" + (f" of {several(ns)}" if ns != [""] else "")
             for (a, b), ns in groups.items()]  # fmt: skip
    pairs = list(groups)
    text = f"{what} is {', '.join(shown)}"
    if len(pairs) == 2 and pairs[0] == pairs[1][::-1]:
        text += ": the two groups are exchanged"
    if wrong == [""]:
        if kind == "learning-rate" and p.agrees("learning rate"):
            text += ", though both yield the same: something else scales the step, as clipping does"
        return [Cause(text, kind, "let JAX's step use {torch}", left[""], right[""])]
    return [Cause(text, "group-rates", "give each group in JAX the settings of its group in PyTorch", left, right)]


def _decays(left: dict[str, float], right: dict[str, float], how: str, p: Parting) -> list[Cause]:
    if left == right == {} or min((*left.values(), *right.values())) < 0:
        return []
    sizes = [float(np.median(list(d.values()))) if d else 0.0 for d in (left, right)]
    every = [n for n in p.state("parameters")[0] if p.state("parameters")[0][n].any()]
    only = [[n for n in left if n not in right], [n for n in right if n not in left]]
    if left and right and (only[0] or only[1]):
        parts = [f"of {several(names)} in {SIDES[i]} only" for i, names in enumerate(only) if names]
        text = f"the weight decay of {_rounded(sizes[0] or sizes[1])}, {how}, is {', and '.join(parts)}"
        return [Cause(text, "weight-decay-tensors", _MASK, list(left), list(right))]
    if only[0] or only[1]:
        side = int(bool(only[1]))
        rest = [n for n in every if n not in only[side]]
        which = "all tensors" if not rest else f"{several(only[side])}, not of {several(rest)}"
        text = f"the weight decay, {how}, is in {SIDES[side]} only: {sizes[side]:.4g} of {which}"
        kind = "weight-decay-tensors" if rest else "weight-decay"
        values = (list(left), list(right)) if rest else tuple(float(_rounded(size)) for size in sizes)
        return [Cause(text, kind, _MASK if rest else "decay the weights by {torch} in JAX", *values)]
    if any(np.ptp(list(d.values())) > 0.1 * size for d, size in zip((left, right), sizes, strict=True) if d):
        return _by_group(p, f"the weight decay, {how},", "weight-decay", left, right)
    if abs(sizes[0] - sizes[1]) > 10 * SAME[p.precision] * max(sizes):
        text = f"the weight decay, {how}, is {_rounded(sizes[0])} in {SIDES[0]} and {_rounded(sizes[1])} in {SIDES[1]}"
        values = tuple(float(_rounded(size)) for size in sizes)
        return [Cause(text, "weight-decay", "decay the weights by {torch} in JAX", *values)]
    return []


def _rounded_rate(p: Parting, rules: Sequence[Rule | None]) -> Causes:
    """Name a learning rate that one run rounds to float32, as a schedule of optax does whose count is int32."""
    at = max(p.step, 1)
    rate = next(iter(p.runs[1].figure("learning rate", at).values()), None) if len(p.runs[1]) > at else None
    if rate is None or p.dtype != "float64" or rate.ndim:
        return
    error = float(np.float32(rate)) - float(rate)
    near = [
        None if rule is None or rule.rate is None or not error else (rule.rate - float(rate)) / error for rule in rules
    ]
    for side in (0, 1):
        mine, other = near[side], near[1 - side]
        if mine is not None and other is not None and abs(mine - 1) < 0.05 and abs(other) < 0.05:
            text = f"the learning rate is rounded to float32 in {SIDES[side]}, where the step uses it"
            remedy = "compute JAX's learning rate in {torch}: optax counts steps in int32"
            yield Cause(text, "learning-rate-precision", remedy, *sided(side, "float32", "float64"))
            return


def _rounded(value: float) -> str:
    return f"{value if abs(value) > 1e-7 else 0.0:.4g}"
