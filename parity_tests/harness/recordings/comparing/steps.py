"""Compare weights and moments after each step of two optimizers, each of which followed its own gradients."""

import contextlib
import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from parity_tests.harness.findings import Diagnosis, Finding
from parity_tests.harness.modules import rounding
from parity_tests.harness.recordings.comparing.align import Aligned, aligned
from parity_tests.harness.recordings.comparing.backward import layer_of
from parity_tests.harness.recordings.comparing.pairing import Pair
from parity_tests.harness.recordings.recording import Recording, Tensor

if TYPE_CHECKING:
    from parity_tests.harness.recordings.comparing.levels import Compared, Levels

_ADAM = ("exp_avg", "exp_avg_sq")


def levels(compared: "Levels") -> Iterator["Compared"]:
    """Yield the findings of the weights, and of the moments where both optimizers keep them."""
    count = compared.right.about["steps"]
    reason = rounding.STEP_REASON[compared.dtype]
    trained = [pair for pair in compared.pairing.weights if _has(compared, "steps/1/weights/{}", pair)]
    share = rounding.STEP_ERROR[compared.dtype] / compared.tolerance

    if compared.pairing.apart:
        text = f"The optimizers train other arrays: {'; '.join(compared.pairing.apart)}."
        cause = "an optimizer of one framework trains in parts what that of the other trains as one"
        name = f"weights after each of {count} steps from own gradients"
        finding = Finding(name, compared.dtype, np.inf, "the optimizers", compared.tolerance, rounding.UNIT, reason)
        yield finding, lambda: Diagnosis("the optimizers", text, cause)
        return

    def level(name: str, kinds: list[str]) -> "Compared":
        worst, where, pair_there, last, tensor = 0.0, "", None, 0, ""
        for step in range(1, count + 1):
            for pair in trained:
                for kind in kinds:
                    if not _has(compared, f"steps/{step}/{kind}/{{}}", pair):
                        continue
                    found, least = _at(compared, step, kind, pair, share)
                    size = found.worst(compared.dtype, least).size
                    if size > worst:
                        shown = pair.name if kind == "weights" else f"{pair.name}.{kind}"
                        worst, where, pair_there, last = size, f"{shown} after step {step}", found, step
                        tensor = pair.name
            if worst > compared.tolerance:  # the steps after the first that differs follow from it
                break
        sampled = any(one.startswith("steps/") for one in compared.right.about["shapes"])
        name = compared.named(name, sampled).removesuffix(", and sums")
        finding = Finding(name, compared.dtype, worst, where, compared.tolerance, rounding.UNIT, reason)

        def diagnose() -> Diagnosis | None:
            assert pair_there is not None
            text = f"The gradients before it agree and it differs: {compared.text(pair_there)}."
            cause = None if compared.pairing.module is None else _cause(compared, trained, where, last)
            return Diagnosis(where, text, cause, layer=layer_of(compared.layers, tensor))

        return finding, diagnose

    yield level(f"weights after each of {count} steps from own gradients", ["weights"])
    kinds = _kinds(compared.left) & _kinds(compared.right)
    if compared.pairing.module is not None:
        kinds &= {*_ADAM}  # other moments are kept in other forms
    if kinds:
        yield level(f"optimizer moments after each of {count} steps", sorted(kinds))


def _cause(compared: "Levels", pairs: list[Pair], where: str, last: int) -> str | None:
    """Return why the optimizers' steps differ at first after step `last`, if all were recorded whole."""
    from parity_tests.harness.modules.hypotheses.backward import FROZEN
    from parity_tests.harness.modules.hypotheses.optimizer import SKIPPED, Steps, cause_in_optimizer

    about, left, right = compared.right.about["optimizer"], compared.left, compared.right
    every = {pair.right: pair for pair in pairs if pair.first is None}
    if about is None or any(name.startswith("steps/") for one in (left, right) for name in one.about["shapes"]):
        return None
    names = [pair.right for pair in pairs]
    for name in names:
        if where.startswith(f"{name} ") and name not in about["trained"]:
            return SKIPPED if name in about.get("skipped", ()) else FROZEN
    trained = [every[name] for name in about["trained"] if name in every]
    count = range(1, last + 1)

    def flat(kind: str) -> tuple[np.ndarray, np.ndarray]:
        both = [_aligned(compared, kind, pair) for pair in trained]
        return np.concatenate([one.left.ravel() for one in both]), np.concatenate([one.right.ravel() for one in both])

    with contextlib.suppress(Exception):  # whatever a hypothesis can't compute, the place is known
        gradients = [flat(f"steps/{step}/gradients") for step in count]
        mine, theirs = flat(f"steps/{last}/weights")
        sizes = [right.arrays[f"steps/{last}/weights/{pair.right}"] for pair in trained]
        scales = np.concatenate([np.full(array.size, np.abs(array).max(initial=0) or 1) for array in sizes])
        given = Steps(
            np.concatenate([right.arrays[f"weights/{pair.right}"].ravel() for pair in trained]),
            np.stack([one for one, _ in gradients]),
            np.stack([other for _, other in gradients]),
            np.array(about["rates"][:last]),
            scales,
        )
        near = {"float32": 1e-4, "float64": 1e-12}[compared.dtype]
        return cause_in_optimizer(about["kind"], about["settings"], given, mine, theirs, near)
    return None


def _at(compared: "Levels", step: int, kind: str, pair: Pair, share: float) -> tuple[Aligned, Any]:
    """Return a tensor after a step in both recordings, and the least rounding error of its entries."""
    found = _aligned(compared, f"steps/{step}/{kind}", pair)
    if kind == "weights":
        every = [_start(compared, pair), *(_aligned(compared, f"steps/{k}/weights", pair) for k in range(1, step + 1))]
        if any(one.right.shape != found.right.shape for one in every):
            return found, 0.0
        moved = sum(np.abs(b.right - a.right) for a, b in itertools.pairwise(every))
        return found, share * moved
    gradients = [_aligned(compared, f"steps/{k}/gradients", pair).right for k in range(1, step + 1)]
    largest = np.max(np.abs(gradients), axis=0)
    return found, share * (largest**2 if kind == "exp_avg_sq" else largest)


def _start(compared: "Levels", pair: Pair) -> Aligned:
    """Return the weights before the first step, at the entries that are held of the later ones."""

    def like(one: Recording, name: str) -> Tensor:
        later, values = one.tensor(f"steps/1/weights/{name}"), one.arrays[f"weights/{name}"]
        some = values if later.places is None else values.reshape(-1)[later.places]
        return Tensor(some, later.shape, later.places, np.zeros(some.shape))

    tensors = like(compared.left, pair.left), like(compared.right, pair.right)
    return aligned(*tensors, pair.to_right, pair.first)


def _aligned(compared: "Levels", kind: str, pair: Pair) -> Aligned:
    tensors = compared.left.tensor(f"{kind}/{pair.left}"), compared.right.tensor(f"{kind}/{pair.right}")
    return aligned(*tensors, pair.to_right, pair.first)


def _has(compared: "Levels", name: str, pair: Pair) -> bool:
    return name.format(pair.left) in compared.left.arrays and name.format(pair.right) in compared.right.arrays


def _kinds(one: Recording) -> set[str]:
    """Return the kinds of moments that a recording holds."""
    kinds = {name.split("/")[2] for name in one.arrays if name.startswith("steps/1/")}
    return kinds - {"weights", "gradients"}
