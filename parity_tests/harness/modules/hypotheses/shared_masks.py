"""What the masks of the two frameworks say, where they are shared."""

from parity_tests.harness.causes import Cause
from parity_tests.harness.findings import Diagnosis
from parity_tests.harness.hooks.masks import Masks
from parity_tests.harness.modules.hypotheses.between_layers import DROPOUT, OTHER_MASK

REUSED_KEY = Cause(
    "two dropouts draw from one key in JAX, and drop the same units",
    "dropout-key",
    "split the key; under scan and vmap, split the random streams (split_rngs)",
)
OTHER_RATE = Cause("the rates of a dropout differ", "dropout-rate", "use {torch}")
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
    if masks is None or (diagnosis.cause and kind not in (DROPOUT.kind, OTHER_MASK.kind)):
        return diagnosis
    if masks.rates:
        return diagnosis._replace(cause=OTHER_RATE.of(*masks.rates[0]))
    if kind == DROPOUT.kind:
        return diagnosis
    if masks.arrays:
        return diagnosis._replace(cause=NOT_SHARED)
    if masks.reused:
        return diagnosis._replace(cause=REUSED_KEY)
    if unlike := (*masks.unlike, *masks.others):
        in_jax, in_torch = unlike[0]
        return diagnosis._replace(cause=OTHER_SHAPE.of([*in_jax], [*in_torch] if in_torch else "none"))
    return diagnosis._replace(cause=NOT_SHARED if masks.taken else OTHER_ORDER) if diagnosis.cause else diagnosis
