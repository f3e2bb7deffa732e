"""What the masks of the two frameworks say, where they are shared."""

from collections.abc import Sequence

from parity_tests.harness.causes import Cause
from parity_tests.harness.findings import Diagnosis
from parity_tests.harness.hooks.masks import Masks, Shape
from parity_tests.harness.modules.hypotheses.between_layers import DROPOUT, OTHER_MASK, OTHER_RATE

REUSED_KEY = Cause(
    "two dropouts draw from one key in JAX, and drop the same units",
    "dropout-key",
    "split the key; under scan and vmap, split the random streams (split_rngs)",
)
OTHER_SHAPE = Cause(
    "the masks of a dropout have other shapes",
    "dropout-shapes",
    "drop {torch} numbers; in Flax's attention pass broadcast_dropout=False",
)
NOT_SHARED = Cause(
    "a mask is made in JAX of uniform numbers that jax.lax takes, which share_dropout can't serve",
    "dropout-masks",
    "make it by a comparison, by jnp.floor or by jax.random.bernoulli",
)
OTHER_ORDER = Cause(
    "the same masks drop other units in each",
    "dropout-order",
    "call the dropouts in the same order, each of numbers in the same order",
)


def of_masks(diagnosis: Diagnosis) -> Diagnosis:
    """Return a diagnosis with what is known of shared masks, if it has no cause but that other units are dropped."""
    masks, kind = Masks.active, getattr(diagnosis.cause, "kind", None)
    kinds = (DROPOUT.kind, OTHER_MASK.kind, OTHER_RATE.kind)
    if masks is not None:  # others follow from the first
        more = tuple(one for one in diagnosis.more if getattr(one.cause, "kind", None) != OTHER_MASK.kind)
        diagnosis = diagnosis._replace(more=more)
    if masks is None or (diagnosis.cause and kind not in kinds):
        return diagnosis
    if masks.rates:
        in_jax, in_torch = (float(f"{rate:.6g}") for rate in masks.rates[0])
        return diagnosis._replace(cause=OTHER_RATE.of(in_jax, in_torch))
    unlike = (*masks.unlike, *masks.others)
    order = _of_order(masks.shapes, [one.shape for one in masks.drawn]) if unlike or kind in kinds else None
    if order and masks.taken:
        return diagnosis._replace(cause=NOT_SHARED)
    if order or kind in (DROPOUT.kind, OTHER_RATE.kind):
        return diagnosis._replace(cause=order or diagnosis.cause)
    if masks.arrays:
        return diagnosis._replace(cause=NOT_SHARED)
    if masks.reused:
        return diagnosis._replace(cause=REUSED_KEY)
    if unlike:
        ours, theirs = unlike[0]
        return diagnosis._replace(cause=OTHER_SHAPE.of([*ours], [*theirs] if theirs else "none"))
    return diagnosis._replace(cause=OTHER_ORDER) if diagnosis.cause else diagnosis


def _of_order(in_jax: Sequence[Shape], in_torch: Sequence[Shape]) -> Cause | None:
    """Return whether the masks are the same in another order, or one framework has one more."""
    ours, theirs = ([tuple(sorted(shape)) for shape in shapes] for shapes in (in_jax, in_torch))
    if ours != theirs and sorted(ours) == sorted(theirs):
        return OTHER_ORDER.of([[*shape] for shape in in_jax], [[*shape] for shape in in_torch])
    for framework, shapes, fewer, more in (("JAX", in_jax, theirs, ours), ("PyTorch", in_torch, ours, theirs)):
        for i in range(len(more) if len(more) == len(fewer) + 1 else 0):
            if [*more[:i], *more[i + 1 :]] == fewer:
                one = f"one of {[*shapes[i]]} numbers"
                values = (one, "none") if framework == "JAX" else ("none", one)
                return DROPOUT.saying(f"{DROPOUT}: {framework} alone has {one}", *values)
    return None
